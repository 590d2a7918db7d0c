"""Measurements that can be rerun: each module is a command."""
