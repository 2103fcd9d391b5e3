"""What reading a case costs: multiply-adds, counted once per shape, and memory and energy while cases are read."""

import importlib
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from glimpse.networks.policy import GlimpsePolicy
from glimpse.networks.records import Conduct
from glimpse.ranks.group import everyones

_MIB = 2**20


@torch.no_grad()
def multiply_adds(work: Callable[[], Any]) -> int:
    """Returns how many multiply-adds of matrix products, convolutions and attention some work takes; it is done once.

    Sums, normalisations and activations are not counted. Networks that are compiled run as they are written.
    """
    counter = FlopCounterMode(display=False)
    with torch.compiler.set_stance("force_eager"), counter:
        work()
    return counter.get_total_flops() // 2


class PolicyCosts:
    """Multiply-adds of reading a case with a policy, if nothing is known from before (see `KeptFeatures`).

    The overview counts with all of its cells open, and every look as the first one with its field of view: what
    attention to earlier looks takes beyond that is left out.

    Args:
        policy: The policy, in evaluation mode.
        conduct: Makes the conduct for a single lane; a locator may keep count of its steps.
    """

    def __init__(self, policy: GlimpsePolicy, conduct: Callable[[], Conduct]) -> None:
        self.policy, self.conduct = policy, conduct
        self._start: int | None = None
        self._looks: dict[int, int] = {}

    def of(self, zooms: Sequence[int]) -> int:
        """Returns the multiply-adds of a case, from the fields of view of its glimpses."""
        if self._start is None:
            self._start = multiply_adds(self._begin)
        for zoom in {int(zoom) for zoom in zooms} - set(self._looks):
            self._looks[zoom] = multiply_adds(partial(self._look, zoom)) - self._start
        return self._start + sum(self._looks[int(zoom)] for zoom in zooms)

    def _begin(self) -> Any:
        """Answers from a blank overview and decides where to look first."""
        policy, conduct = self.policy, self.conduct()
        space: Any = policy.observation_space
        overview = torch.zeros(1, *space["overview"].shape, dtype=torch.uint8, device=policy.device)
        foreground = torch.full((1, 1, *overview.shape[2:]), 255, dtype=torch.uint8, device=policy.device)
        extents = torch.full((1, policy.layout.zooms, policy.layout.ndim), 0.1, device=policy.device)
        features = None  # without a need for them, `scene` encodes nothing
        if conduct.locator is None or policy.overview_dropout < 1 or policy.layout.zooms > 1:
            features = policy.overview_map(overview)
        scene = policy.scene(overview, foreground, extents, features, conduct)
        state = policy.begin(scene)
        policy.decide(scene, state, torch.zeros(1, dtype=torch.bool, device=policy.device), True, conduct=conduct)
        return scene, state, conduct

    def _look(self, zoom: int) -> None:
        """Does the same, and then takes in one blank glimpse and decides again."""
        policy = self.policy
        scene, state, conduct = self._begin()
        glimpse = torch.zeros(1, *policy.glimpse_shape, dtype=torch.uint8, device=policy.device)
        location = torch.zeros(1, policy.layout.ndim, device=policy.device)
        level = torch.full((1,), zoom, device=policy.device)
        wide = zoom < policy.layout.zooms - 1
        seen = policy.pool.summary(policy.view_map(glimpse) if wide else policy.encode(glimpse))
        token = policy.glimpse_token(seen, location, level)
        state.answer, state.cache = policy.aggregator.step(token, state.cache)
        state.memory = policy.memory.step(token, state.memory)
        if wide:
            maps = policy.blank_views(1)
            opened = torch.ones(1, len(policy.view_cells), dtype=torch.bool, device=policy.device)
            policy.cells_of_views(maps, location, level, state.sides, opened)
        policy.decide(scene, state, torch.zeros(1, dtype=torch.bool, device=policy.device), True, conduct=conduct)


class Meter:
    """Measures, while what is inside its `with` runs, the highest memory and the energy of a device.

    Memory is that of the whole process on a CPU (Linux only), and what PyTorch holds on a GPU. Energy is a GPU's as its
    driver counts it (NVML, extra `energy`), all that runs on it included. What cannot be measured is None.

    Attributes:
        peak_mib: The highest memory, in MiB.
        joules: The energy.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.peak_mib: float | None = None
        self.joules: float | None = None

    def __enter__(self) -> "Meter":
        self._before = _millijoules(self.device)
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            _forget_peak()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        on_gpu = self.device.type == "cuda"
        self.peak_mib = torch.cuda.max_memory_allocated(self.device) / _MIB if on_gpu else _resident_peak()
        after = _millijoules(self.device)
        self.joules = None if after is None or self._before is None else (after - self._before) / 1000

    def over_all(self) -> None:
        """Takes in what the processes that train together have measured; all of them call it.

        Energy is that of all of them, memory the highest of any. What one of them could not measure is None.
        """
        peaks, joules = zip(*everyones([(self.peak_mib, self.joules)]), strict=True)
        self.peak_mib = None if None in peaks else max(peaks)
        self.joules = None if None in joules else sum(joules)

    def forget(self) -> None:
        """Says that nothing is known, such as where the work had been done before."""
        self.peak_mib = self.joules = None

    def record(self, cases: int) -> dict[str, float | None]:
        """Returns what belongs into the row of a reader that has read so many cases meanwhile."""
        return {"peak_mib": self.peak_mib, "joules_per_case": None if self.joules is None else self.joules / cases}


def _forget_peak() -> None:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:  # not on Linux, or not allowed: the peak is that of the process so far
        return


def _resident_peak() -> float | None:
    if not sys.platform.startswith("linux"):
        return None
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), None)


def _millijoules(device: torch.device) -> float | None:
    """Returns the energy that a GPU has used since its driver was loaded; None where nobody says."""
    if device.type != "cuda":
        return None
    try:
        nvml = importlib.import_module("pynvml")
        nvml.nvmlInit()
        uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
        return float(nvml.nvmlDeviceGetTotalEnergyConsumption(nvml.nvmlDeviceGetHandleByUUID(uuid)))
    except Exception:  # no such library, driver or counter: tables then say nothing of energy
        return None
