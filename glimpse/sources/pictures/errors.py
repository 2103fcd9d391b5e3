"""Errors for pictures that cannot be read."""

from pathlib import Path

from glimpse.sources.base import ImageReadError, UnsupportedImageError, describe_content

REMEDY = (
    "Copy the file again and compare its size with the original's, or leave the case out (env.cohort.on_error=skip)."
)


def damaged(path: object, error: object) -> ImageReadError:
    """Returns the error for a picture that cannot be read."""
    reason = " ".join(str(error).split()) or type(error).__name__
    return ImageReadError(f"{path}: cannot be read ({reason}). It is probably truncated or damaged. {REMEDY}")


def truncated(path: object, needed: int, size: int) -> ImageReadError:
    """Returns the error for a file that ends before its pixels do."""
    return damaged(path, f"its pixels reach to byte {needed:,}, the file ends at byte {size:,}")


def unsupported(path: Path, rule: str, remedy: str) -> UnsupportedImageError:
    """Returns the error for a file that is whole, but not what was asked for."""
    return UnsupportedImageError(f"{path}: suffix {path.suffix!r} with {describe_content(path)}, {rule}. {remedy}")
