"""Errors that a user can mend: a command ends with one of these in one line, without a traceback."""


class UserError(Exception):
    """Something that the user can mend: a file, a setting, a missing package. The message names it and says how.

    Rooms define their own errors as subclasses; commands catch this one class and exit with code 2.
    """


class SettingsError(UserError, ValueError):
    """A setting does not exist, or has an impossible value."""


class MissingExtraError(UserError, ImportError):
    """An optional dependency is not installed; the message says how to install it."""


class EvaluationError(UserError, ValueError):
    """An evaluation cannot be done as asked."""
