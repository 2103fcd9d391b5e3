"""Copies between the host and a GPU for which nobody waits longer than needed; on the CPU nothing is copied at all.

What goes to a GPU is copied from pinned memory, so that the host goes on at once. What comes back is waited for once,
for all tensors of a step together.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copies a tensor of the host to a device; a GPU takes it while the host goes on."""
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def indices(mask: Tensor, device: torch.device) -> Tensor:
    """Returns on a device where a mask, flattened, is True; nobody waits for the device if the mask is on the host."""
    return to_device(mask.flatten().nonzero()[:, 0], device)


def leaving(tensor: Tensor) -> Tensor:
    """Begins to copy a tensor to the host; its values may be used after `arrived`."""
    return tensor.detach().to("cpu", non_blocking=True)


def arrived(device: torch.device) -> None:
    """Waits until all copies that a device was asked for are there."""
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()


def on_host(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Copies tensors of one device to the host, and waits once for all of them."""
    copies = tuple(leaving(tensor) for tensor in tensors)
    arrived(tensors[0].device)
    return copies


def columns_on_host(records: Sequence[Any], *names: str) -> dict[str, Tensor]:
    """Stacks attributes (batch, ...) of records as (batch, record, ...), and copies the stacks to the host."""
    stacks = [torch.stack([getattr(record, name) for record in records], 1) for name in names]
    return dict(zip(names, on_host(*stacks), strict=True))
