"""Check the images of a folder, CSV or list before a long training: what is wrong, why, and what to do.

glimpse check input=cohort.csv env=wsi
"""

import inspect
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import hydra
from hydra.utils import get_method
from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from glimpse.errors import EvaluationError
from glimpse.inspecting.estimate import Estimate
from glimpse.inspecting.estimate import estimate as estimate_of
from glimpse.inspecting.findings import SIZE, Finding
from glimpse.inspecting.fitting import Network, coarse_cells, network_for
from glimpse.inspecting.inputs import Candidate, find_candidates
from glimpse.inspecting.looking import Seen, seen_of
from glimpse.inspecting.outputs import FINDINGS, Listed, check_free, table, told_of, write_all
from glimpse.inspecting.remembering import remember
from glimpse.inspecting.together import check_together
from glimpse.inspecting.workers import fair_memory, fair_workers, looked_at
from glimpse.modalities import find_modality
from glimpse.settings.checking import checked
from glimpse.settings.command import in_one_line, run_command
from glimpse.settings.composing import composed
from glimpse.settings.kinds import check_kind
from glimpse.settings.options import above_zero, at_least, refuse_unknown
from glimpse.settings.paths import folder_for, listed_paths
from glimpse.settings.progress import silent
from glimpse.settings.quoting import with_paths

_NO_SETTINGS = ("_target_", "modality", "cohort", "options")
FOUND_CODE = 1  # the exit code where something is wrong; 2 is a mistake in the command
_DEFAULT = "checks"  # the folder for results, in the working folder

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


@dataclass(frozen=True)
class Checked:
    """What a check has found.

    Attributes:
        folder: where its tables and thumbnails lie.
        cases: all cases, each with what looking at it has told and what is wrong with it.
        tables: what is wrong with a CSV as a whole.
        estimates: of a training, one for each environment.
        guessed: the environments that the files have named, not the command.
        refused: the environments without an estimate, since a training with these settings would be refused.
    """

    folder: Path
    cases: tuple[Listed, ...]
    tables: tuple[tuple[Path, Finding], ...]
    estimates: tuple[Estimate, ...]
    guessed: tuple[str, ...]
    refused: tuple[str, ...] = ()

    @property
    def wrong(self) -> int:
        """Returns how many findings are more than notes."""
        findings = [finding for _, _, several in self.cases for finding in several]
        return sum(not one.note for one in [*findings, *(finding for _, finding in self.tables)])

    @property
    def told(self) -> str:
        """The table of findings, the estimates, and a sentence that counts."""
        bad = sum(any(not one.note for one in findings) for _, _, findings in self.cases)
        found = f"{self.wrong} finding{'' if self.wrong == 1 else 's'}"
        counted = f"{found}; {bad} of {len(self.cases)} cases are affected" if self.wrong else "all is fine"
        text = f"Checked: {len(self.cases)} cases, {counted}. Written: {self.folder / FINDINGS} and more beside it."
        if self.guessed:
            guessed = ", env=".join(self.guessed)
            text += f" The files were read with env={guessed}, as their content asks for; env= sets one for all."
        estimates = [told_of(one) for one in self.estimates]
        estimates += [
            f"No estimate of a training with env={env}: it would be refused, since sizes do not fit all images. The "
            "findings of the kind size say which settings would do."
            for env in self.refused
        ]
        return "\n\n".join(filter(None, [table(self.cases, self.tables), *estimates, text]))


def check(
    input: Paths,
    output: str | os.PathLike[str] | None = None,
    *,
    env: str | None = None,
    settings: Sequence[str] = (),
    workers: int = 0,
    timeout: float = 300.0,
    gigabytes: float = 0.0,
    places: int = 8,
    seed: int = 0,
    thumbnail: int = 192,
    estimate: bool = True,
    progress: bool = False,
) -> Checked:
    """Looks at every image, in processes of its own, and writes what is wrong as tables, with thumbnails.

    An image that cannot be read, ends its process or takes too long is a finding, and stops no other. Nothing but the
    output folder and glimpse's caches is written. A training on a CSV that was checked with its settings does not open
    the images again that were found to be as they should (from 200 images on, see `glimpse.cohort.remembered`).

    Args:
        input: a folder with images anywhere below it, a CSV, an image, or a list of these. A CSV with one of the
            columns `case_id`, `target` and `split` is a cohort, whose targets and splits are checked, too.
        output: the folder for results; `checks/<name of the first input>` if not given, such as `checks/cohort.csv`.
        env: the environment that reads all images; if not given, each file has that which its content calls for, and
            each CSV that which reads most of its files.
        settings: settings of the training, as typed after `glimpse train`, such as "env.task.classes=[a,b]".
        workers: number of processes; 0 for one per core.
        timeout: seconds after which looking at one image is given up.
        gigabytes: memory that each process may take; 0 for an equal share of three quarters of the machine's, at least
            1 and at most 16.
        places: how many random places of each image's foreground are read.
        seed: of these places.
        thumbnail: pixels of the longer side of thumbnails; 0 for none.
        estimate: whether to estimate the time and disk space of a training.
        progress: whether to show a bar, on a terminal.

    Raises:
        SettingsError, EvaluationError: an argument is impossible, there are no images, or the output folder has files
            of others that would be written over.
        CohortError: a CSV cannot be read, or has no column `path`.
        ModalityError: there is no such environment.
        WriteError: results cannot be written.
    """
    for name, value in (("workers", workers), ("places", places), ("seed", seed), ("thumbnail", thumbnail)):
        at_least(name, value, 0, whole=True, most=2**31)
    above_zero("timeout", timeout)
    at_least("gigabytes", gigabytes, 0)
    check_kind("estimate", estimate, bool)
    check_kind("progress", progress, bool)
    check_kind("settings", settings, list[str])
    check_kind("env", env, str | None)
    given = listed_paths("input", input)
    folder = _folder(given[0], output)
    settings_of = _settings(tuple(settings))
    check_free(folder)
    found = find_candidates(given, env, settings_of, folder)
    workers = workers or fair_workers()
    how = {"places": int(places), "seed": int(seed), "thumbnail": int(thumbnail)}
    workers = max(1, min(workers, len(found.cases)))
    limits = workers, float(timeout), gigabytes or fair_memory(workers)
    began = time.time()
    looked = _look(found.cases, settings_of, how, limits, progress)
    together = list(zip(found.cases, looked, strict=True))
    networks = _networks(together, settings_of)
    cases = _with_findings(together, networks)
    refused = _refused(cases) if estimate else ()
    fitting = {env: network for env, network in networks.items() if env not in refused}
    estimates = _estimates(cases, fitting, settings_of) if estimate else ()
    write_all(folder, cases, found.tables, estimates)
    remember(cases, networks, lambda case: _order(case, settings_of(case.env))["options"], began)
    return Checked(folder, cases, tuple(found.tables), estimates, tuple(found.guessed), refused)


def _folder(first: str | os.PathLike[str], output: Any) -> Path:
    name = Path(os.path.abspath(os.path.expanduser(first))).name or "all"
    return folder_for("output", os.path.join(_DEFAULT, name) if output is None else output)


def _settings(typed: tuple[str, ...]) -> Callable[[str], Mapping[str, Any]]:
    """Returns what composes and checks the settings of a training for an environment; each is composed once."""

    @cache
    def of(env: str) -> Mapping[str, Any]:
        overrides = (f"env={env}", *typed)
        found: Any = OmegaConf.to_container(composed(*overrides), resolve=True)
        known = find_modality(env).config()
        for part in ("cohort", "make"):
            maker = get_method(known[part]["_target_"])
            names = dict.fromkeys([*known[part], *inspect.signature(maker).parameters])
            given = [name for name in found["env"][part] if name not in _NO_SETTINGS]
            refuse_unknown(given, [name for name in names if name not in _NO_SETTINGS], f"env.{part} of {env}")
        return checked(found, overrides)

    return of


# ---------------------------------------------------------------------------------------------- looking
def _look(
    cases: Sequence[Candidate],
    settings_of: Callable[[str], Mapping[str, Any]],
    how: Mapping[str, int],
    limits: tuple[int, float, float],
    progress: bool,
) -> list[Seen]:
    """Looks at all images that have a path; the others have seen nothing."""
    looked = [Seen() for _ in cases]
    positions = [position for position, case in enumerate(cases) if case.path is not None]
    orders = [_order(cases[position], settings_of(cases[position].env)) | dict(how) for position in positions]
    with tqdm(total=len(orders), desc="checking", unit="case", disable=silent(progress and len(orders) > 0)) as bar:
        for number, result in looked_at(orders, *limits):
            if isinstance(result, Finding):
                looked[positions[number]].add(result)
            else:
                looked[positions[number]] = seen_of(result)
            bar.update()
    return looked


def _order(case: Candidate, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what a process is told of an image: with which options it is opened, and at which sizes it is read."""
    modality, section, make = find_modality(case.env), settings["env"]["cohort"], settings["env"]["make"]
    names = {*modality.cohort_options(), *modality.shared, *modality.staging}
    options = modality.source_options({name: value for name, value in section.items() if name in names})
    return {
        "path": str(case.path),
        "options": options | case.options,
        "sizes": {name: make[name] for name in ("overview_size", "glimpse_size", "glimpse_extents")},
        "mask": None if case.mask is None else str(case.mask),
    }


def _networks(
    cases: Sequence[tuple[Candidate, Seen]], settings_of: Callable[[str], Mapping[str, Any]]
) -> dict[str, Network]:
    """Builds the network of each environment, for images like the first that could be opened."""
    made: dict[str, Network] = {}
    for case, seen in cases:
        if seen.opened and case.env not in made:
            made[case.env] = network_for(settings_of(case.env), seen.channels, len(seen.shape))
    return made


def _with_findings(
    cases: Sequence[tuple[Candidate, Seen]], networks: Mapping[str, Network]
) -> tuple[tuple[Candidate, Seen, tuple[Finding, ...]], ...]:
    """Joins what is wrong with the line of each case, with its image, and with cases together."""
    findings = [[*case.findings, *(Finding(*one) for one in seen.findings)] for case, seen in cases]
    for env, network in networks.items():
        own = [(i, case, seen) for i, (case, seen) in enumerate(cases) if case.env == env and seen.opened]
        for position, finding in coarse_cells(network, own):
            findings[position].append(finding)
    for position, finding in check_together(cases):
        findings[position].append(finding)
    several = (tuple(dict.fromkeys(one)) for one in findings)
    return tuple((case, seen, one) for (case, seen), one in zip(cases, several, strict=True))


def _refused(cases: Sequence[Listed]) -> tuple[str, ...]:
    """Returns the environments in which sizes do not fit an image, so that training asks for other settings first."""
    wrong = (case.env for case, _, findings in cases if any(one.rule == SIZE and not one.note for one in findings))
    return tuple(dict.fromkeys(wrong))


def _estimates(
    cases: Sequence[Listed], networks: Mapping[str, Network], settings_of: Callable[[str], Mapping[str, Any]]
) -> tuple[Estimate, ...]:
    each = (
        estimate_of(env, settings_of(env), network, [(case, seen) for case, seen, _ in cases if case.env == env])
        for env, network in networks.items()
    )
    return tuple(one for one in each if one is not None)


# ---------------------------------------------------------------------------------------------- the command
def _parted(arguments: Sequence[str]) -> tuple[list[str], str | None, list[str]]:
    """Parts what was typed into the command's own settings, the environment, and the settings of a training."""
    own, env, training = [], None, []
    for one in arguments:
        key, equals, value = one.partition("=")
        if key == "env" and equals:
            env = value
        elif os.path.exists(one):
            own.append(one)
        elif equals and not one.startswith("-") and ("." in key or "/" in key or key in _OF_A_TRAINING):
            training.append(one)
        else:
            own.append(one)
    return own, env, training


def _cohort_of(training: Sequence[str]) -> str | None:
    """Returns the CSV that the settings of a training name, so that its command can be checked as it is."""
    named = [one.partition("=")[2] for one in training if one.startswith("env.cohort.path=")]
    return named[-1].strip("'\"") if named else None


_OF_A_TRAINING = (
    "max_glimpses", "read_threads", "threads", "device", "experiment", "agent", "pretrain", "warm_up", "joint",
    "recipe", "features_cache", "run", "save_seconds",
)  # fmt: skip
"""Settings of a training without a dot that matter here; those with a dot, such as env.task.classes, all do."""


def main() -> None:
    """Runs the command; findings end it with exit code 1, a mistake of the user with one line and exit code 2.

    Paths may be typed without `input=`.
    """
    own, env, training = _parted(sys.argv[1:])
    sys.argv[1:] = with_paths(own, "input", several=True)

    @hydra.main(version_base="1.3", config_path="pkg://glimpse.configs", config_name="check")
    def command(config: DictConfig) -> None:
        options: Any = OmegaConf.to_container(config, resolve=True)
        with in_one_line():
            refuse_unknown(options, inspect.signature(check).parameters, "glimpse.check")
            options["input"] = options["input"] or _cohort_of(training)
            if options["input"] is None:
                raise EvaluationError("Which images? glimpse check input=<folder, CSV or image>.")
            result = check(**options, env=env, settings=training)
            print(result.told)
        if result.wrong:
            sys.exit(FOUND_CODE)

    run_command(command)


if __name__ == "__main__":
    main()
