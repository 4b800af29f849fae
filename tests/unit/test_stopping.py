"""What ends with the process that started it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

CHILD = """
import signal
from vtblender_nemo.common.stopping import stop_with_parent
stop_with_parent()
signal.signal(signal.SIGTERM, lambda *_: (print("told to stop", flush=True), exit()))
print("ready", flush=True)
while True:
    signal.pause()
"""
PARENT = f"""
import subprocess, sys
subprocess.run([sys.executable, "-c", {CHILD!r}])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a call of Linux")
def test_a_process_is_told_to_stop_when_its_parent_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "ready\n"
        os.kill(parent.pid, signal.SIGKILL)
        assert parent.stdout.readline() == "told to stop\n"
