"""Glimpses per second of the joint stage, beside those of its bare encoder, and where the time goes.

python -m benchmarks.throughput --root <folder of MNIST's IDX files>

Counting: an update plays a rollout and trains on it. *Collected* glimpses are those of the rollouts; every epoch trains
on each of them once, so with two epochs twice as many are *trained*. The bare encoder does one forward and
one backward pass over ready batches of one rollout: its glimpses, in the chunks of an update, and its overviews.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from torch import Tensor

from benchmarks import reference
from benchmarks.common import QUICK, QUICK_CASES, Benchmark, Row, figure, parser, setting, table
from glimpse.learning.stages import seed_everything
from glimpse.networks.policy import GlimpsePolicy
from glimpse.networks.records import Episodes
from glimpse.runs.loading import build_policy
from glimpse.settings.building import build
from glimpse.settings.composing import composed

NAME = "throughput"
OF_BARE, OF_REFERENCE = 0.85, 0.8  # targets
_CASES = 500


def options() -> argparse.ArgumentParser:
    made = options_of_joint_stage(NAME, __doc__)
    reference.add_option(made)
    return made


def options_of_joint_stage(name: str, text: str | None) -> argparse.ArgumentParser:
    """Returns the options of what is measured of the joint stage."""
    made = parser(name, text)
    made.add_argument("--root", type=Path, help="folder of MNIST's IDX files; without it, env=relations is measured")
    made.add_argument("--agent", nargs="+", default=["ppo", "reinforce"], help="default: ppo reinforce")
    made.add_argument("--updates", type=int, default=20, help="updates timed, after three that are not (default: 20)")
    made.add_argument("--overrides", nargs="+", default=[], help="of the training, such as network.autocast=true")
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    bench = Benchmark(NAME, options(), arguments)
    if bench.options.reference and not bench.options.root:
        bench.error("--reference trains on megapixel MNIST: give --root, too.")
    rate = _reference(bench) if bench.options.reference else None
    for agent in bench.options.agent:
        settings = {"env": env_of(bench), "agent": agent, "overrides": " ".join(bench.options.overrides)}
        found = bench.results.find(**settings)
        measured = found or measure(bench, agent)
        if found is None or rate is not None:
            compared = {} if rate is None else {"of_reference": measured["trained_per_second"] / rate}
            bench.results.put(settings, **({**measured, **compared} | settings))
    report(bench)


def env_of(bench: Benchmark) -> str:
    return "megapixel_mnist" if bench.options.root else "relations"


def _reference(bench: Benchmark) -> float:
    """Glimpses per second that the reference trains on in its joint stage alone, from its first line after a minute."""
    given, settings = bench.options, {"env": env_of(bench), "agent": "reference"}
    row = bench.results.find(**settings)
    if row is None:
        only = ["--seconds", "65", "--pretrain", "0", "--warm-up", "0", "--train", str(_CASES), "--test", "50"]
        looks = reference.run(given.reference, "--mnist", str(given.root), "--threads", str(given.threads), *only)
        row = bench.results.put(settings, trained_per_second=looks[-1]["rate"])
    return row["trained_per_second"]


# ---------------------------------------------------------------------------------------------- measuring
def measure(bench: Benchmark, agent: str) -> Row:
    """Times some updates of the joint stage, then the bare encoder on the last of their rollouts."""
    algorithm, policy, chunk = joint_stage(bench, agent)
    updates, steps = 2 if bench.options.quick else bench.options.updates, algorithm.steps_per_update
    algorithm.learn((1 if bench.options.quick else 3) * steps)
    watch = Stopwatch(bench.options.device)
    with watch.watching(_parts(algorithm, policy)):
        started = watch.now()
        algorithm.learn(updates * steps, reset_num_timesteps=False)
        seconds = (watch.now() - started) / updates
    episodes: Episodes = algorithm.episodes
    glimpses, epochs = int(episodes.length.sum()), algorithm.options.updates.n_epochs
    alone = bare(policy, episodes, chunk, watch.now)
    parts = {name: spent / updates / seconds for name, spent in watch.seconds.items()}
    return {
        "seconds_per_update": seconds,
        "glimpses_per_update": glimpses,
        "epochs": epochs,
        "collected_per_second": glimpses / seconds,
        "trained_per_second": epochs * glimpses / seconds,
        "bare_per_second": glimpses / alone,
        "collected_of_bare": alone / seconds,
        "trained_of_bare": epochs * alone / seconds,
        "shares": {**parts, "the rest": 1 - sum(parts.values())},
    }


def joint_stage(bench: Benchmark, agent: str) -> tuple[Any, GlimpsePolicy, int]:
    """The algorithm of the joint stage as `glimpse.train` builds it, on an untrained policy; it spends its budget."""
    given = bench.options
    overrides = [f"env={env_of(bench)}", f"agent={agent}", f"threads={given.threads}", f"device={given.device}"]
    overrides += (
        [*QUICK, *QUICK_CASES]
        if given.quick
        else [f"env.cohort.n.train={_CASES}", "env.cohort.n.val=10", "env.cohort.n.test=10"]
    )
    overrides += [setting("env.root", given.root.resolve()), "max_glimpses=12"] if given.root else []
    config = composed(*overrides, *given.overrides, "agent.algorithm.stop_from=2")
    seed_everything(0, given.threads)
    cases, algorithm = build(config.env.cohort).split("train"), config.joint.algorithm
    count = algorithm.cases_per_rollout * algorithm.rollouts_per_case
    envs = [build(config.env.make, cohort=cases, split="train") for _ in range(count)]
    first = envs[0].unwrapped
    for case in cases:  # pretraining, which comes before, has looked at nearly all of them
        first.views.foreground(case.source)
    policy = build_policy(config.network, first.observation_space, first.layout).to(given.device)
    lanes = build(config.vector)(envs)
    return instantiate(algorithm)(policy, lanes, seed=0, device=given.device), policy, config.network.chunk


def bare(policy: GlimpsePolicy, episodes: Episodes, chunk: int, now: Callable[[], float], passes: int = 7) -> float:
    """Median seconds of forward and backward passes of the encoder over the glimpses and overviews of some episodes."""
    glimpses = episodes.glimpse.flatten(0, 1).to(policy.device)
    batches = [*glimpses.split(chunk or len(glimpses)), episodes.overview.to(policy.device)]
    policy.set_training_mode(True)
    times = []
    for _ in range(passes):
        started = now()
        for batch in batches:
            policy.encode(batch).square().mean().backward()
        times.append(now() - started)
        policy.optimizer.zero_grad()
    return statistics.median(times)


def _parts(algorithm: Any, policy: GlimpsePolicy) -> list[tuple[Any, str, str]]:
    return [
        (algorithm, "collect_rollouts", "rollout: deciding"),
        (algorithm.env, "step_wait", "rollout: reading"),
        (algorithm.env, "reset", "rollout: reading"),
        (policy, "encode", "rollout: encoding"),
        (algorithm, "train", "update: the rest"),
        (policy, "evaluate_episodes", "update: forward"),
        (Tensor, "backward", "update: backward"),
        (policy.optimizer, "step", "update: optimizer"),
    ]


class Stopwatch:
    """Wall time by parts of the work; time in a part inside another counts for the inner one only."""

    def __init__(self, device: str) -> None:
        self.device, self.seconds = device, dict[str, float]()
        self._open, self._since = list[str](), 0.0  # the parts under way, the innermost last; the last switch

    def now(self) -> float:
        """Seconds, once the device has done what it was asked for."""
        if self.device.startswith("cuda"):
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    @contextmanager
    def watching(self, parts: Sequence[tuple[Any, str, str]]) -> Iterator[None]:
        """Times what runs inside, by parts: an object, its method, and the name of the part.

        Where names have a prefix before a colon, what begins inside a part of another prefix belongs to that one.
        """
        held = [(owner, method, vars(owner).get(method)) for owner, method, _ in parts]
        for owner, method, name in parts:
            setattr(owner, method, self._timed(getattr(owner, method), name))
        try:
            yield
        finally:
            for owner, method, original in held:
                if original is None:
                    delattr(owner, method)
                else:
                    setattr(owner, method, original)

    def _timed(self, method: Callable[..., Any], name: str) -> Callable[..., Any]:
        def timed(*arguments: Any, **options: Any) -> Any:
            # Encoding inside an update is part of its forward or backward pass, and what is done again of the latter.
            stays = bool(self._open) and (_prefix(name) != _prefix(self._open[0]) or self._open[-1] == "backward")
            self._switch(self._open[-1] if stays else name)
            try:
                return method(*arguments, **options)
            finally:
                self._switch(None)

        return timed

    def _switch(self, name: str | None) -> None:
        """Books the time since the last switch, then begins a part, or ends the innermost one (None)."""
        now = self.now()
        if self._open:
            part = self._open[-1]
            self.seconds[part] = self.seconds.get(part, 0.0) + now - self._since
        self._since = now
        if name is None:
            self._open.pop()
        else:
            self._open.append(name)


def _prefix(name: str) -> str:
    return name.split(":")[0] if ":" in name else ""


# ---------------------------------------------------------------------------------------------- what is shown
def report(bench: Benchmark) -> None:
    """Prints the rates and where the time goes, and draws the latter."""
    rows = [row for row in bench.results.rows if row["env"] == env_of(bench)]
    names = ("collected_per_second", "trained_per_second", "bare_per_second", "collected_of_bare", "trained_of_bare")
    header = ("joint stage", "collected/s", "trained/s", "bare/s", "collected of bare", "trained of bare")
    print(table((*header, "trained of reference"),
                [[_label(row), *(row.get(name) for name in (*names, "of_reference"))] for row in rows]))  # fmt: skip
    print(f"targets: trained at least {OF_BARE} of the bare encoder, and {OF_REFERENCE} of the reference")
    ours = [row for row in rows if "shares" in row]
    parts = list(dict.fromkeys(part for row in ours for part in row["shares"]))
    print(table(("share of the time", *map(_label, ours)),
                [[part, *(row["shares"].get(part) for row in ours)] for part in parts]))  # fmt: skip
    made, axes = figure(7.6, 1.6 + 0.7 * len(ours))
    left = [0.0] * len(ours)
    for i, part in enumerate(parts):
        shares = [row["shares"].get(part, 0.0) for row in ours]
        axes.barh([_label(row).replace(" ", "\n") for row in ours], shares, left=left, label=part, color=f"C{i}")
        left = [a + b for a, b in zip(left, shares, strict=True)]
    axes.set(xlim=(0, 1), xlabel="share of the time of the joint stage")
    made.legend(loc="outside upper center", ncols=3, fontsize="small")
    bench.picture(made)


def _label(row: Row) -> str:
    return " ".join(filter(None, (row["agent"], row.get("overrides"))))


if __name__ == "__main__":
    main()
