"""`python -m fedapt` is the command `fedapt`."""

from fedapt.cli import main

main()
