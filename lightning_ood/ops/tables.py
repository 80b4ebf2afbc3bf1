"""CSV for people: a name that a spreadsheet would take for a formula is written as text, and read back as it was."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_ood.ops.files import write_text

if TYPE_CHECKING:
    import pandas as pd

_FORMULA = re.compile(r"'*[=+\-@\t\r]")  # a spreadsheet runs what begins so; an apostrophe before it says: text
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", re.IGNORECASE)


def as_text(value: Any) -> Any:
    """Returns a string with an apostrophe before it where a spreadsheet would run it; anything else as it is."""
    if isinstance(value, str) and _FORMULA.match(value) and not _NUMBER.fullmatch(value):
        return f"'{value}"
    return value


def as_named(value: Any) -> Any:
    """Undoes :func:`as_text`."""
    return value[1:] if isinstance(value, str) and value[:1] == "'" and _FORMULA.match(value) else value


def write_csv(table: pd.DataFrame, path: Path) -> Path:
    """Writes a table as CSV, atomically: numbers with ten digits, names and headers through :func:`as_text`."""
    safe = table.copy(deep=False)
    for column in safe.select_dtypes(exclude="number"):
        if any(as_text(value) != value for value in safe[column] if isinstance(value, str)):
            safe[column] = safe[column].map(as_text, na_action="ignore")
    safe.columns = [as_text(column) for column in safe.columns]
    return write_text(path, safe.to_csv(index=False, float_format="%.10g"))


def read_csv(path: Path, **options: Any) -> pd.DataFrame:
    """Reads what :func:`write_csv` wrote; a name such as ``NA`` stays a name, an empty cell is missing.

    Args:
        path: of the file.
        options: of ``pandas.read_csv``.
    """
    import pandas as pd

    table = pd.read_csv(path, **{"keep_default_na": False, "na_values": [""], **options})
    for column in table.select_dtypes(exclude="number"):
        table[column] = table[column].map(as_named, na_action="ignore")
    return table.rename(columns=as_named)
