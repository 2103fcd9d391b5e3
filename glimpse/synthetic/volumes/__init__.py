"""Synthetic heads (MR) and chests (CT)."""
