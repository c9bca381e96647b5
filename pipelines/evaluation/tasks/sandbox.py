"""Script that tests a model-written program; `sandbox_client.py` runs it inside bubblewrap.

It imports only the standard library, nothing of this package.

There are two processes. The first runs the tests and calls the program's function through a pipe. The program runs in
the second, which has only that pipe. Because they share no process, the program cannot end the tests early, patch their
objects or forge a verdict.
"""

import ctypes
import json
import os
import pickle
import platform
import resource
import signal
import struct
import traceback
from collections.abc import Callable
from io import BufferedReader, BytesIO
from typing import Any, ClassVar, NoReturn

# Constants from the kernel's headers for prctl(2) and for user namespaces of clone(2).
_DUMPABLE, _SECCOMP, _BY_FILTER, _NEW_USERS = 4, 22, 2, 0x10000000

# System calls that return ENOSYS, per machine: its number for the filter, the numbers of refused calls, and clone.
# Refused are socket; shmget, memfd_create and memfd_secret (no limit counts their memory); ptrace, process_vm_readv and
# _writev, unshare, setns, add_key, request_key, keyctl, bpf, perf_event_open, userfaultfd, io_uring_setup; and clone3
# (a filter cannot read its flags; libraries fall back to clone). clone is refused only for new user namespaces.
_REFUSED_CALLS = {
    "x86_64": (0xC000003E, (41, 29, 319, 447, 101, 310, 311, 272, 308, 248, 249, 250, 321, 298, 323, 425, 435), 56),
    "aarch64": (0xC00000B7, (198, 194, 279, 447, 117, 270, 271, 97, 268, 217, 218, 219, 280, 241, 282, 425, 435), 220),
}
_LOAD, _EQUAL, _AT_LEAST, _HAS_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _NOT_IMPLEMENTED, _KILL = 0x7FFF0000, 0x00050000 | 38, 0x80000000
_OTHER_INTERFACE = 0x40000000  # system calls from here on belong to x86's x32 interface

# Types of values in a result, in addition to literals.
_PLAIN_TYPES = {
    "builtins": ("set", "frozenset", "complex", "bytearray", "range", "slice", "list", "dict", "tuple", "int", "float"),
    "collections": ("Counter", "OrderedDict", "defaultdict", "deque"),
    "decimal": ("Decimal",),
    "fractions": ("Fraction",),
}
_MAX_REASON_LENGTH = 300

_libc = ctypes.CDLL(None, use_errno=True)


class Ending(BaseException):  # a test could catch an Exception
    """End of the tests, with an outcome of `sandbox_client.ExecutionVerdict` and its reason."""


def confine(limits: dict[str, int], user: int) -> None:
    """Drop root's rights for good, and set the limits of `sandbox_client.Limits` and the filter of system calls.

    `user` replaces root, because the limit on processes does not bind root.
    """
    if os.getuid() == 0:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    for name, most in (
        (resource.RLIMIT_AS, limits["memory_bytes"]),
        (resource.RLIMIT_CPU, limits["cpu_seconds"]),
        (resource.RLIMIT_FSIZE, limits["file_bytes"]),
        (resource.RLIMIT_NOFILE, limits["open_files"]),
        (resource.RLIMIT_NPROC, limits["processes"] + 1),  # this process, too
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
    ):
        resource.setrlimit(name, (most, most))
    program = b"".join(struct.pack("=HBBI", *each) for each in _filter())
    buffer = ctypes.create_string_buffer(program, len(program))
    _prctl(_SECCOMP, _BY_FILTER, struct.pack("@HP", len(program) // 8, ctypes.addressof(buffer)))
    _prctl(_DUMPABLE, ctypes.c_ulong(0))  # after the change of user, which clears it: no process can trace this one


def _prctl(option: int, *arguments: object) -> None:
    if _libc.prctl(option, *arguments, *[ctypes.c_ulong(0)] * (4 - len(arguments))):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _filter() -> list[tuple[int, int, int, int]]:
    """Return the BPF instructions: operation, instructions to skip if true and if false, operand."""
    machine = platform.machine()
    if machine not in _REFUSED_CALLS:
        known = ", ".join(_REFUSED_CALLS)
        raise Ending("refused", f"no filter of system calls exists for {machine}, only for {known}")
    name, refused, clone = _REFUSED_CALLS[machine]
    count = len(refused)
    return [
        (_LOAD, 0, 0, 4),
        (_EQUAL, 1, 0, name),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, 0),
        (_AT_LEAST, count + 4, 0, _OTHER_INTERFACE),
        *((_EQUAL, count - index + 3, 0, number) for index, number in enumerate(refused)),
        (_EQUAL, 0, 2, clone),
        (_LOAD, 0, 0, 16),
        (_HAS_BIT, 1, 0, _NEW_USERS),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _NOT_IMPLEMENTED),
    ]


def serve(task: dict[str, Any], calls: BufferedReader, answer: int) -> None:
    """Run the program, then call its function with the arguments from the pipe, until the pipe closes."""

    def send(kind: str, value: object) -> None:
        data = pickle.dumps((kind, value))
        whole = len(data).to_bytes(8, "little") + data
        while whole:
            whole = whole[os.write(answer, whole) :]

    def attempt(work: Callable[[], object]) -> None:
        try:
            send("returned", work())
        except MemoryError:
            send("memory", "the program asked for more memory than it may have")
        except BaseException as error:  # SystemExit too
            send("raised", traceback.format_exception_only(error)[-1].strip()[:_MAX_REASON_LENGTH])

    namespace: dict[str, Any] = {"__name__": "program"}
    attempt(lambda: exec(compile(task["program"], "program", "exec"), namespace))  # noqa: S102
    while True:
        arguments, keywords = pickle.load(calls)  # noqa: S301 - written by the tests' side
        attempt(lambda: namespace[task["entry_point"]](*arguments, **keywords))  # noqa: B023 - called at once


def _read_task() -> dict[str, Any]:
    """Read one line of JSON from standard input, and no byte more."""
    with os.fdopen(0, "rb", buffering=0, closefd=False) as stream:
        return json.loads(stream.readline())  # type: ignore[no-any-return]


def _is_exhausted(process: int, limits: dict[str, int]) -> bool:
    """Wait for a child; return whether it died of the limit on processor time."""
    _, ended, used = os.wait4(process, 0)
    # The kernel counts clock ticks for the limit but reports exact times, which differ by a few percent.
    spent = used.ru_utime + used.ru_stime >= limits["cpu_seconds"] / 2
    return spent and os.waitstatus_to_exitcode(ended) in (-signal.SIGXCPU, -signal.SIGKILL)


class _PlainUnpickler(pickle._Unpickler):
    """Unpickler of plain values only, because the program's results are not trusted.

    The instruction BUILD sets attributes, so it could replace `__eq__` of a class that the tests share. No plain value
    needs it, so it is removed. Only the unpickler written in Python allows that.
    """

    dispatch: ClassVar = {code: read for code, read in pickle._Unpickler.dispatch.items() if code != pickle.BUILD[0]}

    def find_class(self, module: str, name: str) -> Any:  # noqa: ANN401
        if name in _PLAIN_TYPES.get(module, ()):
            return super().find_class(module, name)
        raise Ending("failed", f"the program returned a {module}.{name}, which no test reads")


def judge(task: dict[str, Any], calls: int, answers: BufferedReader, program: int) -> NoReturn:
    """Run the tests with a proxy of the program's function, and end with their outcome.

    The problem's other definitions (imports, helpers) come from the problem itself.

    Raises:
        Ending: always.
    """

    def receive() -> object:
        header = answers.read(8)
        size = int.from_bytes(header, "little")
        if size > task["limits"]["result_bytes"]:
            raise Ending("failed", f"the program returned more than {task['limits']['result_bytes']} bytes")
        data = answers.read(size)
        if len(header) < 8 or len(data) < size:
            if _is_exhausted(program, task["limits"]):
                raise Ending("timed_out", "the program used up its processor time")
            raise Ending("failed", "the program ended before its tests did")
        try:
            kind, value = _PlainUnpickler(BytesIO(data)).load()
        except MemoryError:
            raise
        except Exception as error:
            raise Ending("failed", "the program sent something that is not a result") from error
        if kind == "returned":
            return value
        raise Ending("memory" if kind == "memory" else "failed", str(value)[:_MAX_REASON_LENGTH])

    def candidate(*arguments: object, **keywords: object) -> object:
        data = pickle.dumps((arguments, keywords))
        try:
            while data:
                data = data[os.write(calls, data) :]
        except BrokenPipeError:
            pass  # `receive` reports how the program ended
        return receive()

    namespace: dict[str, Any] = {"__name__": "tests"}
    tests = task["tests"].splitlines()
    try:
        receive()
        exec(compile(task["problem"], "problem", "exec"), namespace)  # noqa: S102 - the data set's own code
        namespace[task["entry_point"]] = candidate
        exec(compile(task["tests"], "tests", "exec"), namespace)  # noqa: S102
    except Ending:
        raise
    except MemoryError as error:
        raise Ending("memory", "the tests ran out of memory") from error
    except BaseException as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == "tests"]
        line = tests[lines[-1] - 1].strip() if lines and lines[-1] else ""
        message = traceback.format_exception_only(error)[-1].strip()
        raise Ending("failed", f"{message}: {line}"[:_MAX_REASON_LENGTH]) from error
    raise Ending("passed", "")


def run(task: dict[str, Any]) -> NoReturn:
    """Run the tests in this process and the program in a child; discard all output but the verdict.

    Raises:
        Ending: always.
    """
    # The verdict must not depend on the caller's signal mask and handlers. A signal from inside a namespace reaches the
    # first process only if that process handles it, and Python handles SIGINT.
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    # The client stops a late sandbox. The alarm stops it if the client has ended.
    signal.signal(signal.SIGALRM, lambda *_: os._exit(1))
    signal.alarm(int(task["limits"]["seconds"]) + 2)
    silence = os.open(os.devnull, os.O_RDWR)
    confine(task["limits"], task["user"])
    calls, call = os.pipe()
    answers, answer = os.pipe()
    program = os.fork()
    if program == 0:
        try:
            os.setsid()  # leave the process group of bubblewrap, which the program could signal
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            for standard in range(3):
                os.dup2(silence, standard)
            for other in (silence, call, answers, task["verdict"]):
                os.close(other)
            serve(task, os.fdopen(calls, "rb"), answer)
        finally:
            os._exit(1)
    task |= _read_task()  # the tests, read after the fork: the program's memory never holds them
    for standard in range(3):
        os.dup2(silence, standard)
    for other in (silence, calls, answer):
        os.close(other)
    try:
        judge(task, call, os.fdopen(answers, "rb"), program)
    except Ending:
        raise
    except BaseException as error:  # such as a MemoryError while the reason is built
        raise Ending("failed", "the tests broke off") from error


def main() -> None:
    """Read a task from standard input and write its verdict to standard output."""
    verdict = os.dup(1)
    try:
        run(_read_task() | {"verdict": verdict})
    except Ending as ending:
        os.write(verdict, json.dumps(ending.args).encode())
        os._exit(0)


if __name__ == "__main__":
    main()
