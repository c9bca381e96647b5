"""Sandbox that tests a model-written program, run as a script by `sandbox_client.py`.

It imports the standard library only, nothing of this package.

There are three processes. The outermost creates the namespaces and waits. The first one inside runs the tests and
calls the program's function through a pipe. The program runs in the second, which has only that pipe. Because the
tests and the program share no process, the program cannot end the tests early, patch their objects or forge a verdict.
"""

import ctypes
import json
import os
import pickle
import platform
import resource
import signal
import struct
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BufferedReader, BytesIO
from pathlib import Path
from typing import Any, ClassVar, NoReturn

# Constants from the kernel's headers: clone(2), mount(2), mount_setattr(2), umount2(2), prctl(2), capset(2).
_NEW_USERS = 0x10000000
_NEW_ALL = (
    _NEW_USERS | 0x20000 | 0x4000000 | 0x8000000 | 0x20000000 | 0x40000000
)  # mounts, host, IPC, processes, network
_BIND, _RECURSIVE, _PRIVATE, _DETACH = 0x1000, 0x4000, 0x40000, 2
_READ_ONLY, _NO_SET_UID, _NO_DEVICES = 1, 2, 4
_MOUNT_SETATTR, _AT_FDCWD, _WHOLE_TREE = 442, -100, 0x8000
_PARENT_DEATH, _DUMPABLE, _SECCOMP, _NO_NEW_PRIVILEGES, _BY_FILTER = 1, 4, 22, 38, 2
_CAPABILITIES_VERSION = 0x20080522

# System calls that return ENOSYS, by machine: its number for the filter; the numbers of socket, shmget, memfd_create
# and memfd_secret (their memory counts towards no limit), ptrace, process_vm_readv and _writev, unshare, setns,
# add_key, request_key, keyctl, bpf, perf_event_open, userfaultfd, io_uring_setup and clone3 (a filter cannot read its
# flags; libraries fall back to clone); and the number of clone, which is refused only for new user namespaces.
_REFUSED_CALLS = {
    "x86_64": (0xC000003E, (41, 29, 319, 447, 101, 310, 311, 272, 308, 248, 249, 250, 321, 298, 323, 425, 435), 56),
    "aarch64": (0xC00000B7, (198, 194, 279, 447, 117, 270, 271, 97, 268, 217, 218, 219, 280, 241, 282, 425, 435), 220),
}
_LOAD, _EQUAL, _AT_LEAST, _HAS_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _NOT_IMPLEMENTED, _KILL = 0x7FFF0000, 0x00050000 | 38, 0x80000000
_OTHER_INTERFACE = 0x40000000  # system calls from here on belong to x86's x32 interface

# Visible inside, read-only: the libraries that the interpreter loads, without installed packages.
_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/nix/store")
_FOLDER = "/box"
_SANDBOX_ID, _NOBODY_ID = 1000, 65534
# Types of a result's values, besides literals.
_PLAIN_TYPES = {
    "builtins": ("set", "frozenset", "complex", "bytearray", "range", "slice", "list", "dict", "tuple", "int", "float"),
    "collections": ("Counter", "OrderedDict", "defaultdict", "deque"),
    "decimal": ("Decimal",),
    "fractions": ("Fraction",),
}
_MAX_REASON_LENGTH = 300
# Exit statuses of the first process inside; any other one means that the tests ended it.
_VERDICT_WRITTEN, _SANDBOX_FAILED = 100, 101

_libc = ctypes.CDLL(None, use_errno=True)


class SandboxUnavailableError(Exception):
    """A feature that the sandbox needs is missing on this machine."""


class Ending(BaseException):  # tests could catch an Exception
    """End of the tests, with an outcome of `sandbox_client.ExecutionVerdict` and its reason."""


@contextmanager
def _requiring(what: str) -> Iterator[None]:
    """Raise an OSError as SandboxUnavailableError with an explanation."""
    try:
        yield
    except OSError as error:
        raise SandboxUnavailableError(f"{what} ({error.strerror})") from error


def _call(name: str, *arguments: object) -> None:
    """Call a function of the C library; raise OSError where it returns −1."""
    typed = [ctypes.c_ulong(each) if isinstance(each, int) else each for each in arguments]
    if getattr(_libc, name)(*typed) == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    _call("mount", source.encode(), target.encode(), kind.encode(), flags, data.encode())


def _make_read_only(path: str, whole_tree: bool) -> None:
    # struct mount_attr: flags to set, flags to clear, propagation, user namespace
    attributes = struct.pack("=4Q", _READ_ONLY | _NO_SET_UID | _NO_DEVICES, 0, 0, 0)
    flags = _WHOLE_TREE if whole_tree else 0
    _call("syscall", _MOUNT_SETATTR, _AT_FDCWD, path.encode(), flags, attributes, len(attributes))


def make_namespaces() -> None:
    """Create namespaces of users, mounts, processes, network, IPC and host name; the next child is the first inside.

    Root is mapped to the user `nobody`, because the limit on processes does not bind root; other users are mapped to
    themselves. A child that stays outside must write the maps.
    """
    ids, is_root, pid = (os.geteuid(), os.getegid()), os.geteuid() == 0, os.getpid()
    ready_read, ready_write = os.pipe()
    helper = os.fork()
    if helper == 0:
        os.close(ready_write)
        status = 0
        if os.read(ready_read, 1):
            try:
                for name, own in zip(("uid_map", "gid_map"), ids, strict=True):
                    if name == "gid_map" and not is_root:  # the kernel then requires this
                        Path(f"/proc/{pid}/setgroups").write_text("deny")
                    lines = f"0 0 1\n{_SANDBOX_ID} {_NOBODY_ID} 1" if is_root else f"{_SANDBOX_ID} {own} 1"
                    Path(f"/proc/{pid}/{name}").write_text(lines)
            except OSError as error:
                status = error.errno or 1
        os._exit(status)
    with _requiring("no user namespaces: allow them (sysctl user.max_user_namespaces, or the container's settings)"):
        _call("unshare", _NEW_ALL)
    os.write(ready_write, b".")
    os.close(ready_read)
    os.close(ready_write)
    _, status = os.waitpid(helper, 0)
    with _requiring("users cannot be mapped into a namespace"):
        if status:
            raise OSError(status >> 8, os.strerror(status >> 8))


def hide_files(root: str, bytes_of_folder: int) -> None:
    """Replace the file system by read-only libraries and one empty writable folder.

    Args:
        root: an empty folder for the mounts of the new root.
        bytes_of_folder: capacity of the writable folder.
    """
    libraries: list[str] = []
    for path in (*_LIBRARIES, f"{sys.base_prefix}/lib", *sys.path):
        if Path(path).is_dir() and not any(f"{path}/".startswith(f"{known}/") for known in libraries):
            libraries.append(path)
    with _requiring("no mounts in a user namespace: let the container, or on Ubuntu AppArmor, allow them"):
        _mount("none", "/", "", _RECURSIVE | _PRIVATE)
        _mount("tmpfs", root, "tmpfs", _NO_SET_UID | _NO_DEVICES, "size=1m,mode=755")
        for path in libraries:
            Path(root + path).mkdir(parents=True, exist_ok=True)
            _mount(path, root + path, "", _BIND | _RECURSIVE)
            for packages in Path(root + path).glob("python3*/*-packages"):
                _mount("tmpfs", str(packages), "tmpfs", _NO_SET_UID | _NO_DEVICES, "size=4k")
    with _requiring("no read-only mounts: Linux 5.12 or newer is needed"):
        for path in libraries:
            _make_read_only(root + path, whole_tree=True)
        Path(root + _FOLDER).mkdir()
        own = f"size={bytes_of_folder},nr_inodes=1k,mode=700,uid={_SANDBOX_ID},gid={_SANDBOX_ID}"
        _mount("tmpfs", root + _FOLDER, "tmpfs", _NO_SET_UID | _NO_DEVICES, own)
        _make_read_only(root, whole_tree=False)
    with _requiring("the old root cannot be left"):
        os.chdir(root)
        _call("pivot_root", b".", b".")
        _call("umount2", b".", _DETACH)
        os.chdir(_FOLDER)


def drop_privileges(limits: dict[str, int]) -> None:
    """Drop user and capabilities for good, and set the resource limits and the filter of system calls."""
    others = 2  # processes of the same user: this one and the outermost
    with _requiring("capabilities cannot be dropped"):
        if os.getuid() == 0:
            others = 1
            os.setgroups([])
            os.setresgid(_SANDBOX_ID, _SANDBOX_ID, _SANDBOX_ID)
            os.setresuid(_SANDBOX_ID, _SANDBOX_ID, _SANDBOX_ID)
        _call("capset", struct.pack("=Ii", _CAPABILITIES_VERSION, 0), bytes(24))
    with _requiring("limits cannot be set"):
        for name, most in (
            (resource.RLIMIT_AS, limits["memory_bytes"]),
            (resource.RLIMIT_CPU, limits["cpu_seconds"]),
            (resource.RLIMIT_FSIZE, limits["file_bytes"]),
            (resource.RLIMIT_NOFILE, limits["open_files"]),
            (resource.RLIMIT_NPROC, limits["processes"] + others),
            (resource.RLIMIT_CORE, 0),
            (resource.RLIMIT_MEMLOCK, 0),
            (resource.RLIMIT_MSGQUEUE, 0),
        ):
            resource.setrlimit(name, (most, most))
    with _requiring("no filter of system calls (seccomp)"):
        _call("prctl", _NO_NEW_PRIVILEGES, 1, 0, 0, 0)
        program = b"".join(struct.pack("=HBBI", *each) for each in _filter())
        buffer = ctypes.create_string_buffer(program, len(program))
        _call("prctl", _SECCOMP, _BY_FILTER, struct.pack("@HP", len(program) // 8, ctypes.addressof(buffer)), 0, 0)
    # Set after the change of user, which clears both: this process dies with the outermost one, and none can trace it.
    _call("prctl", _PARENT_DEATH, int(signal.SIGKILL), 0, 0, 0)
    _call("prctl", _DUMPABLE, 0, 0, 0, 0)
    os.setsid()  # leave the process group of the outermost process, which the program could signal


def _filter() -> list[tuple[int, int, int, int]]:
    """Return the BPF instructions: operation, instructions to skip if true and if false, operand."""
    machine = platform.machine()
    if machine not in _REFUSED_CALLS:
        raise SandboxUnavailableError(
            f"no filter of system calls exists for {machine}, only for {', '.join(_REFUSED_CALLS)}"
        )
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
    """Read the next JSON object from standard input, and not a byte more."""
    with os.fdopen(0, "rb", buffering=0, closefd=False) as stream:
        data, size = b"", int.from_bytes(stream.read(8), "little")
        while len(data) < size:
            more = stream.read(size - len(data))
            if not more:
                raise EOFError("a task ends early")
            data += more
    return json.loads(data)  # type: ignore[no-any-return]


def _exhausted(process: int, limits: dict[str, int]) -> tuple[bool, int]:
    """Wait for a child; return whether it died of the limit on processor time, and its exit status."""
    _, ended, used = os.wait4(process, 0)
    status = os.waitstatus_to_exitcode(ended)
    # The kernel counts clock ticks for the limit but reports exact times; the two differ by a few percent.
    spent = used.ru_utime + used.ru_stime >= limits["cpu_seconds"] / 2
    return status in (-signal.SIGXCPU, -signal.SIGKILL) and spent, status


class _PlainUnpickler(pickle._Unpickler):
    """Unpickler of plain values only, because the program's results are not trusted.

    It lacks the instruction BUILD, which sets attributes and could so replace `__eq__` of a class that the tests share;
    no plain value needs it. Only the unpickler written in Python lets an instruction be removed.
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
            if _exhausted(program, task["limits"])[0]:
                raise Ending("timed_out", "the program used up its processor time")
            raise Ending("failed", "the program ended before its tests did")
        try:
            kind, value = _PlainUnpickler(BytesIO(data)).load()
        except MemoryError:
            raise
        except Exception as error:
            raise Ending("failed", "the program sent something that is no result") from error
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
        said = traceback.format_exception_only(error)[-1].strip()
        raise Ending("failed", f"{said}: {line}"[:_MAX_REASON_LENGTH]) from error
    raise Ending("passed", "")


def run_inside(task: dict[str, Any], verdict: int) -> NoReturn:
    """Run the tests in the first process inside and the program in a child, both without privileges.

    Args:
        task: the task without its tests.
        verdict: file descriptor of the verdict, closed in the program's process; other output is discarded.

    Raises:
        Ending: always.
        SandboxUnavailableError: this machine has no sandbox.
    """
    silence = os.open(os.devnull, os.O_RDWR)
    hide_files(task["root"], task["limits"]["file_bytes"])
    drop_privileges(task["limits"])
    calls, call = os.pipe()
    answers, answer = os.pipe()
    # From inside, a signal reaches the first process of a namespace only if it handles it, and Python handles SIGINT.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    program = os.fork()
    if program == 0:
        try:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            for standard in range(3):
                os.dup2(silence, standard)
            for other in (silence, call, answers, verdict):
                os.close(other)
            serve(task, os.fdopen(calls, "rb"), answer)
        finally:
            os._exit(1)
    task |= _read_task()  # the tests, read after the fork so that the program's memory never holds them
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
    task = _read_task()
    verdict = os.dup(1)

    def say(outcome: str, reason: str) -> None:
        os.write(verdict, json.dumps([outcome, reason]).encode())

    try:
        _call("prctl", _PARENT_DEATH, int(signal.SIGKILL), 0, 0, 0)
        # The caller's signal mask and handlers are inherited; the verdict must not depend on them.
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
            signal.signal(number, signal.SIG_DFL)
        make_namespaces()
        inside = os.fork()
        if inside == 0:
            status = 1
            try:
                run_inside(task, verdict)
            except Ending as ending:
                say(*ending.args)
                status = _VERDICT_WRITTEN
            except SandboxUnavailableError as refusal:
                say("refused", str(refusal))
                status = _VERDICT_WRITTEN
            except Exception:
                traceback.print_exc()
                status = _SANDBOX_FAILED
            finally:
                os._exit(status)
        exhausted, status = _exhausted(inside, task["limits"])
        if exhausted:
            say("timed_out", "the tests used up their processor time")
        elif status not in (_VERDICT_WRITTEN, _SANDBOX_FAILED):
            say("failed", "the tests were ended before their verdict")
    except SandboxUnavailableError as refusal:
        say("refused", str(refusal))


if __name__ == "__main__":
    main()
