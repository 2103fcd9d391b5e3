"""Synthetic photographs of the fundus of the eye."""
