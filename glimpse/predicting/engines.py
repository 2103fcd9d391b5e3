"""Engines: who reads the images of `glimpse predict`, where one process is not enough."""

import os
from collections.abc import Callable, Mapping
from typing import Any

from glimpse.errors import SettingsError
from glimpse.predicting.hand import Hands, OwnHand
from glimpse.predicting.order import Order
from glimpse.settings.kinds import check_kind
from glimpse.settings.options import at_least

ENGINES = ("ray", "submitit")


def hands_of(
    engine: str | None, workers: int | None, jobs: Any, shard: str | None
) -> Callable[[Order, OwnHand], Hands] | None:
    """Returns what makes the workers of an engine; None where this process reads itself.

    Args:
        engine: "ray", "submitit" or None.
        workers: how many; by default one for each processor that this process may use, or with `device=cuda` one for
            each GPU that it sees.
        jobs: options of submitit, a mapping.
        shard: must be None beside an engine, which shares the images out itself.

    Raises:
        SettingsError: there is no such engine, or another option does not go with it.
    """
    if engine is None:
        for name, value in (("workers", workers), ("jobs", jobs)):
            if value is not None:
                raise SettingsError(f"{name} is of an engine: add engine=ray or engine=submitit, or leave {name} out.")
        return None
    if engine not in ENGINES:
        raise SettingsError(f"Expected engine as one of {', '.join(ENGINES)}, got {engine!r}.")
    if shard is not None:
        raise SettingsError("An engine shares the images out itself: leave out shard, or engine.")
    if workers is not None:
        at_least("workers", workers, 1, whole=True)
    check_kind("jobs", jobs, Mapping | None)
    if jobs and engine != "submitit":
        raise SettingsError(f"jobs is of engine=submitit: leave it out beside engine={engine}.")

    def made(order: Order, own: OwnHand) -> Hands:
        count = _default_workers(order.device) if workers is None else int(workers)
        if engine == "ray":
            from glimpse.predicting.actors import Actors

            return Actors(order, own, count)
        from glimpse.predicting.jobs import Jobs

        return Jobs(order, own, count, jobs or {})

    return made


def _default_workers(device: str) -> int:
    if not device.startswith("cuda"):
        return len(os.sched_getaffinity(0))
    import torch  # slow to import, and needed here only

    return max(1, torch.cuda.device_count())
