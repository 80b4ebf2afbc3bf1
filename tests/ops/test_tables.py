"""CSV that a spreadsheet does not run, and that is read back as it was."""

import csv

import pandas as pd
import pytest

from lightning_ood.ops.tables import as_named, as_text, read_csv, write_csv

HOSTILE = ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "'=1", "''@x"]
HARMLESS = ["msp", "far/photos", "-0.5", "+1e-3", "-.5", "", "'quoted'", "a=b", "NA", "nan", "null"]


@pytest.mark.parametrize("name", [*HOSTILE, *HARMLESS])
def test_every_name_comes_back(name: str) -> None:
    assert as_named(as_text(name)) == name
    assert (as_text(name) == name) == (name in HARMLESS)


def test_a_table_comes_back(tmp_path) -> None:
    names = [name for name in (*HOSTILE, *HARMLESS) if name and "\r" not in name]  # a line ends with one
    table = pd.DataFrame({"detector": names, "=auroc": -99.123456789, "n": range(len(names))})
    path = write_csv(table, tmp_path / "table.csv")
    with path.open(newline="") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert not {*HOSTILE, "=auroc"} & set(cells), "nothing that a spreadsheet runs"
    pd.testing.assert_frame_equal(read_csv(path, dtype={"detector": str}), table, check_dtype=False)
