"""Client of the sandbox that tests model-written code; `sandbox.py`, run as a script, is the other side."""

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
    """Resource limits of a program.

    Attributes:
        seconds: until all its processes are killed, its tests included.
        cpu_seconds: of one process.
        memory_bytes: address space of one process.
        processes: maximum number at once, threads included.
        file_bytes: of one file, and of all files together.
        open_files: of one process.
        result_bytes: of one result that the program returns to the tests.
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
    """Outcome of a program's tests, with a short reason; `refused`: this machine has no sandbox, nothing ran."""

    outcome: Outcome
    reason: str = ""


def run_tests(
    problem: str, completion: str, tests: str, entry_point: str, limits: Limits | None = None
) -> ExecutionVerdict:
    """Run tests on a completed program in a new sandbox.

    The program runs in namespaces of users, mounts, processes, network, IPC and host name, without capabilities, under
    resource limits and a filter of system calls. It sees an empty folder of its own, the standard library and the
    system's shared libraries, read-only: no home, no /etc, no /proc, no installed packages, no environment. The tests
    run in another process, which calls the program's function through a pipe and reads plain values back: a program
    that exits early, patches objects or prints a verdict has not passed. Its output is discarded.

    Of the libraries only bubblewrap isolates as much; PyPI has just a rarely updated copy of its binary, and limits,
    filter and verdict would still be needed.

    Args:
        problem: code that runs as it is, such as a function with a docstring only; the tests may use its definitions.
        completion: the model's continuation of the problem.
        tests: code that calls the function by name and raises where a result is wrong.
        entry_point: the function's name.
        limits: resource limits; None takes the defaults.

    Raises:
        ComputationError: the sandbox failed for a reason other than `refused`.
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
        # The tests are a second message, which the sandbox reads outside of the program's process.
        messages = [json.dumps(message).encode() for message in (task, {"tests": tests})]
        request = b"".join(len(message).to_bytes(8, "little") + message for message in messages)
        # A fixed hash seed fixes the order of sets; the caller's environment is not passed on.
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
            verdict, errors = process.communicate(request, limits.seconds)
        except subprocess.TimeoutExpired:
            return ExecutionVerdict("timed_out", f"not done after {limits.seconds:g} s")
        finally:
            # The first process of the namespace dies with the outermost one, and the kernel then kills all others.
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    if not verdict:
        lines = errors.decode(errors="replace").strip().splitlines()
        raise ComputationError(f"the sandbox for a program failed: {lines[-1] if lines else 'no message'}")
    return ExecutionVerdict(*json.loads(verdict))


def refusal() -> str | None:
    """Return why this machine has no sandbox; None where it has one."""
    verdict = run_tests("def nothing():\n    pass\n", "", "nothing()", "nothing")
    return verdict.reason if verdict.outcome == "refused" else None
