"""IDX files, the format of MNIST (LeCun, Cortes, Burges): big-endian sizes, then bytes; plain or gzipped."""

import gzip
import math
import os
import struct
from pathlib import Path

import numpy as np

from glimpse.sources.base import ImageReadError, missing_file

_UINT8 = 8


def read_idx(path: str | os.PathLike[str]) -> np.ndarray:
    """Reads a file of unsigned bytes: images (n, height, width) or labels (n,), uint8.

    Raises:
        ImageReadError: the file is missing, truncated, or not of this kind.
    """
    path = Path(path)
    if not path.is_file():
        raise missing_file(path)
    raw = path.read_bytes()
    try:
        raw = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
    except (EOFError, OSError, gzip.zlib.error) as error:  # type: ignore[attr-defined]
        raise ImageReadError(f"{path}: the gzipped file is damaged ({error}). Download it again.") from error
    if len(raw) < 4 or raw[:2] != b"\0\0" or raw[2] != _UINT8:
        raise ImageReadError(f"{path}: not an IDX file of unsigned bytes (first bytes {raw[:4].hex(' ')}).")
    axes, start = raw[3], 4 + 4 * raw[3]
    shape = struct.unpack(f">{axes}I", raw[4:start]) if len(raw) >= start else (0,)
    if len(raw) - start != math.prod(shape):
        raise ImageReadError(
            f"{path}: {len(raw) - start} bytes of data, but its header promises {math.prod(shape)}. Download it again."
        )
    return np.frombuffer(raw, np.uint8, offset=start).reshape(shape)
