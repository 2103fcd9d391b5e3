"""Puts the policy of a run into the package, in half precision, for `glimpse demo`.

python -m glimpse.demo.packing runs/demo
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from glimpse.atomic import write_atomically
from glimpse.demo.showing import POLICY
from glimpse.errors import UserError
from glimpse.reading.calibration import CALIBRATION_FILE
from glimpse.runs.checkpoints import Checkpoint, CheckpointError
from glimpse.runs.loading import CONFIG_FILE, POLICY_FILE, no_run, read_settings, settings_text


def pack(run: str | os.PathLike[str], folder: str | os.PathLike[str] = POLICY) -> int:
    """Writes settings, temperatures and parameters of a run, the latter in half precision.

    The network computes in single precision again: whoever loads the folder copies the numbers into it.

    Args:
        run: the run folder.
        folder: where to write.

    Returns:
        Bytes of the parameters.

    Raises:
        CheckpointError: it is no run folder, its files are broken, or a parameter is too large for half precision.
        WriteError: a file cannot be written.
    """
    run, folder = Path(run), Path(folder)
    settings = read_settings(run)
    if settings is None:
        raise CheckpointError(no_run(run))
    checkpoint = Checkpoint.load(run / POLICY_FILE)
    for name, tensor in checkpoint.tensors.items():
        if tensor.is_floating_point():
            checkpoint.tensors[name] = tensor.half()
            if not checkpoint.tensors[name].isfinite().all():
                raise CheckpointError(f"{run / POLICY_FILE}: {name} is too large for half precision. Take another run.")
    checkpoint.save(folder / POLICY_FILE)
    settings["run"] = "runs/demo"  # not a path of the machine that trained it
    write_atomically(folder / CONFIG_FILE, settings_text(settings))
    if (run / CALIBRATION_FILE).is_file():
        write_atomically(folder / CALIBRATION_FILE, (run / CALIBRATION_FILE).read_text("utf-8"))
    return (folder / POLICY_FILE).stat().st_size


def main(arguments: Sequence[str] | None = None) -> int:
    """Packs the run whose folder is given; returns the exit code."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    if len(given) != 1:
        print("usage: python -m glimpse.demo.packing <run folder>", file=sys.stderr)
        return 2
    try:
        print(f"{POLICY / POLICY_FILE}: {pack(given[0]) / 1e6:.1f} MB")
    except UserError as error:
        print(f"glimpse: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
