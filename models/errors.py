"""The errors of the house. Every error of ours descends from SanderlingError.

    SanderlingError             exit status 1: a fault of ours
    |- UsageError               2: a setting, a file or an argument is wrong
    |  |- ModelFormatError      a model file is malformed, or holds an unsupported operator
    |  `- DatasetError          a data set is missing a column, holds NaN, a label out of range, ...
    |- UnsoundError             3: refused, because the claim asked for would not hold
    |- MissingError             4: something is missing in the environment; names the fix
    `- ProtocolError            a message is refused (broker/errors.py has its kinds); never ends a service

A message says what was expected, what came, and what to do.
"""


class SanderlingError(Exception):
    """Base of every error raised on purpose. `exit_status` is the command line's."""

    exit_status = 1


class UsageError(SanderlingError):
    """A setting, a file or an argument is wrong: the user can mend it."""

    exit_status = 2


class ModelFormatError(UsageError):
    """A model file is malformed, or holds what we do not support; names the layer and the operator."""


class DatasetError(UsageError):
    """A data set cannot be used as it is; names the file, the row and the column where known."""


class UnsoundError(SanderlingError):
    """Refused: the combination's claim does not hold; names the settings and the nearest sound choice."""

    exit_status = 3


class MissingError(SanderlingError):
    """Something is missing in the environment: names it and how to get it."""

    exit_status = 4


class ProtocolError(SanderlingError):
    """A message that is refused. The receiver counts it by `reason` and goes on."""

    reason = "malformed"
