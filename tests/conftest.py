"""What all tests share: runtime shape checks, a cache of their own, and a tiny cohort made once per run."""

import os
from collections.abc import Iterator
from pathlib import Path

import jaxtyping
import pytest

import tests.shape_checks  # noqa: F401 - named below

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: tests may run in as many processes as cores

# Shapes in signatures are checked in pytest only. The hook acts on modules imported after it, so it stands up here.
_SHAPE_CHECKS = jaxtyping.install_import_hook(
    [f"glimpse.{room}" for room in ("agents", "networks", "learning", "reading", "predicting", "inspecting")],
    "tests.shape_checks.check",
)

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Points GLIMPSE_CACHE to a folder of this run, so that no test reads or fills the user's cache.

    Stable-Baselines3 makes a folder for each agent that is given no logger; they go to a folder of this run, too.
    """
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GLIMPSE_CACHE", str(folder))
        patch.setenv("SB3_LOGDIR", str(tmp_path_factory.mktemp("logs")))
        yield folder


@pytest.fixture(autouse=True)
def _few_threads() -> None:
    """Limits torch to one thread: what tests compute is so small that more threads only wait for each other.

    It does so for each test anew, since a training in this process sets the number for all that follows.
    """
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cohort of 12 synthetic slides of 1024 x 1024 pixels; returns the path of its CSV."""
    from glimpse.synthetic.slides.recipe import embedded_cohort

    return embedded_cohort(tmp_path_factory.mktemp("tiny_slides"), n=12, size=1024, progress=False)


@pytest.fixture(scope="session")
def run(tiny_slides: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an untrained run on the tiny slides, which tests only read; modules may have one of their own."""
    from tests.predictions import slide_run

    return slide_run(tmp_path_factory.mktemp("runs") / "one", tiny_slides)


@pytest.fixture(scope="session")
def tiny_radiographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cohort of 12 synthetic radiographs of 512 x 512 pixels; returns the path of its CSV."""
    from glimpse.synthetic.radiographs.recipe import embedded_cohort

    return embedded_cohort(tmp_path_factory.mktemp("tiny_radiographs"), n=12, size=512, progress=False)


@pytest.fixture(scope="session")
def tiny_photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cohort of 12 synthetic photographs of 768 x 768 pixels; returns the path of its CSV."""
    from glimpse.synthetic.photos.recipe import embedded_cohort

    return embedded_cohort(tmp_path_factory.mktemp("tiny_photos"), n=12, size=768, progress=False)


@pytest.fixture(scope="session")
def tiny_mri(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cohort of 12 synthetic MR volumes of 80 x 96 x 80 voxels; returns the path of its CSV."""
    from glimpse.synthetic.volumes.recipe import embedded_mri

    return embedded_mri(tmp_path_factory.mktemp("tiny_mri"), n=12, size=96, progress=False, workers=1)


@pytest.fixture(scope="session")
def tiny_ct(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cohort of 12 synthetic CT volumes of 36 x 88 x 120 voxels; returns the path of its CSV."""
    from glimpse.synthetic.volumes.recipe import embedded_ct

    return embedded_ct(tmp_path_factory.mktemp("tiny_ct"), n=12, size=120, progress=False, workers=1)


@pytest.fixture(scope="session")
def tiny_mnist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 1,797 small handwritten digits in the files of MNIST."""
    from benchmarks.mnist import small_digits

    return small_digits(tmp_path_factory.mktemp("tiny_mnist"))


@pytest.fixture(scope="session")
def small_brain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A drawn brain of 80 x 96 x 80 voxels with 0 around it, as templates come; returns the path of its file."""
    import nibabel
    import numpy as np

    from glimpse.synthetic.volumes.brain import make_head

    volume, _ = make_head(np.random.default_rng(0), (80, 96, 80), (1.0, 1.0, 1.0), 2)
    path = tmp_path_factory.mktemp("small_brain") / "brain.nii.gz"
    nibabel.Nifti1Image((200 * np.clip(volume, 0, 1)).astype(np.uint8).T, np.eye(4)).to_filename(path)
    return path


@pytest.fixture(scope="session")
def small_chest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A drawn chest without spots, 560 x 512 pixels and MONOCHROME1; returns the path of its DICOM file."""
    import numpy as np

    from glimpse.synthetic.making import CaseRecord
    from glimpse.synthetic.radiographs.chest import Anatomy, paint_chest
    from glimpse.synthetic.radiographs.dicom import Shown, write_radiograph

    rng = np.random.default_rng(1)
    field = np.pad(paint_chest(rng, Anatomy.draw(rng)), ((24, 24), (0, 0)), mode="edge")
    path = tmp_path_factory.mktemp("small_chest") / "chest.dcm"
    pixels = (3000 * np.clip(field, 0, 1.3)).astype(np.uint16)
    write_radiograph(path, pixels, Shown(True, 2000, 4000, 0.6), CaseRecord(0, "one", "chest", 0, "test", path.name))
    return path


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real images beside the checkout; a test that needs it is skipped where it is absent."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real images on this machine: {folder} is absent")
    return folder


@pytest.fixture
def registrations(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Takes back what a test registers: modalities, readers, environments and options of the command line."""
    import gymnasium
    from hydra.core.config_store import ConfigStore

    from glimpse import modalities
    from glimpse.sources import registry

    monkeypatch.setattr(modalities, "_MODALITIES", dict(modalities._MODALITIES))
    monkeypatch.setattr(registry, "_READERS", dict(registry._READERS))
    options = ConfigStore.instance().repo
    changed = [gymnasium.registry, options.setdefault("env", {}), options.setdefault("recipe", {})]
    before = [dict(one) for one in changed]
    yield
    for one, kept in zip(changed, before, strict=True):
        one.clear()
        one.update(kept)
