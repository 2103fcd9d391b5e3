"""The agent beside its baselines: the table, and the files made of it."""
