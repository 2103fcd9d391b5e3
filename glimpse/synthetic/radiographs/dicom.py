"""Writes radiographs as DICOM files, byte for byte the same every time."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt16

from glimpse.sources.dicom import require_pydicom
from glimpse.synthetic.making import CaseRecord

BITS = 12
_KIND = "1.2.840.10008.5.1.4.1.1.1"  # Computed Radiography Image Storage
_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"
_DATE = "20250101"


@dataclass(frozen=True)
class Shown:
    """How a radiograph asks to be shown.

    Attributes:
        inverted: stored as MONOCHROME1, bone dark.
        center: of the window, for values with bone bright.
        width: of the window.
        spacing: millimetres per pixel.
    """

    inverted: bool
    center: float
    width: float
    spacing: float


def write_radiograph(path: Path, pixels: UInt16[np.ndarray, "row column"], shown: Shown, record: CaseRecord) -> None:
    """Writes pixels of 12 bits, bone bright, as an uncompressed Computed Radiography image.

    Args:
        path: of the file.
        pixels: values up to 4095.
        shown: how it is to be shown; its window holds for the pixels as they are given.
        record: names the patient and the image.
    """
    pydicom = require_pydicom()
    top = (1 << BITS) - 1
    stored = top - pixels if shown.inverted else pixels
    center = top - shown.center if shown.inverted else shown.center
    data = pydicom.Dataset()
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = pydicom.uid.UID(_LITTLE_ENDIAN)
    for keyword, value in _facts(pydicom, record).items():
        setattr(data, keyword, value)
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME1" if shown.inverted else "MONOCHROME2"
    data.Rows, data.Columns = pixels.shape
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, BITS, BITS - 1, 0
    data.PixelSpacing = data.ImagerPixelSpacing = [shown.spacing, shown.spacing]
    data.WindowCenter, data.WindowWidth = round(center), round(shown.width)
    data.RescaleIntercept, data.RescaleSlope, data.RescaleType = 0, 1, "US"
    data.PixelData = stored.astype("<u2").tobytes()
    data["PixelData"].VR = "OW"
    data.save_as(path, enforce_file_format=True)


def _facts(pydicom: object, record: CaseRecord) -> dict[str, object]:
    """Who and what: names that say that nobody lies behind them."""
    make = pydicom.uid.generate_uid  # type: ignore[attr-defined]
    uids = {
        keyword: make(entropy_srcs=["glimpse", keyword, record.id])
        for keyword in ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID")
    }
    return {
        "SOPClassUID": _KIND,
        **uids,
        "ImageType": ["DERIVED", "PRIMARY"],
        "Modality": "CR",
        "Manufacturer": "glimpse",
        "PatientName": "Synthetic^Chest",
        "PatientID": record.patient,
        "PatientBirthDate": "",
        "PatientSex": "",
        "StudyDate": _DATE,
        "StudyTime": "",
        "StudyID": record.id,
        "AccessionNumber": "",
        "ReferringPhysicianName": "",
        "BodyPartExamined": "CHEST",
        "ViewPosition": "PA",
        "PatientOrientation": ["L", "F"],
        "SeriesNumber": 1,
        "InstanceNumber": 1,
    }
