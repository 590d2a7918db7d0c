"""Many runs at once: grids of scenarios played to the end, and arms compared over their seeds."""
