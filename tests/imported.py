"""What the server of `tests.commands` imports before it is forked."""

import importlib

from glimpse.__main__ import commands

LATER = (
    "matplotlib.backends.backend_agg",
    "matplotlib.backends.backend_svg",
    "torch._dynamo",
    "torch.utils.tensorboard",
)
"""What commands import only when they need it."""


def imported() -> None:
    """Imports all that commands need; a server would pass over an ImportError in silence."""
    for command in commands():
        module = importlib.import_module(f"glimpse.{command.replace('-', '_')}")
        if hasattr(module, "__path__"):
            importlib.import_module(f"{module.__name__}.__main__")
    for name in LATER:
        importlib.import_module(name)


try:
    imported()
except ImportError as error:
    raise RuntimeError(f"tests.imported: {error}") from error
