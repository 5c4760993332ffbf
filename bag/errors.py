"""Every error a user of bag can meet, each with the exit code the command line ends with.

BagError                    1   anything that stops the work
+-- UsageError              2   the request itself makes no sense
+-- LossyError              3   the work was finished, but something was lost on the way
+-- BagFormatError          1   the file is not a bag, or not one this version can read
+-- BagBusyError            1   somebody else is writing this bag
+-- BagExistsError          1   the output is already there
+-- IntegrityError          1   bytes in the file are not the bytes that were written
+-- ReplayError             1   the player cannot take the recorded place of a node
+-- MissingExtraError       1   an optional library is not installed
"""

from __future__ import annotations


class BagError(Exception):
    """Root of all errors raised by bag; the text is one sentence a user can act on."""

    exit_code = 1


class UsageError(BagError):
    """The request itself makes no sense (exit code 2)."""

    exit_code = 2


class LossyError(BagError):
    """The work was finished, but something was lost on the way (exit code 3)."""

    exit_code = 3


class BagFormatError(BagError):
    """The file is not a bag, or not one this version can read."""


class BagBusyError(BagError):
    """Another process is writing this bag."""


class BagExistsError(BagError):
    """The output file is already there and may not be overwritten."""


class IntegrityError(BagError):
    """Bytes in the file are not the bytes that were written."""


class ReplayError(BagError):
    """The player cannot take the recorded place of a node."""


class MissingExtraError(BagError):
    """An optional library is not installed.

    Args:
        what: the ability that needs it, as the start of the sentence.
        extra: name of the extra of the `cortex-bag` distribution that brings it.
    """

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f'{what} needs an optional library: pip install "cortex-bag[{extra}]"')
        self.extra = extra
