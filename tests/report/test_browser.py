"""The page in a real browser, opened from disk: it sorts, filters, enlarges, fits narrow and wide screens."""

import html
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lightning_ood.report import RunResults, summarise, write_report

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)

WATCH = """<script>
var errors = [];
addEventListener("error", event => errors.push(event.message ?? "not loaded"), true);
addEventListener("securitypolicyviolation", event => errors.push("asked for " + event.blockedURI));
</script>"""

HARNESS = """<body><iframe id="narrow" src="page.html" width="400" height="900"></iframe>
<iframe id="wide" src="page.html" width="1400" height="900"></iframe><pre></pre>
<script>
const inside = name => document.getElementById(name).contentWindow;
const page = () => inside("wide").document;
const rows = () => [...page().querySelectorAll("#metrics tbody tr")].filter(row => !row.hidden);
const column = i => rows().map(row => row.children[i].dataset.value ?? row.children[i].textContent);
const names = () => rows().map(row => row.dataset.name);
const click = i => page().querySelectorAll("#metrics th button:not(tbody *)")[i].click();
const set = (id, key, value) => {
  page().getElementById(id)[key] = value;
  page().getElementById(id).dispatchEvent(new Event("input"));
};
const heads = () => [...page().querySelectorAll("#metrics thead th")].filter(head => !head.hidden)
  .map(head => head.textContent);
const one = () => {
  const root = page().getElementById("one");
  const widths = [...root.querySelectorAll(".plots svg")].map(svg => svg.getBoundingClientRect().width);
  return {title: root.querySelector("h3").textContent, widths, text: root.textContent,
    paths: root.querySelectorAll(".plots path").length,
    images: [...root.querySelectorAll("img")].filter(image => image.complete && image.naturalWidth).length};
};
onload = () => setTimeout(() => {
  const out = {};
  for (const name of ["narrow", "wide"]) {
    const root = inside(name).document.documentElement;
    const cells = [...inside(name).document.querySelectorAll("#metrics tbody tr:first-child td.value")]
      .map(cell => cell.getBoundingClientRect());
    out[name] = {width: root.clientWidth, needs: root.scrollWidth, errors: inside(name).errors,
      cells: cells.map(cell => [cell.left, cell.right]),
      plot: inside(name).document.querySelector("#one svg[role=img]").getBoundingClientRect().width};
  }
  out.start = names();
  click(1); out.worst = column(1).map(Number);
  click(1); out.best = column(1).map(Number);
  set("metric", "value", "fpr95"); out.fpr95 = column(1).map(Number);
  out.bold = [...page().querySelectorAll("#metrics td.best")].map(cell => +cell.dataset.value);
  set("ends", "checked", true); out.ends = rows()[0].children[2].textContent;
  set("group", "value", "far"); out.far = heads();
  set("group", "value", "");
  click(0); out.names = names();
  set("filter", "value", "NA"); out.filtered = names(); out.count = page().getElementById("count").textContent;
  set("filter", "value", "");
  set("sound", "checked", true); out.sound = names();
  set("sound", "checked", false);
  page().querySelector("[data-doubt=nap]").click();
  out.told = page().querySelector("#metrics tr.more").textContent;
  page().querySelector("[data-doubt=nap]").click();
  out.closed = page().querySelector("#metrics tr.more");
  page().querySelector("#metrics [data-detector=nap]").click(); out.nap = one();
  page().getElementById("after").click(); out.after = one();
  const paths = out.after.paths;
  page().querySelectorAll("#one .legend button")[1].click(); out.hidden = [paths, one().paths];
  document.querySelector("pre").textContent = JSON.stringify(out);
}, 300);
</script>"""


def browse(page, arguments):
    """Runs the browser without a window; returns what it printed and its log."""
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files", "--disable-extensions"]
    options += ["--hide-scrollbars", "--enable-logging=stderr", f"--user-data-dir={page.parent / 'profile'}"]
    command = [BROWSER, *options, *arguments, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


@pytest.fixture
def opened(scores, tmp_path):
    """A folder with a page that a browser can open."""
    if BROWSER is None:
        pytest.skip("no Chromium on this machine")
    noise = np.random.default_rng(0).integers(0, 255, (8, 8, 3)).astype(np.uint8)
    summaries = {"nap": {"block": "last", "ratio.layer1.0": 0.9, "ratio.last": 1.1}, "msp": {"long": "x" * 500}}
    results = RunResults(
        scores,
        summaries=summaries,
        config="a: " + "b" * 500,
        costs={"nap": {"fit": 1, "test": 0}},
        read=lambda *_: Image.fromarray(noise),
        doubts={"nap": ["its taps are wrong"]},
    )
    paths = write_report(results, tmp_path)
    page = paths[-1].read_text()
    (tmp_path / "page.html").write_text(page.replace("<head>", f"<head>{WATCH}", 1))
    (tmp_path / "harness.html").write_text(HARNESS)
    return tmp_path


@pytest.fixture
def seen(opened):
    """What a browser finds on the page."""
    result = browse(opened / "harness.html", ["--virtual-time-budget=3000", "--dump-dom"])
    assert "CONSOLE" not in result.stderr, result.stderr
    found = re.search(r"<pre>(.+?)</pre>", result.stdout)
    assert found, result.stderr
    return json.loads(html.unescape(found[1]))


def test_page_in_a_browser(seen, scores):
    for name, width in (("narrow", 400), ("wide", 1400)):
        assert seen[name]["errors"] == []
        assert width - 20 <= seen[name]["width"] <= width
        assert seen[name]["needs"] == seen[name]["width"]  # no sideways scrolling of the page
    assert all(0 <= left < right <= 400 for left, right in seen["narrow"]["cells"])  # five numbers, none cut
    assert seen["narrow"]["plot"] > 340 and seen["wide"]["plot"] > 600  # as large as the screen allows
    metrics = summarise(scores)
    sets = metrics[metrics["dataset"] != "mean"]
    means = sets.groupby("detector")[["auroc", "fpr95"]].mean()
    assert seen["start"] == list(means.sort_values("auroc", ascending=False).index)
    assert seen["worst"] == sorted(seen["worst"]) == seen["best"][::-1]
    assert seen["best"] == pytest.approx(sorted(means["auroc"], reverse=True), abs=0.01)
    assert seen["fpr95"] == pytest.approx(sorted(means["fpr95"]), abs=0.01)
    shown = [*(metrics.loc[metrics["dataset"] == name, "fpr95"].min() for name in ("eights", "photos", "textures"))]
    assert {round(value, 1) for value in shown} <= {round(value, 1) for value in seen["bold"]}
    assert re.fullmatch(r"\d+\.\d\d+\.\d.\d+\.\d", seen["ends"])
    assert seen["far"] == ["detector", "mean", "far mean", "photos", "textures", "extra fit", "extra test"]
    assert seen["names"] == ["energy", "msp", "nap"]
    assert (seen["filtered"], seen["count"]) == (["nap"], "1 of 3 detectors")
    assert seen["sound"] == ["energy", "msp"]
    assert seen["told"] == "its taps are wrong" and seen["closed"] is None


def test_one_detector_at_a_time(seen):
    nap, after = seen["nap"], seen["after"]
    assert nap["title"] == "nap" and after["title"] != "nap"
    assert "its taps are wrong" in nap["text"] and "its taps are wrong" not in after["text"]
    assert "layer1.0" in nap["text"] and "last (chosen)" in nap["text"]
    assert len(nap["widths"]) == 3 and len(after["widths"]) == 2
    assert nap["images"] == after["images"] == 20
    before, hidden = seen["hidden"]
    assert hidden == before - 2  # one curve less in each plot


@pytest.mark.parametrize("mode", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1400])
def test_pictures_of_the_page(opened, width, mode):
    """Kept where TEST_ARTIFACTS names a folder, to be looked at."""
    folder = Path(os.environ.get("TEST_ARTIFACTS", opened))
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"page-{width}-{mode}.png"
    frame = opened / "frame.html"
    frame.write_text(
        f'<body style="margin: 0"><iframe src="page.html" width="{width}" height="3400" style="border: 0">'
    )
    dark = ["--blink-settings=preferredColorScheme=0"] if mode == "dark" else []
    browse(frame, [*dark, f"--screenshot={file}", f"--window-size={max(width, 500)},3400"])
    pixels = np.asarray(Image.open(file).convert("L"))[:, :width]
    background = np.bincount(pixels.ravel()).argmax()
    assert background > 240 if mode == "light" else background < 40
    assert (np.abs(pixels.astype(int) - int(background)) > 60).mean() > 0.01  # something is drawn
