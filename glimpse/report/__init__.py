"""Compares the agent with its baselines at the end of a run, and writes tables, files and pictures."""
