"""What can be changed of a run that goes on."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from glimpse.errors import SettingsError
from glimpse.runs.checkpoints import Checkpoint
from glimpse.runs.folder import RunError, check_continues
from glimpse.settings.composing import composed
from glimpse.settings.resuming import resumed
from glimpse.train import _device

SAVED = {"seed": 3, "threads": 1, "joint": {"updates": 9}, "report": {"readers": ["grid"], "lanes": 20}}
GIVEN = {"seed": 0, "threads": 2, "joint": {"updates": 40}, "report": {"readers": ["random"], "lanes": 20}}


def test_what_can_take_effect_does() -> None:
    found = resumed(SAVED, GIVEN, ["resume=a", "joint.updates=40", "report.readers=[random]"])
    changed = {"joint": {"updates": 40}, "report": {"readers": ["random"], "lanes": 20}}
    assert found == {**SAVED, **changed}
    assert SAVED["joint"] == {"updates": 9}


@pytest.mark.parametrize(
    "typed", ["seed=4", "agent=reinforce", "+joint.updates=4", "env.make.glimpse_size=3", "~report"]
)
def test_what_cannot_is_refused(typed: str) -> None:
    with pytest.raises(SettingsError, match=r"cannot be changed beside resume=.*joint\.updates"):
        resumed(SAVED, GIVEN, ["resume=a", typed])


def test_what_comes_too_late_is_refused(tmp_path: Path) -> None:
    Checkpoint(meta={"stage": "joint", "updates": 9}).save(tmp_path / "checkpoints" / "last.safetensors")
    with pytest.raises(RunError, match=r"joint\.keep can take no effect.* all of its 9 updates.* joint\.updates=18"):
        check_continues(tmp_path, 9, ["joint.keep", "threads"])
    with pytest.raises(RunError, match=r"joint\.updates=8 can take no effect"):
        check_continues(tmp_path, 8, ["joint.updates"])
    check_continues(tmp_path, 10, ["joint.keep", "joint.updates"])
    check_continues(tmp_path, 9, ["joint.updates", "report.lanes"])
    check_continues(tmp_path / "new", 9, ["joint.keep"])


def test_the_cache_of_features_can_be_changed_and_taken_away_also_where_a_run_has_none() -> None:
    cache = {"folder": "/a", "gigabytes": 4}
    given = {**GIVEN, "features_cache": {"folder": "/b", "gigabytes": 9}}
    changed = resumed({**SAVED, "features_cache": cache}, given, ["resume=a", "features_cache.folder=/b"])
    assert changed["features_cache"] == {"folder": "/b", "gigabytes": 4}
    assert (
        resumed({**SAVED, "features_cache": cache}, {"features_cache": None}, ["features_cache=null"])["features_cache"]
        is None
    )
    for saved in (SAVED, {**SAVED, "features_cache": None}):  # an earlier version's run
        assert resumed(saved, given, ["features_cache.folder=/b"])["features_cache"] == given["features_cache"]


def test_processes_of_a_run_that_goes_on_join_on_its_own_device(tmp_path: Path) -> None:
    settings = {**OmegaConf.to_container(composed("env=wsi"), resolve=True), "device": "cuda"}
    (tmp_path / "config.yaml").write_text(OmegaConf.to_yaml(settings))
    for overrides, device in (([], "cuda"), (["device=cpu"], "cpu"), (["device=cuda:1"], "cuda:1")):
        given = [f"resume={tmp_path}", *overrides]
        assert _device(composed(*given), given) == device
    for nowhere in (f"resume={tmp_path / 'nowhere'}", "resume=3", "env=wsi"):
        assert _device(composed(nowhere), [nowhere]) == "cpu"
