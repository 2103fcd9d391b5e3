"""Where benchmarks find MNIST: `--root`, or for `--quick` small handwritten digits in the same format."""

import argparse
import gzip
import struct
from pathlib import Path

import numpy as np

from benchmarks.common import Benchmark, setting

_PARTS = {"train": slice(0, 1500), "t10k": slice(1500, None)}


def add_root(parser: argparse.ArgumentParser) -> None:
    """Adds `--root`."""
    parser.add_argument("--root", type=Path, help="folder of MNIST's four IDX files (.gz or not); --quick needs none")


def root_of(bench: Benchmark) -> str:
    """The override that says where the digits are."""
    if bench.options.root:
        return setting("env.root", bench.options.root.resolve())
    if not bench.options.quick:
        bench.error("give --root, the folder of MNIST's IDX files (train-images-idx3-ubyte.gz and so on).")
    return setting("env.root", small_digits(bench.runs / "digits"))


def small_digits(folder: Path) -> Path:
    """Writes the 8 x 8 digits that come with scikit-learn as if they were MNIST: 28 x 28 pixels, four IDX files."""
    from sklearn.datasets import load_digits

    found = load_digits()
    large = np.kron(found.images * 15.9, np.ones((1, 3, 3))).astype(np.uint8)
    images = np.pad(large, ((0, 0), (2, 2), (2, 2)))
    folder.mkdir(parents=True, exist_ok=True)
    for part, rows in _PARTS.items():
        _write(folder / f"{part}-images-idx3-ubyte.gz", images[rows])
        _write(folder / f"{part}-labels-idx1-ubyte.gz", found.target[rows].astype(np.uint8))
    return folder


def _write(path: Path, array: np.ndarray) -> None:
    with gzip.open(path, "wb") as file:
        file.write(struct.pack(f">{1 + array.ndim}I", 2048 + array.ndim, *array.shape) + array.tobytes())
