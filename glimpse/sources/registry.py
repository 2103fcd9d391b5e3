"""How `open_source` finds the reader of a file: by its content, and then by its suffix."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glimpse.plugins import load_plugins
from glimpse.sources.base import ImageSource, UnsupportedImageError, describe_content, missing_file


@dataclass(frozen=True)
class Reader:
    """An entry of the registry."""

    name: str
    open: Callable[..., ImageSource]
    suffixes: tuple[str, ...]
    sniff: Callable[[Path], bool]
    sniff_folder: Callable[[Path], bool]

    def claims(self, path: Path) -> bool:
        """Whether a file or folder is one of this reader's; a reader that does not say which are its own takes all."""
        if not self.suffixes and self.sniff is knows_nothing:
            return True
        if path.is_dir():
            return self.sniff_folder(path)
        return path.name.lower().endswith(self.suffixes) or (path.is_file() and self.sniff(path))


_READERS: dict[str, Reader] = {}


def knows_nothing(path: Path) -> bool:
    """The sniffer of readers that go by suffixes alone."""
    return False


def reader_names() -> tuple[str, ...]:
    """The names of all readers."""
    return tuple(_READERS)


def register_reader(
    name: str,
    cls: Callable[..., ImageSource],
    *,
    suffixes: Sequence[str] = (),
    sniff: Callable[[Path], bool] = knows_nothing,
    sniff_folder: Callable[[Path], bool] = knows_nothing,
) -> None:
    """Makes `open_source` aware of a reader; a second registration of a name replaces the first.

    Args:
        name: what messages call it, e.g. "slide".
        cls: called with the path and the options of `open_source`.
        suffixes: e.g. (".svs", ".ndpi"), lower case.
        sniff: says from a file's content whether this reader can open it. It is never called on missing files.
        sniff_folder: says the same of a folder, for images of many files.
    """
    _READERS[name] = Reader(name, cls, tuple(suffix.lower() for suffix in suffixes), sniff, sniff_folder)


def open_source(path: str | os.PathLike[str], *, reader: str | None = None, **options: Any) -> ImageSource:
    """Opens an image with the reader that its content, and then its suffix, calls for.

    Args:
        path: the file, or a folder that is one image (a DICOM series).
        reader: name of the reader that is asked first, where several read files of this kind.
        **options: handed to the reader, e.g. ``mpp=0.5``.

    Raises:
        ImageReadError: the file is missing.
        UnsupportedImageError: no reader knows it; the message names the suffix and the content found.
    """
    path = Path(path)
    if not path.exists():
        raise missing_file(path)
    if reader is not None and (first := _reader(reader)).claims(path):
        return first.open(path, **options)
    found = _reader_of(path)
    if found is None:
        load_plugins()  # perhaps another package's
        found = _reader_of(path)
    if found is not None:
        return found.open(path, **options)
    known = ", ".join(f"{reader.name} ({' '.join(reader.suffixes)})" for reader in _READERS.values())
    raise UnsupportedImageError(
        f"{path}: no reader for suffix {path.suffix!r} with {describe_content(path)}. Known are: {known}. "
        "Convert the file, or add a reader with glimpse.sources.register_reader."
    )


def _reader_of(path: Path) -> Reader | None:
    """The reader that a file's content, and then its suffix, calls for."""
    if path.is_dir():
        return next((reader for reader in _READERS.values() if reader.sniff_folder(path)), None)
    by_suffix = [reader for reader in _READERS.values() if path.name.lower().endswith(reader.suffixes)]
    others = [reader for reader in _READERS.values() if reader not in by_suffix]
    for reader in by_suffix + others:
        if reader.sniff(path):
            return reader
    # Perhaps cut short before what the sniffer looks for: the reader's own error says more.
    return by_suffix[0] if by_suffix else None


def _reader(name: str) -> Reader:
    if name not in _READERS:
        raise ValueError(f"There is no reader {name!r}; known are {', '.join(_READERS)}.")
    return _READERS[name]
