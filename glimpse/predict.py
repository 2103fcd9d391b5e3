"""Predict the images of a folder, CSV, list or file with a saved run: answers, looks, pictures, GeoJSON.

glimpse predict model=runs/wsi-ppo-0 input=slides output=predictions
"""

import inspect
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf

from glimpse.errors import EvaluationError, SettingsError
from glimpse.predicting.engines import hands_of
from glimpse.predicting.order import Order
from glimpse.predicting.outputs import FAILED, PREDICTIONS, Form
from glimpse.predicting.surviving import survived
from glimpse.predicting.work import Done, Work
from glimpse.reading.readers import MOST_GLIMPSES
from glimpse.settings.allocator import keep_freed_memory
from glimpse.settings.command import in_one_line, run_command
from glimpse.settings.kinds import check_kind
from glimpse.settings.options import above_zero, at_least, check_device, refuse_unknown
from glimpse.settings.paths import folder_for, listed_paths
from glimpse.settings.terminal import printable
from glimpse.sources.staged.stage import Stage

FAILED_CODE = 1  # the exit code where some cases failed or were left; 2 is a mistake in the command

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


@dataclass(frozen=True)
class Predicted:
    """What a call of `predict` has done.

    Attributes:
        folder: the output folder.
        cases: how many images there are, in this shard.
        done: what was done with them.
        lost: whether workers of an engine have ended without reading all.
    """

    folder: Path
    cases: int
    done: Done
    lost: bool = False

    @property
    def told(self) -> str:
        """Sentences that say how many cases were read, which failed, and where results are."""
        done = self.done
        known = f", {done.known} had been read before" if done.known else ""
        text = f"Predicted: {done.read} of {self.cases} cases{known}. Written: {self.folder / PREDICTIONS}."
        if done.failed:
            text += f" Failed: {len(done.failed)}; {self.folder / FAILED} says why."
        if done.elsewhere:
            who = ", ".join(sorted(set(done.elsewhere.values())))
            text += f" {len(done.elsewhere)} are being read by {who}."
            if self.lost:
                text = text.replace("are being read by", "were not read by") + " The same command goes on from there."
        if done.others:
            cases = f"{done.others} case{'s' if done.others > 1 else ''}"
            text += f" The tables also hold {cases} of other inputs; give each input an output folder of its own."
        return printable(text)


def predict(
    model: Paths,
    input: Paths,
    output: str | os.PathLike[str],
    *,
    max_glimpses: int | None = None,
    mpp: float | None = None,
    shard: str | None = None,
    objects: str = "annotation",
    subtract_bounds: bool = True,
    gzip: bool = False,
    device: str = "cpu",
    progress: bool = False,
    engine: str | None = None,
    workers: int | None = None,
    jobs: Mapping[str, Any] | None = None,
    stage: str | os.PathLike[str] | None = None,
    stage_gigabytes: float | None = None,
) -> Predicted:
    """Reads images with one or several runs, and writes answers and looks into a folder, case by case.

    What was read before is not read again, unless the image or its options have changed. Several processes may work in
    one folder at once. With several models each reads every image, and the answer is the mean of theirs.

    Args:
        model: run folder, or a list of them.
        input: a folder with images anywhere below it, a CSV with the column `path` (and perhaps `slide_id` and `mpp`),
            an image or its URL, or a list of these.
        output: the folder for results.
        max_glimpses: budget of each case, any number; each run's own if not given.
        mpp: micrometres per pixel of all images, in place of what their files state; the column `mpp` of a CSV counts
            more. If not given, `env.cohort.mpp` of the run holds, where it was set.
        shard: the part of the images to read, such as "1/4" for the first of four.
        objects: the kind of QuPath's objects in GeoJSON, "annotation" or "detection".
        subtract_bounds: whether GeoJSON begins at the bounds that a slide states, as QuPath shows it.
        gzip: whether GeoJSON is compressed; QuPath reads it after `gunzip`.
        device: the device on which networks compute.
        progress: whether to show a bar, on a terminal.
        engine: who reads: "ray" (actors), "submitit" (jobs, of Slurm or of this machine), or this process if not given.
        workers: how many actors or jobs.
        jobs: options of submitit, such as `cluster` ("local" or "slurm"), `timeout_min` and `slurm_partition`.
        stage: a folder on a local disk of each machine, to which images are copied before they are read; if not given,
            they are read in place, and those with a URL fetched into glimpse's cache.
        stage_gigabytes: how much copies may take there; those used longest ago are removed first.

    Raises:
        MissingExtraError: what the engine needs is not installed; the message says how to install it.
        SettingsError, EvaluationError: an argument is impossible, there are no images, two of them are called the same,
            or the folder holds predictions that were made otherwise, or of other images under the same names, or files
            of others that would be written over.
        CheckpointError: there is no complete run.
        CohortError: a CSV has mistakes.
        WriteError: results cannot be written.
    """
    check_kind("objects", objects, str)
    for name, value in (("subtract_bounds", subtract_bounds), ("gzip", gzip), ("progress", progress)):
        check_kind(name, value, bool)
    part, form = _shard(shard), Form(objects, subtract_bounds, gzip)
    if max_glimpses is not None:
        at_least("max_glimpses", max_glimpses, 0, whole=True, most=MOST_GLIMPSES)
    if mpp is not None:
        above_zero("mpp", mpp)
    device = check_device(device, here=engine is None)  # workers of an engine may be on machines that have others
    folder, runs, images = folder_for("output", output), listed_paths("model", model), listed_paths("input", input)
    budget = None if max_glimpses is None else int(max_glimpses)
    texts = [tuple(os.fspath(one) for one in paths) for paths in (runs, images)]
    Stage.of(stage, stage_gigabytes)  # says at once what is wrong with them
    staging = None if stage is None else os.fspath(stage), None if stage_gigabytes is None else float(stage_gigabytes)
    size, where = None if mpp is None else float(mpp), os.fspath(folder)
    order = Order(texts[0], texts[1], where, budget, form, device, engine, *staging, here=engine and "cpu", mpp=size)
    hands = hands_of(engine, workers, jobs, shard)
    items, manifest, own = order.items, order.manifest(shard), order.hand()
    work = Work(own, manifest, progress, None if hands is None else hands(order, own))
    done = work.run(items, part)
    return Predicted(folder, len(items[part[0] - 1 :: part[1]]), done, engine is not None and bool(done.elsewhere))


def _shard(text: Any) -> tuple[int, int]:
    """Reads "2/4" as the second of four parts; None is the only part of one."""
    if text is None:
        return 1, 1
    number, slash, of = str(text).partition("/")
    if not slash or not number.strip().isdecimal() or not of.strip().isdecimal() or not 1 <= int(number) <= int(of):
        raise SettingsError(f"Expected shard as i/n with i from 1 to n, such as 1/4, got {text!r}.")
    return int(number), int(of)


@hydra.main(version_base="1.3", config_path="pkg://glimpse.configs", config_name="predict")
def _main(config: DictConfig) -> None:
    options: Any = OmegaConf.to_container(config, resolve=True)
    keep_freed_memory()
    with in_one_line():
        refuse_unknown(options, inspect.signature(predict).parameters, "glimpse.predict")
        for name in ("model", "input", "output"):
            if options[name] is None:
                raise EvaluationError(f"Which {name}? glimpse predict model=<run> input=<folder> output=<folder>.")
        if options["engine"] is None:
            survived(lambda: _predict(options), folder_for("output", options["output"]))
        else:  # which have ways of their own with workers that die
            _predict(options)


def _predict(options: Mapping[str, Any]) -> None:
    with in_one_line():
        predicted = predict(**options)
        print(predicted.told)
    if predicted.done.failed or predicted.lost:
        sys.exit(FAILED_CODE)


def main() -> None:
    """Runs the command; a mistake of the user ends it with a one-line message and exit code 2, failed cases with 1."""
    run_command(_main)


if __name__ == "__main__":
    main()
