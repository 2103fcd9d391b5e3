"""Every benchmark can be asked for help; the cheap ones run at their smallest size, and go on from what they have."""

import csv
import importlib
import json
import math
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks import (
    anatomy,
    common,
    encoder_speed,
    encoders,
    features_cache,
    few_slides,
    gigapixel,
    gigapixel_mnist,
    low_data,
    memory,
    needle_mnist,
    probe,
    profile,
    sparse_slides,
    survival,
    throughput,
)
from glimpse.runs.folder import settings_of
from glimpse.runs.loading import build_policy
from glimpse.settings.building import build
from glimpse.settings.composing import composed
from glimpse.synthetic.volumes.recipe import HEAD, THORAX
from glimpse.synthetic.volumes.spots import draw_spots
from tests.commands import ran

ROOT = Path(__file__).resolve().parents[2]
NAMES = sorted(
    path.stem
    for path in (ROOT / "benchmarks").glob("*.py")
    if "def options()" in path.read_text(encoding="utf-8")  # the others are their parts
)


@pytest.mark.parametrize("name", NAMES)
def test_a_benchmark_says_what_it_measures(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    benchmark = importlib.import_module(f"benchmarks.{name}")
    with pytest.raises(SystemExit) as ended:
        benchmark.main(["--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert f"python -m benchmarks.{name}" in shown and "--quick" in shown
    assert benchmark.__doc__.splitlines()[0] in shown
    assert name == benchmark.NAME


def test_the_readme_lists_every_benchmark() -> None:
    text = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    assert len(NAMES) == 31 and not [name for name in NAMES if f"python -m benchmarks.{name}" not in text]


def test_fewer_slides_are_the_first_of_each_class_with_all_that_are_not_for_training(
    tiny_slides: Path, tmp_path: Path
) -> None:
    with open(tiny_slides, newline="") as file:
        own = list(csv.DictReader(file))
    with open(few_slides.with_fewer(tiny_slides, 4, tmp_path / "few.csv"), newline="") as file:
        rows = list(csv.DictReader(file))
    train = [row["slide_id"] for row in own if row["split"] == "train"]
    firsts = [[row["slide_id"] for row in own if row["slide_id"] in train and row["target"] == t][:2] for t in "01"]
    assert {row["slide_id"] for row in rows if row["split"] == "train"} == {*firsts[0], *firsts[1]}
    others = [row["slide_id"] for row in own if row["split"] != "train"]
    assert [row["slide_id"] for row in rows if row["split"] != "train"] == others
    assert all(Path(row["path"]).is_file() for row in rows)
    with pytest.raises(SystemExit, match="fewer than 40 training slides"):
        few_slides.with_fewer(tiny_slides, 40, tmp_path / "many.csv")


@pytest.mark.parametrize(
    "name",
    [
        "megapixel_mnist",
        "gigapixel_mnist",
        "low_data",
        "needle_mnist",
        "cluttered_mnist",
        "ablation",
        "budget",
        "pointing",
        "anatomy",
    ],
)
def test_what_a_benchmark_needs_is_asked_for(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    benchmark = importlib.import_module(f"benchmarks.{name}")
    with pytest.raises(SystemExit) as ended:
        benchmark.main(["--out", str(tmp_path), "--runs", str(tmp_path / "runs")])
    assert ended.value.code == 2
    asked = {"budget": "give --run", "anatomy": "give --template"}.get(name, "give --root")
    assert asked in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------- at their smallest
@pytest.fixture(autouse=True)
def _trainings_begin_with_everything_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(line: list[str], cwd: Path, check: bool = False) -> Any:
        done = ran(*line[2:], folder=cwd, timeout=900)
        print(done.stdout, done.stderr)
        assert not (check and done.returncode), done.stderr
        return done

    for benchmark in (common, features_cache):
        monkeypatch.setattr(benchmark, "subprocess", SimpleNamespace(run=run))


def written(folder: Path, name: str) -> dict[str, Any]:
    """The JSON that a benchmark has left, beside its picture."""
    assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    record = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    assert set(record) == {"command", "machine", "date", "rows"}
    return record


@pytest.mark.slow
def test_memory_at_its_smallest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    memory.main(["--quick", "--threads", "1", "--out", str(tmp_path)])
    record = written(tmp_path, "memory")
    assert record["command"] == "python -m benchmarks.memory --out <out> --quick"  # defaults are left out
    updates = [row for row in record["rows"] if row["what"] == "update"]
    assert [(row["chunk"], row["glimpses"]) for row in updates] == [(32, 4), (32, 8), (0, 4), (0, 8)]
    for row in updates:  # two episodes of 3 x 64 x 64 bytes per glimpse
        assert row["stored_glimpses_mib"] == pytest.approx(2 * row["glimpses"] * 3 * 64 * 64 / 2**20, abs=1e-4)
        assert 0 < row["update_mib"] < 500
    assert all(row["reading_mib"] > 0 for row in record["rows"] if row["what"] == "reading")
    assert "target: at most 1.5" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options", "measured"),
    [
        ("ablation", ["--variant", "no warm-up"], "accuracy"),
        ("cluttered_mnist", ["--size", "60"], "error"),
        ("low_data", [], "accuracy"),
        ("low_data", ["--size", "3000"], "accuracy"),
        ("megapixel_mnist", ["--seeds", "0"], "accuracy"),
        ("relations", ["--aggregator", "mean_pooling"], "accuracy"),
        ("pointing", ["--variant", "beside, no penalty", "--seeds", "0"], "test 6 accuracy"),
        ("tissue", ["--seeds", "0"], "policy 8 accuracy"),
        ("survival", [], "agent expected"),
    ],
)
def test_trainings_at_their_smallest(name: str, options: list[str], measured: str, tmp_path: Path) -> None:
    benchmark = importlib.import_module(f"benchmarks.{name}")
    benchmark.main(["--quick", "--threads", "1", "--out", str(tmp_path), *options])
    (row,) = written(tmp_path, name)["rows"]
    assert 0 <= row[measured] <= 1 and row["seconds"] > 0


@pytest.mark.slow
def test_large_images_begin_with_the_weights_of_small_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gigapixel_mnist.main(["--quick", "--ways", "large", "--out", str(tmp_path), "--overrides", "joint.updates=1"])
    (row,) = written(tmp_path, "gigapixel_mnist")["rows"]
    assert (row["way"], row["overrides"]) == ("large", "joint.updates=1")
    for reader in ("agent", "random", "wide_first", "grid", "overview"):
        assert 0 <= row[f"{reader} accuracy"] <= 1 and 0 <= row[f"{reader} hit_rate"] <= 1
    small, large = (next(tmp_path.rglob(f"{way}-0-*/metrics.json")).parent for way in ("zoom", "large"))
    assert Path(settings_of(large)["initial_weights"]) == small
    assert "target: 0.90" in capsys.readouterr().out


@pytest.mark.slow
def test_needle_mnist_at_its_smallest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    needle_mnist.main(["--quick", "--threads", "1", "--out", str(tmp_path)])
    rows = written(tmp_path, "needle_mnist")["rows"]
    assert [row["size"] for row in rows] == [512]
    for row in rows:
        assert all(0 <= row[f"{reader} accuracy"] <= 1 for reader in needle_mnist.READERS)
        assert row["network seconds"] > 0 < row["seconds"]
        assert row["network passes"] == pytest.approx(row["passes"], abs=0.5) and row["passes"] == 3
    assert "network" in capsys.readouterr().out


def test_every_canvas_of_needle_mnist_can_be_read_everywhere(tiny_mnist: Path) -> None:
    for size in (512, 1024, 2048, 3072, 6144):
        given = [*needle_mnist.views_of(size, 4), f"env.cohort.size={size}", f"env.root='{tiny_mnist}'"]
        config = composed("env=needle_mnist", *given, *common.QUICK_CASES)
        cases = build(config.env.cohort).split("train")
        env = build(config.env.make, cohort=cases, split="train").unwrapped
        policy = build_policy(config.network, env.observation_space, env.layout)
        assert env.views.problems(cases[0].source, policy.grid, policy.view_grid) == []


def test_every_form_of_megapixel_mnist_has_cells_half_as_wide_as_a_glimpse() -> None:
    for size, form in low_data.FORMS.items():
        config = composed("env=megapixel_mnist", *form.overrides(400))
        assert (config.env.cohort.size, config.env.cohort.noise) == (size, form.strokes)
        assert size / config.env.make.overview_size * 4 <= 32 == config.env.make.glimpse_extents[0] / 2
        assert config.warm_up.glimpses_per_case == (1000 if form.read else 80)


def test_slides_of_any_size_are_read_with_as_many_looks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gigapixel.main(["--quick", "--threads", "1", "--out", str(tmp_path)])
    rows = written(tmp_path, "gigapixel")["rows"]
    assert [(row["side"], row["glimpses"]) for row in rows] == [(1024, 4), (4096, 4)]
    for row in rows:
        assert row["seconds"] > row["overview_seconds"] > 0 and row["process_mib"] > row["reading_mib"] > 0
        assert 0 < row["fine"] < 1 and row["file_mib"] < 1  # both fields of view
    assert "largest / smallest, peak memory" in capsys.readouterr().out
    assert not list(tmp_path.rglob("*.tiff"))
    with pytest.raises(SystemExit):
        gigapixel.main(["--sides", "1000", "--out", str(tmp_path), "--runs", str(tmp_path / "runs")])


@pytest.mark.slow
def test_anatomy_at_its_smallest(small_brain: Path, small_chest: Path, tmp_path: Path) -> None:
    given = ["--template", str(small_brain), "--radiograph", str(small_chest), "--seeds", "0", "--out", str(tmp_path)]
    anatomy.main(["--quick", "--threads", "1", "--env", "xray", *given])  # heads take longer, and no other way
    rows = written(tmp_path, "anatomy")["rows"]
    assert [row["env"] for row in rows] == ["xray"]
    for row in rows:
        assert all(0 <= row[f"{one} auc"] <= 1 for one in ("agent", "random", "grid", "overview", "full_scan"))
        assert row["full_scan share_read"] > row["agent share_read"] > 0 and row["seconds"] > 0


@pytest.mark.slow
def test_throughput_at_its_smallest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    throughput.main(["--quick", "--threads", "1", "--out", str(tmp_path), "--overrides", "network.autocast=true"])
    ppo, reinforce = written(tmp_path, "throughput")["rows"]
    assert (ppo["agent"], ppo["epochs"], reinforce["agent"], reinforce["epochs"]) == ("ppo", 1, "reinforce", 1)
    for row in (ppo, reinforce):
        assert row["overrides"] == "network.autocast=true"
        assert row["glimpses_per_update"] == 2 * 2 * 2  # cases, rollouts, glimpses
        assert row["trained_per_second"] == pytest.approx(row["epochs"] * row["collected_per_second"], rel=1e-3)
        assert row["collected_of_bare"] == pytest.approx(row["collected_per_second"] / row["bare_per_second"], rel=1e-2)
        assert sum(row["shares"].values()) == pytest.approx(1, abs=1e-3) and min(row["shares"].values()) >= 0
        assert {"rollout: reading", "rollout: encoding", "update: forward", "update: backward"} <= set(row["shares"])
    assert "share of the time" in capsys.readouterr().out


@pytest.mark.slow
def test_a_profile_at_its_smallest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    profile.main(["--quick", "--threads", "1", "--out", str(tmp_path)])
    (row,) = written(tmp_path, "profile")["rows"]
    assert sum(row["shares"].values()) == pytest.approx(1, abs=1e-3) and min(row["shares"].values()) >= 0
    parts = {"reading", "encoding", "locating", "aggregating", "backward", "optimizer"}
    assert parts < set(row["shares"]) and all(row["shares"][part] > 0 for part in parts)
    assert "share of the time" in capsys.readouterr().out


@pytest.mark.slow
def test_the_probe_at_its_smallest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    probe.main(
        ["--quick", "--env", "mri", "xray", "--encoders", "statistics", "random", "supervised", "--out", str(tmp_path)]
    )
    rows = written(tmp_path, "probe")["rows"]
    assert [(row["env"], row["encoder"]) for row in rows] == [
        (env, encoder) for env in ("mri", "xray") for encoder in ("statistics", "random", "supervised")
    ]
    assert all(0 <= row["auc"] <= 1 and row["train"] > row["test"] > 5 for row in rows)
    assert "random_wide" in capsys.readouterr().out


@pytest.mark.slow
def test_a_second_training_gives_the_answers_of_the_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    features_cache.main(["--quick", "--threads", "1", "--out", str(tmp_path)])
    rows = {row["training"]: row for row in written(tmp_path, "features_cache")["rows"]}
    assert rows["without"]["megabytes"] == 0 < rows["first"]["megabytes"] == rows["second"]["megabytes"]
    assert rows["first"]["as_the_first"] and rows["second"]["as_the_first"] and not rows["another seed"]["as_the_first"]
    assert "share of the first" in capsys.readouterr().out


# ---------------------------------------------------------------------------------------------- survival
def test_times_follow_the_law_of_the_foci_that_images_show(tiny_radiographs: Path) -> None:
    rows = survival.with_times(tiny_radiographs, *survival.IMAGES["xray"][1:])
    with open(tiny_radiographs.with_name("regions.csv"), newline="") as file:
        nodules = Counter(row["slide_id"] for row in csv.DictReader(file) if row["kind"] == "nodule")
    assert {round(2 * (float(row["log_hazard"]) + math.log(60))) for row in rows} == {
        nodules[row["slide_id"]] for row in rows
    }
    assert len({row["case_id"] for row in rows}) == 12 and all(Path(row["path"]).is_file() for row in rows)
    logs = np.log(np.repeat([0.1, 1.0], 20_000))
    times, censored = survival.draw_times(np.random.default_rng(0), logs)
    assert (censored < times).mean() == pytest.approx(1 / 3, abs=0.01)
    assert [part.mean() for part in np.split(times, 2)] == pytest.approx([10, 1], rel=0.03)
    twice = (
        np.array([[{"log_hazard": f"{one}", "time": "1", "event": "1"}] * 40 for one in (-2.3, 0.0)]).ravel().tolist()
    )
    observed, expected = survival.concordances(np.repeat([0.0, 1.0], 40), twice)
    assert math.isnan(observed)  # all at one time
    assert expected == pytest.approx(_expected_concordance(), abs=0.01)


def _expected_concordance() -> float:
    """Of two groups of 40 with hazards of 0.1 and 1, whose censoring has the rate c: pairs of both groups, and ties.

    The first of two independent exponential times with rates a and b, both censored with rate c, is seen with a
    probability of (a + b) / (a + b + 2 c), and it is that of a with a probability of a / (a + b).
    """
    low, high = 0.0, 10.0
    for _ in range(100):
        rate = (low + high) / 2
        low, high = (
            (rate, high) if np.mean([rate / (rate + one) for one in (np.exp(-2.3), 1.0)]) < 1 / 3 else (low, rate)
        )
    a, b = np.exp(-2.3), 1.0
    seen = {pair: sum(pair) / (sum(pair) + 2 * rate) for pair in ((a, a), (b, b), (a, b))}
    within, between = 40 * 39 / 2, 40 * 40
    right = within * 0.5 * (seen[a, a] + seen[b, b]) + between * seen[a, b] * b / (a + b)
    return right / (within * (seen[a, a] + seen[b, b]) + between * seen[a, b])


# ---------------------------------------------------------------------------------------------- encoders
def test_the_probe_knows_the_kinds_of_spots_by_the_names_that_cohorts_give_them(
    tiny_slides: Path, tiny_radiographs: Path, tiny_photos: Path
) -> None:
    for env, manifest in (("wsi", tiny_slides), ("xray", tiny_radiographs), ("photo", tiny_photos)):
        with open(manifest.with_name("regions.csv"), newline="") as file:
            assert {row["kind"] for row in csv.DictReader(file)} >= set(probe.KINDS[env])
    for env, kind in (("mri", HEAD), ("ct", THORAX)):
        spots = draw_spots(np.random.default_rng(0), 1, kind.rule, np.ones((60, 60, 60), bool), kind.spacing, 4)
        assert {spot.kind for spot in spots} == set(probe.KINDS[env])


def test_the_settings_of_every_encoder_fit_its_environment() -> None:
    for env in ("wsi", "xray", "photo", "mri", "ct"):
        for encoder in encoders.ENCODERS:
            given = encoders.overrides(env, encoder, volumes=env in ("mri", "ct"))
            config = composed(f"env={env}", *given, "pretrain.steps=5")
            network, objective = str(config.network.encoder), encoder.partition(", ")[2]
            labelled, unlabelled = objective in ("adapters", "last"), objective in encoders.UNLABELLED
            assert ("ConvEncoder" in network) == encoder.startswith("random")
            assert ("'lora_rank': 8" in network) == (objective == "adapters")
            assert ("'trainable': 3" in network) == (objective == "last")
            assert ("'trainable': 'all'" in network) == (unlabelled and encoder.startswith("pretrained"))
            assert (config.agent.algorithm.encoder_rate > 0) == (config.agent.algorithm.augment is not None) == labelled
            if unlabelled:
                alone = composed(f"env={env}", f"pretrain={objective}", "pretrain.steps=5").pretrain
                rate = 1e-4 if encoder.startswith("pretrained") else alone.learning_rate
                assert config.pretrain == {**alone, "learning_rate": rate}


@pytest.mark.parametrize(
    ("sizes", "looks", "ratio", "reached"), [(["32768"], 20, 40.0, True), (["49152"], 24, 25.0, False)]
)
def test_a_full_scan_is_compared_with_the_looks_of_its_size(
    sizes: list[str],
    looks: int,
    ratio: float,
    reached: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """On 32,768 pixels fewer looks are read than were trained with; otherwise the run's report has the agent."""

    def row(glimpses: int, seconds: float, auc: float = 1.0) -> dict[str, Any]:
        return {"auc": {"value": auc}, "glimpses": glimpses, "seconds_per_case": seconds}

    def read(folder: Path, readers: list[str], max_glimpses: int | None, **others: Any) -> SimpleNamespace:
        seconds = {"policy": 0.25, "random": 0.1, "wide_first": 0.2, "grid": 0.3}
        return SimpleNamespace(rows={one: row(max_glimpses or 24, seconds[one]) for one in readers})

    trained = common.Trained(
        tmp_path, {"readers": {"ppo": row(24, 0.4), "full_scan": row(2400, 10.0)}, "seconds": {"joint": 1}}
    )
    monkeypatch.setattr(sparse_slides.Benchmark, "train", lambda *_: trained)
    monkeypatch.setattr(sparse_slides, "evaluate", read)
    sparse_slides.main(["--seeds", "0", "--sizes", *sizes, "--out", str(tmp_path)])
    (found,) = written(tmp_path, "sparse_slides")["rows"]
    assert (found["size"], found["looks"], found["seconds ratio"]) == (int(sizes[0]), looks, ratio)
    assert found["share of patches"] == round(looks / 2400, 5) and found["grid seconds_per_case"] == 0.3
    assert (f"reached by seed 0 ({sizes[0]} pixels)" in capsys.readouterr().out) == reached


def test_the_speed_of_encoders_is_compared_with_the_small_ones(tmp_path: Path) -> None:
    encoder_speed.main(["--quick", "--env", "mri", "--out", str(tmp_path)])
    rows = written(tmp_path, "encoder_speed")["rows"]
    assert [row["encoder"] for row in rows] == ["small", "planar", "axial"]
    assert rows[0]["of the small one's"] == 1 and all(row["glimpses per second, bfloat16"] > 0 for row in rows)


@pytest.mark.slow
def test_encoders_at_their_smallest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chosen = ["random, masked", "pretrained, adapters"]
    encoders.main(["--quick", "--env", "xray", "--encoders", *chosen, "--out", str(tmp_path)])
    masked, adapted = written(tmp_path, "encoders")["rows"]
    assert (masked["steps"], adapted.get("steps")) == (2, None)
    for row in (masked, adapted):
        assert 0 <= row["probe"] <= 1 and 0 <= row["ppo auc"] <= 1
    assert "xray, pretrained, adapters" in capsys.readouterr().out
