"""Builds objects from sections of the configuration, and passes on the errors that their constructors raise."""

from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate

from glimpse.errors import SettingsError, UserError


def build(config: Any, *arguments: Any, **options: Any) -> Any:
    """Builds an object as Hydra's `instantiate` does, but lets an error of the target through unchanged.

    Hydra would wrap it in an `InstantiationException`, so that a user's mistake would look like a bug in the program.
    """
    try:
        return instantiate(config, *arguments, **options)
    except InstantiationException as error:
        if error.__cause__ is None:
            raise
        raise error.__cause__ from None


def build_setting(where: str, config: Any, *arguments: Any, **options: Any) -> Any:
    """Builds an object from a section that users can set, and reports values that its constructor refuses.

    Args:
        where: the name of the section, such as "joint"; error messages begin with it.
        config: the section, with a `_target_`.
        *arguments: positional arguments for the constructor, beside those in `config`.
        **options: keyword arguments for the constructor, beside those in `config`.

    Raises:
        SettingsError: the constructor refused a value (it raised a `TypeError` or a `ValueError`).
    """
    try:
        return build(config, *arguments, **options)
    except SettingsError as error:
        raise SettingsError(f"{where}: {error}") from error
    except UserError:  # about a file, which the message names already
        raise
    except (TypeError, ValueError) as error:
        raise SettingsError(f"{where}: {error}") from error
