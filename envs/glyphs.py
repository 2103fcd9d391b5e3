"""The drawn modalities, for experiments: digits and glyphs, painted while they are read. All defaults are here."""

from collections.abc import Sequence
from functools import partial

from glimpse.envs.modality import make_modality
from glimpse.modalities import Modality, install
from glimpse.synthetic.glyphs.megapixel_mnist import target_names
from glimpse.tasks import Classification, MultiLabel, MultiTask, Task


def mnist_task(targets: str | Sequence[str] = "majority") -> Task:
    """Returns the task of Megapixel MNIST for one target, or a `MultiTask` for several.

    Args:
        targets: "majority", "max" or "top" (ten classes each), "multi" (which digits are there), a list of these, or
            "all".

    Raises:
        CohortError: there is no such target.
    """
    names = target_names(targets)
    return _single(names[0]) if len(names) == 1 else MultiTask({name: _single(name) for name in names})


def _single(name: str) -> Task:
    return MultiLabel(10) if name == "multi" else Classification(10)


MEGAPIXEL_MNIST = Modality(
    "megapixel_mnist",  # 5 digits and 50 noise strokes on 1500 x 1500 pixels; which digit occurs three times?
    draws="glimpse.synthetic.glyphs.megapixel_mnist:load_megapixel_mnist",
    shared={"root": None, "targets": "majority"},
    task={"_target_": "glimpse.envs.glyphs.mnist_task", "targets": "${env.targets}"},
    overview_size=188,
    glimpse_size=32,
    glimpse_extents=(64,),
    max_glimpses=8,
    glimpse_cost=0.0,
)
GIGAPIXEL_MNIST = Modality(
    "gigapixel_mnist",  # islands of strokes on 12288 x 12288 pixels or more; three of them hold five digits
    draws="glimpse.synthetic.glyphs.gigapixel_mnist:load_gigapixel_mnist",
    shared={"root": None, "targets": "majority"},
    task={"_target_": "glimpse.envs.glyphs.mnist_task", "targets": "${env.targets}"},
    overview_size=192,
    glimpse_size=64,
    glimpse_extents=(512, 128),  # cells of wide glimpses lie 32 pixels apart: several fine glimpses show a digit whole
    max_glimpses=24,
    glimpse_cost=0.0,
)
NEEDLE_MNIST = Modality(
    "needle_mnist",  # 26 digits on 1024 x 1024 pixels, or on more or less; is one of them a 3?
    draws="glimpse.synthetic.glyphs.needle_mnist:load_needle_mnist",
    shared={"root": None},
    overview_size=128,
    glimpse_size=32,
    glimpse_extents=(64,),
    max_glimpses=32,
    glimpse_cost=0.0,
    networks={"aggregator": "score_pooling"},
)
CLUTTERED_MNIST = Modality(
    "cluttered_mnist",  # a digit on 60 x 60 pixels, with four pieces of other digits; which digit is it?
    draws="glimpse.synthetic.glyphs.cluttered_mnist:load_cluttered_mnist",
    shared={"root": None},
    task={"_target_": "glimpse.tasks.Classification", "classes": 10},
    overview_size=None,
    glimpse_size=12,
    glimpse_extents=(12,),
    max_glimpses=8,
    glimpse_cost=0.0,
)
RELATIONS = Modality(
    "relations",  # have two glyphs far apart the same shape? (8 glimpses are too few to learn it)
    draws="glimpse.synthetic.glyphs.relations:load_relations",
    shared={"target": "match"},
    overview_size=64,
    glimpse_size=32,
    glimpse_extents=(64,),
    max_glimpses=8,
    glimpse_cost=0.0,
)

for _modality in (MEGAPIXEL_MNIST, GIGAPIXEL_MNIST, NEEDLE_MNIST, CLUTTERED_MNIST, RELATIONS):
    install(_modality)

make_megapixel_mnist = partial(make_modality, modality="megapixel_mnist")
make_gigapixel_mnist = partial(make_modality, modality="gigapixel_mnist")
make_needle_mnist = partial(make_modality, modality="needle_mnist")
make_cluttered_mnist = partial(make_modality, modality="cluttered_mnist")
make_relations = partial(make_modality, modality="relations")
