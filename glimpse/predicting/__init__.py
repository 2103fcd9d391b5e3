"""Predicts cases that nobody has labelled: what is read, who reads it, what is written, and which process does it."""
