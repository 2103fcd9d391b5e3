"""Needle MNIST, is there a 3 among the other digits?: test accuracy over the size of the canvas.

python -m benchmarks.needle_mnist --root <folder of MNIST's IDX files>

11,276 training images, after Pawlowski et al. (2019). Digits keep their 28 pixels, and on every canvas lie 25 digits
other than 3; with --grows, 100 of them on 512 x 512 pixels and as many per area on the others. Beside
the agent stand random places and the overview alone, and a small convolutional network that is trained on the same
images, reduced to 512 x 512 pixels.
"""

import argparse
from collections.abc import Sequence

from benchmarks.common import QUICK_CASES, Benchmark, Row, add_seeds, figure, parser, table, value_of
from benchmarks.mnist import add_root, root_of
from benchmarks.whole_image import accuracy_of_whole_images
from glimpse.runs.folder import settings_of
from glimpse.settings.building import build

NAME = "needle_mnist"
READERS = ("agent", "random", "overview", "network")
_PER_PIXEL = 8  # pixels of the image in one of the overview, which a digit of 28 pixels still leaves traces in
_LARGEST = 256  # overview; a larger canvas is read with two fields of view
_WIDE, _FINE, _GLIMPSE = 256, 64, 32  # a wide glimpse has 8 pixels of the image in one of its own, too
_REDUCED = 512  # side of what the network sees
_ZOOMED = (
    "warm_up.branches=[12,2]",  # around most digits in a wide glimpse there is little else to look at
    "agent.algorithm.replay_steps=8",
    "agent.algorithm.encoder_rate=1.0",  # what is lacking are answers: the encoder has to learn to tell digits
)


def options() -> argparse.ArgumentParser:
    made = parser(NAME, __doc__)
    add_root(made)
    made.add_argument(
        "--sizes",
        type=int,
        nargs="+",
        default=[512, 1024, 2048, 3072, 6144],
        help="pixels per side (default: 512 1024 2048 3072 6144)",
    )
    made.add_argument("--grows", action="store_true", help="the number of clutter digits grows with the area")
    made.add_argument("--glimpses", type=int, default=32, help="budget; twice that where it zooms (default: 32)")
    made.add_argument("--passes", type=float, default=3, help="of the network through the training images (default: 3)")
    made.add_argument("--overrides", nargs="+", default=[], help="of the training, such as env.cohort.n.train=2000")
    add_seeds(made)
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    bench = Benchmark(NAME, options(), arguments)
    given = bench.options
    for size in [512] if given.quick else given.sizes:
        for seed in given.seeds:
            overrides = " ".join(given.overrides)
            settings = {
                "size": size,
                "seed": seed,
                "grows": given.grows,
                "budget": given.glimpses,
                "passes": given.passes,
                "overrides": overrides,
            }
            if bench.results.find(**settings) is None:
                bench.results.put(settings, **_measure(bench, size, seed))
    report(bench)


def views_of(size: int, glimpses: int) -> list[str]:
    """The overrides that say how a canvas is read: with one field of view, or zoomed, with twice as many looks."""
    overview, zooms = size // _PER_PIXEL, size > _LARGEST * _PER_PIXEL
    extents = f"[{_WIDE},{_FINE}]" if zooms else f"[{_FINE}]"
    made = [f"env.make.overview_size={min(overview, _LARGEST)}", f"env.make.glimpse_size={_GLIMPSE}"]
    made += [f"env.make.glimpse_extents={extents}", f"max_glimpses={2 * glimpses if zooms else glimpses}"]
    return [*made, *_ZOOMED] if zooms else made


def _measure(bench: Benchmark, size: int, seed: int) -> Row:
    given = bench.options
    cohort = [f"env.cohort.size={size}", *(["env.cohort.grows=true", "env.cohort.clutter=100"] if given.grows else [])]
    views = [one for one in views_of(size, given.glimpses) if not (given.quick and one.startswith("max_glimpses"))]
    small = QUICK_CASES if given.quick else ()
    readers = "report.readers=[random,overview]"
    fixed = ["env=needle_mnist", root_of(bench), f"seed={seed}", readers, *cohort, *views, *small]
    run = bench.train(f"{size}-{seed}", [*fixed, *given.overrides])
    cases = build(settings_of(run.folder)["env"]["cohort"])
    print(f"{NAME}: a network on whole images", flush=True)
    network = accuracy_of_whole_images(
        cases.split("train"), cases.split("test"), 2, side=_REDUCED, passes=given.passes, seed=seed, device=given.device
    )
    others = {f"{name} accuracy": value_of(run.metrics["readers"][name], "accuracy") for name in ("random", "overview")}
    cost = {name: value_of(run.own, name) for name in ("hit_rate", "glimpses", "share_read")}
    return {
        "agent accuracy": value_of(run.own, "accuracy"),
        **others,
        **{f"network {name}": value for name, value in network.items()},
        **cost,
        "seconds": run.seconds,
    }


# ---------------------------------------------------------------------------------------------- what is shown
def report(bench: Benchmark) -> None:
    """Prints and draws the accuracy of every reader over the size of the canvas."""
    rows = sorted(bench.results.rows, key=lambda row: (row["grows"], row["size"], row["seed"]))
    header = ("pixels per side", "clutter", "seed", "passes", *READERS, "3s hit", "glimpses", "training, s")
    print(table(header, [[str(row["size"]), "grows" if row["grows"] else "fixed", row["seed"], row["passes"],
                          *(row[f"{reader} accuracy"] for reader in READERS), row["hit_rate"], row["glimpses"],
                          row["seconds"]] for row in rows]))  # fmt: skip
    made, axes = figure()
    chosen = [row for row in rows if row["grows"] == bench.options.grows]
    for reader in READERS:
        sizes = [row["size"] for row in chosen]
        label = "network, whole image" if reader == "network" else reader
        axes.plot(sizes, [row[f"{reader} accuracy"] for row in chosen], "o", ls="-", label=label)
    axes.axhline(0.5, color="black", ls=":", label="chance")
    axes.set(xscale="log", xlabel="pixels per side", ylabel="test accuracy", xlim=(400, 8000), ylim=(0.4, 1.02))
    axes.set_xticks(sorted({row["size"] for row in chosen}))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.minorticks_off()
    axes.legend(fontsize="small")
    bench.picture(made)


if __name__ == "__main__":
    main()
