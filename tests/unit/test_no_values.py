"""Images without one finite value are refused, and those that are all of one value are named."""

import csv
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile

from glimpse.cohort import Cohort
from glimpse.predict import predict
from glimpse.sources import ImageReadError, ImageSource, RadiographSource, VolumeSource
from glimpse.sources.tiff.source import TiffSource
from glimpse.tasks import Classification
from tests.checks import found_in
from tests.predictions import untrained_run, write_slide
from tests.tiff_files import write_ome
from tests.volume_files import write

NOTHING = r"none of its values is a finite number .* Write the image anew .*on_error=skip"


def empty(*shape: int) -> np.ndarray:
    """Values of which none is a finite number, NaN and infinite ones."""
    values = np.full(shape, np.nan, np.float32)
    values[0] = np.inf
    return values


def grey_tiff(path: Path, values: np.ndarray) -> Path:
    tifffile.imwrite(path, values, photometric="minisblack")
    return path


MAKERS: dict[str, Callable[[Path, np.ndarray], ImageSource]] = {
    "volume": lambda folder, values: VolumeSource(write(folder / "a.nii", values[0][..., None])),
    "packed volume": lambda folder, values: VolumeSource(write(folder / "a.nii.gz", values[0][..., None])),
    "volume with a window": lambda folder, values: VolumeSource(
        write(folder / "a.nii", values[0][..., None]), windows=[0, 1]
    ),
    "radiograph": lambda folder, values: RadiographSource(grey_tiff(folder / "a.tif", values[0])),
    "radiograph with a window": lambda folder, values: RadiographSource(
        grey_tiff(folder / "a.tif", values[0]), window=(0, 1)
    ),
    "channels": lambda folder, values: TiffSource(_written(folder / "a.ome.tif", values)),
    "channels with windows": lambda folder, values: TiffSource(_written(folder / "a.ome.tif", values), windows=[0, 1]),
}


def _written(path: Path, values: np.ndarray) -> Path:
    write_ome(path, values)
    return path


@pytest.mark.parametrize("kind", MAKERS)
def test_images_without_a_finite_value_are_refused(kind: str, tmp_path: Path) -> None:
    source = MAKERS[kind](tmp_path, empty(2, 64, 96))
    with pytest.raises(ImageReadError, match=NOTHING) as error:
        source.check()
    assert str(source.path) in str(error.value)


@pytest.mark.parametrize("kind", MAKERS)
def test_one_finite_value_is_enough(kind: str, tmp_path: Path) -> None:
    values = empty(2, 2049, 1023)  # so large that a sample hardly finds it
    values[:, 1001, 501] = 1
    source = MAKERS[kind](tmp_path, values)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        source.check()


def test_a_channel_without_a_finite_value_is_named(tmp_path: Path) -> None:
    values = np.random.default_rng(0).random((2, 64, 96), np.float32)
    values[1] = np.nan
    with pytest.warns(UserWarning, match=r"a\.ome\.tif: hardly any value is a finite number in the channels CD3"):
        TiffSource(_written(tmp_path / "a.ome.tif", values)).check()


def test_check_names_it_and_cohorts_leave_it_out(tiny_mri: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "nothing.nii", empty(40, 48, 40))
    (finding,) = [one for one in found_in(path, "mri") if not one.note]
    assert finding.rule == "unreadable" and "finite number" in finding.what
    rows = list(csv.DictReader(tiny_mri.open(newline="")))
    lines = [f"{r['case_id']},{r['slide_id']},{tiny_mri.parent / r['path']},{r['target']},{r['split']}" for r in rows]
    listed = tmp_path / "cohort.csv"
    listed.write_text("\n".join(["case_id,slide_id,path,target,split", *lines, f"x,x,{path},0,train"]))
    with pytest.warns(UserWarning, match=r"skipped.*finite number"):
        cohort = Cohort.from_csv(listed, Classification(2), on_error="skip")
    assert len(cohort) == len(rows) and [one.case for one in cohort.skipped] == ["x"]


def test_predict_refuses_what_has_no_values_and_names_what_is_blank(tiny_mri: Path, tmp_path: Path) -> None:
    own = ("env=mri", "network/encoder=small", f"env.cohort.path={tiny_mri}", "max_glimpses=1")
    run, folder = untrained_run(tmp_path / "run", *own), tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    write(folder / "nothing.nii", empty(40, 48, 40))
    write(folder / "blank.nii", np.full((40, 48, 40), 7, np.float32))
    write(folder / "good.nii", rng.random((40, 48, 40), np.float32))
    with pytest.warns(UserWarning) as said:
        predict(run, folder, tmp_path / "out")
    named = [str(one.message) for one in said if "nothing to see" in str(one.message)]
    assert len(named) == 1 and "blank.nii: its overview shows one value" in named[0]
    answered = {row["slide_id"] for row in csv.DictReader((tmp_path / "out" / "predictions.csv").open())}
    (failed,) = csv.DictReader((tmp_path / "out" / "failures.csv").open())
    assert answered == {"blank", "good"} and failed["slide_id"] == "nothing" and "finite" in failed["reason"]


def test_a_slide_of_one_colour_is_a_finding(tmp_path: Path) -> None:
    for name, colour in (("glass", (255, 255, 255)), ("pink", (220, 120, 180))):
        image = np.empty((512, 512, 3), np.uint8)
        image[:] = colour
        found = [one.what for one in found_in(write_slide(tmp_path / f"{name}.svs", image=image))]
        assert any("nothing to look at" in what for what in found), name
