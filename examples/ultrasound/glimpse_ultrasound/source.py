"""Ultrasound images in MetaImage files: a header of text (.mhd) beside the pixels (.raw), memory-mapped."""

import os
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from glimpse.geometry import Frame
from glimpse.sources import ArraySource, ImageReadError, ImageSource, UnsupportedImageError
from glimpse.sources.base import file_identity


class UltrasoundSource(ImageSource):
    """One B-mode image: grey levels in 8 bits, black outside the sector.

    Args:
        path: of the header.
        spacing: millimetres per pixel, (y, x), where the header's are wrong.
    """

    def __init__(self, path: str | os.PathLike[str], spacing: Sequence[float] | None = None) -> None:
        self.path = Path(path)
        self.name = str(self.path)
        self._spacing = None if spacing is None else tuple(float(value) for value in spacing)
        self._array: ArraySource | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return UltrasoundSource, (self.path, self._spacing)

    @property
    def frame(self) -> Frame:
        return self._opened().frame

    @property
    def channels(self) -> int:
        return 1

    @property
    def background(self) -> np.ndarray:
        return np.zeros(1, np.uint8)

    @property
    def identity(self) -> Hashable:
        return (*file_identity(_pixels(self.path, _header(self.path))), self._spacing)

    def read(self, center: Any, extent: Any, size: Sequence[int]) -> np.ndarray:
        return self._opened().read(center, extent, size)

    def close(self) -> None:
        self._array = None

    def _opened(self) -> ArraySource:
        array = self._array
        if array is None:
            array = self._array = self._open()
        return array

    def _open(self) -> ArraySource:
        header = _header(self.path)
        if header.get("ElementType") != "MET_UCHAR" or header.get("NDims") != "2":
            raise UnsupportedImageError(
                f"{self.path}: expected a plane of bytes (NDims = 2, ElementType = MET_UCHAR), got NDims = "
                f"{header.get('NDims')}, ElementType = {header.get('ElementType')}. Export single frames in 8 bits."
            )
        width, height = (int(value) for value in header["DimSize"].split())  # MetaImage writes x first
        raw = _pixels(self.path, header)
        if not raw.is_file() or raw.stat().st_size != width * height:
            raise ImageReadError(f"{raw}: expected a file of {width * height} bytes. Export the image again.")
        spacing = self._spacing
        if spacing is None and "ElementSpacing" in header:
            spacing = tuple(float(value) for value in header["ElementSpacing"].split()[::-1])
        pixels = np.memmap(raw, np.uint8, "r", shape=(1, height, width))
        return ArraySource(pixels, spacing, None if spacing is None else "mm", name=self.name)


def _header(path: Path) -> dict[str, str]:
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ImageReadError(f"{path}: cannot be read as a MetaImage header ({error}).") from error
    cells = (line.partition("=") for line in lines if "=" in line)
    found = {key.strip(): value.strip() for key, _, value in cells}
    missing = {"DimSize", "ElementDataFile"} - set(found)
    if missing:
        raise ImageReadError(f"{path}: no MetaImage header, {' and '.join(sorted(missing))} missing. Export it again.")
    return found


def _pixels(path: Path, header: dict[str, str]) -> Path:
    return path.parent / header["ElementDataFile"]
