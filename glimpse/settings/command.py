"""Runs a Hydra command; a mistake of the user ends it with a one-line message and exit code 2, not with a traceback."""

import gc
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from yaml import MarkedYAMLError, YAMLError  # type: ignore[import-untyped]

import glimpse
from glimpse.errors import REMEDIES, UserError
from glimpse.plugins import load_plugins
from glimpse.settings.nearest import no_such_setting, suggestion
from glimpse.settings.quoting import typed, typed_list
from glimpse.settings.terminal import end_unread, printable, printable_lines

EXIT_CODE = 2
_SEVERAL = re.compile(r"Ambiguous value for argument '([^=]+)=(.*)'\n")  # how Hydra begins
_COMMA_NUMBER = re.compile(r"[+-]?[0-9]+,[0-9]+")


@contextmanager
def in_one_line() -> Iterator[None]:
    """Ends the program with a one-line message when the code inside raises a `UserError`, or the disk is full.

    Use it inside the function that Hydra runs: Hydra prints a line of its own about errors that leave that function.
    """
    try:
        yield
    except UserError as error:
        _end(str(error))
    except HydraException as error:  # of settings that the function composes by itself
        _end(_explained(error))
    except OSError as error:
        if error.errno not in REMEDIES:
            raise
        _end(f"{error.filename or 'A file'}: {error.strerror}. {REMEDIES[error.errno]}")
    except OmegaConfBaseException as error:
        _end(_first_line(error))


@contextmanager
def warnings_in_one_line() -> Iterator[None]:
    """Writes the package's own warnings as one line each: where in the code they arise helps no user of a command."""
    before = warnings.formatwarning

    def written(
        message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
    ) -> str:
        own = any(Path(filename).is_relative_to(folder) for folder in glimpse.__path__)
        if own and issubclass(category, UserWarning):
            return f"glimpse: warning: {printable(str(message))}\n"
        return before(message, category, filename, lineno, line)

    warnings.formatwarning = written
    try:
        yield
    finally:
        warnings.formatwarning = before


def run_command(main: Callable[[], Any]) -> None:
    """Loads plugins, then runs a function decorated by `hydra.main`; mistakes of the user end it with exit code 2.

    Hydra prints errors itself and exits with code 1, unless the environment variable `HYDRA_FULL_ERROR` is set.
    """
    before = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        with in_one_line(), warnings_in_one_line():
            load_plugins()
            gc.freeze()  # Python would look through all that was imported once more when it ends, for half a second
            main()
    except HydraException as error:
        _end(_explained(error))
    except YAMLError as error:  # of an option that another package brings
        _end(_of_yaml(error))
    except ValueError as error:
        if "Config group override" not in str(error):
            raise
        _end(_of_groups(sys.argv[1:], str(error)))
    except BrokenPipeError:  # `glimpse train --help | head`: nobody reads any more
        end_unread()
    except KeyboardInterrupt:
        print("glimpse: stopped.", file=sys.stderr)
        sys.exit(130)
    finally:
        if before is None:
            os.environ.pop("HYDRA_FULL_ERROR", None)
        else:
            os.environ["HYDRA_FULL_ERROR"] = before


def _end(message: str) -> None:
    print(f"glimpse: {printable_lines(message)}", file=sys.stderr)
    sys.exit(EXIT_CODE)


def _explained(error: HydraException) -> str:
    """Returns one line that says what is wrong in the settings, and what was probably meant."""
    if isinstance(error, MissingConfigException) and error.options:
        group, _, choice = str(error.missing_cfg_file).rpartition("/")
        options = ", ".join(sorted(error.options))
        return f"There is no option {group}={choice}{suggestion(choice, error.options)}. {group} has: {options}."
    if isinstance(error, OverrideParseException):
        return _of_grammar(str(error.override), _first_line(error))
    cause = error.__cause__
    parent = getattr(cause, "parent_node", None)
    key = getattr(cause, "full_key", None) or getattr(cause, "key", None)
    if isinstance(error, ConfigCompositionException) and isinstance(parent, DictConfig) and key:
        known = [str(one) for one in parent if one not in ("_target_", "_partial_")]
        section, _, name = str(key).rpartition(".")
        return no_such_setting(str(key), section, known, _called(name, parent._get_root()))
    several = _SEVERAL.match(str(error))
    return _of_commas(*several.groups()) if several else _first_line(error)


def _of_commas(key: str, value: str) -> str:
    """Explains a value with commas, which Hydra takes for several values: a number is meant, or a list."""
    listed = typed_list(key, map(str.strip, value.split(",")))
    meant = f"Type {listed} for a list, or add --multirun to try one after another."
    if _COMMA_NUMBER.fullmatch(value):
        meant = f"Type {key}={value.replace(',', '.')} if it is a number, or {listed} for a list."
    return f"{key}={value}: this is read as several values. {meant}"


def _called(name: str, node: Any, section: str = "") -> Iterator[str]:
    """Yields all settings of a name, in whatever section, such as "env.make.glimpse_extents"."""
    for key in node if isinstance(node, DictConfig) and not node._is_none() and not node._is_missing() else ():
        path = ".".join(filter(None, (section, str(key))))
        if key == name:
            yield path
        yield from _called(name, node._get_node(key), path)


def _of_grammar(override: str, reason: str) -> str:
    """Explains an override that Hydra cannot read: most often its value has characters that must be quoted."""
    reason = reason.partition(" See https")[0]
    key, equals, value = override.partition("=")
    if not equals or not value:
        return f"{override}: expected key=value ({reason})."
    whole = _with_spaces(override, sys.argv[1:])
    if whole is not None:
        return f'{override}: the shell has parted this at a space. Type "{whole}" instead, with the quotes.'
    names = value[1:-1].split(",") if value.startswith("[") and value.endswith("]") else []
    if names and not any(set(name) & set("[]{}'\"") for name in names):  # texts that lack their quotes
        return f"{override}: cannot be read ({reason}). Type {typed_list(key, map(str.strip, names))} instead."
    return f"{override}: cannot be read ({reason}). If the value is a text, type {typed(key, value)} instead."


def _with_spaces(override: str, words: Sequence[str]) -> str | None:
    """Returns an override with the words after it up to the end of its list; None if it has none, or has its end."""
    open_ones, text = 0, ""
    for word in words[words.index(override) :] if override in words else ():
        text = f"{text} {word}" if text else word
        open_ones += sum(word.count(sign) for sign in "[{") - sum(word.count(sign) for sign in "]}")
        if open_ones <= 0:
            break
    return text if open_ones == 0 and text not in ("", override) else None


def _of_groups(overrides: Sequence[str], reason: str) -> str:
    """Explains the value of a group that is not the name of an option: Hydra does not say which one it is."""
    given = next((one for one in overrides if one.partition("=")[2].lower() in ("null", "")), None)
    what = f"{given}: {reason}." if given else f"{reason}."
    return f"{what} Name one of the options that --help lists, such as env=wsi; joint=none leaves a stage out."


def _of_yaml(error: YAMLError) -> str:
    """Says in one line where a file of settings breaks the rules of YAML."""
    mark = error.problem_mark if isinstance(error, MarkedYAMLError) else None
    if mark is None:
        return f"A file of settings cannot be read: {_first_line(error)}. Mend it."
    return f"{mark.name}, line {mark.line + 1}: not YAML ({error.problem}). Mend this file, or uninstall its package."


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2]) if lines else type(error).__name__
