"""Photographs: colour PNG, JPEG, WebP, TIFF and DICOM."""
