"""Freed memory is used again without asking the system."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, torch
from pipeline.training.memory import keep_freed_memory
keep_freed_memory()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.empty(16 << 20).fill_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(*(faults() for _ in range(40)))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left alone")
def test_a_large_tensor_after_another_takes_no_new_pages():
    out = subprocess.run([sys.executable, "-c", PROGRAM], check=True, capture_output=True, text=True, timeout=120)
    counts = [int(count) for count in out.stdout.split()]
    # the heap grows a few times before it has a hole of every size that is asked for
    assert counts[0] > 10_000 and max(counts[-10:]) < 100
