"""What all benchmarks share: options, the file of results, trainings as processes of their own, tables and pictures."""

import argparse
import csv
import hashlib
import io
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import glimpse
from glimpse.atomic import write_atomically
from glimpse.settings.allocator import keep_freed_memory

Row = dict[str, Any]

ROOT = Path(__file__).resolve().parents[1]
RUNS = ROOT / "runs" / "benchmarks"

_FACTS = ("auc", "accuracy", "c_index", "brier", "share_read", "seconds_per_case")  # what tables say of a reader

# The smallest training that goes through every stage.
QUICK = (
    "agent.algorithm.cases_per_rollout=2",
    "agent.algorithm.rollouts_per_case=2",
    "pretrain.steps=2",
    "pretrain.batch=8",
    "pretrain.pool=16",
    "warm_up.glimpses_per_case=4",
    "warm_up.glimpses_per_patch=0",
    "warm_up.batch=4",
    "warm_up.steps=2",
    "joint.updates=2",
    "max_glimpses=2",
)
QUICK_CASES = (
    "env.cohort.n.train=8",
    "env.cohort.n.val=4",
    "env.cohort.n.test=4",
)  # of environments that make their images


# ---------------------------------------------------------------------------------------------- options
def parser(name: str, about: str | None) -> argparse.ArgumentParser:
    """The options that every benchmark has; `about` is the module's docstring."""
    made = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}", description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--out", type=Path, help="folder of the JSON and the picture (default: that of --runs)")
    made.add_argument("--runs", type=Path, help="folder of training runs and images (default: runs/benchmarks)")
    made.add_argument("--threads", type=int, default=1, help="compute threads (default: 1)")
    made.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    made.add_argument("--fresh", action="store_true", help="forget earlier rows and runs of this benchmark")
    made.add_argument(
        "--quick", action="store_true", help="everything once at the smallest size, in runs/benchmarks/quick"
    )
    return made


def add_seeds(made: argparse.ArgumentParser, default: Sequence[int] = (0,)) -> None:
    """Adds `--seeds`, one training each."""
    shown = " ".join(map(str, default))
    made.add_argument("--seeds", type=int, nargs="+", default=list(default), help=f"default: {shown}")


@dataclass(frozen=True)
class Trained:
    """A training that has ended: its run folder, and the content of its `metrics.json`."""

    folder: Path
    metrics: dict[str, Any]

    @property
    def own(self) -> Row:
        """The table's row of the agent itself; the other rows are its baselines."""
        return next(iter(self.metrics["readers"].values()))

    @property
    def seconds(self) -> float:
        """What all stages of learning took."""
        return sum(seconds for stage, seconds in self.metrics["seconds"].items() if stage != "report")


class Benchmark:
    """One benchmark under way: its options, its rows so far, and where its trainings lie."""

    def __init__(self, name: str, made: argparse.ArgumentParser, arguments: Sequence[str] | None) -> None:
        self.name, self.options, self.error = name, made.parse_args(arguments), made.error
        options, runs = self.options, RUNS
        if options.quick:
            runs = (options.runs or options.out or RUNS) / "quick"
        elif options.runs:
            runs = options.runs
        self.out: Path = (options.out or runs).resolve()
        self.runs: Path = runs.resolve() / name
        fresh = options.fresh or options.quick  # of the smallest size nothing is worth keeping
        if fresh:
            shutil.rmtree(self.runs, ignore_errors=True)
        self.out.mkdir(parents=True, exist_ok=True)
        self.runs.mkdir(parents=True, exist_ok=True)
        torch.set_num_threads(options.threads)
        keep_freed_memory()  # as the commands do
        path, command = self.out / f"{name}.json", command_of(name, made, options)
        self.results = Results(path, command, machine(options.threads, options.device), fresh)

    def train(self, label: str, overrides: Sequence[str]) -> Trained:
        """A whole training in a process of its own; goes on where it was stopped, and is only read once it has ended.

        The folder's name depends on the overrides, so that no other training is ever taken for this one.
        """
        options = self.options
        fixed = [f"threads={options.threads}", f"device={options.device}", "report.readers=[]", "report.pictures=0"]
        overrides = [*fixed, *(_quick(overrides) if options.quick else ()), *overrides]
        folder = self.runs / f"{label}-{hashlib.sha256(json.dumps(overrides).encode()).hexdigest()[:8]}"
        metrics = folder / "metrics.json"
        if not metrics.exists():
            begun = (folder / "config.yaml").exists()
            given = [setting("resume", folder)] if begun else [setting("run", folder), *overrides]
            print(f"\n{self.name}: {'going on with' if begun else 'training'} {folder.name}", flush=True)
            ended = subprocess.run([sys.executable, "-m", "glimpse.train", *given], cwd=ROOT)
            if ended.returncode:
                raise SystemExit(
                    f"benchmarks: the training in {folder} ended with exit code {ended.returncode}; its message stands "
                    "above. The same command goes on from here; --fresh begins again."
                )
        return Trained(folder, json.loads(metrics.read_text(encoding="utf-8")))

    def picture(self, figure: Figure) -> None:
        """Saves the benchmark's picture beside its rows, and says where both are."""
        path = self.out / f"{self.name}.png"
        unfinished = path.with_name(f".{path.name}")
        figure.savefig(unfinished, format="png")
        os.replace(unfinished, path)
        print(f"\nWritten: {self.results.path}, {path}")


def _quick(overrides: Sequence[str]) -> list[str]:
    """`QUICK` without the settings of stages that are left out: these have none."""
    left_out = tuple(f"{one.removesuffix('=none')}." for one in overrides if one.endswith("=none"))
    return [one for one in QUICK if not left_out or not one.startswith(left_out)]


def setting(name: str, value: Path | str) -> str:
    """An override of Hydra's, quoted: paths may hold anything."""
    text = str(value).replace("\\", "\\\\").replace("'", "\\'")
    return f"{name}='{text}'"


def command_of(name: str, made: argparse.ArgumentParser, options: argparse.Namespace) -> str:
    """The command that measures this again. Paths are somebody's own, and stand as their option's name."""
    words = [f"python -m benchmarks.{name}"]
    for key, value in vars(options).items():
        if value is None or value == made.get_default(key):
            continue
        words.append(f"--{key.replace('_', '-')}")
        if isinstance(value, Path):
            words.append(f"<{key}>")
        elif value is not True:
            words += [shlex.quote(str(word)) for word in (value if isinstance(value, list) else [value])]
    return " ".join(words)


def machine(threads: int, device: str) -> Row:
    """What numbers depend on beside the code."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(memory),
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else device,
        "threads": threads,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "glimpse": glimpse.__version__,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


# ---------------------------------------------------------------------------------------------- results
class Results:
    """The rows of a benchmark, kept in a JSON file that is written whole after every one of them.

    A row is a flat record: settings, which say what was measured, and what was measured. Two rows never agree in all of
    their settings, so a benchmark that was stopped knows what it has.

    Raises:
        SystemExit: the file holds rows of another machine; a table must not mix them.
    """

    def __init__(self, path: Path, command: str, machine: Row, fresh: bool = False) -> None:
        self.path = path
        held: Row = {} if fresh or not path.exists() else json.loads(path.read_text(encoding="utf-8"))
        differing = [key for key in machine if held and held["machine"].get(key) != machine[key]]
        if differing:
            raise SystemExit(
                f"benchmarks: {path} holds rows measured with another {', '.join(differing)}, and rows of one table "
                "must be comparable. --out keeps the new ones elsewhere; --fresh begins the file again."
            )
        self.rows: list[Row] = held.get("rows", [])
        self._head = {"command": command, "machine": machine}

    def find(self, **settings: Any) -> Row | None:
        """The row of these settings, if there is one."""
        return next((row for row in self.rows if settings.items() <= _hashable(row).items()), None)

    def put(self, settings: Row, **measured: Any) -> Row:
        """Adds a row, in place of the one with the same settings if there is one, and writes the file."""
        row, before = {**settings, **rounded(measured)}, self.find(**settings)
        if before is None:
            self.rows.append(row)
        else:
            self.rows[self.rows.index(before)] = row
        date = datetime.now(UTC).isoformat(timespec="seconds")
        write_atomically(self.path, json.dumps({**self._head, "date": date, "rows": self.rows}, indent=2) + "\n")
        return row


def _hashable(row: Row) -> Row:
    return {key: value for key, value in row.items() if not isinstance(value, list | dict)}


def rounded(value: Any) -> Any:
    """Numbers with five decimals, through nested records."""
    if isinstance(value, float):
        return round(value, 5)
    if isinstance(value, Mapping):
        return {key: rounded(inner) for key, inner in value.items()}
    return [rounded(inner) for inner in value] if isinstance(value, list | tuple) else value


def value_of(row: Mapping[str, Any], metric: str) -> float | None:
    """A metric's value in a row of `metrics.json`, where it stands with its interval; None where it is not."""
    entry = row.get(metric)
    return entry.get("value") if isinstance(entry, Mapping) else entry


def facts_of(reader: str, values: Mapping[str, Any]) -> Row:
    """What tables of slides, volumes and radiographs say of a reader, from its row of `metrics.json`."""
    shown = {name: value_of(values, name) for name in _FACTS}
    return {f"{reader} {name}": value for name, value in shown.items() if value is not None}


def write_cohort(path: Path, rows: Sequence[Mapping[str, str]]) -> Path:
    """Writes the CSV of a cohort, of which all rows have the columns of the first one, and returns its path."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, text.getvalue())
    return path


# ---------------------------------------------------------------------------------------------- tables and pictures
def table(header: Sequence[str], lines: Iterable[Sequence[Any]]) -> str:
    """An aligned plain-text table; the first column is a name, the others are numbers."""
    cells = [list(header), *([_shown(cell) for cell in line] for line in lines)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(header))]
    texts = [
        "  ".join(cell.rjust(width) if i else cell.ljust(width) for i, (cell, width) in pairs).rstrip()
        for pairs in (enumerate(zip(line, widths, strict=True)) for line in cells)
    ]
    return "\n".join(["", texts[0], "-" * max(map(len, texts)), *texts[1:]])


def _shown(cell: Any) -> str:
    if cell is None:
        return "-"
    return f"{cell:.3f}" if isinstance(cell, float) else str(cell)


def figure(width: float = 6.4, height: float = 4.2) -> tuple[Figure, Any]:
    """An empty figure and its axes, in the style of all pictures here."""
    made = Figure(figsize=(width, height), dpi=120, layout="constrained")
    FigureCanvasAgg(made)
    axes = made.add_subplot()
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    return made, axes
