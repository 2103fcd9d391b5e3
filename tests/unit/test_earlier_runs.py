"""Settings of runs that an earlier version has made."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from glimpse.runs.earlier import is_earlier, upgraded
from glimpse.runs.folder import RunError, settings_of
from glimpse.settings.building import build

EARLIER = {
    "pretrain": {"steps": 0},
    "env": {
        "name": "mri",
        "learning": {"updates": 60},
        "cohort": {
            "_target_": "glimpse.envs.mri.load_mri",
            "path": None,
            "windows": None,
            "neighbours": 0,
            "task": {"_target_": "glimpse.tasks.Several", "tasks": {}},
            "synthetic": {"n": 12, "size": 96, "progress": False},
        },
        "make": {"_target_": "glimpse.envs.mri.make_mri", "overview_size": [40, 48, 40], "max_glimpses": 8},
    },
}


def test_they_are_read_under_the_names_of_today(tiny_mri: Path) -> None:
    settings = upgraded(EARLIER)
    cohort, make = settings["env"]["cohort"], settings["env"]["make"]
    assert cohort["_target_"] == "glimpse.envs.modality.load_modality" and cohort["modality"] == "mri"
    assert cohort["task"]["_target_"] == "glimpse.tasks.MultiTask" and "progress" not in cohort["synthetic"]
    cohort |= {"path": str(tiny_mri), "task": {"_target_": "glimpse.tasks.Classification", "classes": 2}}
    env = build(make, cohort=build(cohort), split="train")
    assert env.views.overview_size == (40, 48, 40) and env.max_glimpses == 8


def test_settings_of_today_stay_as_they_are() -> None:
    today = {
        "pretrain": {"_target_": "glimpse.learning.stages.NoStage"},
        "env": {"cohort": {"_target_": "glimpse.envs.modality.load_modality"}, "make": {}},
    }
    assert upgraded(today) == today and not is_earlier(today)


def test_they_are_not_resumed(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(EARLIER)))
    with pytest.raises(RunError, match=r"earlier version .* can be evaluated, but not resumed"):
        settings_of(tmp_path)
