"""What messages tell users to type means, in a shell and to Hydra, what it is meant to mean."""

import shlex
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from glimpse.settings.command import _with_spaces, in_one_line
from glimpse.settings.composing import composed
from glimpse.settings.quoting import plain, typed, typed_list, with_paths

NAMES = [
    "runs/wsi-ppo-2026-01-01_10-00-00-seed0",
    "lr=0.1",
    "a b",
    "a,b",
    "[1]",
    "{a: b}",
    "it's",
    'say "no"',
    "C:\\runs\\",
    "back\\'slash",
    "${seed}",
    "$HOME",
    "~/runs",
    "a~b",
    ".5",
    "./5",
    "3",
    "1e3",
    "true",
    "null",
    "a!b",
    "`a`",
    "ünï/ë",
    "100%",
    "a;b&c|d",
    "a#b",
    "(a)",
    "*",
    " ",
    "-5",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_comes_back_from_the_shell_and_from_hydra(name: str) -> None:
    (word,) = shlex.split(typed("run", name))
    override = OverridesParser.create().parse_override(word)
    config = OmegaConf.create({"run": override.value(), "seed": 7})
    assert config.run == name and override.key_or_group == "run"


@pytest.mark.parametrize("name", NAMES)
def test_names_in_a_list_come_back_from_the_shell_and_from_hydra(name: str) -> None:
    (word,) = shlex.split(typed_list("classes", ["benign", name, "3"]))
    override = OverridesParser.create().parse_override(word)
    config = OmegaConf.to_container(OmegaConf.create({"classes": override.value(), "seed": 7}), resolve=True)
    assert isinstance(config, dict) and config["classes"] == ["benign", 3 if name == "3" else name, 3]


def test_a_list_whose_texts_lack_their_quotes_is_typed_with_them(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit), in_one_line():
        composed("env=wsi", "+env.task.labels=[Nekrose,Entz\u00fcndung]")
    said = capsys.readouterr().err
    assert "cannot be read" in said and "Type '+env.task.labels=[Nekrose,\"Entz\u00fcndung\"]' instead." in said


def test_nothing_is_quoted_without_need() -> None:
    assert typed("resume", "runs/wsi-ppo-2026-01-01_10-00-00-seed0") == "resume=runs/wsi-ppo-2026-01-01_10-00-00-seed0"
    assert typed("resume", "lr=0.1") == "\"resume='lr=0.1'\""


@pytest.mark.parametrize("name", [*NAMES, "1.2.840", "NaN", "1_0", "AXIAL", "Sch\u00e4del", "t1.ax/b-c", "none"])
def test_plain_names_are_texts_also_within_lists(name: str) -> None:
    parse = OverridesParser.create().parse_override
    if plain(name):
        assert shlex.split(name) == [name]
        assert (parse(f"a={name}").value(), parse(f"a=[{name}]").value()) == (name, [name])
    assert plain(name) == (name in ("runs/wsi-ppo-2026-01-01_10-00-00-seed0", "./5", "AXIAL", "t1.ax/b-c", "none"))


@pytest.mark.parametrize("name", [name for name in NAMES if "=" not in name and not name.startswith("-")])
def test_paths_without_a_key_are_the_value_of_a_setting(name: str) -> None:
    for given, expected in (([name], name), ([name, "runs/b"], [name, "runs/b"])):
        word, *others = with_paths([*given, "seed=3"], "runs", several=True)
        override = OverridesParser.create().parse_override(word)
        config = OmegaConf.to_container(OmegaConf.create({"runs": override.value(), "seed": 7}), resolve=True)
        assert config == {"runs": expected, "seed": 7} and others == ["seed=3"]


def test_what_is_no_path_stays_as_it_was_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert with_paths(["a", "--cfg", "job"], "run") == ['run="a"', "--cfg", "job"]
    for same in (["run=a", "b"], ["a", "b"], ["--cfg", "job"], ["+new", "lr=0.1"], []):
        assert with_paths(same, "run") == same
    (tmp_path / "lr=0.1").mkdir()
    assert with_paths(["lr=0.1"], "run") == ['run="lr=0.1"']


@pytest.mark.parametrize(
    ("words", "whole"),
    [
        (["a=1", "b=[4096um,", "512um,", "64um]", "c=2"], "b=[4096um, 512um, 64um]"),
        (["b={train:", "1,", "val:", "[2,", "3]}"], "b={train: 1, val: [2, 3]}"),
        (["b=[4096um,", "512um"], None),
        (["b=a:b", "c=2"], None),
    ],
)
def test_a_list_that_the_shell_has_parted_at_spaces_is_put_together(words: list[str], whole: str | None) -> None:
    parted = next(word for word in words if word.startswith("b="))
    assert _with_spaces(parted, words) == whole
    if whole is not None:
        assert shlex.split(f'"{whole}"') == [whole]
        assert OverridesParser.create().parse_override(whole).key_or_group == "b"
