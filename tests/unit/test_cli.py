"""`python -m glimpse`, and what importing the package costs and offers."""

import gc
import subprocess
import sys
import weakref
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

import glimpse
from glimpse import __main__ as cli
from glimpse.settings.collecting import without_collecting


def run_python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=60)


def test_without_arguments_it_lists_the_commands_and_an_example() -> None:
    done = run_python("-m", "glimpse")
    assert done.returncode == 0, done.stderr
    assert "glimpse train " in done.stdout and "glimpse evaluate " in done.stdout
    assert "python -m glimpse.train" in done.stdout
    assert cli.EXAMPLE in done.stdout


def test_every_command_says_what_it_does_in_a_line() -> None:
    for name, line in cli.commands().items():
        assert 10 <= len(line) <= 120, f"glimpse/{name}.py: its docstring's first line is {line!r}."


def test_only_modules_with_a_main_are_commands(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text('"""Trains."""\ndef main(): ...\n')
    (tmp_path / "alpha.py").write_text('"""Alpha.\n\nMore of it."""\nraise RuntimeError("imported")\ndef main(): ...\n')
    (tmp_path / "helpers.py").write_text('"""Helps."""\n')
    (tmp_path / "_private.py").write_text("def main(): ...\n")
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__main__.py").write_text('"""Packs."""\ndef main(): ...\n')
    assert list(cli.commands(tmp_path).items()) == [("train", "Trains."), ("alpha", "Alpha."), ("package", "Packs.")]


@pytest.mark.parametrize("word", ["--frobnicate", "trian"])
def test_an_unknown_argument_ends_with_code_2(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([word]) == 2
    shown = capsys.readouterr()
    assert repr(word) in shown.err and "lists them" in shown.err
    assert shown.out == ""


def test_a_command_given_as_an_argument_is_run_with_the_rest() -> None:
    shown = run_python("-m", "glimpse", "train", "seed=7", "--cfg", "job")
    assert shown.returncode == 0, shown.stderr
    assert "seed: 7" in shown.stdout
    refused = run_python("-m", "glimpse", "train", "env=wsj")
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1 and "did you mean 'wsi'" in refused.stderr


def test_a_misspelt_command_is_answered_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["trian"]) == 2
    assert "did you mean 'train'?" in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == glimpse.__version__


def test_importing_and_listing_load_neither_torch_nor_the_environments() -> None:
    code = (
        "import sys, glimpse, glimpse.__main__ as cli; cli.overview(); "
        "print([name for name in ('torch', 'sklearn', 'openslide', 'glimpse.envs') if name in sys.modules])"
    )
    done = run_python("-c", code)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_public_names_resolve() -> None:
    for name in glimpse.__all__:
        assert getattr(glimpse, name) is not None
        assert name in dir(glimpse)


def test_an_unknown_name_lists_the_public_ones() -> None:
    with pytest.raises(AttributeError, match=r"'nonsense'.*open_source"):
        _ = glimpse.nonsense  # type: ignore[attr-defined]


def test_importing_twice_registers_each_environment_once() -> None:
    code = (
        "import importlib, warnings, gymnasium, glimpse; warnings.simplefilter('error'); "
        "importlib.reload(glimpse); "
        "assert len(set(glimpse.__path__)) == len(glimpse.__path__); "
        "print(sorted(name for name in gymnasium.registry if name.startswith('glimpse/')))"
    )
    done = run_python("-c", code)
    names = [
        "Array",
        "CT",
        "ClutteredMNIST",
        "GigapixelMNIST",
        "MRI",
        "MegapixelMNIST",
        "NeedleMNIST",
        "Photo",
        "Relations",
        "WSI",
        "XRay",
    ]
    assert done.stdout.strip() == str([f"glimpse/{name}-v0" for name in names]), done.stdout + done.stderr


def test_output_that_nobody_reads_ends_a_command_without_a_traceback() -> None:
    command = subprocess.Popen(
        [sys.executable, "-m", "glimpse", "train", "--cfg", "job"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert command.stdout is not None
    command.stdout.close()
    _, said = command.communicate(timeout=60)
    assert (said, command.returncode) == (b"", 1)


def test_the_help_of_evaluate_lists_what_it_takes_and_nothing_else() -> None:
    said = run_python("-m", "glimpse", "evaluate", "--help").stdout
    assert said.startswith("glimpse evaluate run=<run folder>") and "split is train, val, test or all" in said
    assert "max_glimpses: null" in said and "warm_up" not in said


def test_ctrl_c_while_a_command_is_imported_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(name: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "import_module", interrupted)
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    assert cli.main(["train"]) == 130
    assert capsys.readouterr().err == "glimpse: stopped.\n"


def test_modules_in_the_working_folder_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    monkeypatch.setattr(cli, "import_module", lambda name: SimpleNamespace(main=lambda: sys.path[-1] != str(tmp_path)))
    assert cli.main(["train"]) == 0


@pytest.mark.parametrize("collects", [True, False])
def test_a_public_name_leaves_the_collection_of_garbage_as_it_was(
    monkeypatch: pytest.MonkeyPatch, collects: bool
) -> None:
    """Importing pauses it, also where the module of the name cannot be imported."""
    paused, imported = list[bool](), glimpse.import_module
    monkeypatch.setattr(glimpse, "import_module", lambda name: paused.append(not gc.isenabled()) or imported(name))
    try:
        (gc.enable if collects else gc.disable)()
        for home, refused in (("glimpse.cohort", None), ("glimpse.nowhere", ImportError)):
            monkeypatch.setitem(glimpse._HOMES, "Cohort", home)
            monkeypatch.delitem(vars(glimpse), "Cohort", raising=False)
            with pytest.raises(refused) if refused else nullcontext():
                assert glimpse.Cohort.__module__.startswith(home)
            assert gc.isenabled() == collects and paused.pop()
    finally:
        gc.enable()


class Ring:
    def __init__(self) -> None:
        self.itself = self


def test_garbage_of_many_rounds_is_collected_where_nothing_is_imported() -> None:
    gc.unfreeze()
    lost = []
    for _ in range(200):
        with without_collecting():
            lost += [weakref.ref(Ring()) for _ in range(10)]
    assert sum(one() is not None for one in lost) < 1900, "as without it"


def test_what_was_made_during_an_import_counts_as_old_and_is_collected_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gc.unfreeze()  # other tests may have run commands, which freeze what they have imported
    with without_collecting():
        kept, lost = Ring(), weakref.ref(Ring())
        monkeypatch.setitem(sys.modules, "imported inside", ModuleType("imported"))
        assert not gc.isenabled()
    assert gc.isenabled() and any(one is kept for one in gc.get_objects(generation=2))
    assert lost() is not None
    gc.collect()
    assert lost() is None


def test_what_others_have_frozen_stays_so(monkeypatch: pytest.MonkeyPatch) -> None:
    gc.freeze()
    try:
        frozen = gc.get_freeze_count()
        with without_collecting():
            kept = [[]]
            monkeypatch.setitem(sys.modules, "imported inside", ModuleType("imported"))
        assert gc.get_freeze_count() >= frozen - 100 and any(one is kept for one in gc.get_objects())
    finally:
        gc.unfreeze()


@pytest.mark.parametrize("module", ["glimpse.evaluate", "glimpse.report.__main__"])
def test_the_folder_of_a_run_may_be_typed_without_a_key(
    module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [module, "no such, run"])
    with pytest.raises(SystemExit, match="2"):
        import_module(module).main()
    said = capsys.readouterr().err
    assert "no such, run" in said and "key=value" not in said and said.count("\n") == 1
