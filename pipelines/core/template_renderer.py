"""Rendering of templates from files in a child process with limits of time, memory and length. No torch here.

Jinja's sandbox keeps a template from Python's objects, but not from loops, `'a' * 10**9` or a wide format, and much of
that runs inside single calls that nothing in the same process can stop. The kernel's limits hold for all of it.
"""

import atexit
import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any, Literal

from prunescope.pipelines.core.errors import ComputationError

Kind = Literal["chat", "task"]
# Limit of processor time. Published templates take milliseconds per text and write little more than the text.
SECONDS = 5
MEMORY = 512 * 2**20
MAX_LENGTH = 10_000_000
# Tokens and passwords are not among them.
_ENVIRONMENT = ("PATH", "HOME", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "TMPDIR")


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
    answer = _worker(kind, os.getpid()).ask(json.dumps([template, variables]))
    if "error" in answer:
        raise TemplateFailedError(answer["error"])
    return answer["text"]


@cache
def _worker(kind: Kind, process: int) -> "_Worker":  # noqa: ARG001 (a forked process needs workers of its own)
    return _Worker(kind)


class _Worker:
    """The child process of one kind; a process that exceeded a limit is replaced at the next use."""

    def __init__(self, kind: Kind) -> None:
        self._kind, self._lock = kind, Lock()
        self._process: subprocess.Popen[str] | None = None
        atexit.register(self._stop)

    def ask(self, request: str) -> dict[str, str]:
        """Send a request and return the answer."""
        with self._lock:
            process: Any = self._running()  # its pipes are there
            try:
                process.stdin.write(f"{request}\n")
                process.stdin.flush()
                line = process.stdout.readline()
            except BrokenPipeError:
                line = ""
            except BaseException:
                self._stop()  # the answer that is still to come belongs to no later request
                raise
            if not line.endswith("\n"):
                self._stop()
                return {"error": f"it takes over {SECONDS} seconds or {MEMORY >> 20} MiB of memory"}
            answer: dict[str, str] = json.loads(line)
            return answer

    def _running(self) -> subprocess.Popen[str]:
        if self._process is not None and self._process.poll() is None:
            return self._process
        self._stop()
        # Threads of numpy's would reserve memory.
        settings = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "PYTHONUTF8": "1", "HF_HUB_OFFLINE": "1"}
        worker, limits = Path(__file__).with_name("template_worker.py"), (SECONDS, MEMORY, MAX_LENGTH)
        process = self._process = subprocess.Popen(
            [sys.executable, "-P", str(worker), self._kind, *map(str, limits)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            encoding="ascii",
            env={key: os.environ[key] for key in _ENVIRONMENT if key in os.environ} | settings,
            start_new_session=True,  # Ctrl-C is for the parent, which stops the worker
        )
        if process.stdout is None or process.stdout.readline() != "ready\n":
            self._stop()
            raise ComputationError("the process that renders templates does not start; install prunescope again")
        return process

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()
