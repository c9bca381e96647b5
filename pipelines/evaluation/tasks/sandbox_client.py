"""Client of the sandbox for model-written code: it runs the script `sandbox.py` in bubblewrap."""

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from prunescope.pipelines.core.errors import ComputationError

Outcome = Literal["passed", "failed", "timed_out", "memory", "refused"]

# The only writable folder.
_FOLDER = "/box"
# A fixed hash seed fixes the order of sets. The caller's environment is not passed on.
_ENVIRONMENT = {"HOME": _FOLDER, "TMPDIR": _FOLDER, "PYTHONHASHSEED": "0", "PYTHONUTF8": "1"}
# What the interpreter loads; visible inside, read-only.
_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/nix/store", "/etc/ld.so.cache")
# User that replaces root inside. Each process gets another one, because the limit counts all processes of a user.
_FIRST_USER = 1_000_000


@dataclass(frozen=True)
class Limits:
    """Resource limits of a program.

    Attributes:
        seconds: time until all its processes are killed, its tests included.
        cpu_seconds: processor time of one process.
        memory_bytes: address space of one process.
        processes: maximum number of processes and threads at the same time.
        file_bytes: size of one file, and of all files together.
        open_files: open files of one process.
        result_bytes: size of one result that the program returns to the tests.
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
    """Outcome of a program's tests, with a short reason; `refused` means that no sandbox works here and nothing ran."""

    outcome: Outcome
    reason: str = ""


def run_tests(
    problem: str, completion: str, tests: str, entry_point: str, limits: Limits | None = None
) -> ExecutionVerdict:
    """Run tests on a completed program in a new sandbox.

    bubblewrap gives the program its own namespaces without network, an empty folder, and Python's and the system's
    libraries, read-only. It sees no home, no other process and no environment. `sandbox.py` adds resource limits and a
    filter of system calls. The tests run in another process, which calls the program's function through a pipe and
    reads plain values back. So a program that exits early, patches objects or prints a verdict does not pass. Its
    output is discarded.

    The program is a `problem`, code that runs as it is, such as a function with only a docstring, and the model's
    `completion` of it. The tests may use the problem's definitions. They call the function `entry_point` by name, and
    raise if a result is wrong.

    Raises:
        ComputationError: the sandbox failed for a reason other than `refused`.
    """
    limits = limits or Limits()
    bubblewrap = shutil.which("bwrap")
    if bubblewrap is None:
        return ExecutionVerdict("refused", "bubblewrap is missing; install it on Linux: apt-get install bubblewrap")
    task = {
        "problem": problem,
        "program": problem + completion,
        "entry_point": entry_point,
        "limits": asdict(limits),
        "user": _FIRST_USER + os.getpid(),
    }
    # The tests are a second line, which the sandbox reads outside the program's process.
    request = f"{json.dumps(task)}\n{json.dumps({'tests': tests})}\n".encode()
    process = subprocess.Popen(
        [bubblewrap, *_isolation(limits), *_interpreter()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=_ENVIRONMENT,
        start_new_session=True,
    )
    try:
        verdict, errors = process.communicate(request, limits.seconds)
    except subprocess.TimeoutExpired:
        return ExecutionVerdict("timed_out", f"not done after {limits.seconds:g} s")
    finally:
        # The first process of the namespace is in this group. The kernel kills all others with it.
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    if verdict:
        return ExecutionVerdict(*json.loads(verdict))
    if lines := errors.decode(errors="replace").strip().splitlines():
        if lines[-1].startswith("bwrap: "):
            return ExecutionVerdict("refused", f"bubblewrap cannot isolate programs on this machine ({lines[-1]})")
        raise ComputationError(f"the sandbox for a program failed: {lines[-1]}")
    # bubblewrap returns 128 plus the number of the signal that ended its child; the limit sends one of these.
    if process.returncode in (128 + signal.SIGKILL, 128 + signal.SIGXCPU):
        return ExecutionVerdict("timed_out", "the tests used up their processor time")
    return ExecutionVerdict("failed", "the tests were ended before their verdict")


def _isolation(limits: Limits) -> list[str]:
    """Return bubblewrap's options for namespaces, rights and files."""
    options = "--unshare-ipc --unshare-pid --unshare-net --unshare-uts --unshare-cgroup-try --as-pid-1"
    options += " --die-with-parent --cap-drop ALL"
    if Path("/proc/self/uid_map").read_text(encoding="ascii").split() == ["0", "0", "4294967295"] and not os.geteuid():
        options += " --cap-add CAP_SETUID --cap-add CAP_SETGID"  # the script gives them up with the user
    else:
        options += " --unshare-user --uid 1000 --gid 1000"
    options += f" --perms 0777 --size {limits.file_bytes} --tmpfs {_FOLDER} --chdir {_FOLDER}"
    return options.split()


def _interpreter() -> list[str]:
    """Return bubblewrap's other options and the command: this interpreter with the script, in a read-only root."""
    python, script = str(Path(sys.executable).resolve()), str(Path(__file__).with_name("sandbox.py"))
    shown = [*_LIBRARIES, f"{sys.base_prefix}/lib", python]
    # bubblewrap itself would create the parents for root only.
    parents = dict.fromkeys(str(parent) for path in shown for parent in reversed(Path(path).parents))
    options = [part for path in parents for part in ("--dir", path)]
    options += [part for path in shown for part in ("--ro-bind-try", path, path)]
    options += ["--dev-bind", os.devnull, os.devnull, "--ro-bind", script, "/sandbox.py", "--remount-ro", "/"]
    return [*options, python, "-P", "-s", "-S", "-B", "/sandbox.py"]


def refusal() -> str | None:
    """Return why this machine has no sandbox; None if it has one."""
    verdict = run_tests("def nothing():\n    pass\n", "", "nothing()", "nothing")
    return verdict.reason if verdict.outcome == "refused" else None
