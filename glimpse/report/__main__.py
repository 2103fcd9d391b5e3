"""Write a report to click through, on a run or on predictions: one HTML file that needs no network.

glimpse report run=runs/wsi-ppo-0
"""

import inspect
import sys
from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf

from glimpse.errors import EvaluationError, SettingsError
from glimpse.report.html.writing import write_report
from glimpse.settings.command import in_one_line, run_command
from glimpse.settings.options import refuse_unknown
from glimpse.settings.quoting import with_paths


@hydra.main(version_base="1.3", config_path="pkg://glimpse.configs", config_name="report")
def _main(config: DictConfig) -> None:
    options: Any = OmegaConf.to_container(config, resolve=True)
    with in_one_line():
        run = options.pop("run")
        known = [name for name in inspect.signature(write_report).parameters if name != "folder"]
        refuse_unknown(options, known, "glimpse.report")
        if run is None:
            raise EvaluationError("On what? Give the folder of a run or of predictions: glimpse report run=<folder>.")
        for name, value in (("run", run), ("output", options["output"])):
            if not isinstance(value, str | None):
                raise SettingsError(f"{name}: expected a path, got {value!r}.")
        print(write_report(run, **options).told)


def main() -> None:
    """Runs the command; mistakes of the user end it with a one-line message and exit code 2.

    The folder may be typed without `run=`.
    """
    sys.argv[1:] = with_paths(sys.argv[1:], "run")
    run_command(_main)


if __name__ == "__main__":
    main()
