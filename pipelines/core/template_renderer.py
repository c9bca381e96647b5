"""Rendering of templates from other people in a child process with limits of time, memory and length. No torch here.

Jinja's sandbox keeps a template from Python's objects, but not from loops, `'a' * 10**9` or a wide format, and much of
that runs inside single calls that nothing in the same process can stop. The kernel's limits hold for all of it.
"""

import atexit
import json
import os
import select
import subprocess
import sys
import time
from collections import defaultdict
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any, Literal

from prunescope.pipelines.core.errors import ComputationError

Kind = Literal["chat", "task"]
# Templates of published models take milliseconds for a text and write little more than the text.
SECONDS = 5
# Of all texts of one template together, beyond a tenth of a second for each.
TOTAL_SECONDS = 60
_USUAL_SECONDS = 0.1
MEMORY = 512 * 2**20
MAX_LENGTH = 10_000_000
# Until the libraries are imported, on a busy machine.
_START_SECONDS = 120
_ENVIRONMENT = ("PATH", "HOME", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "SYSTEMROOT", "TMPDIR")


class TemplateFailedError(Exception):
    """A template that is wrong, such as by an undefined variable, or exceeds a limit; the reason is one line."""


def render(kind: Kind, template: str, variables: dict[str, Any]) -> str:
    """Render a template in the child process for its kind, which is started at the first use.

    Args:
        kind: `chat`: a model's chat template, by transformers; `task`: a template of lm-eval's.
        template: the Jinja template.
        variables: of the template, or arguments of transformers' renderer; JSON values.

    Raises:
        TemplateFailedError: the template is wrong, or exceeds a limit.
        ComputationError: the process cannot be started.
    """
    worker = _worker(kind, os.getpid())
    if worker.excess[template] > TOTAL_SECONDS:
        raise TemplateFailedError(f"it takes over {TOTAL_SECONDS} seconds for all texts")
    worker.start()
    started = time.monotonic()
    answer = worker.ask(json.dumps({"template": template, "variables": variables}))
    worker.excess[template] += max(0.0, time.monotonic() - started - _USUAL_SECONDS)
    if "error" in answer:
        raise TemplateFailedError(answer["error"])
    return str(answer["text"])


def is_plain(variables: dict[str, Any]) -> bool:
    """Return whether variables arrive in the child process as they are."""
    try:
        return bool(json.loads(json.dumps(variables)) == variables)
    except (TypeError, ValueError, RecursionError):
        return False


@cache
def _worker(kind: Kind, process: int) -> "_Worker":  # noqa: ARG001 (a forked process needs workers of its own)
    return _Worker(kind)


class _Worker:
    """The child process of one kind; a process that exceeded a limit is replaced at the next use.

    Attributes:
        excess: seconds by template, beyond the usual ones for each text.
    """

    def __init__(self, kind: Kind) -> None:
        self.excess: dict[str, float] = defaultdict(float)
        self._kind, self._lock = kind, Lock()
        self._process: subprocess.Popen[bytes] | None = None
        atexit.register(self._stop)

    def start(self) -> None:
        """Start the process where none runs.

        Raises:
            ComputationError: it does not start.
        """
        with self._lock:
            self._started()

    def ask(self, request: str) -> dict[str, str]:
        """Send a request and return the answer."""
        with self._lock:
            process = self._started()
            try:
                _write(process, f"{request}\n".encode(), time.monotonic() + _START_SECONDS)
                line = _line(process, time.monotonic() + SECONDS)
            except TimeoutError:
                self._stop()
                return {"error": f"it takes over {SECONDS} seconds for one text"}
            except BaseException:
                self._stop()
                raise
            if not line.endswith(b"\n"):
                self._stop()
                return {"error": "it exceeds the limits of memory, time or length"}
            answer: dict[str, str] = json.loads(line)
            return answer

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is None:
            return self._process
        self._stop()
        limits = [str(limit) for limit in (SECONDS, MEMORY, MAX_LENGTH)]
        environment = {key: os.environ[key] for key in _ENVIRONMENT if key in os.environ}
        # Threads of numpy's would reserve memory.
        environment |= {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "PYTHONUTF8": "1", "HF_HUB_OFFLINE": "1"}
        process = subprocess.Popen(
            [sys.executable, "-P", str(Path(__file__).with_name("template_worker.py")), self._kind, *limits],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,  # Ctrl-C is for the parent, which stops the worker
        )
        self._process = process
        try:
            is_ready = _line(process, time.monotonic() + _START_SECONDS) == b"ready\n"
        except TimeoutError:
            is_ready = False
        if not is_ready:
            self._stop()
            raise ComputationError("the process that renders templates does not start; install prunescope again")
        return process

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()


def _write(process: subprocess.Popen[bytes], content: bytes, deadline: float) -> None:
    """Write all bytes to a process that reads before it answers."""
    descriptor = _number(process.stdin)
    view = memoryview(content)
    while view:
        if not select.select([], [descriptor], [], max(0.0, deadline - time.monotonic()))[1]:
            raise TimeoutError
        try:
            view = view[os.write(descriptor, view[: select.PIPE_BUF]) :]
        except BrokenPipeError:
            return  # the answer's end shows it


def _line(process: subprocess.Popen[bytes], deadline: float) -> bytes:
    """Return the process's next line; without a line feed where the process ended or wrote too much."""
    descriptor, parts, length = _number(process.stdout), list[bytes](), 0
    # A character takes up to 12 bytes of JSON.
    while length <= 12 * MAX_LENGTH + 100:
        if not select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))[0]:
            raise TimeoutError
        part = os.read(descriptor, 2**20)
        parts.append(part)
        length += len(part)
        if not part or part.endswith(b"\n"):
            break
    return b"".join(parts)


def _number(stream: Any) -> int:  # noqa: ANN401 (a pipe that Popen types as optional)
    return int(stream.fileno())
