"""What training costs: MACs, bytes moved, peak memory, energy and time, derived from a model's real layer shapes.

`workload` measures a model once, `trace` says what one step does, and everything else is arithmetic on the trace and a profile.
Import the modules by name: `profiles` and `ledger` load no torch.
"""
