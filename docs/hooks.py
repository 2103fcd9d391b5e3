"""Tells the documentation where the code lies of which it shows the docstrings."""

import atexit
import shutil
import tempfile
from pathlib import Path
from typing import Any

from mkdocs.plugins import event_priority

_ROOT = Path(__file__).resolve().parent.parent
_INSIDE = ("envs", "agents", "configs")  # these folders are `glimpse.envs` and so on once they are installed


@event_priority(100)  # before the docstrings are asked for
def on_config(config: Any) -> Any:
    """Lays the package out as it is installed."""
    tree = Path(tempfile.mkdtemp(prefix="glimpse-docs-"))
    atexit.register(shutil.rmtree, tree, ignore_errors=True)
    without = shutil.ignore_patterns("__pycache__")
    shutil.copytree(_ROOT / "glimpse", tree / "glimpse", ignore=without)
    for name in _INSIDE:
        shutil.copytree(_ROOT / name, tree / "glimpse" / name, ignore=without)
    config.plugins["mkdocstrings"].config.handlers["python"]["paths"] = [str(tree)]
    return config
