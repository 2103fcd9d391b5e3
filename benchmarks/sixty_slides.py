"""Sixty slides at two magnifications, five of them broken: what check, train and predict make of them.

python -m benchmarks.sixty_slides

Thirty slides are scanned at 20x, thirty at 40x. One is cut short, one is empty, one is a text, one has tiles that
cannot be decoded, and one does not state the size of a pixel. The check has to name all five, and no other; a training
that skips broken images has to go through; and predictions have to be the same to the last byte whether one process
makes them, two at once, or many that are killed at random moments.
"""

import argparse
import csv
import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import openslide
import tifffile

from benchmarks.common import ROOT, Benchmark, Row, figure, parser, setting, table, write_cohort
from glimpse.synthetic.slides.recipe import embedded_cohort
from glimpse.synthetic.slides.svs import write_svs

NAME = "sixty_slides"
EXTENTS = "env.make.glimpse_extents=[64um]"  # the same field of view at both magnifications
_SPLITS = ("train", "train", "train", "val", "test")


def options() -> argparse.ArgumentParser:
    made = parser(NAME, __doc__)
    made.add_argument("--slides", type=int, default=60, help="slides, at least 30 (default: 60)")
    made.add_argument("--kills", type=int, default=10, help="how often predict is killed (default: 10)")
    made.add_argument("--seed", type=int, default=0, help="of the moments at which it is (default: 0)")
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    bench = Benchmark(NAME, options(), arguments)
    given = bench.options
    if given.quick:
        given.slides, given.kills = 30, 2
    if given.slides < 30:
        bench.error("--slides: give at least 30, five of which are broken")
    began = time.perf_counter()
    cohort, broken = make_slides(bench.runs / "slides", given.slides)
    _put(bench, "make", {"slides": given.slides, "broken": len(broken)}, time.perf_counter() - began)
    _measure(bench, "check", lambda: _check(bench, cohort, broken))
    _measure(bench, "train", lambda: train(bench, cohort))
    model, slides = bench.runs / "run", cohort.parent / "slides"
    _measure(bench, "predict, one process", lambda: _predict(bench, model, slides))
    _measure(bench, "predict, two at once", lambda: _two(bench, model, slides))
    _measure(bench, f"predict, killed {given.kills} times", lambda: _killed(bench, model, slides))
    report(bench)


def _measure(bench: Benchmark, what: str, work: Callable[[], Row]) -> None:
    """Does one part, unless it was done before; `work` returns what has come of it."""
    if bench.results.find(what=what, slides=bench.options.slides) is None:
        began = time.perf_counter()
        found = work()
        _put(bench, what, found, time.perf_counter() - began)


def _put(bench: Benchmark, what: str, found: Row, seconds: float) -> None:
    bench.results.put({"what": what, "slides": bench.options.slides}, **{**found, "seconds": seconds})


# ---------------------------------------------------------------------------------------------- slides
def make_slides(folder: Path, count: int) -> tuple[Path, dict[str, str]]:
    """Makes the slides unless they are there; returns the CSV, and what is wrong with each broken one by its name."""
    cohort, names = folder / "cohort.csv", [f"slide-{i:02}" for i in range(count)]
    step = count // 5
    broken = {names[i * step + i]: wrong for i, wrong in enumerate(BREAK)}
    if cohort.exists():
        return cohort, broken
    sources = sorted((embedded_cohort(folder / "embedded", n=count, size=1024).parent / "slides").glob("*.svs"))
    rows = []
    (folder / "slides").mkdir(parents=True, exist_ok=True)
    for i, (name, source) in enumerate(zip(names, sources, strict=True)):
        path = folder / "slides" / f"{name}.svs"
        fine = i % 2
        with openslide.OpenSlide(source) as slide:
            pixels = np.asarray(slide.read_region((0, 0), 0, slide.dimensions).convert("RGB"))
        pixels = pixels.repeat(2, 0).repeat(2, 1) if fine else pixels
        pyramid = [pixels, pixels[::4, ::4]]
        write_svs(path, pyramid, mpp=0.25 if fine else 0.5, magnification=40 if fine else 20)
        if name in broken:
            BREAK[broken[name]](path)
        split, target = _SPLITS[i // 2 % len(_SPLITS)], i // 2 // len(_SPLITS) % 2
        row = {"case_id": f"patient-{i:02}", "slide_id": name, "path": f"slides/{path.name}"}
        rows.append({**row, "target": str(target), "split": split})
    return write_cohort(cohort, rows), broken


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _text(path: Path) -> None:
    path.write_text("This slide was lost in the archive.\n" * 40)


def _tiles(path: Path) -> None:
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages.first
        places = list(zip(page.dataoffsets, page.databytecounts, strict=True))[:6]
    with open(path, "r+b") as file:
        for start, size in places:
            file.seek(start)
            file.write(b"\xab" * size)


def _without_mpp(path: Path) -> None:
    facts = re.compile(rb"\|(AppMag|MPP) = [0-9.]+")
    path.write_bytes(facts.sub(lambda found: b" " * len(found[0]), path.read_bytes()))


BREAK: dict[str, Callable[[Path], None]] = {
    "cut short": _cut,
    "empty": _empty,
    "a text": _text,
    "broken tiles": _tiles,
    "no pixel size": _without_mpp,
}
"""How slides are broken, by what is wrong then."""

RULES = {"cut short": "unreadable", "empty": "unreadable", "a text": "unreadable", "broken tiles": "tiles",
         "no pixel size": "spacing"}  # fmt: skip
"""The rule of `glimpse check` under which each has to be found."""


# ---------------------------------------------------------------------------------------------- commands
def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "glimpse", *words]


def run(bench: Benchmark, words: Sequence[str], codes: Sequence[int]) -> str:
    """Runs a command to its end; another exit code than those that are expected ends the benchmark."""
    done = subprocess.run(command(*words), cwd=ROOT, capture_output=True, text=True, env=environment(bench))
    if done.returncode not in codes:
        raise SystemExit(f"benchmarks: glimpse {' '.join(words)} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    return done.stdout + done.stderr


def environment(bench: Benchmark) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": str(bench.options.threads)}


def _check(bench: Benchmark, cohort: Path, broken: dict[str, str]) -> Row:
    out = bench.runs / "check"
    words = ["check", setting("input", cohort), setting("output", out), "env=wsi", EXTENTS, "progress=false"]
    run(bench, [*words, "env.make.glimpse_size=64"], (1,))
    with open(out / "findings.csv", newline="", encoding="utf-8") as file:
        found = [line for line in csv.DictReader(file) if line["kind"] == "wrong"]
    named = {line["slide_id"]: line for line in found}
    right = sum(name in named and named[name]["rule"] == RULES[wrong] for name, wrong in broken.items())
    why = {wrong: named[name]["what"][:160] if name in named else "" for name, wrong in broken.items()}
    return {"named": right, "others_named": len(set(named) - set(broken)), "why": why}


def train(bench: Benchmark, cohort: Path) -> Row:
    words = [
        "train",
        "env=wsi",
        "experiment=smoke",
        setting("env.cohort.path", cohort),
        setting("run", bench.runs / "run"),
    ]
    threads = [f"threads={bench.options.threads}", "progress=false", "report.readers=[]", "report.pictures=0"]
    said = run(bench, [*words, *threads, "env.cohort.on_error=skip", EXTENTS, "env.make.glimpse_size=64"], (0,))
    with open(bench.runs / "run" / "splits.csv", newline="", encoding="utf-8") as file:
        cases = len(list(csv.DictReader(file)))
    return {"cases": cases, "said": said.splitlines()[-1]}


def words(model: Path, slides: Path, out: Path) -> list[str]:
    return ["predict", setting("model", model), setting("input", slides), setting("output", out), "progress=false"]


def _predict(bench: Benchmark, model: Path, slides: Path) -> Row:
    run(bench, words(model, slides, bench.runs / "one"), (1,))
    return counts(bench.runs / "one") | {"same": True}


def counts(out: Path) -> Row:
    cases = json.loads((out / "manifest.json").read_text(encoding="utf-8"))["cases"]
    return {"predicted": cases["predicted"], "failed": cases["failed"]}


def _same(bench: Benchmark, out: Path) -> bool:
    """Whether a folder holds the same bytes as that of one process, the manifest aside."""
    return digests(out) == digests(bench.runs / "one")


def digests(folder: Path) -> dict[str, str]:
    files = (file for file in folder.rglob("*") if file.is_file() and file.name != "manifest.json")
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def _two(bench: Benchmark, model: Path, slides: Path) -> Row:
    out = bench.runs / "two"
    both = [
        subprocess.Popen(command(*words(model, slides, out)), cwd=ROOT, env=environment(bench),
                         stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(2)
    ]  # fmt: skip
    codes = [process.wait() for process in both]
    read = [one["read"] for one in json.loads((out / "manifest.json").read_text(encoding="utf-8"))["processes"]]
    return counts(out) | {"same": _same(bench, out), "codes": codes, "read_by_each": read}


def _killed(bench: Benchmark, model: Path, slides: Path) -> Row:
    """Kills the command at random moments, once it has begun to work, and then lets it end."""
    out, dice, again = bench.runs / "killed", random.Random(bench.options.seed), 0
    whole = next(row["seconds"] for row in bench.results.rows if row["what"] == "predict, one process")
    left = []
    for _ in range(bench.options.kills):
        before = _records(out)
        process = subprocess.Popen(command(*words(model, slides, out)), cwd=ROOT, env=environment(bench),
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
        time.sleep(dice.uniform(0.1, 1.2) * whole / 2)
        process.send_signal(signal.SIGKILL)
        process.wait()
        now = _records(out)
        again += sum(now.get(name) != then for name, then in before.items())
        left.append(len(now))
    before = _records(out)
    run(bench, words(model, slides, out), (1,))
    again += sum(_records(out).get(name) != then for name, then in before.items())
    return counts(out) | {"same": _same(bench, out), "read_again": again, "records_after_each_kill": left}


def _records(out: Path) -> dict[str, int]:
    """When the record of each case was written."""
    return {path.name: path.stat().st_mtime_ns for path in out.glob("cases/[!.]*.json")}


# ---------------------------------------------------------------------------------------------- what is shown
def report(bench: Benchmark) -> None:
    """Prints what has come of each part, and draws how long it took."""
    rows = [row for row in bench.results.rows if row["slides"] == bench.options.slides]
    names = ("seconds", "named", "others_named", "cases", "predicted", "failed", "same", "read_again")
    header = (
        "part",
        "s",
        "broken named",
        "others named",
        "trained on",
        "predicted",
        "failed",
        "same bytes",
        "read again",
    )
    print(table(header, [[row["what"], *(row.get(name) for name in names)] for row in rows]))
    for row in rows:
        for wrong, what in row.get("why", {}).items():
            print(f"{wrong}: {what or 'not named'}")
    made, axes = figure(6.4, 2.6)
    axes.barh([row["what"] for row in rows][::-1], [row["seconds"] for row in rows][::-1], color="tab:blue")
    axes.set(xlabel="seconds")
    bench.picture(made)


if __name__ == "__main__":
    main()
