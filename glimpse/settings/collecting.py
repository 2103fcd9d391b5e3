"""Python's collection of garbage, held off while modules are imported."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_collecting() -> Iterator[None]:
    """Collects no garbage inside; if modules were imported there, all objects count as old afterwards.

    Otherwise Python looks through all that was imported again and again, and once more as soon as it collects again,
    which takes a third of a second in all. Garbage among it is found by the next collection of old objects. It does
    nothing where garbage is not collected anyhow, and leaves alone what others have frozen.
    """
    if not gc.isenabled():
        yield
        return
    known = len(sys.modules)
    gc.disable()
    try:
        yield
    finally:
        if len(sys.modules) > known and not gc.get_freeze_count():
            gc.freeze()
            gc.unfreeze()  # into the oldest generation
        gc.enable()
