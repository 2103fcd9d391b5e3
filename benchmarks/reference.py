"""A training loop outside the project as a measuring stick: run as it is, on the same machine, and read what it prints.

`--reference` names its script. It prints lines such as

      403 s  joint    accuracy 0.901  digits hit 0.970  entropy 1.20  1550 glimpses/s

with the seconds since its start, test accuracy, share of the digits found, and the glimpses it trains on per second.
"""

import argparse
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

_LINE = re.compile(
    r"^\s*(?P<seconds>\d+) s\s+(?P<stage>\S+)\s+accuracy (?P<accuracy>[\d.]+)\s+digits hit (?P<hit_rate>[\d.]+)"
    r".*?(?P<rate>\d+) glimpses/s"
)


def add_option(parser: argparse.ArgumentParser) -> None:
    """Adds `--reference`."""
    parser.add_argument("--reference", type=Path, help="script of a bare training loop to compare with (see README.md)")


def parse(line: str) -> dict[str, Any] | None:
    """One line of its progress; None where it is anything else."""
    found = _LINE.match(line)
    if found is None:
        return None
    numbers = {name: float(found[name]) for name in ("seconds", "accuracy", "hit_rate", "rate")}
    return {"stage": found["stage"], **numbers}


def run(script: Path, *arguments: str) -> list[dict[str, Any]]:
    """Runs it from start to end; returns what each of its lines says, in order.

    Raises:
        SystemExit: it failed, or printed nothing that `parse` reads.
    """
    command = [sys.executable, str(script.resolve()), *arguments]
    looks: list[dict[str, Any]] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(f"reference: {line}", end="", flush=True)
            look = parse(line)
            looks += [] if look is None else [look]
    if process.returncode or not looks:
        raise SystemExit(
            f"benchmarks: {script} ended with exit code {process.returncode} and {len(looks)} lines of progress. "
            "--reference takes a script that prints lines such as those in benchmarks/reference.py."
        )
    return looks
