"""Slides of 1 megapixel to 17 gigapixels, always with 16 glimpses: seconds per case and peak memory over the size.

python -m benchmarks.gigapixel

In every round each size has a process of its own. It reads a slide that does not count, then others that do: it opens
the file, makes the overview, reads 16 glimpses with two fields of view, and answers. The policy is not trained. Slides
are pyramidal TIFFs, opened by OpenSlide, whose tiles share their bytes, so that any size is a few megabytes; they have
just been written, so that what is measured is the reader and not the disk. OpenSlide keeps 4 MB of tiles, and freed
memory is returned at once. Rounds go through all sizes, so that other work disturbs them alike; what is shown are
medians over the rounds.
"""

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path

from benchmarks.common import Benchmark, Row, figure, parser, table
from benchmarks.memory import probed
from benchmarks.shared_tiles import TILE, write_slide

NAME = "gigapixel"
TARGET = 1.15  # the largest size over the smallest
_FINE, _WIDE = 128, 4096  # pixels of the fields of view; small slides have a wide one of a quarter of their side
_RATIOS = (("seconds per case", "seconds"), ("of the processor", "cpu_seconds"), ("peak memory", "process_mib"))


def options() -> argparse.ArgumentParser:
    made = parser(NAME, __doc__)
    made.add_argument(
        "--sides",
        type=int,
        nargs="+",
        default=[1024, 4096, 16_384, 65_536, 131_072],
        help=f"pixels per side, multiples of {TILE} from 1024 (default: 1024 4096 16384 65536 131072)",
    )
    made.add_argument("--rounds", type=int, default=3, help="through all sizes (default: 3)")
    made.add_argument("--cases", type=int, default=5, help="slides of each size and round that count (default: 5)")
    made.add_argument("--glimpses", type=int, default=16, help="of each slide (default: 16)")
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    bench = Benchmark(NAME, options(), arguments)
    given = bench.options
    if given.quick:
        given.sides, given.rounds, given.cases, given.glimpses = [1024, 4096], 1, 2, 4
    wrong = [side for side in given.sides if side < 1024 or side % TILE]
    if wrong or min(given.rounds, given.cases, given.glimpses) < 1:
        bench.error(f"--sides takes multiples of {TILE} from 1024, the others numbers from 1 on.")
    for number in range(given.rounds):
        for side in given.sides:
            _measure(bench, side, number)
    report(bench)


def _measure(bench: Benchmark, side: int, number: int) -> None:
    settings = {"round": number, "side": side, "glimpses": bench.options.glimpses, "cases": bench.options.cases}
    if bench.results.find(**settings) is not None:
        return
    slides = [_slide(bench.runs, side, one) for one in range(1 + bench.options.cases)]
    extents = [min(_WIDE, side // 4), _FINE]
    measured = probed(bench, {"slides": list(map(str, slides)), "extents": extents, **settings}, "gigapixel_probe")
    size = slides[-1].stat().st_size / 2**20
    for slide in slides:
        slide.unlink()
    bench.results.put(settings, file_mib=size, **measured)


def _slide(folder: Path, side: int, number: int) -> Path:
    return write_slide(folder / f"{side}-{number}.tiff", side, number)


# ---------------------------------------------------------------------------------------------- what is shown
def report(bench: Benchmark) -> None:
    """Prints a line per size and the ratios of the largest to the smallest, and draws both over the size."""
    wanted = {"glimpses": bench.options.glimpses, "cases": bench.options.cases}
    names = ("seconds", "cpu_seconds", "overview_seconds", "fine", "process_mib", "reading_mib", "file_mib")
    rounds: dict[int, list[Row]] = {}
    for row in bench.results.rows:
        if wanted.items() <= row.items():
            rounds.setdefault(row["side"], []).append(row)
    rows = [
        {"side": side, **{name: statistics.median(row[name] for row in rounds[side]) for name in names}}
        for side in sorted(rounds)
    ]
    header = ("pixels per side", "megapixels", "s/case", "of the processor", "to the overview", "fine looks")
    print(table((*header, "process, MiB", "reading, MiB", "file, MiB"),
                [[str(row["side"]), f"{row['side'] ** 2 / 1e6:.0f}", *(row[name] for name in names)]
                 for row in rows]))  # fmt: skip
    for what, name in _RATIOS:
        ratio = rows[-1][name] / rows[0][name]
        reached = "reached" if ratio <= TARGET else "not reached"
        print(f"largest / smallest, {what}: {ratio:.3f} (target: at most {TARGET}; {reached})")
    _draw(bench, rows)


def _draw(bench: Benchmark, rows: Sequence[Row]) -> None:
    made, _ = figure(9.6, 4.0)
    made.clear()
    left, right = made.subplots(1, 2)
    megapixels = [row["side"] ** 2 / 1e6 for row in rows]
    for axes, name, label in (
        (left, "seconds", "from opening to the answer"),
        (left, "cpu_seconds", "of the processor"),
        (left, "overview_seconds", "from opening to the overview"),
        (right, "process_mib", "whole process"),
        (right, "reading_mib", "beyond what was resident"),
    ):
        axes.plot(megapixels, [row[name] for row in rows], marker="o", label=label)
    for axes, unit in ((left, "seconds per case"), (right, "peak memory, MiB")):
        axes.set(xscale="log", xlabel="megapixels", ylabel=unit)
        axes.set_ylim(0, 1.3 * axes.get_ylim()[1])
        axes.legend(fontsize="small")
        axes.grid(alpha=0.3)
    bench.picture(made)


if __name__ == "__main__":
    main()
