"""Folders of DICOM slices as volumes: put in order by where the slices lie, and converted once."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from glimpse.errors import UserError
from glimpse.sources.base import ImageReadError
from glimpse.sources.dicom import read_dataset, require_decoder, require_pydicom, undecoded
from glimpse.sources.volume.dicom_folder import REMEDY, chosen_headers, damaged, folder_identity
from glimpse.sources.volume.dicom_grid import canvas_of, grid_affine, in_order
from glimpse.sources.volume.dicom_slices import Slice, slices_of
from glimpse.sources.volume.unpacked import open_unpacked

_CONVERSION = "frames and tilted gantries included, and told"  # changes when a conversion gives other values


def open_series(path: Path, series: str | None = None, volume: int | None = None) -> BinaryIO:
    """Opens a series as an uncompressed NIfTI file, which is made if that has not been done before.

    Values are what the stored ones mean (rescale slope and intercept of each slice): int16, or float32 where they do
    not fit. The description in the header (`descrip`) says so where slices of a tilted gantry were moved.

    Args:
        path: the folder; its subfolders are looked into, and files that are not DICOM are left aside.
        series: SeriesInstanceUID, number or description, where there are several.
        volume: which one of a series that holds several, from 0.

    Raises:
        ImageReadError: a file is damaged or may not be read, or slices are missing.
        UnsupportedImageError: the files are no volume, or there are several series and none is chosen, or no such one.
        MissingExtraError: pydicom is not installed.
    """
    key = folder_identity(path.resolve(), _CONVERSION, series, volume)
    return open_unpacked(key, partial(_convert, path, series, volume))


def _convert(path: Path, series: str | None, volume: int | None, file: BinaryIO) -> None:
    """Writes a series as NIfTI-2, whose affine keeps all of its digits, slice by slice."""
    import nibabel

    ordered = in_order(path, [one for found in chosen_headers(path, series) for one in slices_of(*found)], volume)
    dtype = _dtype(ordered)
    canvas, files = canvas_of(path, ordered), _Files()
    rows, columns = canvas.shape
    header = nibabel.Nifti2Header()
    header.set_data_dtype(dtype)
    header.set_data_shape((columns, rows, len(ordered)))
    header.set_sform(grid_affine(ordered, canvas), "scanner")
    header.set_xyzt_units("mm")
    header["descrip"] = canvas.tilt.encode()  # which holds 80 bytes; `VolumeSource` warns with it
    header["vox_offset"] = header.single_vox_offset
    header.write_to(file)
    file.write(bytes(header.single_vox_offset - file.tell()))
    for index, one in enumerate(ordered):
        values = canvas.placed(_pixels(one, files) * one.slope + one.intercept, index)
        file.write(np.rint(values).astype(dtype).tobytes() if dtype.kind == "i" else values.astype(dtype).tobytes())


def _dtype(slices: Sequence[Slice]) -> np.dtype:
    """Returns int16 where every meant value is a whole number that fits, else float32."""
    ends = np.array([[end * one.slope + one.intercept for end in one.limits] for one in slices])
    whole = all(one.slope.is_integer() and one.intercept.is_integer() for one in slices)
    limits = np.iinfo(np.int16)
    return np.dtype("<i2" if whole and ends.min() >= limits.min and ends.max() <= limits.max else "<f4")


class _Files:
    """Holds the file that was read last, whose other frames are read next."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._data: Any = None

    def read(self, path: Path) -> Any:
        """Returns the data set of a file."""
        if path != self._path:
            self._path, self._data = path, read_dataset(path)
        return self._data


def _pixels(one: Slice, files: _Files) -> np.ndarray:
    """Reads the stored values of a slice, float64 (row, column)."""
    syntax: Any = None
    try:
        data = files.read(one.path)
        syntax = data.file_meta.TransferSyntaxUID
        if syntax.is_encapsulated:
            require_decoder(one.path, syntax)
        several = int(data.get("NumberOfFrames") or 1) > 1
        pixels = np.asarray(
            require_pydicom().pixels.pixel_array(data, index=one.frame) if several else data.pixel_array
        )
    except UserError:
        raise
    except Exception as error:  # pydicom and its decoders raise many kinds on damaged files
        found = damaged(one.path, error)
        if syntax is not None and syntax.is_encapsulated:
            found = ImageReadError(f"{found} {undecoded(syntax)}")
        raise found from error
    if pixels.shape != one.shape:
        raise ImageReadError(f"{one.path}: expected {one.shape} pixels, got {pixels.shape}. {REMEDY}")
    return pixels.astype(np.float64)
