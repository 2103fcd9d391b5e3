"""Makers of the embedded cohorts: synthetic images with known targets, in the file formats that real ones come in."""
