"""One measurement of `benchmarks.scale`: python -m benchmarks.scale_probe <setting of a training> ...

The training ends with its first update; the last line is what that took, as JSON.
"""

import json
import os
import sys
import time
from pathlib import Path

_BEGAN = time.perf_counter()


def main() -> None:
    os.environ["GLIMPSE_MODALITIES"] = "benchmarks.scale_images"
    from glimpse.learning.episodes import StageCallback
    from glimpse.plugins import load_plugins
    from glimpse.settings.composing import composed
    from glimpse.train import train

    load_plugins()
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
