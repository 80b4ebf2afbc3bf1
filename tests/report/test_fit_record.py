"""The record of a fit for loggers: written, read back, and never in the way of a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from lightning_ood.report.fit_record import FILE, FitRecord, read_record, write_record


def test_it_is_read_as_written(tmp_path: Path) -> None:
    assert read_record(tmp_path) == FitRecord()
    record = FitRecord({"cost/fit_seconds": 1.5}, "abc", "group-checkpoint")
    write_record(tmp_path, record)
    assert read_record(tmp_path) == record


@pytest.mark.parametrize("content", ["{", "[]", '{"usage": 3}', '{"usage": {"a": "b"}}', '{"run_id": 4}', "\0"])
def test_a_damaged_record_ends_no_run(content: str, tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(content)
    with pytest.warns(UserWarning, match=f"{FILE} is damaged: the run goes on"):
        assert read_record(tmp_path) == FitRecord()
