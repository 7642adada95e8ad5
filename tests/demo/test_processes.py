import subprocess
import sys
import time

import pytest

from tests.processes import command_line, kill

STARTS_ANOTHER = """
import subprocess, sys, time
from pipeline.demo.processes import end_with_parent
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"], preexec_fn=end_with_parent)
print(child.pid, flush=True)
time.sleep(100)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the system call is Linux's")
def test_a_child_ends_when_its_parent_is_killed() -> None:
    parent = subprocess.Popen([sys.executable, "-c", STARTS_ANOTHER], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    assert "time.sleep" in command_line(child)
    kill(parent.pid)
    parent.communicate()
    deadline = time.monotonic() + 20
    while command_line(child):
        assert time.monotonic() < deadline, "the child outlives its parent"
        time.sleep(0.05)
