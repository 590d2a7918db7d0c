"""The exceptions that a user may see: each is one sentence with advice, and an exit status.

Every exception takes one positional argument, the sentence, so that it survives pickling between processes.
"""


class FedaptError(Exception):
    """Base of all errors that are shown to the user without a traceback.

    What a sentence quotes may come from anywhere: characters that are not printable, line ends apart, are escaped.
    """

    exit_code = 1

    def __init__(self, sentence: str) -> None:
        shown = (char if char.isprintable() or char == "\n" else char.encode("unicode_escape").decode() for char in sentence)
        super().__init__("".join(shown))


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


class CannotResume(FedaptError):
    """A run cannot go on to the same bits; the message names everything that stands against it."""

    exit_code = 7
