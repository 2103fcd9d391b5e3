"""What README.md and the pages of docs/ name exists: commands, settings, files and pictures."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from glimpse import __main__ as cli
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
