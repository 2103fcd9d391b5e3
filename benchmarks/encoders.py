"""What encoders bring that learned in different ways: what a linear probe sees, and what the agent makes of it.

python -m benchmarks.encoders --env wsi --minutes 10

Each row is a whole training. `random`: a small encoder with random weights. `pretrained`: the environment's own, which
learned on photographs. Without a comma, the encoder is not trained. Behind a comma stands what it learns: without
labels for about so many minutes (`contrastive`, `vicreg`, `masked`, `distillation`), or with the labels of cases in the
joint stage (`adapters` of low rank; the weights of the `last` three blocks), where it sees glimpses in random views.
Afterwards the encoder is probed: glimpses at the spots of training cases teach a logistic regression, which is asked
about those of test cases.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from benchmarks.common import Benchmark, Row, Trained, add_seeds, facts_of, figure, parser, setting, table
from benchmarks.probe import KINDS, SMALL, Spots, embedded_spots, linear_probe
from glimpse.runs.loading import load

NAME = "encoders"
UNLABELLED = ("contrastive", "vicreg", "masked", "distillation")
_LABELLED = ("adapters", "last")
STARTS = ("random", "pretrained")
ENCODERS = (
    *STARTS,
    *(f"{start}, {objective}" for start in STARTS for objective in UNLABELLED),
    *(f"pretrained, {what}" for what in _LABELLED),
)
_DEFAULT = ("random", "random, contrastive", "pretrained", "pretrained, adapters")
_GENTLE = 1e-4  # learning rate of pretraining from weights that know something: it is soon forgotten
_TIMED = (2, 4, 20)  # steps of short trainings; the first fills caches, and the others differ by what steps take


def options() -> argparse.ArgumentParser:
    made = parser(NAME, __doc__)
    made.add_argument("--env", nargs="+", choices=sorted(KINDS), default=sorted(KINDS), help="default: all of them")
    made.add_argument(
        "--encoders", nargs="+", choices=ENCODERS, default=list(_DEFAULT), metavar="ENCODER",
        help=f"any of: {'; '.join(ENCODERS)} (default: {'; '.join(_DEFAULT)})",
    )  # fmt: skip
    made.add_argument("--minutes", type=float, default=10, help="of learning without labels (default: 10)")
    made.add_argument("--updates", type=int, help="of the joint stage, where the encoder learns with labels")
    add_seeds(made)
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    bench = Benchmark(NAME, options(), arguments)
    for env in bench.options.env:
        cohort, spots = embedded_spots(env, bench.options.quick)
        for seed in bench.options.seeds:
            for encoder in bench.options.encoders:
                settings = {"env": env, "encoder": encoder, "seed": seed}
                settings |= {"minutes": bench.options.minutes if _objective(encoder) in UNLABELLED else 0}
                settings |= {"updates": bench.options.updates if _objective(encoder) in _LABELLED else None}
                if bench.results.find(**settings) is None:
                    row = bench.results.put(settings, **_measure(bench, env, encoder, seed, cohort, spots))
                    print(f"{NAME}: {env}, {encoder}: probe {row['probe']:.3f}, agent {row['ppo auc']:.3f}", flush=True)
    report(bench)


def _objective(encoder: str) -> str:
    """What the encoder learns besides: one of `UNLABELLED` or of the labelled ways, or nothing."""
    return encoder.partition(", ")[2]


def overrides(env: str, encoder: str, volumes: bool) -> list[str]:
    """The settings of a training with one of `ENCODERS`, but for the number of steps without labels."""
    objective, made = _objective(encoder), []
    of_planes = "network.encoder.planar" if volumes else "network.encoder"
    if encoder.startswith("random"):
        made += ["network/encoder=small", "network.cell=null", "network.width=null"]
        made += [f"network.encoder.{name}={list(values)}" for name, values in SMALL[env].items()]
    if objective in UNLABELLED:
        made += [f"pretrain={objective}"]
        if encoder.startswith("pretrained"):
            made += [f"{of_planes}.trainable=all", f"pretrain.learning_rate={_GENTLE}"]
    if objective in _LABELLED:
        made += [f"{of_planes}.{'lora_rank=8' if objective == 'adapters' else 'trainable=3'}"]
        made += ["agent.algorithm.encoder_rate=1", "agent.algorithm.encoder_share=0.25"]
        made += ["agent.algorithm.overview_share=0.25", "agent.algorithm.augment=${pretrain.augment}"]
    return made


def _measure(bench: Benchmark, env: str, encoder: str, seed: int, cohort: Path, spots: Spots) -> Row:
    label = f"{env}-{encoder.replace(', ', '-')}-{seed}"
    quick, row = bench.options.quick, Row()
    given = [f"env={env}", f"seed={seed}", *([setting("env.cohort.path", cohort)] if quick else [])]
    given += overrides(env, encoder, spots.ndim == 3)
    if _objective(encoder) in UNLABELLED:
        row["steps"] = 2 if quick else _steps(bench, label, given)
    if bench.options.updates is not None and _objective(encoder) in _LABELLED:
        given += [f"joint.updates={bench.options.updates}"]
    run = bench.train(label, [*given, f"pretrain.steps={row.get('steps', 0)}"])
    row |= {"probe": probed(run, spots), "pretrain seconds": run.metrics["seconds"]["pretrain"], "seconds": run.seconds}
    return row | facts_of("ppo", run.own)


def _steps(bench: Benchmark, label: str, given: Sequence[str]) -> int:
    """How many steps of learning without labels take `--minutes`."""
    taken = []
    for steps in _TIMED:
        only = ["warm_up=none", "joint=none", f"pretrain.steps={steps}"]
        taken.append(bench.train(f"{label}-{steps}-steps", [*given, *only]).metrics["seconds"]["pretrain"])
    each = (taken[-1] - taken[-2]) / (_TIMED[-1] - _TIMED[-2])
    if each <= 0:
        bench.error(
            f"{label}: {_TIMED[-1]} steps took no longer than {_TIMED[-2]}. Run it again with nothing else running."
        )
    return max(2, round(60 * bench.options.minutes / each))


def probed(run: Trained, spots: Spots) -> float:
    """The AUC of spots in test cases, by what the run's encoder sees of glimpses and pools."""
    policy = load(run.folder)

    def features(glimpses: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return policy.summary_in_chunks(torch.from_numpy(glimpses)).cpu().numpy()

    train, test = spots.of("train"), spots.of("test")
    return float(roc_auc_score(test.first, linear_probe(train, test, features)))


def report(bench: Benchmark) -> None:
    """Prints the AUC of the probe and of the agent in each row, and draws them."""
    rows = bench.results.rows
    names = ("seed", "steps", "pretrain seconds", "probe", "ppo auc", "ppo accuracy", "seconds")
    header = ("env, encoder", "seed", "steps", "without labels, s", "probe AUC", "agent AUC", "accuracy", "all, s")
    print(table(header, [[f"{row['env']}, {row['encoder']}", *(row.get(name) for name in names)] for row in rows]))
    shown = list(dict.fromkeys((row["env"], row["encoder"]) for row in rows))[::-1]
    made, axes = figure(7.2, 1.2 + 0.3 * len(shown))
    for name, label, marker, colour in (("ppo auc", "agent", "o", "tab:blue"), ("probe", "probe", "|", "black")):
        places = [(row[name], shown.index((row["env"], row["encoder"]))) for row in rows]
        axes.plot(*zip(*places, strict=True), marker, color=colour, markersize=10, label=label)
    axes.set(xlim=(0.4, 1.02), xlabel="test AUC", yticks=range(len(shown)), yticklabels=map(", ".join, shown))
    axes.legend()
    bench.picture(made)


if __name__ == "__main__":
    main()
