"""What every test of strategies needs: Flower refuses to build messages in a process without an identity."""

from fedapt.grid.flower import identify_process

identify_process()
