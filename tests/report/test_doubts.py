"""Doubts beside the rows: in the terminal, on the page, in doubts.csv and in a logger's run."""

import io
import json

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from lightning_ood.report import RunResults, log_run, print_table, summarise
from lightning_ood.report.doubts import all_doubts, doubts_table, read_doubts, write_doubts
from lightning_ood.report.page import render_page
from lightning_ood.report.publish import publish
from tests.helpers.wandb_files import read

SAID = {"nap": ["it scores jigsaws above images; leave it out", 'a "second", with a comma'], "msp": []}


def test_scores_that_are_all_or_mostly_the_same(scores):
    scores = scores.assign(energy=0.0, msp=np.where(np.arange(len(scores)) % 4, 1.0, scores["msp"]))
    found = all_doubts(scores, SAID)
    assert "all ID test images the same score" in found["energy"][0]
    assert "it gives 75% of the ID test images" in found["msp"][0]
    assert found["nap"] == SAID["nap"]


@pytest.mark.parametrize("width", [80, 200])
def test_terminal(scores, width):
    console = Console(width=width, file=io.StringIO())
    print_table(summarise(scores), 94.0, console, doubts=SAID)
    text = console.file.getvalue()
    lines = text.splitlines()
    assert any(line.startswith("nap ! ") for line in lines)
    assert not any(line.startswith("msp ") and "!" in line for line in lines)
    assert "nap: it scores jigsaws above images" in text
    assert max(map(len, lines)) <= width
    print_table(summarise(scores), 94.0, plain := Console(width=width, file=io.StringIO()), doubts={"nap": []})
    assert "doubt" not in plain.file.getvalue().lower()


def test_file(tmp_path):
    assert read_doubts(tmp_path) == {}
    write_doubts(SAID, tmp_path)
    assert read_doubts(tmp_path) == {"nap": SAID["nap"]}
    write_doubts({}, tmp_path)
    assert (tmp_path / "doubts.csv").read_text() == "detector,doubt\n"


def test_page(scores):
    page = render_page(RunResults(scores, doubts={"nap": ["<b>bold</b> claim"], "msp": ["<b>bold</b> claim"]}))
    assert '<section id="doubts">' in page and "&lt;b&gt;bold&lt;/b&gt; claim" in page
    assert "<b>msp, nap</b>" in page or "<b>nap, msp</b>" in page  # one sentence about both
    row = page.split('<tr data-name="nap">')[1].split("</tr>")[0]
    assert 'data-doubt="nap"' in row and "1 !" in row
    assert "data-doubt" not in page.split('<tr data-name="energy">')[1].split("</tr>")[0]
    assert "Doubtful" not in render_page(RunResults(scores))


def test_published_and_shown_again_from_the_file(scores, tmp_path, capsys):
    results = RunResults(scores, doubts=SAID)
    results.save(tmp_path)
    publish(results, tmp_path)
    assert "jigsaws" in capsys.readouterr().out
    assert "jigsaws" in (tmp_path / "report" / "index.html").read_text()
    publish(RunResults.load(tmp_path, scores), tmp_path)
    assert "jigsaws" in capsys.readouterr().out
    publish(RunResults.load(tmp_path, scores.drop(columns="nap")), tmp_path)
    assert "jigsaws" not in capsys.readouterr().out
    assert pd.read_csv(tmp_path / "doubts.csv")["doubt"].tolist() == SAID["nap"]


def test_offline_wandb_run(scores, tmp_path, monkeypatch, wandb_anew):
    from lightning.pytorch.loggers import WandbLogger

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path))
    logger = WandbLogger(project="test", save_dir=tmp_path, offline=True)
    log_run([logger], RunResults(scores, doubts=SAID))
    logger.experiment.finish()
    run = read(next(tmp_path.glob("wandb/offline-run-*")))
    assert run.summary["doubts/nrows"] == len(doubts_table(SAID)) == 2
    table = json.loads((run.folder / "files" / run.summary["metrics/path"]).read_text())
    rows = pd.DataFrame(table["data"], columns=table["columns"])
    assert set(rows.loc[rows["detector"] == "nap", "doubts"]) == {2}
    assert set(rows.loc[rows["detector"] == "msp", "doubts"]) == {0}
