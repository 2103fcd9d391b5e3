"""Reads cases with a policy or a baseline: the readers, the lanes that feed them, and the records they return."""
