"""``leaderboard`` on runs that are nothing but their small files, and its page in a browser."""

from __future__ import annotations

import html
import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from lightning_ood.commands.cli import main
from lightning_ood.report import summarise, write_metrics
from lightning_ood.report.doubts import write_doubts
from lightning_ood.report.provenance import image_lists, write_provenance
from tests.helpers.scores import make_scores
from tests.report.test_browser import BROWSER, WATCH, browse

SETS = [("eights", "near"), ("photos", "far"), ("textures", "far")]
EVIL = "<script>errors.push('ran')</script>"
PAPERS = f"""id,network,method,sets,source,auroc,fpr95
digits,LeNet,NAP,eights,"{EVIL}, 2020",99.5,1
digits,LeNet,NAP,photos+textures,"{EVIL}, 2020",12.5,
digits,LeNet,Other,svhn,A paper,1,1
letters,LeNet,Foreign,eights,A paper,1,1
"""


def write_run(folder: Path, scores: pd.DataFrame, name: str = "net") -> None:
    """The small files of a run."""
    network = {"network": name, "weights": "w.pt", "weights_sha256": "ab" * 32, "fitted_on": "0", "command": "train"}
    write_metrics(summarise(scores), folder)
    write_doubts({"nap": ["its taps are wrong"]}, folder)
    write_provenance(
        folder, scores, lambda *_: Image.new("RGB", (2, 2)).tobytes(), network, {"nap": {"fit": 1, "test": 0}}
    )


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pd.DataFrame:
    """a and b on the same images, c on fewer textures; b is better."""
    monkeypatch.chdir(tmp_path)
    scores = make_scores(["msp", "energy", "nap"], SETS)
    write_run(Path("a"), scores, name=EVIL)
    shift = (scores["role"] == "id") * 1.5
    write_run(Path("b"), scores.assign(**{name: scores[name] + shift for name in ("msp", "energy", "nap")}))
    write_run(Path("c"), scores[(scores["dataset"] != "textures") | (scores["index"] < 30)])
    Path("papers.csv").write_text(PAPERS)
    return scores


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as stop:
        main(["leaderboard", *arguments, "--out", "site"])
    said = capsys.readouterr().err
    assert stop.value.code == 2 and said.count("\n") == 1
    return said


def test_runs_on_different_images_are_in_different_tables(
    runs: pd.DataFrame, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["leaderboard", "a", "b", "other=c", "--out", "site"])
    said, page = capsys.readouterr().out, Path("site/index.html").read_text()
    assert re.search(r"textures is 40 images \(\w{12}\) in a, b, 30 images \(\w{12}\) in other", said)
    assert "digits 60, eights 40, photos 40, textures 40: a, b" in said and page.count('<section class="board"') == 2
    assert EVIL not in page and html.escape(EVIL, quote=True) in page.replace("&#39;", "&#x27;")
    assert "://" not in page  # self-contained
    main(["leaderboard", "a", "b", "--out", "site"])
    assert "different images" not in capsys.readouterr().out


def test_hashes_of_lists(runs: pd.DataFrame) -> None:
    def hashes(scores: pd.DataFrame, pixel: int = 0) -> list[str]:
        return [x["sha256"] for x in image_lists(scores, lambda *_: Image.new("RGB", (2, 2), (pixel,) * 3).tobytes())]

    first = hashes(runs)
    moved = runs.assign(path=["/elsewhere/" + path if path else None for path in runs["path"]])
    assert hashes(moved.sample(frac=1, random_state=0).sort_values("dataset")) == first  # another root and order
    assert hashes(runs.assign(label=runs["label"].where(runs["index"] != 3, 1)))[0] != first[0]
    assert [a == b for a, b in zip(hashes(runs, 1), first, strict=True)] == [True, False, False, False]


def test_damaged_runs_are_refused(runs: pd.DataFrame, capsys: pytest.CaptureFixture[str]) -> None:
    assert "there is no such folder" in refused(capsys, "z")
    assert "there is a run a already; write another name, NAME=" in refused(capsys, "a", "a=b")
    metrics = pd.read_csv("a/metrics.csv")
    metrics[1:].to_csv("a/metrics.csv", index=False)
    assert "has not each set once" in refused(capsys, "a")
    metrics.assign(auroc=101).to_csv("a/metrics.csv", index=False)
    assert "metrics.csv, line 2: auroc is '101'; write a number from 0 to 100" in refused(capsys, "a")
    metrics.to_csv("a/metrics.csv", index=False)
    Path("a/provenance.json").write_text(Path("c/provenance.json").read_text())
    assert "counts 60 ID and 40 OOD images, and provenance.json 60 and 30" in refused(capsys, "a")
    Path("a/provenance.json").write_text('{"images": [1], "network": 3}')
    assert "is damaged or of another version" in refused(capsys, "a")
    Path("a/provenance.json").unlink()
    assert "says which images were scored: run test again" in refused(capsys, "a")
    Path("papers.csv").write_text("id,network\n1,2\n")
    assert "papers.csv lacks method, sets, source" in refused(capsys, "b", "--published", "papers.csv")


HARNESS = """<body><iframe id="narrow" src="page.html" width="400" height="900"></iframe>
<iframe id="wide" src="page.html" width="1400" height="900"></iframe><pre></pre>
<script>
const page = () => document.getElementById("wide").contentWindow.document;
const rows = () => [...page().querySelectorAll("table.grid tbody tr")].filter(row => !row.hidden);
const names = () => rows().map(row => row.dataset.name + " " + (row.className || row.dataset.run));
const set = (name, key, value) => {
  const control = page().querySelector(".controls ." + name);
  control[key] = value;
  control.dispatchEvent(new Event("input"));
};
const head = i => page().querySelectorAll("table.grid thead button")[i].click();
onload = () => setTimeout(() => {
  const out = {start: names(), ranks: [...page().querySelectorAll(".rank")].map(node => node.textContent)};
  for (const name of ["narrow", "wide"]) {
    const inside = document.getElementById(name).contentWindow, root = inside.document.documentElement;
    out[name] = {width: root.clientWidth, needs: root.scrollWidth, errors: inside.errors};
  }
  head(2); out.eights = names();
  head(2); out.worst = names();
  set("metric", "value", "fpr95"); out.fpr95 = rows().map(row => row.children[2].querySelector("span").textContent);
  set("papers", "checked", false); out.own = names().length;
  set("run", "value", "b"); out.run = names();
  set("sound", "checked", true); out.sound = names().length;
  set("filter", "value", "ENER"); out.filtered = names(); out.count = page().querySelector(".count").textContent;
  document.querySelector("pre").textContent = JSON.stringify(out);
}, 200);
</script>"""


@pytest.fixture
def opened(runs: pd.DataFrame, tmp_path: Path) -> Path:
    if BROWSER is None:
        pytest.skip("no Chromium on this machine")
    main(["leaderboard", "a", "b", "--published", "papers.csv", "--out", "site", "--title", EVIL])
    page = Path("site/index.html").read_text()
    (tmp_path / "page.html").write_text(page.replace("<head>", f"<head>{WATCH}", 1))
    return tmp_path


def test_page_in_a_browser(opened: Path, runs: pd.DataFrame) -> None:
    (opened / "harness.html").write_text(HARNESS)
    result = browse(opened / "harness.html", ["--virtual-time-budget=3000", "--dump-dom"])
    found = re.search(r"<pre>(\{.+?)</pre>", result.stdout)
    assert found and "CONSOLE" not in result.stderr, result.stderr
    seen: dict[str, Any] = json.loads(html.unescape(found[1]))
    for name, width in (("narrow", 400), ("wide", 1400)):
        assert seen[name]["errors"] == [] and width - 20 <= seen[name]["width"] <= width
        assert seen[name]["needs"] == seen[name]["width"]  # no sideways scrolling of the page
    means = {run: pd.read_csv(f"{run}/metrics.csv").query("dataset != 'mean'") for run in "ab"}
    order = {f"{name} {run}": rows["auroc"].mean() for run in "ab" for name, rows in means[run].groupby("detector")}
    assert seen["start"] == [*sorted(order, key=order.__getitem__, reverse=True), "NAP published"]  # no mean over all
    assert seen["ranks"] == list("123456")
    assert seen["eights"][0] == "NAP published" and len(seen["eights"]) == 7
    assert seen["worst"] == seen["eights"][::-1]
    fpr95 = [float(text) for text in seen["fpr95"]]
    assert fpr95 == sorted(fpr95) and fpr95[0] == 1.0
    assert seen["own"] == 6 and {name[-1] for name in seen["run"]} == {"b"} and len(seen["run"]) == 3
    assert seen["sound"] == 2 and seen["filtered"] == ["energy b"] and seen["count"] == "1 of 6 results"


@pytest.mark.parametrize("width", [400, 1400])
def test_pictures_of_the_page(opened: Path, width: int) -> None:
    """Kept where TEST_ARTIFACTS names a folder, to be looked at."""
    folder = Path(os.environ.get("TEST_ARTIFACTS", opened))
    file, frame = folder / f"leaderboard-{width}.png", opened / "frame.html"
    frame.write_text(
        f'<body style="margin: 0"><iframe src="page.html" width="{width}" height="1500" style="border: 0">'
    )
    browse(frame, [f"--screenshot={file}", f"--window-size={max(width, 500)},1500"])
    pixels = np.asarray(Image.open(file).convert("L"))[:, :width]
    assert np.bincount(pixels.ravel()).argmax() > 240 and (pixels < 180).mean() > 0.01  # something is drawn
