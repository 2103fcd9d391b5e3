"""Errors that users can fix themselves; commands report them in one line, without a traceback."""

import errno

REMEDIES = {
    errno.ENOSPC: "Free some space on the disk.",
    errno.EDQUOT: "Free some space of this user's quota.",
    errno.EFBIG: "Raise the limit on the size of files (ulimit -f), or choose a folder on another file system.",
    errno.EROFS: "Choose a folder that can be written.",
    errno.EACCES: "Allow this user to read and write there, or choose another folder.",
    errno.EPERM: "Allow this user to read and write there, or choose another folder.",
    errno.EEXIST: "There is a file of this name: choose another name.",
    errno.ENOTDIR: "A part of the path is a file and no folder: choose another path.",
    errno.EISDIR: "There is a folder of this name: choose another name.",
    errno.EIO: "The disk has failed; copy what is on it.",
}
"""What to do about errors of the operating system that users can mend, by their number."""


class UserError(Exception):
    """An error that the user can fix, in a file, a setting or the installation; the message says how.

    Subpackages define their own errors as subclasses. Commands catch this class, print the message and exit with code
    2.
    """


class SettingsError(UserError, ValueError):
    """A setting does not exist, or has an impossible value."""


class DivergedError(UserError, ValueError):
    """A training computes with numbers that are not finite any more, so that it cannot learn."""


class MissingExtraError(UserError, ImportError):
    """An optional dependency is not installed; the message says how to install it."""


class EvaluationError(UserError, ValueError):
    """An evaluation or a report cannot be made as it was asked for."""
