"""Tests code that a model wrote, shut in so that it reaches nothing: no network, no files, no other process, no end.

What is asked of it is the task's; how it is shut in stands in `jail.py`, which runs as a script of its own.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from prunescope.pipelines.core.errors import ComputationError

Outcome = Literal["passed", "failed", "timed_out", "memory", "refused"]


@dataclass(frozen=True)
class Limits:
    """What a program may use.

    Attributes:
        seconds: until all its processes are killed, its tests included.
        cpu_seconds: of one process.
        memory_bytes: address space of one process.
        processes: how many it may be at once, threads counted.
        file_bytes: of one file, and of all files together.
        open_files: of one process.
        result_bytes: of one result that is handed to the tests.
    """

    seconds: float = 15
    cpu_seconds: int = 10
    memory_bytes: int = 512 * 2**20
    processes: int = 8
    file_bytes: int = 16 * 2**20
    open_files: int = 32
    result_bytes: int = 2**20


@dataclass(frozen=True)
class ExecutionVerdict:
    """How the tests of a program went, and why in a few words.

    `refused` says that this machine cannot shut a program in; nothing of it ran.
    """

    outcome: Outcome
    reason: str = ""


def passes(
    problem: str, completion: str, tests: str, entry_point: str, limits: Limits | None = None
) -> ExecutionVerdict:
    """Whether a completed program passes tests, in a jail of its own.

    The program runs in namespaces of users, mounts, processes, network, IPC and host name, without capabilities, under
    resource limits and a filter of system calls. It sees an empty folder of its own, the standard library and the
    system's shared libraries, read-only: no home, no /etc, no /proc, no installed packages, no environment. The tests
    run in another process, which calls the program's function through a pipe and reads plain values back: a program
    that leaves early, patches what it finds or prints what a passing one would has not passed. Its output is dropped.

    No library does it: the one that does, bubblewrap, is no part of the registry's trusted packages (there is only a
    rarely updated copy of its binary), and limits, filter and verdict would remain.

    Args:
        problem: code that can run as it is, such as a function with a docstring only; the tests may use what it
            defines.
        completion: what was written behind it.
        tests: code that calls the function by name and raises where a result is wrong.
        entry_point: the function's name.
        limits: what it may use.

    Raises:
        ComputationError: the jail could not be built, for a reason that is no `refused`.
    """
    limits = limits or Limits()
    if not sys.platform.startswith("linux"):
        return ExecutionVerdict("refused", f"code runs only in Linux's namespaces; this is {sys.platform}")
    with tempfile.TemporaryDirectory(prefix="prunescope-") as root:
        task = {
            "problem": problem,
            "program": problem + completion,
            "entry_point": entry_point,
            "limits": asdict(limits),
            "root": root,
        }
        # The tests follow on their own: they are read where the program is not.
        parts = [json.dumps(part).encode() for part in (task, {"tests": tests})]
        asked = b"".join(len(part).to_bytes(8, "little") + part for part in parts)
        # Sets come in the same order every time; nothing of the caller's environment goes along.
        environment = {"HOME": "/box", "TMPDIR": "/box", "PYTHONHASHSEED": "0", "PYTHONUTF8": "1"}
        process = subprocess.Popen(
            [sys.executable, "-P", "-s", "-S", "-B", str(Path(__file__).with_name("sandbox.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            cwd="/",
            start_new_session=True,
        )
        try:
            said, complaint = process.communicate(asked, limits.seconds)
        except subprocess.TimeoutExpired:
            return ExecutionVerdict("timed_out", f"not done after {limits.seconds:g} s")
        finally:
            _end(process)
    if not said:
        told = complaint.decode(errors="replace").strip().splitlines()
        raise ComputationError(f"the jail for a program broke: {told[-1] if told else 'it said nothing'}")
    return ExecutionVerdict(*json.loads(said))


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kills what is left: with the first process inside its namespace every other dies."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def refusal() -> str | None:
    """Why no program can be shut in on this machine; None where one can."""
    verdict = passes("def nothing():\n    pass\n", "", "nothing()", "nothing")
    return verdict.reason if verdict.outcome == "refused" else None
