"""docs/choose.md quotes committed tables: each cell is that of its source, and every detector named there exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lightning_ood.errors import InputError
from tests.helpers.runs import DETECTORS
from tools.docs import CHOOSE
from tools.docs_choose import filled

PAGE = CHOOSE.read_text(encoding="utf-8")
NOT_DETECTORS = {"evidence !", "digits_mobilenet", "data.val_ood", "finetune: means", "metrics.csv", "k"}


def test_every_quoted_cell_is_that_of_its_source() -> None:
    assert filled(PAGE, CHOOSE.parent) == PAGE, "run `python -m tools.docs choose --write`"
    assert len(re.findall(r"\d+\.\d", PAGE)) > 300


def test_numbers_stand_in_tables_alone() -> None:
    """What the text says in words cannot rot unseen, a number could."""
    prose = [line for line in PAGE.splitlines() if not line.startswith("|")]
    assert not re.findall(r"\d+\.\d", "\n".join(prose).replace("-100-12", ""))


def test_every_detector_it_names_has_a_config() -> None:
    named = set(re.findall(r"`([a-z_]+)`", PAGE)) - NOT_DETECTORS
    assert len(named) > 30
    assert not named - {path.stem for path in DETECTORS.glob("*.yaml")}


def test_a_cell_follows_its_source_and_a_wrong_quotation_is_refused(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("detector,dataset,group,auroc\nmsp,a,far,12.34\nmsp,mean,far,56.78\n")
    (tmp_path / "doubts.csv").write_text("detector,doubt\nmsp,why\n")
    (tmp_path / "table.md").write_text("| n | detector | far |\n| --- | --- | --- |\n| 9 | msp | **1.5** |\n")
    page = "| detector | A [far](metrics.csv) | [a](metrics.csv) | n 9: [far](table.md) |\n| --- | --- |\n| msp | 0 |\n"
    assert filled(page, tmp_path).splitlines()[-1] == "| msp | 56.8 ! | 12.3 ! | 1.5 |"
    for wrong in (page.replace("| msp", "| nap"), page.replace("[a]", "[b]"), page.replace("n 9", "n 8")):
        with pytest.raises(InputError, match=r"metrics\.csv|table\.md"):
            filled(wrong, tmp_path)
