"""Turns settings into objects: checks their keys, builds what they describe, and reports mistakes in one line."""
