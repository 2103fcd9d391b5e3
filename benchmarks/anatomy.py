"""Real anatomy: one head and one chest, bent anew for every case, with painted spots; the agent and its baselines.

python -m benchmarks.anatomy --template <mni152_t1.nii.gz> --radiograph <chest_rg1.dcm>

Cohorts are made once (see `benchmarks.anatomies`), into the cache, or into `heads` and `chests` below --out. Trainings
are `env=mri` and `env=xray` with nothing set but the cohort, and the intensity window that the embedded heads have,
too: "auto" would cut off the spots.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.anatomies import chests, heads
from benchmarks.common import Benchmark, Row, add_seeds, facts_of, figure, parser, setting, table
from glimpse.errors import UserError
from glimpse.modalities import find_modality
from glimpse.synthetic.making import Recipe, embedded

NAME = "anatomy"
KINDS: dict[str, tuple[str, str, Callable[[Path], Recipe], int]] = {
    "mri": ("template", "heads", heads, 192),
    "xray": ("radiograph", "chests", chests, 2048),
}
"""The option that names the anatomy, the cohort's folder, its recipe and the size of its images."""

QUICK_SIZES = {"mri": 96, "xray": 512}
READERS = ("random", "grid", "overview", "full_scan")


def options() -> argparse.ArgumentParser:
    made = parser(NAME, __doc__)
    made.add_argument("--template", type=Path, help="T1-weighted volume of a brain without skull, NIfTI; of env mri")
    made.add_argument("--radiograph", type=Path, help="chest from behind, DICOM; of env xray")
    made.add_argument("--env", nargs="+", choices=list(KINDS), default=list(KINDS), help="default: both of them")
    made.add_argument("--cases", type=int, default=160, help="of a cohort (default: 160)")
    made.add_argument("--cohort-seed", type=int, default=0, help="of all that is drawn in cohorts (default: 0)")
    made.add_argument("--cohorts-only", action="store_true", help="make the cohorts, and train nothing")
    add_seeds(made, (0, 1, 2))
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    bench = Benchmark(NAME, options(), arguments)
    given = bench.options
    for env in given.env:
        option = KINDS[env][0]
        path = getattr(given, option)
        if path is None:
            bench.error(f"env {env} needs an anatomy: give --{option}, or leave {env} out of --env.")
        if not path.is_file():
            bench.error(f"--{option} {path}: there is no such file.")
    cohorts = {env: cohort(bench, env) for env in given.env}
    if given.cohorts_only:
        return
    for env, manifest in cohorts.items():
        for seed in given.seeds:
            settings = {"env": env, "cases": given.cases, "cohort_seed": given.cohort_seed, "seed": seed}
            if bench.results.find(**settings) is None:
                bench.results.put(settings, **_measure(bench, env, manifest, seed))
    report(bench)


def cohort(bench: Benchmark, env: str) -> Path:
    """The CSV of a cohort, which is made unless it is there."""
    given = bench.options
    option, name, recipe, size = KINDS[env]
    kept = bench.runs if given.quick else given.out
    folder = None if kept is None else kept.resolve() / name
    n, size = (12, QUICK_SIZES[env]) if given.quick else (given.cases, size)
    try:
        manifest = embedded(recipe(getattr(given, option)), folder, n, given.cohort_seed, size, progress=True)
    except (UserError, ValueError) as error:
        bench.error(str(error))
    print(f"{env}: {manifest}", flush=True)
    return manifest


def _measure(bench: Benchmark, env: str, manifest: Path, seed: int) -> Row:
    given = [f"env={env}", f"seed={seed}", f"report.readers=[{','.join(READERS)}]"]
    given.append(setting("env.cohort.path", manifest))
    given += [f"env.cohort.{name}={_written(value)}" for name, value in source_options(env).items()]
    given += ["pretrain.steps=0"] if bench.options.quick else []  # as by default: their encoders do not train
    run = bench.train(f"{env}-{seed}", given)
    row: Row = {"seconds": run.seconds, **facts_of("agent", run.own)}
    for reader in READERS:
        row |= facts_of(reader, run.metrics["readers"][reader])
    return row


def source_options(env: str) -> Row:
    """Options of the source that the embedded cohort needs, and these cohorts as well, in the same units."""
    return dict(find_modality(env).synthetic_options)


def _written(value: object) -> str:
    """A value on Hydra's command line."""
    return f"[{','.join(map(str, value))}]" if isinstance(value, tuple | list) else str(value)


def report(bench: Benchmark) -> None:
    """Prints the test AUC of every reader in each row, and draws the agent's and the others'."""
    rows, readers = bench.results.rows, ("agent", *READERS)
    lines = [
        [f"{row['env']}, {row['seed']}", *(row.get(f"{one} auc") for one in readers), row["seconds"]] for row in rows
    ]
    print(table(("test AUC of env, seed", *readers, "seconds"), lines))
    made, axes = figure(7.2, 3.6)
    for shift, (env, colour) in zip((-0.1, 0.1), (("mri", "tab:blue"), ("xray", "tab:orange")), strict=True):
        points = [
            (place + shift, row[f"{reader} auc"])
            for place, reader in enumerate(readers)
            for row in rows
            if row["env"] == env and f"{reader} auc" in row
        ]
        if points:
            axes.plot(*zip(*points, strict=True), "o", color=colour, label=env)
    axes.set(ylabel="test AUC", xticks=range(len(readers)), ylim=(0.0, 1.02))
    axes.set_xticklabels([one.replace("_", " ") for one in readers])
    axes.axhline(0.5, color="0.5", linewidth=1)
    axes.legend()
    bench.picture(made)


if __name__ == "__main__":
    main()
