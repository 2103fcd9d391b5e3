"""A training is validated with several budgets, and chooses its policy by the mean of their scores."""

from pathlib import Path

import pytest

from glimpse.errors import SettingsError
from glimpse.evaluate import evaluate
from glimpse.settings.composing import composed
from glimpse.train import train

SHORT = ("experiment=smoke", "env=wsi", "threads=1", "progress=false", "report.readers=[]", "report.pictures=0")


def test_the_score_that_chooses_is_the_mean_over_budgets(tiny_slides: Path, tmp_path: Path) -> None:
    own = (f"env.cohort.path={tiny_slides}", "joint.updates=1")
    plain = train(composed(*SHORT, *own, f"run={tmp_path / 'plain'}"))["validation"][0]
    assert not [name for name in plain if name.startswith("score_")]
    metrics = train(composed(*SHORT, *own, f"run={tmp_path / 'run'}", "joint.validate_glimpses=[1,0,3]"))
    for found in metrics["validation"]:
        each = [found[f"score_with_{budget}"] for budget in (3, 1, 0)]
        assert found["score"] == pytest.approx(sum(each) / 3) and len(set(each)) == 3
    first = metrics["validation"][0]  # of the weights that both have before the joint stage
    assert first["score_with_3"] == pytest.approx(plain["score"], abs=1e-6) and first["glimpses"] == plain["glimpses"]
    best = max(metrics["validation"], key=lambda found: found["score"])
    again = evaluate(tmp_path / "run", split="val", readers=["policy"], max_glimpses=1)
    assert again.rows["ppo"]["score"]["value"] == pytest.approx(best["score_with_1"], abs=1e-5)


@pytest.mark.parametrize("given", ["[1.5]", "[-1]", "3", "[x]", "null"])
def test_budgets_are_whole_numbers(given: str, tiny_slides: Path, tmp_path: Path) -> None:
    settings = (f"env.cohort.path={tiny_slides}", f"run={tmp_path / 'run'}", f"joint.validate_glimpses={given}")
    with pytest.raises(SettingsError, match=r"validate_glimpses"):
        train(composed(*SHORT, *settings))
    assert not (tmp_path / "run").exists()
