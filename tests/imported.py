"""What the server of `tests.commands` imports before it is forked."""

import importlib

from glimpse.__main__ import commands

LATER = ("matplotlib.backends.backend_agg", "matplotlib.backends.backend_svg", "torch._dynamo")
"""What commands import only when they need it."""

for name in (*(f"glimpse.{command}" for command in commands()), *LATER, "torch.utils.tensorboard"):
    importlib.import_module(name)
