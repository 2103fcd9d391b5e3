"""Digits and glyphs on large canvases, to learn the craft on."""
