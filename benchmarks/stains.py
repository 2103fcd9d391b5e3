"""Slides of other dyes: what is lost where a laboratory stains otherwise, with and without random views in training.

python -m benchmarks.stains

The embedded slides are trained on, with their glimpses in random views, which have other stains besides, and in one
view, as they are. The test slides are then dyed anew in optical density: what is taken
for haematoxylin and eosin (Ruifrok and Johnston 2001) is given the colours of another laboratory (the reference of
Macenko et al. 2009), less haematoxylin, and more eosin.
"""

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import openslide
from tqdm import tqdm

from benchmarks.common import Benchmark, Row, add_seeds, facts_of, figure, parser, table, write_cohort
from glimpse.atomic import replacing
from glimpse.evaluate import evaluate
from glimpse.learning.colours import EOSIN, HAEMATOXYLIN
from glimpse.synthetic.slides.recipe import embedded_cohort
from glimpse.synthetic.slides.svs import write_svs

NAME = "stains"
_OTHERS = np.array([[0.5626, 0.7201, 0.4062], [0.2159, 0.8012, 0.5581]])  # haematoxylin, eosin
_AMOUNTS = np.array([0.7, 1.3])  # of both, as a share of what there is
_WAYS = {"one view": ["warm_up.augment=null"], "random views": []}
_BY_POLICY = ("policy", "random", "grid")
_STRIP = 512  # rows that are dyed at once


def options() -> argparse.ArgumentParser:
    made = parser(NAME, __doc__)
    add_seeds(made, (0, 1, 2))
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    bench = Benchmark(NAME, options(), arguments)
    own = embedded_cohort(bench.runs / "slides", 12, size=1024) if bench.options.quick else embedded_cohort()
    other = dyed_anew(own, bench.runs / "dyed-anew", progress=True)
    for seed in bench.options.seeds:
        for way, given in _WAYS.items():
            if bench.results.find(way=way, seed=seed) is None:
                bench.results.put({"way": way, "seed": seed}, **_measure(bench, way, given, seed, own, other))
    report(bench)


def dyed_anew(manifest: Path, folder: Path, progress: bool = False) -> Path:
    """Writes the test slides of a cohort with other dyes, unless they are there, and returns the path of their CSV."""
    with open(manifest, newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "test"]
    folder.mkdir(parents=True, exist_ok=True)
    for row in tqdm(rows, desc="dyeing", unit="slide", disable=not progress):
        path = folder / Path(row["path"]).name
        if not path.exists():
            with openslide.OpenSlide(manifest.parent / row["path"]) as slide:
                whole = np.asarray(slide.read_region((0, 0), 0, slide.dimensions).convert("RGB"))
            image = np.concatenate([dyed(whole[top : top + _STRIP]) for top in range(0, len(whole), _STRIP)])
            levels = [image, _smaller(image, 4), _smaller(image, 16)]
            with replacing(path) as unfinished:
                write_svs(unfinished, levels, mpp=float(row["mpp"]), quality=90)
        row["path"] = path.name
    return write_cohort(folder / "cohort.csv", rows)


def dyed(image: np.ndarray) -> np.ndarray:
    """Returns pixels of tissue, uint8 (height, width, 3), with other dyes; what is neither dye stays as it is."""
    dyes = np.array([HAEMATOXYLIN, EOSIN])
    dyes /= np.linalg.norm(dyes, axis=1, keepdims=True)
    third = np.cross(*dyes)
    whole = np.stack([*dyes, third / np.linalg.norm(third)])
    density = -np.log((image.astype(np.float32) + 1) / 256)
    amounts = density @ np.linalg.inv(whole).astype(np.float32)
    others = _OTHERS / np.linalg.norm(_OTHERS, axis=1, keepdims=True) * _AMOUNTS[:, None]
    dense = amounts @ np.stack([*others, whole[2]]).astype(np.float32)
    return np.clip(256 * np.exp(-dense) - 1 + 0.5, 0, 255).astype(np.uint8)


def _smaller(image: np.ndarray, times: int) -> np.ndarray:
    height, width = (side // times * times for side in image.shape[:2])
    blocks = image[:height, :width].reshape(height // times, times, width // times, times, 3)
    return (blocks.mean((1, 3)) + 0.5).astype(np.uint8)


def _measure(bench: Benchmark, way: str, given: Sequence[str], seed: int, own: Path, other: Path) -> Row:
    chosen = ["env=wsi", f"seed={seed}", *given]
    chosen += ["experiment=smoke", f"env.cohort.path={own}"] if bench.options.quick else []
    run = bench.train(f"{way.replace(' ', '-')}-{seed}", chosen)
    row: Row = {"seconds": run.seconds}
    for dyes, cohort in (("own", None), ("other", other)):
        found = evaluate(run.folder, cohort=cohort, readers=list(_BY_POLICY), progress=False)
        for reader, values in zip(_BY_POLICY, found.rows.values(), strict=True):
            row |= facts_of(f"{reader}, {dyes} dyes", values)
    return row


def report(bench: Benchmark) -> None:
    """Prints the test AUC of every reader in each row, and draws the agent's."""
    rows = bench.results.rows
    columns = [f"{reader}, {dyes} dyes auc" for reader in _BY_POLICY for dyes in ("own", "other")]
    header = ("training, seed", *(one.removesuffix(" auc") for one in columns), "seconds")
    print(table(header, [[f"{row['way']}, {row['seed']}", *(row.get(one) for one in columns), row["seconds"]]
                         for row in rows]))  # fmt: skip
    made, axes = figure(4.8, 3.6)
    for way, colour in zip(_WAYS, ("tab:gray", "tab:blue"), strict=True):
        for row in (row for row in rows if row["way"] == way and columns[0] in row):
            axes.plot([0, 1], [row[one] for one in columns[:2]], "o-", color=colour, label=way)
    axes.set(ylabel="test AUC of the agent", xticks=[0, 1], ylim=(0.4, 1.02))
    axes.set_xticklabels(["own dyes", "other dyes"])
    shown = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))  # one entry per way
    axes.legend(list(shown.values()), list(shown))
    bench.picture(made)


if __name__ == "__main__":
    main()
