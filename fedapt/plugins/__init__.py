"""Code of the user's own, which the command line names with `--plugin`; a scenario alone never imports anything."""

from fedapt.plugins.loading import load_plugins

__all__ = ["load_plugins"]
