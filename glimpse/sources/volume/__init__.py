"""Volumes: NIfTI files and folders of DICOM slices."""
