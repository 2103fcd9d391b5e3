"""One measurement of `benchmarks.scale`: python -m benchmarks.scale_probe <setting of a training> ...

The training ends with its first update; the last line is what that took, as JSON.
"""

import json
import sys
import time
from pathlib import Path

_BEGAN = time.perf_counter()


def main() -> None:
    import glimpse
    from benchmarks.scale_images import SeedSource
    from glimpse.learning.episodes import StageCallback
    from glimpse.settings.composing import composed
    from glimpse.train import train

    glimpse.register_modality(
        "seeds", SeedSource, suffixes=(".seed",), background=0, overview_size=64, glimpse_size=32,
        glimpse_extents=(32,), max_glimpses=4,
    )  # fmt: skip
    begun = time.perf_counter()

    def ended(callback: StageCallback) -> None:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        peak = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
        now = time.perf_counter()
        print(json.dumps({"seconds": now - begun, "imports": begun - _BEGAN, "mib": peak}), flush=True)
        raise SystemExit

    StageCallback._after_update = ended  # type: ignore[method-assign]
    train(composed(*sys.argv[1:]), sys.argv[1:])


if __name__ == "__main__":
    main()
