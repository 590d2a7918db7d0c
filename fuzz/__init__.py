"""Fuzzing of everything that reads bytes from elsewhere: each module but `harness` and `messages` is a command; see README.md."""
