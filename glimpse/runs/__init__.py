"""The run folder: what a training writes, where it stands, and how a trained policy is loaded from it."""
