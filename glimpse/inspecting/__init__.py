"""Looks at images, and at this machine, before a long training: what is wrong, why, and what to do."""
