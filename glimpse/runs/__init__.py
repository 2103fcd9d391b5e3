"""The run folder: what a training writes, how it is resumed, and how a trained policy is loaded from it."""
