"""Mistakes in the settings of a training: each ends in one line with exit code 2, before any work begins."""

import sys
from pathlib import Path

import pytest

from glimpse import evaluate, plugins, train
from glimpse.envs import modality
from glimpse.networks import pretrained

MISSPELT = {
    "joint.updatez=9": "did you mean 'joint.updates'?",
    "+joint.updatez=9": "did you mean 'joint.updates'?",
    "agnt=ppo": "did you mean 'agent'?",
    "agent=pppo": "did you mean 'ppo'?",
    "env.make.overview_sise=128": "did you mean 'env.make.overview_size'?",
    "env.cohort.pth=cohort.csv": "did you mean 'env.cohort.path'?",
    "+env.cohort.pth=cohort.csv": "did you mean 'path'?",
    "+env.nam=a": "did you mean 'env.name'?",
    "+env.cohrt.path=a": "did you mean 'env.cohort'?",
    "+network.chunks=3": "did you mean 'network.chunk'?",
    "warm_up.step=3": "did you mean 'warm_up.steps'?",
    "pretrain.augment.flip=false": "did you mean 'pretrain.augment.flips'?",
    "+agent.algorithm.entcoef=0.1": "did you mean 'agent.algorithm.ent_coef'?",
    "report.reader=[random]": "did you mean 'report.readers'?",
    "+report.full_scan.epoch=3": "did you mean 'report.full_scan.epochs'?",
    "env.cohort.synthetic.sise=1024": "did you mean 'env.cohort.synthetic.size'?",
    "env.glimpse_extents=[64um]": "did you mean 'env.make.glimpse_extents'?",
    "branches=[4,4]": "did you mean 'warm_up.branches'?",
    "network/encoder=smal": "did you mean 'small'?",
    "+env.task.clases=3": "There is no setting 'env.task.clases' (did you mean 'env.task.classes'?)",
}
IMPOSSIBLE = {
    "report.readers=[radnom]": "did you mean 'random'?",
    "report.split=tset": "train, val, test",
    "agent.algorithm.credit=never": "credit",
    "agent.algorithm.baseline=critik": "baseline",
    "agent.algorithm.n_epochs=two": "n_epochs",
    "joint.updates=-1": "updates",
    "joint.learning_rate.rate=-1": "rate",
    "report.full_scan.epochs=0": "epochs",
    "report.full_scan.head=mean": "'auto' or 'attention' or 'top_k', got 'mean'",
    "report.full_scan.extent=64ums": "extent of the full scan: cannot read the extent '64ums'",
    "report.full_scan.size=x": "size of report.full_scan to be a whole number or a list of whole numbers or null",
    "warm_up.batch=0": "batch",
    "threads=many": "threads",
    "device=cudda": "device=cudda",
    "env.cohort.on_error=skp": "on_error",
    "resume=nowhere": "nowhere",
    "joint._target_=glimpse.nowhere": "cannot be imported",
    "joint.learning_rate=-1": "learning_rate",
    "pretrain.temperature=0": "temperature",
    "pretrain.augment.tilt=-1": "augment.tilt",
    "report.overview.validate_every=0": "report.overview.validate_every",
    "report.lanes=1.5": "report.lanes",
    "report.readers=random": "a list such as",
    "report.readers=random,grid": "Type 'report.readers=[random,grid]' for a list, or add --multirun",
    "agent.algorithm.ent_coef=0,5": "Type agent.algorithm.ent_coef=0.5 if it is a number, or ",
    "report.full_scan.weight_decay=-1": "weight_decay",
    "agent.algorithm.ent_coef=-1": "ent_coef",
    "report=null": "report: expected a section",
    "~env.cohort": "env.cohort: expected a section",
    "~warm_up": "warm_up: expected a stage",
    "warm_up.answer_judges=[9223372036854775808]": "answer_judges",
    "+env.learning.updates=3": "env.learning: its settings have moved",
    "seed=99999999999999999999": "seed",
    "run=3": "run: expected the path",
    "resume=3": "resume: expected the path",
    "seed=${nothing}": "nothing",
    "++warm_up={updates: 3}": "'warm_up.updates'",
    "+agent.algorithm.learning_rate=1": "not as an option",
    "resume=lr=0.1": """type "resume='lr=0.1'" instead""",
    "run=[a": """type "run='[a'" instead""",
    "env=null": "env=null: Config group override",
    "joint=null": "joint=none leaves a stage out",
    "network.encoder.widths=3": "network.encoder.widths: expected a list of whole numbers, got 3",
    "network.encoder.kernels=[5,3]": "one kernel and one stride per width",
    "network.memory=null": "network.memory: expected a section, got None",
    "env.make.overview_size=abc": "env.make.overview_size: expected a whole number or a list",
    "env.make.overview_size=0": "at least one pixel",
    "env.make.glimpse_size=[32,a]": "env.make.glimpse_size: expected a whole number or a list of whole numbers",
    "env.make.glimpse_extents=abc": "cannot read the extent 'abc'",
    "env.make.glimpse_cost=-1": "env.make.glimpse_cost of at least 0",
    "env.make.glimpse_cost=[0.1,-1]": "env.make.glimpse_cost of at least 0",
    "env.make.glimpse_cost=[0.1,0.2]": "glimpse_cost to be one number, or one for each of the 1 fields of view",
    "env.task=regression": "env.task: expected a section with a _target_, got 'regression'. Type env.task.classes=",
    "env.task._target_=glimpse.tasks.Nothing": "env.task._target_=glimpse.tasks.Nothing: cannot be imported",
    "env.background=x": "network.encoder.background: expected a number, got 'x'",
    "vector.park=maybe": "vector.park: expected true or false, got 'maybe'",
    "progress=3": "progress: expected true or false, got 3",
    "save_seconds=-1": "save_seconds of at least 0",
    "features_cache=off": "features_cache: expected a section or null, got 'off'; type features_cache=null",
    "features_cache.gigabytes=0": "features_cache: Expected gigabytes above 0, got 0",
    "features_cache.precision=float8": "features_cache.precision: expected 'float16' or 'float32', got 'float8'",
    "report.overview=null": "report.overview: expected a section",
    "seed=4294967295": "at most",
    "env.cohort.synthetic.n=abc": "env.cohort.synthetic.n: expected a whole number, got 'abc'",
}


@pytest.fixture(autouse=True)
def _no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Making a cohort is work."""

    def begun(*_: object) -> None:
        raise AssertionError("work has begun")

    monkeypatch.setattr(modality, "_made", begun)


def ends(command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """Runs a command that must end with exit code 2; returns its one line."""
    monkeypatch.setattr(sys, "argv", command)
    main = {"train": train.main, "evaluate": evaluate.main}[command[0]]
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.count("\n") == 1 and shown.err.startswith("glimpse: "), shown
    return shown.err


@pytest.mark.parametrize(("given", "words"), [*MISSPELT.items(), *IMPOSSIBLE.items()])
def test_a_mistake_ends_in_one_line(
    given: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GLIMPSE_CACHE", str(tmp_path / "cache"))
    small = ["network/encoder=small"] if given.startswith("network.encoder.") else []
    assert words in ends(["train", "env=wsi", "agent=ppo", *small, given], monkeypatch, capsys)
    assert list(tmp_path.iterdir()) == []  # nothing was made, neither a cohort nor a run


def test_a_broken_file_of_another_package_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    package = tmp_path / "glimpse_broken"
    (package / "configs" / "experiment").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "configs" / "experiment" / "broken.yaml").write_text("seed: 3\nmax_glimpses: [1,\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(plugins, "_folders", {})
    monkeypatch.setenv("GLIMPSE_MODALITIES", "glimpse_broken")
    line = ends(["train", "experiment=broken"], monkeypatch, capsys)
    assert "broken.yaml, line 3: not YAML" in line and "Mend this file" in line


def test_an_extra_that_is_not_installed_is_named_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def absent(name: str) -> None:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GLIMPSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(pretrained, "import_module", absent)
    line = ends(["train", "env=wsi", "network/encoder=efficientnet_lite1"], monkeypatch, capsys)
    assert "glimpse-rl[encoders]" in line and list(tmp_path.iterdir()) == []


def test_mistakes_of_evaluate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for given, words in (
        (["runn=a"], "did you mean 'run'?"),
        (["+spli=val", "run=a"], "did you mean 'split'?"),
        ([], "run=<run folder>"),
        ([f"run={tmp_path}"], "not a run folder"),
        ([f"run={tmp_path}", "readers=policy"], "a list such as"),
        ([f"run={tmp_path}", "max_glimpses=x"], "max_glimpses"),
        ([f"run={tmp_path}", "device=cudda"], "device=cudda: cannot compute there"),
        ([f"run={tmp_path}", "device=0"], "Did you mean device=cuda:0?"),
        (["run=a=b"], """type "run='a=b'" instead"""),
    ):
        assert words in ends(["evaluate", *given], monkeypatch, capsys)
