"""docs/methods.md is current, and the docstring of every detector has all required parts."""

import inspect
import re
from pathlib import Path

import pytest
import torch

from lightning_ood.detectors import list_detectors
from lightning_ood.detectors.base import Detector
from lightning_ood.detectors.energy import Energy
from lightning_ood.detectors.feature_norm import FeatureNorm
from lightning_ood.detectors.line import LINe
from lightning_ood.detectors.odin import ODIN
from lightning_ood.detectors.react import ReAct
from lightning_ood.detectors.she import SHE
from tools.docs import METHODS, facts, main, methods, state_size
from tools.docs_references import entries, field, papers

MADE_OF_OTHERS = {"Search", "Fusion"}  # no paper of their own to deviate from


def test_the_page_is_current() -> None:
    assert METHODS.read_text(encoding="utf-8") == methods(), "run `python -m tools.docs methods --write`"


@pytest.mark.parametrize("kind", list_detectors().values(), ids=lambda kind: kind.__name__)
def test_a_detector_says_where_it_is_from_what_it_fits_and_deviates_in(kind: type[Detector]) -> None:
    module, text = inspect.getmodule(kind), " ".join((kind.__doc__ or "").split())
    assert module is not None and module.__doc__
    if kind.__name__ not in MADE_OF_OTHERS:
        assert re.search(r"https://", module.__doc__), "the paper"
        assert "eviation" in text
    assert re.search(r"\b[Ff]its?\b|\bfitted\b", text)
    assert not kind().requires_fit or "State: " in text or "State and cost: " in text
    section = METHODS.read_text(encoding="utf-8").partition(f"\n## {kind.__name__}\n")[2].partition("\n## ")[0]
    assert "``" not in section.replace("```", "") and ":class:" not in section
    for name in set(inspect.signature(kind.__init__).parameters) - {"self", "args", "kwargs"}:
        assert f"- `{name}`: " in section, f"{name} is not documented"


def test_every_detector_has_its_paper_in_the_references() -> None:
    """The address of an entry is the one that the detector's file names; a key stands once."""
    kinds, found = list_detectors(), papers()
    assert set(kinds) - set().union(*(detectors for detectors, _ in found)) == {"Search"}, "made of others"
    keys = [re.match(r"@\w+\{(\w+),", text)[1] for _, text in found]  # type: ignore[index]
    assert len(set(keys)) == len(keys)
    for detectors, text in found:
        assert all(field(text, name) for name in ("author", "title", "year")), text
        files = {inspect.getsourcefile(kinds[detector]) for detector in detectors}
        for file in files if field(text, "url") else ():
            assert field(text, "url") in Path(str(file)).read_text(encoding="utf-8"), (file, field(text, "url"))
    assert "Kun Fang, Qinghua Tao, Kexin Lv" in entries("CoRP")[0] and "NeurIPS" not in entries("NAP")[0]


def test_facts_are_found_by_setting_a_detector_up() -> None:
    assert facts(Energy) == ["score of the logits", "logits", "nothing", "0", "0", "0, 0"]
    assert facts(LINe)[:3] == ["shaping", "z and classifier", "training images with labels"]
    assert facts(FeatureNorm)[1:3] == ["maps of the blocks", "training images"] and facts(FeatureNorm)[-1] == "1, 0"
    assert facts(ODIN)[-1] == "0, 0" and facts(ReAct)[3] == facts(ReAct)[4] == "8.39 MB"


def test_state_is_what_is_declared() -> None:
    assert state_size(LINe, 2048, 1000) == 1000 * 2049 * 8
    assert state_size(SHE, 512, 10) == 10 * 513 * 8
    assert not torch.zeros(()).is_meta, "the sizes are found on the meta device, which is left again"


def test_check_fails_where_the_page_is_old(tmp_path) -> None:
    page = tmp_path / "docs" / "methods.md"
    with pytest.raises(SystemExit, match="not current"):
        main(["methods", "--check", "--path", str(page)])
    main(["methods", "--write", "--path", str(page)])
    main(["methods", "--check", "--path", str(page)])
    page.write_text(page.read_text() + "\nby hand")
    with pytest.raises(SystemExit, match="--write"):
        main(["methods", "--check", "--path", str(page)])
