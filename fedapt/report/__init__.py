"""What a run shows: its progress and final screen in the terminal, and a page with plots."""
