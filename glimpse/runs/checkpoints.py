"""Saving and restoring everything a run needs to go on: one safetensors file, written atomically, nothing unpickled."""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor, nn

from glimpse.errors import UserError

_KEY = "glimpse"  # of the JSON text in the file's header


class CheckpointError(UserError, ValueError):
    """A file that should hold parameters is missing, broken, or of another model."""


@dataclass
class Checkpoint:
    """Tensors by name, and a JSON-able record beside them."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)

    def add_module(self, name: str, module: nn.Module) -> None:
        """Adds a module's parameters and buffers."""
        self.tensors |= {f"{name}/{key}": value.detach().clone() for key, value in module.state_dict().items()}

    def restore_module(self, name: str, module: nn.Module) -> None:
        """Gives a module back what `add_module` took from it.

        Raises:
            CheckpointError: names or shapes differ.
        """
        prefix = f"{name}/"
        state = {key.removeprefix(prefix): value for key, value in self.tensors.items() if key.startswith(prefix)}
        try:
            module.load_state_dict(state)
        except RuntimeError as error:
            raise CheckpointError(
                f"The saved {name} does not fit the network of this configuration: {error}"
            ) from error

    def add_optimizer(self, name: str, optimizer: torch.optim.Optimizer) -> None:
        """Adds an optimizer's moments (tensors) and settings (JSON)."""
        state = optimizer.state_dict()
        for index, entry in state["state"].items():
            self.tensors |= {f"{name}/{index}/{key}": torch.as_tensor(value).clone() for key, value in entry.items()}
        self.meta[name] = [dict(group) for group in state["param_groups"]]

    def restore_optimizer(self, name: str, optimizer: torch.optim.Optimizer) -> None:
        """Gives an optimizer back what `add_optimizer` took from it."""
        entries: dict[int, dict[str, Tensor]] = {}
        for key, value in self.tensors.items():
            if key.startswith(f"{name}/"):
                _, index, moment = key.split("/", 2)
                entries.setdefault(int(index), {})[moment] = value
        optimizer.load_state_dict({"state": entries, "param_groups": self.meta[name]})

    def add_generator(self, name: str, generator: torch.Generator | None = None) -> None:
        """Adds the state of a generator, PyTorch's global one by default."""
        self.tensors[f"{name}/generator"] = generator.get_state() if generator is not None else torch.get_rng_state()

    def restore_generator(self, name: str, generator: torch.Generator | None = None) -> None:
        """Sets a generator to the state saved by `add_generator`."""
        state = self.tensors[f"{name}/generator"]
        if generator is None:
            torch.set_rng_state(state)
        else:
            generator.set_state(state)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the file so that it is there whole or not at all."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
        try:
            tensors = {name: tensor.cpu().contiguous() for name, tensor in self.tensors.items()}
            save_file(tensors, unfinished, {_KEY: json.dumps(self.meta)})
            os.replace(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Checkpoint":
        """Reads a file that `save` wrote.

        Raises:
            CheckpointError: it is missing or broken.
        """
        if not Path(path).is_file():
            raise CheckpointError(f"{path}: there is no such file; is the run folder complete?")
        try:
            content = Path(path).read_bytes()  # opened once: a run under way may put another file in its place
            return cls(load(content), json.loads(_header(content).get(_KEY, "{}")))
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path}: not a complete safetensors file ({error}).") from error


def _header(content: bytes) -> dict[str, str]:
    """Metadata of a safetensors file: 8 bytes with the length of a JSON text, the text, the numbers."""
    length = int.from_bytes(content[:8], "little")
    metadata: dict[str, str] = json.loads(content[8 : 8 + length]).get("__metadata__", {})
    return metadata
