"""Saves and restores everything that a run needs to be resumed, in one safetensors file without pickled objects."""

import json
import os
import random
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor, nn

from glimpse.atomic import replacing
from glimpse.errors import UserError

_KEY = "glimpse"  # the key of our JSON text in the metadata of the file's header
_OWN = "cuda/generator"  # of the GPU on which is computed, whichever it is


class CheckpointError(UserError, ValueError):
    """A checkpoint file is missing or broken, or belongs to another network."""


@dataclass
class Checkpoint:
    """Tensors by name, and a dictionary `meta` of everything else, which must be writable as JSON."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)

    def add_module(self, name: str, module: nn.Module) -> None:
        """Adds a module's parameters and buffers."""
        self.tensors |= {f"{name}/{key}": value.detach().clone() for key, value in module.state_dict().items()}

    def restore_module(self, name: str, module: nn.Module) -> None:
        """Loads into a module the parameters and buffers that `add_module` has stored.

        Raises:
            CheckpointError: the stored names or shapes differ from those of the module.
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
        """Adds an optimizer's state (to `tensors`) and its settings (to `meta`)."""
        state = optimizer.state_dict()
        for index, entry in state["state"].items():
            self.tensors |= {f"{name}/{index}/{key}": torch.as_tensor(value).clone() for key, value in entry.items()}
        self.meta[name] = [dict(group) for group in state["param_groups"]]

    def restore_optimizer(self, name: str, optimizer: torch.optim.Optimizer) -> None:
        """Loads into an optimizer the state and settings that `add_optimizer` has stored."""
        entries: dict[int, dict[str, Tensor]] = {}
        for key, value in self.tensors.items():
            if key.startswith(f"{name}/"):
                _, index, moment = key.split("/", 2)
                entries.setdefault(int(index), {})[moment] = value
        optimizer.load_state_dict({"state": entries, "param_groups": self.meta[name]})

    def add_generator(self, name: str, generator: torch.Generator) -> None:
        """Adds the state of a random generator."""
        self.tensors[f"{name}/generator"] = generator.get_state()

    def restore_generator(self, name: str, generator: torch.Generator) -> None:
        """Sets a generator to the state saved by `add_generator`."""
        generator.set_state(self.tensors[f"{name}/generator"])

    def add_global_generators(self, device: torch.device | None = None) -> None:
        """Adds the states of all global random generators: PyTorch's (of the CPU and every GPU), numpy's and Python's.

        GPUs are left out as long as nothing has been computed there.

        Args:
            device: Where is computed. If it is a GPU, its generator is the one that every process goes on with, on the
                GPU that it then has: processes that train together draw the same numbers, each on a GPU of its own.
        """
        self.tensors["torch/generator"] = torch.get_rng_state()
        if torch.cuda.is_initialized():
            states = torch.cuda.get_rng_state_all()
            self.tensors |= {f"cuda:{index}/generator": state for index, state in enumerate(states)}
        if device is not None and device.type == "cuda":
            self.tensors[_OWN] = torch.cuda.get_rng_state(device)
        kind, keys, *rest = np.random.get_state()
        self.tensors["numpy/generator"] = torch.from_numpy(np.asarray(keys).astype(np.int64))
        version, words, spare = random.getstate()
        self.tensors["python/generator"] = torch.tensor(words, dtype=torch.int64)
        self.meta["generators"] = {"numpy": [kind, *rest], "python": [version, spare]}

    def restore_global_generators(self, device: torch.device | None = None) -> None:
        """Sets the global random generators to the states saved by `add_global_generators`.

        Args:
            device: Where is computed from now on. A GPU gets the state of the one on which was computed before.
        """
        torch.set_rng_state(self.tensors["torch/generator"])
        rest = self.meta["generators"]
        kind, *others = rest["numpy"]
        np.random.set_state((kind, self.tensors["numpy/generator"].numpy().astype(np.uint32), *others))
        version, spare = rest["python"]
        random.setstate((version, tuple(self.tensors["python/generator"].tolist()), spare))
        for index in range(torch.cuda.device_count()):
            if (state := self.tensors.get(f"cuda:{index}/generator")) is not None:
                torch.cuda.set_rng_state(state, index)
        if device is not None and device.type == "cuda" and _OWN in self.tensors:
            torch.cuda.set_rng_state(self.tensors[_OWN], device)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the file atomically: after an interruption it is complete, or as it was before.

        Raises:
            WriteError: the file cannot be written.
        """
        path = Path(path)
        tensors = {name: tensor.cpu().contiguous() for name, tensor in self.tensors.items()}
        with replacing(path) as unfinished:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                save_file(tensors, unfinished, {_KEY: json.dumps(self.meta)})
            except SafetensorError as error:  # it says "... (os error 28)"
                number = re.search(r"os error (\d+)", str(error))
                raise (OSError(int(number[1]), os.strerror(int(number[1]))) if number else error) from error

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Checkpoint":
        """Reads a file that `save` wrote.

        Raises:
            CheckpointError: the file is missing or broken.
        """
        try:
            content = Path(path).read_bytes()  # read in one go: a running training may replace the file meanwhile
        except (FileNotFoundError, NotADirectoryError) as error:
            raise CheckpointError(f"{path}: there is no such file; is the run folder complete?") from error
        except OSError as error:
            raise CheckpointError(
                f"{path}: cannot be read ({error.strerror}). Allow this user to read the run folder."
            ) from error
        try:
            meta = json.loads(_header(content).get(_KEY, "{}"))
            if not isinstance(meta, dict):
                raise ValueError(f"{_KEY!r} in its header is no dictionary")
            return cls(load(content), meta)
        except (SafetensorError, ValueError) as error:
            raise CheckpointError(f"{path}: not a complete safetensors file ({error}).") from error


def _header(content: bytes) -> dict[str, str]:
    """Returns the metadata of a safetensors file: it begins with 8 bytes of length, then a JSON text of that length."""
    length = int.from_bytes(content[:8], "little")
    metadata: dict[str, str] = json.loads(content[8 : 8 + length]).get("__metadata__", {})
    return metadata
