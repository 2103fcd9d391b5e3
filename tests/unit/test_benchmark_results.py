"""What benchmarks keep of a measurement, and what they read from the curves of a training."""

import json
from pathlib import Path

import pytest

from benchmarks import common, megapixel_mnist, reference

MACHINE = {"processor": "abacus", "threads": 1}


def test_rows_are_known_by_their_settings_and_survive(tmp_path: Path) -> None:
    path = tmp_path / "some.json"
    results = common.Results(path, "python -m benchmarks.some", MACHINE)
    results.put({"agent": "ppo", "seed": 0}, accuracy=0.123456789, curve=[{"seconds": 1.0}])
    results.put({"agent": "ppo", "seed": 1}, accuracy=0.5)
    again = common.Results(path, "python -m benchmarks.some --seeds 1", MACHINE)
    assert again.find(agent="ppo", seed=0) == {
        "agent": "ppo",
        "seed": 0,
        "accuracy": 0.12346,
        "curve": [{"seconds": 1.0}],
    }
    assert again.find(agent="reinforce", seed=0) is None
    again.put({"agent": "ppo", "seed": 0}, accuracy=0.75)
    record = json.loads(path.read_text(encoding="utf-8"))
    assert [(row["seed"], row["accuracy"]) for row in record["rows"]] == [(0, 0.75), (1, 0.5)]
    assert record["command"] == "python -m benchmarks.some --seeds 1" and record["machine"] == MACHINE
    assert common.Results(path, "", MACHINE, fresh=True).rows == []


def test_rows_of_two_machines_are_not_mixed(tmp_path: Path) -> None:
    path = tmp_path / "some.json"
    common.Results(path, "", MACHINE).put({"seed": 0}, accuracy=0.5)
    with pytest.raises(SystemExit, match=r"some\.json.*another threads.*--fresh"):
        common.Results(path, "", {**MACHINE, "threads": 2})


def test_the_command_names_no_path() -> None:
    made = megapixel_mnist.options()
    options = made.parse_args(["--root", "/somewhere/mnist", "--reference", "/else/loop.py", "--seeds", "1", "2"])
    command = common.command_of("megapixel_mnist", made, options)
    assert command == "python -m benchmarks.megapixel_mnist --root <root> --seeds 1 2 --reference <reference>"


def test_a_training_that_fails_says_where(tmp_path: Path) -> None:
    made = common.parser("some", None)
    bench = common.Benchmark("some", made, ["--out", str(tmp_path), "--runs", str(tmp_path / "runs")])
    with pytest.raises(SystemExit, match=r"wrong-.* ended with exit code 2"):
        bench.train("wrong", ["no_such_key=1"])


# ---------------------------------------------------------------------------------------------- curves
def test_the_lines_of_the_reference_are_read(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    script = tmp_path / "loop.py"
    script.write_text(
        "print('pretrain 150 s, contrastive loss 0.81')\n"
        "print('  224 s  warm-up  accuracy 0.350  digits hit 0.900  entropy 1.25  1480 glimpses/s')\n"
        "print('  283 s  joint    accuracy 0.620  digits hit 0.960  entropy 0.90  1550 glimpses/s')\n"
    )
    first, second = reference.run(script)
    assert first == {"stage": "warm-up", "seconds": 224.0, "accuracy": 0.35, "hit_rate": 0.9, "rate": 1480.0}
    assert (second["stage"], second["accuracy"]) == ("joint", 0.62)
    script.write_text("raise SystemExit(3)")
    with pytest.raises(SystemExit, match="exit code 3 and 0 lines"):
        reference.run(script)


def test_times_to_an_accuracy() -> None:
    curve = [{"seconds": 100, "accuracy": 0.5}, {"seconds": 200, "accuracy": 0.8}, {"seconds": 300, "accuracy": 0.95}]
    times = megapixel_mnist._times(curve)
    assert times["seconds_to_0.90"] == 300 and times["seconds_to_0.96"] is None
    assert times["crossing_0.90"] == pytest.approx(200 + 100 * (0.10 / 0.15))
    assert times["crossing_0.96"] is None
