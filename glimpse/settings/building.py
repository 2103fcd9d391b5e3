"""Objects from settings, with the errors that their makers raise."""

from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate

from glimpse.errors import SettingsError, UserError


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


def build_setting(where: str, config: Any, *arguments: Any, **options: Any) -> Any:
    """As `build`, for what users set themselves: values that its maker refuses are their mistake.

    Args:
        where: the setting, such as "joint"; begins the message.
        config: of the object.
        *arguments: handed to its maker.
        **options: likewise.

    Raises:
        SettingsError: a value is impossible.
    """
    try:
        return build(config, *arguments, **options)
    except SettingsError as error:
        raise SettingsError(f"{where}: {error}") from error
    except UserError:  # of a file, which the message names
        raise
    except (TypeError, ValueError) as error:
        raise SettingsError(f"{where}: {error}") from error
