"""`glimpse check` and `glimpse predict` on real images: a slide, a head and a chest; skipped without them."""

import csv
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from glimpse.check import check
from glimpse.predict import predict
from tests.geojson import valid
from tests.predictions import untrained_run

FILES = {"wsi": "cmu_small_region.svs", "mri": "mni152_t1.nii.gz", "xray": "chest_rg1.dcm"}
SPACING = {"wsi": "0.499 x 0.499", "mri": "1 x 1 x 1", "xray": ""}  # the radiograph states none at the patient
COHORTS = {"wsi": "tiny_slides", "mri": "tiny_mri", "xray": "tiny_radiographs"}


@pytest.mark.parametrize("env", FILES)
def test_a_real_image_is_checked_and_predicted(
    env: str, shared_data: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    image = shared_data / "real" / FILES[env]
    checked = check(image, tmp_path / "checked", env=env, workers=1, estimate=False)
    assert not checked.wrong, checked.told
    cohort = request.getfixturevalue(COHORTS[env])
    sizes = [] if env == "mri" else ["env.make.glimpse_extents=[256]"]  # those of the smoke test leave gaps
    run = untrained_run(tmp_path / "run", f"env={env}", "experiment=smoke", f"env.cohort.path={cohort}", *sizes)
    out = tmp_path / "out"
    assert not predict(run, image, out, max_glimpses=4).done.failed
    with (out / "predictions.csv").open(newline="") as file:
        (line,) = csv.DictReader(file)
    assert line["glimpses"] == "4" and line["spacing"] == SPACING[env]
    assert float(line["p_0"]) + float(line["p_1"]) == pytest.approx(1, abs=1e-5)
    picture = np.asarray(Image.open(out / "overlays" / f"{line['file']}.png").convert("L"))
    assert picture.std() > 20, "there is nothing on it"
    if env == "mri":
        labels = nibabel.load(out / "labels" / f"{line['file']}.nii.gz")  # type: ignore[attr-defined]
        head = nibabel.load(image)  # type: ignore[attr-defined]
        assert labels.shape == head.shape and np.allclose(labels.affine, head.affine)
        assert set(np.unique(np.asarray(labels.dataobj))) == {0, 1, 2, 3, 4}
    else:
        assert len(valid(json.loads((out / "geojson" / f"{line['file']}.geojson").read_text()))) == 4
