"""How fast the engine is beside a bare training loop, Flower and pfl-research: `python -m bench.engine`."""
