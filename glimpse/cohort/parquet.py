"""Reads the table of a cohort from a Parquet file, as the texts that a CSV of it would hold."""

import math
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from glimpse.errors import MissingExtraError, UserError

SUFFIXES = (".parquet", ".pq")
_NARROW: dict[str, Any] = {"float": np.float32, "halffloat": np.float16}  # as pyarrow calls them

_BROKEN = (OSError, ValueError, OverflowError, NotImplementedError, TypeError, KeyError, RecursionError)


class ParquetError(UserError, ValueError):
    """A Parquet file cannot be read."""


def parquet_rows(path: Path) -> tuple[list[str], list[list[str]]]:
    """Returns the names of the columns of a Parquet file, and its rows as texts; what is null or NaN is empty.

    Raises:
        MissingExtraError: pyarrow is not installed; the message says how to install it.
        ParquetError: the file is missing or is no Parquet file.
    """
    try:
        parquet = import_module("pyarrow.parquet")
    except ImportError as error:
        raise MissingExtraError(
            f"{path}: Parquet needs the extra `parquet`, which is not installed or broken ({error}). "
            'Run: pip install "glimpse-rl[parquet]"; or give the cohort as a CSV.'
        ) from error
    try:
        table = parquet.ParquetFile(path).read()
        columns = [str(name) for name in table.column_names]
    except FileNotFoundError as error:
        raise ParquetError(f"{path}: no such file. Give the path of a Parquet file or CSV.") from error
    except _BROKEN as error:
        raise ParquetError(
            f"{path}: cannot be read as Parquet ({_reason(error)}). Write the file again, or a CSV."
        ) from error
    cells = []
    for name, column in zip(columns, table.columns, strict=True):
        try:
            cells.append(_texts(column))
        except _BROKEN as error:
            raise ParquetError(
                f"{path}: column {name!r} cannot be read as text ({_reason(error)}). Write it as text or as numbers, "
                "or leave it out."
            ) from error
    return columns, [list(row) for row in zip(*cells, strict=True)]


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")


def _texts(column: Any) -> list[str]:
    """Returns the cells of a column; numbers of single or half precision have the digits that tell them apart there."""
    kind = str(column.type).removeprefix("dictionary<values=").partition(",")[0]
    narrow = _NARROW.get(kind)
    values = column.to_pylist()
    return [_text(value if narrow is None or value is None else narrow(value)) for value in values]


def _text(value: Any) -> str:
    """Returns a value as a CSV would hold it: whole numbers have no point, even those of columns of floats."""
    if value is None or (isinstance(value, float | np.floating) and math.isnan(value)):
        return ""
    if isinstance(value, bytes):
        return value.decode("utf-8")
    if isinstance(value, bool):
        return str(int(value))
    return str(value).removesuffix(".0") if isinstance(value, float | np.floating) else str(value)
