"""YAML that stands for more than it says, or for code, is refused at once."""

import time

import pytest
import yaml

from lightning_ood.errors import InputError
from lightning_ood.ops.plain_yaml import plain_yaml, read_yaml

NAMES = list(zip("abcdefgh", "bcdefghi", strict=True))
BOMB = "a: &a [x, x]\n" + "".join(f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in NAMES)
MERGES = "a: &a {k: 1}\n" + "".join(f"{new}: &{new} {{<<: [{', '.join([f'*{old}'] * 9)}]}}\n" for old, new in NAMES)
REFUSED = {
    "bomb": (BOMB, "aliases stand for more than"),
    "merges": (MERGES, "aliases stand for more than"),
    "cycle": ("a: &a [*a]", "aliases stand for more than"),
    "deep": ("[" * 10**5, "nest"),
    "long": ("x" * 10**7, "10000000 characters"),
    "code": ("!!python/object/apply:os.system [exit 1]", "could not determine a constructor"),
    "date": ("2024-13-01", "month must be in"),
    "digits": ("9" * 10**4, "a value cannot be read"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_at_once(name: str) -> None:
    text, message = REFUSED[name]
    began = time.process_time()
    with pytest.raises(InputError, match=f"config.yaml cannot be read as YAML .*{message}.*: correct it"):
        read_yaml(text, "config.yaml")
    assert time.process_time() - began < 1


def test_ordinary_aliases_and_merges_are_read() -> None:
    text = "a: &a {k: 1, rate: 1e-3}\nb: {<<: *a, other: [*a, *a]}\nc: 'R&D * 2'"
    assert plain_yaml(text) == yaml.safe_load(text)
    path = {"root": "caf\udce9"}  # no UTF-8
    assert plain_yaml(yaml.safe_dump(path, allow_unicode=True)) == path
