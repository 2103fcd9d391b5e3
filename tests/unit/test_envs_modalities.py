"""Environments on volumes and radiographs: slices with their neighbours, and real files."""

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

import glimpse
from glimpse.cohort import Case
from glimpse.envs import GlimpseEnv, check, make_ct, make_mri, make_wsi, make_xray
from tests.checks import listed, without_mpp


def play(env: GlimpseEnv, locations: list[list[float]]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Reads glimpses at the locations; returns the observations and the last info."""
    observation, info = env.reset(seed=0)
    seen = [observation]
    for stop, location in [*((0, location) for location in locations), (1, locations[-1])]:
        action = {"location": np.array(location, np.float32), "stop": stop, "prediction": np.zeros(2, np.float32)}
        observation, _, _, _, info = env.step(action)
        seen.append(observation)
    return seen[:-1], info


def test_slices_with_their_neighbours_are_an_environment(tiny_mri: Path) -> None:
    sizes: dict[str, Any] = {"overview_size": (12, 36, 36), "glimpse_size": (1, 40, 40)}
    extents = [["3mm", "40mm", "40mm"]]
    env = make_mri(tiny_mri, None, neighbours=1, glimpse_extents=extents, max_glimpses=3, shuffle=False, **sizes)
    assert env.observation_space["glimpse"].shape == (3, 1, 40, 40)
    assert check(env) == ()
    (_, glimpse), _ = play(env, [[0.1, 0.0, 0.0]])
    plain = glimpse_of(tiny_mri, 0.1, (3, 40, 40), (9, 40, 40))
    here, before, behind = (plain[0, index] for index in (1, 0, 2))
    np.testing.assert_array_equal(glimpse["glimpse"][:, 0], [here, before, behind])


def glimpse_of(csv: Path, z: float, size: tuple[int, ...], extent: tuple[float, ...]) -> np.ndarray:
    """A glimpse of the first volume of a cohort, read from its source."""
    source = make_mri(csv, None, shuffle=False).cases[0].source
    return source.read(source.frame.to_pixels([z, 0.0, 0.0]), extent, size)


@pytest.mark.parametrize("make", [make_mri, make_ct])
def test_the_environments_of_volumes_run_on_a_real_head(make: Any, shared_data: Path) -> None:
    windows = {} if make is make_mri else {"windows": [[0, 100], [50, 250]]}
    source = glimpse.open_source(shared_data / "real" / "mni152_t1.nii.gz", **windows)
    assert source.shape == (189, 233, 197) and source.spacing == (1.0, 1.0, 1.0) and source.unit == "mm"
    env = make([Case("mni", "mni", source, 1, "train")], glimpse_extents="24mm", max_glimpses=2)
    seen, info = play(env, [[0.0, 0.0, 0.2], [0.3, -0.4, -0.3]])
    assert 0.2 < (seen[0]["foreground"] > 0).mean() < 0.9
    assert all(observation["glimpse"].std() > 5 for observation in seen[1:])
    assert len(info["scanpath"]) == 2


def test_the_environment_of_radiographs_runs_on_a_real_chest(shared_data: Path) -> None:
    source = glimpse.open_source(shared_data / "real" / "chest_rg1.dcm")
    assert source.shape == (1955, 1841)
    env = make_xray([Case("rg1", "rg1", source, 1, "train")], max_glimpses=2)
    seen, info = play(env, [[0.0, -0.5], [0.1, 0.5]])
    assert 0.3 < (seen[0]["foreground"] > 0).mean() <= 1.0
    assert all(observation["glimpse"].std() > 5 for observation in seen[1:])
    assert info["pixels_read"] > 0


@pytest.mark.parametrize("name", ["MRI", "CT", "XRay"])
def test_an_empty_split_is_said_so(name: str, request: pytest.FixtureRequest) -> None:
    csv = request.getfixturevalue({"MRI": "tiny_mri", "CT": "tiny_ct", "XRay": "tiny_radiographs"}[name])
    with pytest.raises(ValueError, match="split"):
        gymnasium.make(f"glimpse/{name}-v0", cohort=csv, split="nonsense")


def test_a_pixel_size_of_all_slides_gives_way_to_the_column_mpp(tmp_path: Path) -> None:
    for seed in range(2):
        without_mpp(tmp_path / f"{seed}.svs", seed)
    table = listed(
        tmp_path / "c.csv",
        "p,a,0.svs,0,train,",
        "q,b,1.svs,1,train,0.25",
        header="case_id,slide_id,path,target,split,mpp",
    )
    sizes = {"overview_size": 64, "glimpse_size": 32, "glimpse_extents": "32um"}
    cases = make_wsi(cohort=table, split="train", mpp=0.5, **sizes).cases
    assert [case.source.spacing for case in cases] == [(0.5, 0.5), (0.25, 0.25)]
