"""What a run leaves behind: whole files, the ledger on disk, totals and standings."""
