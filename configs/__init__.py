"""Hydra configuration groups, found as `pkg://glimpse.configs`."""
