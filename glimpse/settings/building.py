"""Objects from configurations, with the errors that their makers raise."""

from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate


def build(config: Any, *arguments: Any, **options: Any) -> Any:
    """Hydra's `instantiate`, except that an error of the target arrives as itself.

    Hydra wraps it in an `InstantiationException`, which cannot be told from a broken program.
    """
    try:
        return instantiate(config, *arguments, **options)
    except InstantiationException as error:
        if error.__cause__ is None:
            raise
        raise error.__cause__ from None
