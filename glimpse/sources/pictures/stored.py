"""Pixels as they lie in a file: memory-mapped, and cleaned of unused bits where they are read."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Bits:
    """Which bits of a stored word make up a pixel (DICOM PS3.5, 8.1.1).

    Attributes:
        stored: number of bits.
        high: the highest of them, counted from 0.
        signed: whether they are a two's complement.
    """

    stored: int
    high: int
    signed: bool

    def clean(self, words: np.ndarray) -> np.ndarray:
        """The pixels in words, whose other bits may hold anything."""
        width = 8 * words.dtype.itemsize
        if self.stored == width:
            return words
        words = words.astype(words.dtype.newbyteorder("="), copy=False)
        moved = words << (width - 1 - self.high)  # the highest bit becomes the word's own: its sign, if it has one
        return moved >> (width - self.stored)


@dataclass(frozen=True)
class Stored:
    """Where uncompressed pixels lie in a file.

    Attributes:
        offset: bytes before the first pixel.
        dtype: of a word, its byte order included, e.g. "<u2".
        bits: those of a word that count; None for all.
    """

    offset: int
    dtype: str
    bits: Bits | None = None

    def end(self, shape: tuple[int, ...]) -> int:
        """One past the last byte of pixels of a shape."""
        return self.offset + int(np.prod(shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize

    def open(self, path: Path, shape: tuple[int, ...]) -> "Pixels":
        """Maps the pixels of a file; nothing is read yet.

        Raises:
            OSError: the file cannot be opened.
            ValueError: it is too short.
        """
        return Pixels(np.memmap(path, dtype=self.dtype, mode="r", offset=self.offset, shape=shape), self.bits)


class Pixels:
    """An array that is cleaned where it is sliced."""

    def __init__(self, words: np.ndarray, bits: Bits | None = None) -> None:
        self._words, self._bits = words, bits
        self.shape, self.ndim = words.shape, words.ndim

    @property
    def words(self) -> np.ndarray:
        """The array as it lies in the file; nothing of it is read yet."""
        return self._words

    def __getitem__(self, index: tuple[slice, ...]) -> np.ndarray:
        words = np.asarray(self._words[index])
        return words if self._bits is None else self._bits.clean(words)
