"""Radiographs: DICOM, PNG, TIFF and JPEG."""
