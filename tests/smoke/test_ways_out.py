"""What holds several images names a way out, which can be typed: as a setting, and as a column of the CSV."""

import re
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
import tifffile

from glimpse.check import main
from tests.checks import rows
from tests.photo_files import colours
from tests.radiograph_files import save
from tests.unit.test_dicom_series import write_slice
from tests.unit.test_photo_dicom import photo

VALUES = np.random.default_rng(0).integers(900, 1400, (24, 32, 32)).astype(np.uint16)


def four_dimensions(path: Path) -> Path:
    stored = np.stack([VALUES.T, VALUES.T + 1], -1).astype(np.int16) - 1024
    nibabel.save(nibabel.Nifti1Image(stored, np.diag([2, 2, 2.5, 1])), path.with_name("four.nii.gz"))
    return path.with_name("four.nii.gz")


def two_series(path: Path) -> Path:
    for series, count in (("1.2.5", 24), ("1.2.6", 2)):
        for index in range(count):
            write_slice(path / f"{series}-{index}.dcm", VALUES[index], (0, 0, 2.5 * index), series=series)
    return path


def two_echoes(path: Path) -> Path:
    for index, one in enumerate(VALUES):
        for echo in (1, 2):
            write_slice(path / f"{index}-{echo}.dcm", one + echo, (0, 0, 2.5 * index), EchoNumbers=echo)
    return path


def two_frames(path: Path) -> Path:
    data = photo(colours(24, 32), NumberOfFrames=2)
    data.PixelData = data.PixelData * 2
    return save(data, path.with_name("frames.dcm"))


def two_images(path: Path) -> Path:
    path = path.with_name("two.ome.tif")
    with tifffile.TiffWriter(path, ome=True) as tiff:
        for seed in (0, 1):
            tiff.write(colours(32, 32, seed)[..., 0], tile=(16, 16), metadata={"axes": "YX"})
    return path


def check(monkeypatch: pytest.MonkeyPatch, given: Path, env: str, *words: str) -> list[dict[str, str]]:
    """What the command finds wrong."""
    output = given.parent / f"out-{len(list(given.parent.iterdir()))}"
    sizes = [f"env.make.{name}" for name in ("overview_size=16", "glimpse_size=8", "glimpse_extents=[16px]")]
    line = [str(given), f"env={env}", f"output={output}", "workers=1", "estimate=false", "progress=false", *sizes]
    monkeypatch.setattr(sys, "argv", ["glimpse check", *line, *words])
    try:
        main()
    except SystemExit as end:
        assert end.code == 1
    return [row for row in rows(output / "findings.csv") if row["kind"] == "wrong"]


@pytest.mark.parametrize(
    ("make", "env"),
    [(four_dimensions, "ct"), (two_series, "ct"), (two_echoes, "ct"), (two_frames, "photo"), (two_images, "wsi")],
)
def test_the_setting_and_the_column_of_the_message_choose_one(
    make, env: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GLIMPSE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "images").mkdir()
    path = make(tmp_path / "images" / "some")
    (wrong,) = check(monkeypatch, path, env)
    told = f"{wrong['what']}. {wrong['remedy']}"
    setting = re.search(r"env\.cohort\.(\w+)=([\w.]+)", told)
    assert wrong["rule"] == "unreadable" and setting is not None, told
    assert check(monkeypatch, path, env, setting[0].rstrip(".")) == []
    column = re.search(r"column '(\w+)'", told)
    assert (column is None) == (setting[1] == "image")
    if column is not None:
        table = tmp_path / "cohort.csv"
        table.write_text(f"path,{column[1]}\n{path},{setting[2].rstrip('.')}\n")
        assert check(monkeypatch, table, env) == []
