"""NIfTI files as strided views of a memory map, in the axes of canonical volumes."""

import gzip
import math
import os
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from glimpse.sources.base import ImageReadError, UnsupportedImageError
from glimpse.sources.quiet import quiet
from glimpse.sources.volume.grid import VoxelGrid

SUFFIXES = (".nii", ".nii.gz")
REMEDY = (
    "Copy the file again and compare its size with the original's, or leave the case out (env.cohort.on_error=skip)."
)
_HEAD = 352  # bytes that tell what a file is
_CHUNK = 1 << 20
_RIGHT_ANGLE = 0.01  # cosine of the angle between axes, up to which it is one
_MILLIMETRES = {"mm": 1.0, "micron": 1e-3, "meter": 1e3, "unknown": 1.0}
DAMAGED = (EOFError, gzip.BadGzipFile, zlib.error)


def is_packed(path: Path) -> bool:
    """Tells whether a file is compressed with gzip."""
    with open(path, "rb") as file:
        return file.read(2) == b"\x1f\x8b"


def is_nifti(path: Path) -> bool:
    """Tells whether a file holds a NIfTI volume, compressed with gzip or not."""
    with open(path, "rb") as file:
        head = file.read(_HEAD)
        if head[:2] == b"\x1f\x8b":
            try:
                head = zlib.decompressobj(31).decompress(head + file.read(_CHUNK // 16), _HEAD)
            except zlib.error:
                return False
    return head[344:348] == b"n+1\0" or head[4:8] == b"n+2\0"


@dataclass(frozen=True)
class NiftiLayout:
    """How the values of a file lie, and which way they face.

    Attributes:
        stored: shape of the file's array, in Fortran order.
        dtype: of the stored values.
        offset: bytes before them.
        slope: a stored value ``x`` means ``slope x + intercept``.
        intercept: see ``slope``.
        axes: the stored axes that become z (superior), y (anterior) and x (right).
        flipped: whether each of these runs the other way in the file.
        spacing: millimetres per pixel (z, y, x); None where the file does not state them.
        affine: rows of the matrix (4, 4) from stored indices to positions (right, anterior, superior), in the unit of
            the file.
        millimetres: of that unit.
        code: what the header says of these positions, such as 1 for those of the scanner.
        description: what the header says in words.
    """

    stored: tuple[int, ...]
    dtype: np.dtype
    offset: int
    slope: float
    intercept: float
    axes: tuple[int, int, int]
    flipped: tuple[bool, bool, bool]
    spacing: tuple[float, float, float] | None
    affine: tuple[tuple[float, ...], ...]
    millimetres: float = 1.0
    code: int = 1
    description: str = ""

    @property
    def grid(self) -> VoxelGrid:
        """Returns how the axes of the image lie in the file, and where its voxels lie in the body."""
        stored = self.stored[0], self.stored[1], self.stored[2]
        return VoxelGrid(stored, self.axes, self.flipped, self.affine, self.millimetres, self.code)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Returns the pixels per axis (z, y, x)."""
        return self.stored[self.axes[0]], self.stored[self.axes[1]], self.stored[self.axes[2]]

    @property
    def volumes(self) -> int:
        """Returns how many volumes the file holds."""
        return int(np.prod(self.stored[3:], dtype=np.int64))

    def mapped(self, file: BinaryIO, path: Path, volume: int = 0) -> np.ndarray:
        """Maps the stored values of one volume (z, y, x) of an uncompressed file; nothing is read yet.

        Raises:
            ImageReadError: the file ends before its values do.
        """
        needed = self.offset + self.dtype.itemsize * int(np.prod(self.stored, dtype=np.int64))
        size = os.fstat(file.fileno()).st_size
        if size < needed:
            raise ImageReadError(
                f"{path}: the file is truncated: its values reach to byte {needed:,}, it ends at byte {size:,}. "
                f"{REMEDY}"
            )
        values = np.memmap(file, self.dtype, "r", self.offset, self.stored, order="F").view(np.ndarray)
        values = values.reshape(*self.stored[:3], -1, order="F")[..., volume].transpose(self.axes)
        return values[tuple(slice(None, None, -1 if flipped else 1) for flipped in self.flipped)]


def read_layout(path: Path) -> NiftiLayout:
    """Reads the header of a NIfTI file, compressed with gzip or not; nothing is unpacked.

    Raises:
        ImageReadError: the file is damaged.
        UnsupportedImageError: its values are not one number per pixel, or it is no volume.
    """
    with gzip.open(path, "rb") if is_packed(path) else open(path, "rb") as file:
        return layout_of(file, path)  # type: ignore[arg-type]


def layout_of(file: BinaryIO, path: Path) -> NiftiLayout:
    """Does the same as `read_layout` for an open file that begins with the header."""
    import nibabel  # an image of another kind needs none

    try:
        wide = file.read(8)[4:8] == b"n+2\0"
        kind = nibabel.Nifti2Header if wide else nibabel.Nifti1Header
        file.seek(0)
        stated = _states_lengths(kind.from_fileobj(file, check=False))  # a check would make 1 of a length of 0
        file.seek(0)
        with quiet(nibabel.imageglobals.logger):
            header = kind.from_fileobj(file)
        slope, intercept = header.get_slope_inter()
        if not stated:
            lengths = header["pixdim"][1:4]
            lengths[~(np.isfinite(lengths) & (lengths > 0))] = 1  # for the directions of the axes only
        affine, dtype = header.get_best_affine(), header.get_data_dtype()
    except (*DAMAGED, ValueError, nibabel.spatialimages.HeaderDataError, nibabel.wrapstruct.WrapStructError) as error:
        raise ImageReadError(f"{path}: cannot be read as NIfTI ({error}). It is probably damaged. {REMEDY}") from error
    _check_kind(header, dtype, path)
    stored = tuple(int(n) for n in header.get_data_shape())
    stored += (1,) * (3 - len(stored))
    axes, flipped = _nearest_axes(affine, path)
    millimetres = _MILLIMETRES[header.get_xyzt_units()[0]]
    lengths = np.sqrt((affine[:3, :3] ** 2).sum(axis=0)) * millimetres
    spacing = (float(lengths[axes[0]]), float(lengths[axes[1]]), float(lengths[axes[2]])) if stated else None
    offset = int(header.get_data_offset())
    slope, intercept = (1.0 if slope is None else slope), (0.0 if intercept is None else intercept)
    code = int(header["sform_code"]) or int(header["qform_code"])
    rows = tuple(tuple(row) for row in affine.tolist())
    words = bytes(header["descrip"].item()).rstrip(b"\0").decode("utf-8", "replace")
    return NiftiLayout(
        stored, dtype, offset, float(slope), float(intercept), axes, flipped, spacing, rows, millimetres, code, words
    )


def _states_lengths(header: Any) -> bool:
    """Tells whether a header says how large a pixel is: by its sform, or else by lengths above 0 in `pixdim`."""
    if header["sform_code"] > 0:
        return True
    lengths = header["pixdim"][1 : 1 + min(int(header["dim"][0]), 3)]
    return bool((np.isfinite(lengths) & (lengths > 0)).all())


def _check_kind(header: Any, dtype: np.dtype, path: Path) -> None:
    if bytes(header["magic"])[:3] not in (b"n+1", b"n+2"):
        raise UnsupportedImageError(
            f"{path}: expected a NIfTI volume in one file, got a header whose values lie in a second one (.hdr, .img). "
            "Convert it, e.g. with nibabel.save(nibabel.load('volume.hdr'), 'volume.nii')."
        )
    if dtype.kind not in "iuf":
        kind = "colours" if dtype.names else f"values of type {dtype}"
        raise UnsupportedImageError(
            f"{path}: expected one real number per pixel, got {kind}. Write one channel, e.g. with nibabel: "
            "take it from numpy.asanyarray(image.dataobj) and save it as float32."
        )
    shape = header.get_data_shape()
    if len(shape) < 2 or min(shape) < 1:
        raise UnsupportedImageError(f"{path}: expected a volume (x, y, z), got an array of shape {shape}.")


def _nearest_axes(affine: np.ndarray, path: Path) -> tuple[tuple[int, int, int], tuple[bool, bool, bool]]:
    """Returns which stored axes run most nearly along z, y and x, and whether the other way."""
    from nibabel.orientations import io_orientation

    orientation = io_orientation(affine) if np.isfinite(affine).all() else np.full((3, 2), np.nan)
    if np.isnan(orientation).any():
        raise UnsupportedImageError(
            f"{path}: expected an affine with three independent axes, got {affine[:3, :3].tolist()}. "
            "Correct the sform or qform of its header."
        )
    found = {int(world): axis for axis, (world, _) in enumerate(orientation)}
    z, y, x = found[2], found[1], found[0]
    _check_right_angles(affine[:3, [x, y, z]], path)
    return (z, y, x), (bool(orientation[z, 1] < 0), bool(orientation[y, 1] < 0), bool(orientation[x, 1] < 0))


def _check_right_angles(columns: np.ndarray, path: Path) -> None:
    """Refuses axes, given as columns for x, y and z, between which there are no right angles.

    Raises:
        UnsupportedImageError: there are none.
    """
    directions = columns / np.sqrt((columns**2).sum(axis=0))
    cosine = float(np.abs(directions.T @ directions - np.eye(3)).max())
    if cosine > _RIGHT_ANGLE:
        sizes = ", ".join(f"{abs(value):.4g}" for value in np.diag(columns))
        raise UnsupportedImageError(
            f"{path}: expected axes at right angles, but two of its affine meet at "
            f"{math.degrees(math.acos(min(cosine, 1.0))):.1f} degrees (a shear, or a gantry that was tilted). Resample "
            "it in Python: import nibabel.processing; nibabel.save(nibabel.processing.resample_to_output(nibabel.load("
            f"'in.nii'), [{sizes}], order=1), 'out.nii')."
        )


def unpack(path: Path, file: BinaryIO) -> None:
    """Writes the content of a file compressed with gzip.

    Raises:
        ImageReadError: the file is damaged.
    """
    try:
        with gzip.open(path, "rb") as packed:
            while chunk := packed.read(_CHUNK):
                file.write(chunk)
    except DAMAGED as error:
        raise ImageReadError(
            f"{path}: cannot be unpacked ({error}). It is probably truncated or damaged. {REMEDY}"
        ) from error
