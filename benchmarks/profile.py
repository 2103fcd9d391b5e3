"""Where the time of a joint update goes: reading, encoding, locating, aggregating, backward and optimizer, as shares.

python -m benchmarks.profile --root <folder of MNIST's IDX files>

An update plays a rollout and trains on it. Time in a part inside another counts for the inner one only. Encoding is
that of rollout and update; what is encoded a second time in the backward pass counts as backward.
"""

import argparse
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from benchmarks import throughput
from benchmarks.common import Benchmark, figure, table
from glimpse.networks.policy import GlimpsePolicy

NAME = "profile"


def options() -> argparse.ArgumentParser:
    made = throughput.options_of_joint_stage(NAME, __doc__)
    made.set_defaults(agent=["ppo"])
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    bench = Benchmark(NAME, options(), arguments)
    for agent in bench.options.agent:
        overrides = " ".join(bench.options.overrides)
        settings = {"env": throughput.env_of(bench), "agent": agent, "device": bench.options.device} | (
            {"overrides": overrides} if overrides else {}
        )
        if bench.results.find(**settings) is None:
            bench.results.put(settings, **measure(bench, agent))
    report(bench)


def parts_of(algorithm: Any, policy: GlimpsePolicy) -> list[tuple[Any, str, str]]:
    """Returns what is timed: an object, its method, and the part of the work that it is."""
    locating = [(policy.locator, name, "locating") for name in ("describe", "forward")]
    locating.append((policy, "_places", "locating"))
    aggregating = [(policy.aggregator, name, "aggregating") for name in ("step", "forward")]
    return [
        (algorithm, "collect_rollouts", "rollout, the rest"),
        (algorithm, "train", "update, the rest"),
        (algorithm.env, "step_wait", "reading"),
        (algorithm.env, "reset", "reading"),
        (policy, "encode", "encoding"),
        *locating,
        *aggregating,
        (Tensor, "backward", "backward"),
        (policy.optimizer, "step", "optimizer"),
    ]


def measure(bench: Benchmark, agent: str) -> dict[str, Any]:
    """Times some updates of the joint stage, after a few that do not count."""
    algorithm, policy, _ = throughput.joint_stage(bench, agent)
    updates, steps = 2 if bench.options.quick else bench.options.updates, algorithm.steps_per_update
    algorithm.learn((1 if bench.options.quick else 3) * steps)
    watch = throughput.Stopwatch(bench.options.device)
    with watch.watching(parts_of(algorithm, policy)):
        started = watch.now()
        algorithm.learn(updates * steps, reset_num_timesteps=False)
        seconds = watch.now() - started
    shares = {name: spent / seconds for name, spent in watch.seconds.items()}
    return {"seconds_per_update": seconds / updates, "shares": {**shares, "the rest": 1 - sum(shares.values())}}


def report(bench: Benchmark) -> None:
    """Prints the shares and draws them."""
    rows = bench.results.rows
    parts = sorted({part for row in rows for part in row["shares"]}, key=lambda part: -rows[0]["shares"].get(part, 0.0))
    labels = [" ".join(filter(None, (row["env"], row["agent"], row.get("overrides")))) for row in rows]
    print(table(("share of the time", *labels), [[p, *(row["shares"].get(p) for row in rows)] for p in parts]))
    seconds = [row["seconds_per_update"] for row in rows]
    print(table(("joint stage", "s/update"), [list(pair) for pair in zip(labels, seconds, strict=True)]))
    made, axes = figure(7.6, 1.6 + 0.7 * len(rows))
    left = [0.0] * len(rows)
    for part in parts:
        shares = [row["shares"].get(part, 0.0) for row in rows]
        axes.barh([label.replace(" ", "\n") for label in labels], shares, left=left, label=part)
        left = [a + b for a, b in zip(left, shares, strict=True)]
    axes.set(xlim=(0, 1), xlabel="share of the time of a joint update")
    made.legend(loc="outside upper center", ncols=4, fontsize="small")
    bench.picture(made)


if __name__ == "__main__":
    main()
