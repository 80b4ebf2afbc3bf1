"""The page in a real browser, opened from disk: it sorts, filters, enlarges, fits narrow and wide screens."""

import html
import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from lightning_ood.report import accuracy, summarise, write_report

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)

WATCH = """<script>
var errors = [];
addEventListener("error", event => errors.push(event.message ?? "not loaded"), true);
addEventListener("securitypolicyviolation", event => errors.push("asked for " + event.blockedURI));
</script>"""

HARNESS = """<body><iframe id="narrow" src="page.html" width="400" height="900"></iframe>
<iframe id="wide" src="page.html" width="1600" height="900"></iframe><pre></pre>
<script>
const inside = name => document.getElementById(name).contentWindow;
const page = () => inside("wide").document;
const column = i => [...page().querySelectorAll("#metrics tbody tr")].filter(row => !row.hidden)
  .map(row => row.cells[i].dataset.value ?? row.cells[i].textContent);
const click = i => page().querySelectorAll("#metrics th button")[i].click();
const set = (id, key, value) => {
  page().getElementById(id)[key] = value;
  page().getElementById(id).dispatchEvent(new Event("input"));
};
onload = () => {
  const out = {};
  for (const name of ["narrow", "wide"]) {
    const root = inside(name).document.documentElement;
    out[name] = {width: root.clientWidth, needs: root.scrollWidth, errors: inside(name).errors};
  }
  for (const [name, i] of [["auroc", 3], ["fpr95", 4]]) {
    click(i); out[name] = column(i).map(Number);
    click(i); out[name + " again"] = column(i).map(Number);
  }
  click(0); out.detector = column(0);
  set("filter", "value", "NAP far"); out.filtered = [column(0), column(2)];
  out.count = page().getElementById("count").textContent;
  set("filter", "value", ""); set("group", "value", "near"); out.near = column(2);
  set("means", "checked", true); out.means = column(1);
  set("group", "value", "");
  const large = page().getElementById("large");
  out.open = [...page().querySelectorAll("figure button")].map(button => {
    button.click();
    const state = [large.open, large.querySelector("span").textContent, large.querySelector("img").src.slice(0, 15)];
    large.querySelector("img").click();
    return [...state, large.open];
  });
  document.querySelector("pre").textContent = JSON.stringify(out);
};
</script>"""


@pytest.fixture
def seen(scores, tmp_path):
    """What a browser finds on the page."""
    if BROWSER is None:
        pytest.skip("no Chromium on this machine")
    noise = np.random.default_rng(0).integers(0, 255, (8, 8, 3)).astype(np.uint8)
    summaries = {"nap": {"block": "last", "ratio.layer1.0": 0.9, "ratio.last": 1.1}, "msp": {"long": "x" * 500}}
    paths = write_report(
        tmp_path,
        scores,
        summarise(scores),
        accuracy=accuracy(scores),
        summaries=summaries,
        config="a: " + "b" * 500,
        costs={"nap": {"fit": 1, "test": 0}},
        read=lambda *_: Image.fromarray(noise),
    )
    page = paths[-1].read_text()
    (tmp_path / "page.html").write_text(page.replace("<head>", f"<head>{WATCH}", 1))
    (tmp_path / "harness.html").write_text(HARNESS)
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files", "--disable-extensions"]
    options += ["--enable-logging=stderr", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom"]
    command = [BROWSER, *options, (tmp_path / "harness.html").as_uri()]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert "CONSOLE" not in result.stderr, result.stderr
    found = re.search(r"<pre>(.+?)</pre>", result.stdout)
    assert found, result.stderr
    return json.loads(html.unescape(found[1]))


def test_page_in_a_browser(seen):
    for name, width in (("narrow", 400), ("wide", 1600)):
        assert seen[name]["errors"] == []
        assert width - 20 <= seen[name]["width"] <= width
        assert seen[name]["needs"] == seen[name]["width"]  # no sideways scrolling of the page
    assert len(seen["auroc"]) == 3 * (3 + 2)
    assert seen["auroc"] == sorted(seen["auroc"], reverse=True) == seen["auroc again"][::-1]
    assert seen["fpr95"] == sorted(seen["fpr95"])
    assert seen["fpr95 again"] == sorted(seen["fpr95"], reverse=True)
    assert seen["detector"] == sorted(seen["detector"])
    assert seen["filtered"] == [["nap"] * 3, ["far"] * 3]
    assert seen["count"] == "3 of 15 rows"
    assert seen["near"] == ["near"] * 6
    assert seen["means"] == ["mean"] * 3
    assert len(seen["open"]) == 7 + 3
    for was_open, text, source, is_open in seen["open"]:
        assert was_open and text and source in ("data:image/png;", "data:image/jpeg")
        assert not is_open
