"""Fingerprints of images: they tell, at little cost, whether two cases show the same image."""

import errno
import filecmp
import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from pathlib import Path

import numpy as np

from glimpse.sources import ImageReadError, ImageSource
from glimpse.sources.staged.remote import RemotePath, stamp_of
from glimpse.sources.volume.dicom_folder import files_below

_BLOCKS, _BLOCK = 16, 4096  # so many blocks of so many bytes are read of a file, the first and the last among them
_FILES = 64  # so many files are read of a folder
_GLANCE = 32  # pixels per axis of the overviews that are compared


def fingerprint(path: Path) -> str:
    """Returns a text that is the same for files (or folders) with the same content, wherever they lie.

    Hidden files in a folder, which file managers leave there, do not count.

    Files with different contents nearly always have different fingerprints, but only a part of them is read: blocks
    that are spread evenly over the file. `same_image` is certain. Of an image on another machine it is the size and the
    version, or time, that its store states; nothing is fetched.

    Raises:
        OSError: the file cannot be read, or is a pipe or a device.
    """
    if isinstance(path, RemotePath):
        return hashlib.sha256(repr(stamp_of(path)).encode()).hexdigest()[:16]
    digest = hashlib.sha256()
    files = _files(path)
    digest.update(repr([os.path.getsize(file) for file in files]).encode())
    for file in files if len(files) <= _FILES else [files[i] for i in _spread(len(files) - 1, _FILES)]:
        with open(file, "rb") as opened:
            last = max(os.path.getsize(file) - _BLOCK, 0)
            for start in _spread(last, _BLOCKS):
                opened.seek(start)
                digest.update(opened.read(_BLOCK))
    return digest.hexdigest()[:16]


def _spread(last: int, count: int) -> list[int]:
    """Returns at most `count` different whole numbers from 0 to `last`, at even distances."""
    return sorted({last * i // (count - 1) for i in range(count)})


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(files_below(path))
    if path.exists() and not path.is_file():  # one would wait for a pipe
        raise OSError(errno.EINVAL, "neither a file nor a folder", str(path))
    return [path]


def same_image(first: ImageSource, second: ImageSource) -> bool:
    """Returns whether two sources show the same image: one file, or copies of it.

    The files are compared whole, except for images on other machines. Since some formats keep the pixels beside the
    file, small overviews are compared, too, where both can be read. Both sources are closed in the end.

    Raises:
        OSError: a file cannot be read.
    """
    if first.path is None or second.path is None:
        return first is second
    if any(isinstance(one.path, RemotePath) for one in (first, second)):
        if first.path == second.path:
            return True
    else:
        if os.path.samefile(first.path, second.path):
            return True
        pairs = list(zip(_files(first.path), _files(second.path), strict=True))
        if not all(filecmp.cmp(one, other, shallow=False) for one, other in pairs):
            return False
    try:
        size = [min(side, _GLANCE) for side in first.shape]
        return first.shape == second.shape and np.array_equal(first.overview(size), second.overview(size))
    except ImageReadError:  # damaged parts; what can be compared is equal
        return True
    finally:
        first.close()
        second.close()


def repeated_images(cases: Sequence[tuple[Hashable, ImageSource]]) -> list[list[int]]:
    """Finds cases that show the same image.

    Args:
        cases: of each case, what must be equal if another one shows the same (its fingerprint, and which part of the
            file is read), and its image.

    Returns:
        The indices of the cases that show the same image, for every image that more than one of them shows.

    Raises:
        OSError: a file cannot be read.
    """
    return grouped((key for key, _ in cases), lambda one, other: same_image(cases[one][1], cases[other][1]))


def grouped(keys: Iterable[Hashable], equal: Callable[[int, int], bool] = lambda one, other: True) -> list[list[int]]:
    """Returns the positions of what has the same key and is equal, where there are several.

    Args:
        keys: what equal things share; None where a thing is like no other.
        equal: tells whether the things at two positions are equal; it is only asked of those that share a key.
    """
    suspects: dict[Hashable, list[int]] = defaultdict(list)
    for position, key in enumerate(keys):
        if key is not None:
            suspects[key].append(position)
    found = []
    for positions in suspects.values():
        groups: list[list[int]] = []
        for position in positions if len(positions) > 1 else ():
            group = next((one for one in groups if equal(one[0], position)), None)
            if group is None:
                groups.append([position])
            else:
                group.append(position)
        found += [group for group in groups if len(group) > 1]
    return found
