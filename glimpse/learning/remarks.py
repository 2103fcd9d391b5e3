"""What settings ask for in vain: it is said before a training begins, and not refused."""

from collections.abc import Iterator, Mapping
from typing import Any

from glimpse.learning.branches import at_different_places, places_of
from glimpse.networks.policy import GlimpsePolicy
from glimpse.networks.records import OWN_CONDUCT

_CHOICES = ("trainable", "lora_rank")  # of encoders: what of them trains


def remarks(settings: Mapping[str, Any], policy: GlimpsePolicy) -> Iterator[str]:
    """Yields a sentence for each thing that these settings ask for and that a training with them does not do.

    Args:
        settings: All settings of the training.
        policy: The policy that it begins with.
    """
    budget, zooms = settings["max_glimpses"], policy.layout.zooms
    zooms_in = not policy.roams(OWN_CONDUCT) and settings["agent"]["name"] not in ("grid", "overview")
    if 0 < budget < zooms and zooms_in:
        yield (
            f"max_glimpses={budget}: with {zooms} fields of view, each is reached only by way of all wider ones, so "
            f"the finest is never seen. Give at least {zooms}, better more."
        )
    least = settings["agent"]["algorithm"].get("min_glimpses")
    if least is not None and least < zooms <= budget and zooms_in and _updates(settings, "joint"):
        yield (
            f"agent.algorithm.min_glimpses={least}: with {zooms} fields of view, episodes of fewer than {zooms} "
            "glimpses never reach the finest, and learn nothing there. Give more, such as a third of max_glimpses. "
            "For slides, experiment=whole_slides has settings that suit several fields of view."
        )
    yield from _same_places(settings.get("warm_up") or {}, policy)
    asked = list(_asked(settings["network"].get("encoder"), "network.encoder"))
    if asked and not any(_trains(settings)):
        yield (
            f"{', '.join(asked)} has no effect: no stage of this training trains the encoder. Give "
            "agent.algorithm.encoder_rate=1 for the joint stage, or a pretraining (pretrain.steps=1000)."
        )


def _same_places(warm_up: Mapping[str, Any], policy: GlimpsePolicy) -> Iterator[str]:
    branches = warm_up.get("branches")
    if not branches or not warm_up.get("steps") or len(branches) != policy.layout.zooms or len(branches) < 2:
        return
    read = at_different_places(branches, policy)
    if read != tuple(branches):
        overview, *views = places_of(policy, len(branches))
        yield (
            f"warm_up.branches={list(branches)}: there are {overview} cells in an overview and {views[0]} in each wide "
            f"glimpse, so {list(read)} are read. More would show the same places again."
        )


def _asked(encoder: Any, name: str) -> Iterator[str]:
    if isinstance(encoder, Mapping):
        for key, value in encoder.items():
            if key in _CHOICES and value:
                yield f"{name}.{key}={value}"
            yield from _asked(value, f"{name}.{key}")


def _trains(settings: Mapping[str, Any]) -> Iterator[bool]:
    """Yields for each stage whether it trains the encoder."""
    yield (settings.get("pretrain") or {}).get("steps", 0) > 0
    yield _updates(settings, "warm_up") and settings["warm_up"]["algorithm"].get("encoder_rate", 1) > 0
    yield _updates(settings, "joint") and settings["agent"]["algorithm"].get("encoder_rate", 1) > 0


def _updates(settings: Mapping[str, Any], stage: str) -> bool:
    """Returns whether a stage learns from episodes."""
    return (settings.get(stage) or {}).get("updates", 0) > 0
