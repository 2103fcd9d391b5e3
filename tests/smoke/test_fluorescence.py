"""Slides of many channels: a training on two of four, chosen and windowed by name, and what it predicts."""

import csv
import subprocess
from pathlib import Path

import numpy as np
import pytest
import tifffile
from omegaconf import OmegaConf

from glimpse.envs.modality import load_modality
from tests.commands import ran

NAMES = ["DAPI", "CD3", "CD8", "CK"]
CHOSEN = ["env.cohort.channels=[DAPI,CD3]", "env.cohort.windows={DAPI:[0,1200],CD3:auto}"]


def write(path: Path, seed: int, side: int = 256) -> Path:
    """Nuclei in a disc, and in every second slide cells that shine in CD3; two levels, 16 bits, 0.5 um per pixel."""
    rng = np.random.default_rng(seed)
    inside = np.hypot(*(np.mgrid[:side, :side] - side / 2)) < side / 3
    means = np.stack([np.where(inside, 900, 100), np.full((side, side), 100), np.full((side, side), 100), inside * 300])
    for row, column in rng.integers(side // 3, 2 * side // 3, (12 * (seed % 2), 2)):
        means[1, row : row + 12, column : column + 12] = 3000
    image = rng.poisson(means).astype(np.uint16)
    facts = {"axes": "CYX", "Channel": {"Name": NAMES}, "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(image, subifds=1, metadata=facts, tile=(64, 64), photometric="minisblack", compression="zlib")
        coarse = image.reshape(4, side // 2, 2, side // 2, 2).mean((2, 4)).astype(np.uint16)
        tiff.write(coarse, subfiletype=1, tile=(64, 64), photometric="minisblack", compression="zlib")
    return path


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fluorescence")
    lines = ["patient,case,path,target,split"]
    for index, split in enumerate(["train"] * 4 + ["val"] * 2 + ["test"] * 2):
        write(folder / f"s{index}.ome.tiff", index)
        lines.append(f"p{index},s{index},s{index}.ome.tiff,{index % 2},{split}")
    (folder / "cohort.csv").write_text("\n".join(lines))
    return folder / "cohort.csv"


def test_the_options_reach_the_images(cohort: Path) -> None:
    case = load_modality("wsi", cohort, channels=["CD3"], windows={"CD3": [0, 2550]})[1]
    stored = tifffile.imread(case.source.path)[1]
    shown = case.source.read((128, 128), 64, (64, 64))[0]
    np.testing.assert_array_equal(shown, np.floor(np.clip(stored[96:160, 96:160] / 10, 0, 255) + 0.5))
    assert (case.source.channels, case.source.spacing) == (1, (0.5, 0.5))


def test_two_of_four_channels_are_trained_on_and_read_again(cohort: Path, tmp_path: Path) -> None:
    def run(*line: str) -> subprocess.CompletedProcess[str]:
        return ran("glimpse", *line, folder=tmp_path)

    quick = ["env=wsi", "progress=false", "report.readers=[random]", "joint.updates=1", f"env.cohort.path={cohort}"]
    done = run("train", "experiment=[fluorescence,smoke]", "run=run", *quick, *CHOSEN)
    assert done.returncode == 0, done.stderr
    config = OmegaConf.load(tmp_path / "run" / "config.yaml")
    assert config.env.cohort.windows == {"DAPI": [0, 1200], "CD3": "auto"} and config.env.background == 0
    done = run("predict", "model=run", f"input={cohort.parent / 's7.ome.tiff'}", "output=out")
    assert done.returncode == 0, done.stderr
    ((case,),) = [[row["slide_id"] for row in csv.DictReader((tmp_path / "out" / "predictions.csv").open())]]
    assert case == "s7"
