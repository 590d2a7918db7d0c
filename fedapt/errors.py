"""The exceptions that a user may see: each is one sentence with advice, and an exit status.

Every exception takes one positional argument, the sentence, so that it survives pickling between processes.
"""


class FedaptError(Exception):
    """Base of all errors that are shown to the user without a traceback."""

    exit_code = 1


class ScenarioError(FedaptError):
    """The scenario cannot be run as written; the message holds one `file:line:column` line for each problem."""

    exit_code = 3


class SetupError(FedaptError):
    """Something around fedapt is missing: a dependency, a device, data, a permission."""

    exit_code = 4


class RunFailed(FedaptError):
    """The run cannot go on by its own rules, for example because no client answered."""

    exit_code = 5


class DamagedData(FedaptError):
    """A file or a message is corrupt, unreadable or could not be written."""

    exit_code = 6
