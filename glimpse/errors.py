"""Errors that users can fix themselves; commands report them in one line, without a traceback."""


class UserError(Exception):
    """An error that the user can fix, in a file, a setting or the installation; the message says how.

    Subpackages define their own errors as subclasses. Commands catch this class, print the message and exit with code
    2.
    """


class SettingsError(UserError, ValueError):
    """A setting does not exist, or has an impossible value."""


class MissingExtraError(UserError, ImportError):
    """An optional dependency is not installed; the message says how to install it."""


class EvaluationError(UserError, ValueError):
    """An evaluation or a report cannot be made as it was asked for."""
