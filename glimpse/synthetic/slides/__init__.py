"""Synthetic slides."""
