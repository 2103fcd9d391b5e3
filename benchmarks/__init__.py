"""Benchmarks: each module is a command, `python -m benchmarks.<name>` from the repository's root; see README.md."""
