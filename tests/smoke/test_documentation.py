"""What README.md and the pages of docs/ name exists: commands, settings, files and pictures."""

import csv
import re
import shlex
import shutil
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import yaml

import glimpse
from glimpse import __main__ as cli
from glimpse.demo.showing import POLICY
from glimpse.settings.composing import composed

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXTS = {page.name: page.read_text(encoding="utf-8") for page in PAGES}
COMMAND = re.compile(
    r"^(?:.*\s)?(?:\.venv/bin/)?(?:glimpse (?P<name>\w[\w-]*)|python -m glimpse\.(?P<module>\w+))(?P<rest>.*)$"
)


def commands() -> list[tuple[str, str, tuple[str, ...]]]:
    """The page, the name and the settings of every command of glimpse in a block of shell code."""
    found = []
    for name, text in TEXTS.items():
        for block in re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL):
            lines = [line for part in block.replace("\\\n", " ").splitlines() for line in part.split("&&")]
            for line in lines:
                matched = COMMAND.match(re.sub(r"<[^>]*>", "given", line).strip())
                if matched:
                    settings = shlex.split(matched["rest"], comments=True)
                    found.append((name, matched["name"] or matched["module"], tuple(settings)))
    return found


COMMANDS = commands()


def test_there_are_commands_on_the_pages() -> None:
    assert {name for _, name, _ in COMMANDS} >= {"train", "evaluate", "predict", "check", "doctor"}


def test_commands_exist() -> None:
    named = {name.replace("_", "-") for _, name, _ in COMMANDS}
    known = {name.replace("_", "-") for name in cli.commands()}
    assert named <= known, f"the pages name commands that do not exist: {named - known}"


TRAININGS = {given for page, name, given in COMMANDS if name == "train" and page != "new_modality.md"}  # it has tests


@pytest.mark.parametrize("settings", sorted(TRAININGS), ids=" ".join)
def test_settings_of_trainings_exist(settings: tuple[str, ...]) -> None:
    own = [one for one in settings if not one.startswith(("--", "hydra"))]
    if "--multirun" in settings:  # the first training of a sweep
        own = [one.replace("${hydra:job.num}", "0").split(",")[0] for one in own]
    assert composed(*own).env.name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_pictures_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        assert link.startswith("http") or (page.parent / link).exists(), f"{page.name}: {link} does not exist"


def test_the_site_has_every_page() -> None:
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    listed = {path for entry in site["nav"] for path in entry.values()}
    assert listed == {page.name for page in (ROOT / "docs").glob("*.md")}


# ---------------------------------------------------------------------------------------------- code
CODE = re.compile(r"(?:<!-- (?P<mark>[^\n]*) -->\n)?```(?P<language>python|toml|yaml)\n(?P<code>.*?)```", re.DOTALL)
ELSEWHERE = {
    "README.md": "test_readme.py",
    "new_modality.md": "test_new_modality.py",
}  # pages whose code tests of theirs run
ON_A_SLIDE = [
    pytest.param(block["code"], id=name)
    for name, text in TEXTS.items()
    for block in CODE.finditer(text)
    if block["mark"] == "tested: on a slide"
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_code_is_tested_or_says_why_not(page: Path) -> None:
    for block in CODE.finditer(TEXTS[page.name]):
        mark = block["mark"] or ""
        own = re.fullmatch(r"tested(: \S+\.\w+)?", mark) and page.name in ELSEWHERE
        assert own or mark == "tested: on a slide" or mark.startswith("not tested: "), block[0]


@pytest.mark.parametrize("code", ON_A_SLIDE)
def test_code_runs_on_a_slide(code: str, tiny_slides: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open(tiny_slides, newline="") as file:
        shutil.copy(tiny_slides.parent / next(csv.DictReader(file))["path"], tmp_path / "slide.svs")
    monkeypatch.chdir(tmp_path)
    code = code.replace("<run folder>", str(POLICY))
    if find_spec("pandas") is None:  # an extra
        code = "\n".join(line for line in code.splitlines() if "pandas" not in line)
    names = {
        "glimpse": glimpse,
        "path": "slide.svs",
        "center": (512.0, 512.0),
        "extent": (256.0, 256.0),
        "size": (64, 64),
    }
    exec(compile(code, "the page", "exec"), names | {"overview": np.full((3, 64, 64), 255, np.uint8)})
    written = {path.name for path in tmp_path.iterdir()} - {"slide.svs"}
    assert written == set(re.findall(r"\.(?:plot|to_geojson)\(\"(.+?)\"\)", code))


OF_A_TRAINING = ("train", "check", "cross-validate")  # which take all of its settings
OTHERS = [one for one in COMMANDS if one[1] not in OF_A_TRAINING and one[2]]


@pytest.mark.parametrize("name", sorted({name for _, name, _ in OTHERS}))
def test_settings_of_other_commands_exist(name: str) -> None:
    file = ROOT / "configs" / f"{name.replace('-', '_')}.yaml"
    known = set(yaml.safe_load(file.read_text(encoding="utf-8"))) if file.is_file() else {"json"}  # of the doctor
    for page, other, settings in OTHERS:
        given = {one.partition("=")[0] for one in settings if "=" in one}
        assert other != name or given <= known, f"{page}: glimpse {name} has no {given - known}"
