"""A process ends after the one that started it."""

import os
import signal
import subprocess
import sys

from tests.assets.tiny_study import ROOT

# A parent that is killed while its child still imports, and the child that reports its own end.
ORPHAN = """
import multiprocessing, os, signal, sys, time

def child(pipe):
    while os.getppid() == multiprocessing.parent_process().pid:
        time.sleep(0.05)
    from prunescope.assets.execution.signals import end_with_parent
    try:
        end_with_parent()
        while True:  # an interrupt in the moment before a long sleep would be noticed at its end
            time.sleep(0.05)
    except KeyboardInterrupt:
        os.write(pipe, b"interrupted")

if __name__ == "__main__":
    multiprocessing.get_context("fork").Process(target=child, args=(int(sys.argv[1]),)).start()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_child_whose_parent_was_killed_before_its_first_check_ends_too(tmp_path):
    reader, writer = os.pipe()
    script = tmp_path / "orphan.py"
    script.write_text(ORPHAN)
    environment = os.environ | {"PYTHONPATH": str(ROOT / ".src")}
    parent = subprocess.Popen([sys.executable, script, str(writer)], pass_fds=[writer], env=environment)
    os.close(writer)
    assert parent.wait(60) == -signal.SIGKILL
    with os.fdopen(reader, "rb") as told:
        assert told.read() == b"interrupted"
