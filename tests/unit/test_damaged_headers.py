"""Headers and run folders that make no sense end in an error that names the file, whatever a library makes of them."""

import re
import shutil
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import tifffile
from omegaconf import OmegaConf
from pydicom.uid import generate_uid

from glimpse.errors import SettingsError
from glimpse.inspecting.findings import MEMORY, of_error
from glimpse.predict import predict
from glimpse.predicting.agent import load
from glimpse.runs import parts
from glimpse.runs.checkpoints import Checkpoint, CheckpointError
from glimpse.runs.loading import read_settings
from glimpse.runs.parts import foreign_targets
from glimpse.settings.composing import composed
from glimpse.sources import ImageReadError, open_source
from glimpse.sources.base import ImageMemoryError, UnsupportedImageError, understood
from glimpse.train import planned
from tests.predictions import write_slide
from tests.radiograph_files import dataset, save, values


def nifti(path: Path, field: str, value: Any) -> Path:
    image = nibabel.Nifti1Image(np.zeros((8, 9, 10), np.int16), np.eye(4))
    image.to_filename(path)
    content = bytearray(path.read_bytes())
    place, kind = {"xyzt_units": (123, "<B"), "srow": (280, "<f"), "vox_offset": (108, "<f")}[field]
    struct.pack_into(kind, content, place, value)
    path.write_bytes(content)
    return path


def picture(path: Path, tag: str, value: int) -> Path:
    tifffile.imwrite(path, values(24, 20), photometric="minisblack")
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        tiff.pages.first.tags[tag].overwrite(value)
    return path


def slices(folder: Path) -> Path:
    folder.mkdir()
    for i in range(3):
        place = {"ImagePositionPatient": [0, 0, 2.0 * i], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}
        data = dataset(values(24, 20, seed=i), PixelSpacing=[1.0, 1.0], SeriesInstanceUID="1.2.3", **place)
        data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[str(i)])
        content = save(data, folder / f"{i}.dcm").read_bytes()
        (folder / f"{i}.dcm").write_bytes(content.replace(b"1.0\\1.0 ", b"1.x\\1.0 ") if i == 1 else content)
    return folder


@pytest.mark.parametrize(
    ("made", "reader"),
    [
        (lambda folder: nifti(folder / "a.nii", "xyzt_units", 128), "volume"),
        (lambda folder: nifti(folder / "a.nii", "srow", float("inf")), "volume"),
        (lambda folder: nifti(folder / "a.nii", "vox_offset", float("nan")), "volume"),
        (lambda folder: picture(folder / "a.tif", "ImageWidth", 0), "radiograph"),
        (lambda folder: picture(folder / "a.tif", "BitsPerSample", 77), "radiograph"),
        (lambda folder: slices(folder / "a"), "volume"),
    ],
)
def test_a_header_that_makes_no_sense(tmp_path: Path, made: Callable[[Path], Path], reader: str) -> None:
    path = made(tmp_path)
    with pytest.raises((ImageReadError, UnsupportedImageError), match=re.escape(str(path.with_suffix("")))) as raised:
        source = open_source(path, reader=reader)
        source.check()
        source.overview((4,) * source.ndim)
    assert re.search(r"leave the case out|Copy|Save|Correct", str(raised.value))


def test_what_does_not_fit_into_memory_is_a_finding_of_its_own() -> None:
    with pytest.raises(ImageMemoryError, match=r"a\.nii: there is not enough memory"), understood(Path("a.nii")):
        raise MemoryError
    with pytest.raises(UnsupportedImageError, match="as it is"), understood(Path("a.nii")):
        raise UnsupportedImageError("as it is")
    finding = of_error(ImageMemoryError("a.nii: there is not enough memory. Look at it."), "a.nii")
    assert (finding.rule, finding.what, finding.remedy) == (MEMORY, "there is not enough memory", "Look at it.")


# ---------------------------------------------------------------------------------------------- run folders
@pytest.mark.parametrize(
    "target",
    [
        *("os.system", "builtins.eval", "subprocess.run", "torch.load", "hydra.utils.call", "eval"),
        "torch.nn.modules.module.torch.load",
        "stable_baselines3.common.save_util.load_from_pkl",
        "safetensors.torch.save_file",
        "safetensors.torch.torch.load",
        "test.support.os.system",
        "stable_baselines3.__class__",
        "glimpse.atomic.write_atomically",
        "glimpse.networks.policy.torch.load",
        "glimpse.envs.vector.ThreadPoolExecutor",
        "glimpse.cohort.fingerprints.os.remove",
    ],
)
@pytest.mark.parametrize("place", ["network", "network.encoder", "env.make.task", "env.task"])
def test_a_run_that_would_call_something_else_is_refused(run: Path, tmp_path: Path, target: str, place: str) -> None:
    own = shutil.copytree(run, tmp_path / "run")
    config = OmegaConf.load(own / "config.yaml")
    OmegaConf.update(config, f"{place}._target_", target, force_add=True)
    (own / "config.yaml").write_text(OmegaConf.to_yaml(config))
    with pytest.raises(CheckpointError, match=rf"config\.yaml: it would call {re.escape(target)}, .*whom you trust"):
        load(own)


def test_what_every_run_names_is_judged_without_being_imported(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    imported: list[str] = []
    monkeypatch.setattr(parts, "_found", lambda target: imported.append(target))
    named = re.findall(r"_target_: (\S+)", (run / "config.yaml").read_text())
    assert read_settings(run) and "glimpse.learning.stages.WarmUp" in named
    assert {*imported} < {*named} and not [one for one in imported if one.split(".")[1] in ("learning", "agents")]


def test_installed_packages_are_listed_once_however_many_names_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed: list[int] = []

    def packages() -> dict[str, list[str]]:
        listed.append(1)
        return {}

    monkeypatch.setattr(parts, "packages_distributions", packages)
    for count in (1, 2):  # once for each path that modules are found on
        monkeypatch.syspath_prepend(tmp_path / str(count))
        assert list(foreign_targets([{"_target_": f"own.Part{number}"} for number in range(3)])) == []
        assert len(listed) == count


def test_of_torchvision_only_models_are_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torchvision" / "models").mkdir(parents=True)
    (tmp_path / "torchvision" / "__init__.py").write_text("import torch\n")
    (tmp_path / "torchvision" / "models" / "__init__.py").write_text("def resnet18(): ...\n")
    (tmp_path / "torchvision" / "utils.py").write_text("def save_image(): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(parts, "packages_distributions", lambda: {"torchvision": ["torchvision"]})
    asked = [
        f"torchvision.{name}" for name in ("models.resnet18", "utils.save_image", "torch.load", "torch.nn.Identity")
    ]
    assert list(foreign_targets([{"_target_": one} for one in asked])) == asked[1:3]
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)


def test_functions_of_an_installed_package_that_registers_modalities(monkeypatch: pytest.MonkeyPatch) -> None:
    section = {"module": [{"_target_": "safetensors.torch.load_model"}]}
    assert list(foreign_targets(section)) == ["safetensors.torch.load_model"]
    with pytest.raises(SettingsError, match="name its module in the environment variable GLIMPSE_MODALITIES"):
        planned(
            composed(
                "env=wsi", "network/encoder=module", "network.encoder.module={_target_: safetensors.torch.load_model}"
            )
        )
    monkeypatch.setenv("GLIMPSE_MODALITIES", "dots, safetensors.torch")
    assert not list(foreign_targets(section))


@pytest.mark.parametrize(
    "target",
    [
        *("torch.nn.Identity", "torch.nn.modules.linear.Linear", "torchvision.models.resnet18", "package.Net"),
        *("stable_baselines3.common.torch_layers.NatureCNN", "glimpse.agents.baselines.train_overview"),
        *("glimpse.envs.make_array", "glimpse.tasks.Survival", "glimpse.networks.HuggingFaceEncoder"),
    ],
)
def test_networks_of_other_packages_may_be_part_of_a_run(run: Path, tmp_path: Path, target: str) -> None:
    own = shutil.copytree(run, tmp_path / "run")
    config = OmegaConf.load(own / "config.yaml")
    OmegaConf.update(config, "network.encoder.module", {"_target_": target}, force_add=True)
    (own / "config.yaml").write_text(OmegaConf.to_yaml(config))
    assert (read_settings(own) or {})["network"]["encoder"]["module"] == {"_target_": target}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("max_glimpses", "many"),
        ("threads", [1]),
        ("env.make", 3),
        ("env.make.glimpse_extents", ["wide"]),
        ("env.make.task", {"_target_": "glimpse.views.Views"}),
        ("network", {}),
        ("network.encoder", {"_target_": "glimpse.networks.Nothing"}),
        ("network.width", -5),
    ],
)
def test_settings_of_a_run_that_make_no_sense(run: Path, tmp_path: Path, key: str, value: Any) -> None:
    own, slide = shutil.copytree(run, tmp_path / "run"), write_slide(tmp_path / "s.svs")
    config = OmegaConf.load(own / "config.yaml")
    OmegaConf.update(config, key, value, merge=False, force_add=True)
    (own / "config.yaml").write_text(OmegaConf.to_yaml(config))
    with pytest.raises((CheckpointError, SettingsError)) as raised:
        predict(own, slide, tmp_path / "out")
    assert re.search(rf"^{re.escape(str(own))}.*(Restore|Install)|^Expected {key}", str(raised.value))
    assert not (tmp_path / "out").exists()


def test_parameters_without_what_they_are_of(run: Path, tmp_path: Path) -> None:
    own = shutil.copytree(run, tmp_path / "run")
    whole = Checkpoint.load(own / "policy.safetensors")
    for meta in ({}, whole.meta | {"layout": {"ndim": 2}}, whole.meta | {"observation": {"overview": "wide"}}):
        Checkpoint(whole.tensors, meta).save(own / "policy.safetensors")
        with pytest.raises(CheckpointError, match=re.escape(str(own))):
            load(own)


@pytest.mark.parametrize("compression", ["jpeg", "zlib", None])
def test_samples_in_no_known_order_are_refused(tmp_path: Path, compression: str | None) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (128, 128, 3), np.uint8)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, pixels, tile=(64, 64), photometric="rgb", compression=compression, metadata=None)
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        tiff.pages.first.tags["PlanarConfiguration"].overwrite(0)
    with pytest.raises((ImageReadError, UnsupportedImageError), match=re.escape(str(path))):
        source = open_source(path)
        source.check()
        source.overview((32, 32))
