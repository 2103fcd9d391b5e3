"""How `open_source` finds the reader of a file: by its content, and then by its suffix."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from glimpse.plugins import load_plugins
from glimpse.sources.base import ImageSource, UnsupportedImageError, check_readable, describe_content
from glimpse.sources.staged.remote import RemoteSource, local, remote
from glimpse.sources.staged.source import StagedSource
from glimpse.sources.staged.stage import Stage


@dataclass(frozen=True)
class Kind:
    """What messages say of the files that a reader reads.

    Attributes:
        images: the images and their formats, such as "volumes (NIfTI files)".
        environments: the names of the environments that use the reader, such as ("mri", "ct"); there may be none.
        convert: how other files become such files: of a content, as `describe_content` calls it, the way.
    """

    images: str = ""
    environments: tuple[str, ...] = ()
    convert: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        named = " and ".join(f"env={name}" for name in self.environments) or "glimpse.open_source"
        return f"{named} {'read' if len(self.environments) > 1 else 'reads'} {self.images}"


@dataclass(frozen=True)
class Reader:
    """An entry of the registry."""

    name: str
    open: Callable[..., ImageSource]
    suffixes: tuple[str, ...]
    sniff: Callable[[Path], bool]
    sniff_folder: Callable[[Path], bool]
    kind: Kind = field(default_factory=Kind)
    may_read: Callable[[Path], bool] | None = None

    @property
    def takes_all(self) -> bool:
        """Tells whether the reader does not say which files are its own, so that all may be."""
        return not self.suffixes and self.sniff is knows_nothing

    def claims(self, path: Path) -> bool:
        """Tells whether a file or folder is one of this reader's, by its suffix or its content."""
        return self.takes_all or self.has_suffix(path) or self.takes(path)

    def has_suffix(self, path: Path) -> bool:
        """Tells whether a file's suffix is one of this reader's."""
        return not path.is_dir() and path.name.lower().endswith(self.suffixes)

    def knows(self, path: Path) -> bool:
        """Tells whether the content of a file or folder is what this reader reads."""
        return self.sniff_folder(path) if path.is_dir() else self.sniff(path)

    def takes(self, path: Path) -> bool:
        """Tells whether this reader reads a file or folder when it is asked for by name."""
        return self.knows(path) if path.is_dir() or self.may_read is None else self.may_read(path)


_READERS: dict[str, Reader] = {}


def knows_nothing(path: Path) -> bool:
    """Returns False: this is the sniffer of readers that go by suffixes alone."""
    return False


def reader_names() -> tuple[str, ...]:
    """Returns the names of all readers."""
    return tuple(_READERS)


def known_readers() -> tuple[Reader, ...]:
    """Returns all readers, in the order in which they were registered."""
    return tuple(_READERS.values())


def register_reader(
    name: str,
    cls: Callable[..., ImageSource],
    *,
    suffixes: Sequence[str] = (),
    sniff: Callable[[Path], bool] = knows_nothing,
    sniff_folder: Callable[[Path], bool] = knows_nothing,
    kind: Kind | None = None,
    may_read: Callable[[Path], bool] | None = None,
) -> None:
    """Makes `open_source` aware of a reader; a second registration of a name replaces the first.

    Args:
        name: what messages call it, e.g. "slide".
        cls: called with the path and the options of `open_source`.
        suffixes: e.g. (".svs", ".ndpi"), lower case.
        sniff: says from a file's content whether this reader can open it. It is never called on missing files.
        sniff_folder: says the same of a folder, for images of many files.
        kind: what messages say of its files; by default the name and the suffixes.
        may_read: says whether a file may be one of this reader's where the user asks for the reader; by default as
            ``sniff`` does. It may be cheaper, or wider: a grey picture is a photograph only if that is said.
    """
    endings = tuple(suffix.lower() for suffix in suffixes)
    images = f"{name} images" + (f" ({' '.join(endings)})" if endings else "")
    _READERS[name] = Reader(name, cls, endings, sniff, sniff_folder, kind or Kind(images, (name,)), may_read)


def open_source(
    path: str | os.PathLike[str],
    *,
    reader: str | None = None,
    stage: str | os.PathLike[str] | None = None,
    stage_gigabytes: float | None = None,
    **options: Any,
) -> ImageSource:
    """Opens an image with the reader that its content, and then its suffix, calls for.

    Args:
        path: the file, or a folder that is one image (a DICOM series); or the URL of one, such as
            "s3://bucket/slide.svs", which is fetched when it is first read.
        reader: name of the only reader that may open it; by default any may.
        stage: a folder on a local disk, to which the image is copied when it is first read (see
            `glimpse.sources.staged`); by default files are read in place, and URLs have a folder in glimpse's cache.
        stage_gigabytes: how much all copies may take there, those used longest ago are removed first; by default as
            much as the disk has room for.
        **options: handed to the reader, e.g. ``mpp=0.5``.

    Raises:
        ImageReadError: the file is missing, or may not be read.
        UnsupportedImageError: no reader knows it, or it is of a kind that another reader reads; the message says what
            it is.
        SettingsError: the stage is none.
    """
    path = local(path) if isinstance(path, str) else path
    address = remote(path)
    if stage is None and address is None:
        return _opened(Path(path), reader, options)
    opening: Callable[[Any], ImageSource] = partial(open_source, reader=reader, **options)
    copies = Stage.of(stage, stage_gigabytes)
    return RemoteSource(address, copies, opening, reader) if address else StagedSource(opening(path), copies, opening)


def _opened(path: Path, reader: str | None, options: Mapping[str, Any]) -> ImageSource:
    check_readable(path)
    if reader is not None:
        asked = reader_named(reader)
        _check_kind(path, asked)
        if asked.claims(path):
            return asked.open(path, **options)
        raise _unknown(path, [asked])
    found = reader_of(path)
    if found is None:
        load_plugins()  # perhaps another package's
        found = reader_of(path)
    if found is None:
        raise _unknown(path, list(_READERS.values()))
    return found.open(path, **options)


def _check_kind(path: Path, asked: Reader) -> None:
    """Refuses a file whose content only another reader knows.

    Raises:
        UnsupportedImageError: the file is of another kind.
    """
    if asked.takes_all or asked.takes(path):
        return
    other = next((one for one in _READERS.values() if one is not asked and one.knows(path)), None)
    if other is None and not asked.has_suffix(path):
        other = next((one for one in _READERS.values() if one.has_suffix(path)), None)  # perhaps cut short
    if other is None:
        return
    content = describe_content(path).removesuffix(" as content")
    ways = (
        [f"choose {' or '.join(f'env={name}' for name in other.kind.environments)}"] if other.kind.environments else []
    )
    if content == "a DICOM file" and asked.sniff_folder is not knows_nothing:
        ways.append(f"give the folder that holds all slices, {path.parent}")
    if path.is_dir() and asked.sniff_folder is knows_nothing:
        ways.append("give one of the files in it")
    if content in asked.kind.convert:
        ways.append(f"convert it, e.g. {asked.kind.convert[content]}")
    raise UnsupportedImageError(
        f"{path}: it is {content}; {other.kind}, but {asked.kind}. Correct the path"
        + "".join(f", or {way}" for way in ways)
        + "."
    )


def _unknown(path: Path, readers: Sequence[Reader]) -> UnsupportedImageError:
    known = "; ".join(str(reader.kind) for reader in readers)
    what = "a folder with such content" if path.is_dir() else f"suffix {path.suffix!r} with {describe_content(path)}"
    return UnsupportedImageError(
        f"{path}: no reader for {what}. Known are: {known}. Correct the path, convert the file, or add a reader with "
        "glimpse.sources.register_reader."
    )


def reader_of(path: Path) -> Reader | None:
    """Returns the reader that a file's content, and then its suffix, calls for; None if there is none."""
    by_suffix = [reader for reader in _READERS.values() if reader.has_suffix(path)]
    others = [reader for reader in _READERS.values() if reader not in by_suffix]
    for reader in by_suffix + others:
        if reader.knows(path):
            return reader
    # Perhaps cut short before what the sniffer looks for: the reader's own error says more.
    return by_suffix[0] if by_suffix else None


def reader_named(name: str) -> Reader:
    """Returns the reader with a name.

    Raises:
        ValueError: there is none.
    """
    if name not in _READERS:
        raise ValueError(f"There is no reader {name!r}; known are {', '.join(_READERS)}.")
    return _READERS[name]
