"""The claims of the papers, rerun under their own accounting: `python -m bench.claims`."""
