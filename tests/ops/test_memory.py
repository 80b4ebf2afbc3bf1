"""Freed memory is kept: the next block of the same size costs no page fault."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PROGRAM = """
import resource
from lightning_ood.ops.memory import keep_freed_memory
kept = keep_freed_memory()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = bytearray(b"x") * (64 << 20)
    del block
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(kept, [faults() for _ in range(4)][-1])
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="page faults are counted on Linux")
@pytest.mark.parametrize("setting", [{}, {"MALLOC_TOP_PAD_": "131072"}])
def test_the_next_block_costs_no_page_fault_unless_the_user_chose(setting: dict[str, str]) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")} | setting
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True)
    kept, faults = done.stdout.split()
    if not setting and kept == "False":
        pytest.skip("the C library is not glibc")
    assert (kept, int(faults) < 100) == ("False" if setting else "True", not setting)
