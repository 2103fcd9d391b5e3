"""Small radiographs for tests, and what pydicom itself makes of them."""

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels import apply_modality_lut, apply_voi_lut
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    generate_uid,
)

from glimpse.sources import RadiographSource

DX = "1.2.840.10008.5.1.4.1.1.1.1"


def values(height: int = 40, width: int = 56, top: int = 4096, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, top, (height, width)).astype(np.uint16)


def dataset(pixels: np.ndarray, syntax: str = ExplicitVRLittleEndian, **elements: Any) -> Dataset:
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = syntax
    data.SOPClassUID = elements.pop("SOPClassUID", DX)
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["test"])
    data.Modality, data.SamplesPerPixel, data.PhotometricInterpretation = "DX", 1, "MONOCHROME2"
    data.Rows, data.Columns = pixels.shape[-2:]
    if pixels.ndim == 3:
        data.NumberOfFrames = len(pixels)
    data.BitsAllocated = 8 * pixels.dtype.itemsize
    data.BitsStored = elements.pop("BitsStored", 12 if data.BitsAllocated == 16 else data.BitsAllocated)
    data.HighBit = elements.pop("HighBit", data.BitsStored - 1)
    data.PixelRepresentation = int(pixels.dtype.kind == "i")
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    data.PixelData = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
    data["PixelData"].VR = "OW" if data.BitsAllocated > 8 else "OB"
    for keyword, value in elements.items():
        setattr(data, keyword, value)
    return data


def save(data: Dataset, path: Path) -> Path:
    data.save_as(path, enforce_file_format=True)
    return path


def lut(first: int, entries: list[int], bits: int = 16) -> Dataset:
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if first < 0 else "US", [len(entries), first, bits])
    item.add_new("LUTData", "US", entries)
    item.ModalityLUTType = "US"
    return item


def whole(source: RadiographSource) -> np.ndarray:
    """All pixels at full resolution."""
    height, width = source.shape
    return source.read((height / 2, width / 2), source.shape, source.shape)[0]


def pipeline(path: Path, index: int = 0) -> np.ndarray:
    """pydicom's own values, scaled to 0..255 by the range that its windows have."""
    data = pydicom.dcmread(path)
    shown = apply_voi_lut(apply_modality_lut(data.pixel_array, data), data, index).astype(float)
    low, high = 0.0, 2.0**data.BitsStored - 1
    if data.PixelRepresentation:
        low, high = -(2.0 ** (data.BitsStored - 1)), 2.0 ** (data.BitsStored - 1) - 1
    if "RescaleSlope" in data:
        low, high = (end * float(data.RescaleSlope) + float(data.RescaleIntercept) for end in (low, high))
    grey = (shown - low) / (high - low)
    return 255 * (1 - grey if data.PhotometricInterpretation == "MONOCHROME1" else grey)
