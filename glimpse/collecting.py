"""Python's collection of garbage, held off while modules are imported."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_collecting() -> Iterator[None]:
    """Collects no garbage inside; what was made there counts as old afterwards, as what is imported stays.

    Otherwise Python looks through all that was imported again and again, and once more as soon as it collects again,
    which takes a third of a second in all. Garbage among it is found by the next collection of all objects. It does
    nothing where garbage is not collected anyhow, and leaves alone what others have frozen.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        if not gc.get_freeze_count():
            gc.freeze()
            gc.unfreeze()  # into the oldest generation
        gc.enable()
