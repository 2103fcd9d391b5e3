"""Show in a minute what glimpse does: one slide, read by a policy that comes with it; no training, no data.

glimpse demo
"""

import inspect
from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf

from glimpse.demo.showing import ask, show
from glimpse.settings.command import in_one_line, run_command
from glimpse.settings.options import refuse_unknown


@hydra.main(version_base="1.3", config_path="pkg://glimpse.configs", config_name="demo")
def _main(config: DictConfig) -> None:
    options: Any = OmegaConf.to_container(config, resolve=True)
    with in_one_line():
        refuse_unknown(options, inspect.signature(ask).parameters, "glimpse.demo")
        asked = ask(**options)
        print(asked.beginning, flush=True)
        print(show(asked).told)


def main() -> None:
    """Runs the command; mistakes of the user end it with a one-line message and exit code 2."""
    run_command(_main)


if __name__ == "__main__":
    main()
