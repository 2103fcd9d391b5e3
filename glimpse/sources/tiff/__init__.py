"""TIFFs of microscopes that OpenSlide does not read, or not as they are meant: OME-TIFF, many channels, 16 bits."""
