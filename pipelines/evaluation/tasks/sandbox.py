"""The far side of `execution.py`, run as a script: shuts itself in, then tests a program from another process.

Standard library only and nothing of this package: what stands here runs beside code that a model wrote.

Three processes. The outermost makes the namespaces and waits. The first one inside holds the tests and calls the
program's function through a pipe; the program lives in the second, which has nothing but that pipe. So the tests
share no process with the program: it cannot leave before them, patch what they use, or forge their verdict.
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

# Numbers of the kernel's headers: clone(2), mount(2), mount_setattr(2), umount2(2), prctl(2), capset(2).
_NEW_USERS = 0x10000000
_NEW_ALL = (
    _NEW_USERS | 0x20000 | 0x4000000 | 0x8000000 | 0x20000000 | 0x40000000
)  # mounts, host, IPC, processes, network
_BIND, _RECURSIVE, _PRIVATE, _DETACH = 0x1000, 0x4000, 0x40000, 2
_READ_ONLY, _NO_SET_UID, _NO_DEVICES = 1, 2, 4
_MOUNT_SETATTR, _FROM_HERE, _WHOLE_TREE = 442, -100, 0x8000
_PARENT_DEATH, _DUMPABLE, _SECCOMP, _NO_NEW_PRIVILEGES, _BY_FILTER = 1, 4, 22, 38, 2
_CAPABILITIES_VERSION = 0x20080522

# System calls that answer "not implemented", by machine: its name for the filter, the numbers of socket, shmget,
# memfd_create and memfd_secret (memory that no limit counts), ptrace, process_vm_readv and _writev, unshare, setns,
# add_key, request_key, keyctl, bpf, perf_event_open, userfaultfd, io_uring_setup and clone3 (whose flags no filter
# sees; libraries fall back to clone), and that of clone, refused only where it would make new users.
_REFUSED = {
    "x86_64": (0xC000003E, (41, 29, 319, 447, 101, 310, 311, 272, 308, 248, 249, 250, 321, 298, 323, 425, 435), 56),
    "aarch64": (0xC00000B7, (198, 194, 279, 447, 117, 270, 271, 97, 268, 217, 218, 219, 280, 241, 282, 425, 435), 220),
}
_LOAD, _EQUAL, _AT_LEAST, _HAS_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _NOT_IMPLEMENTED, _KILL = 0x7FFF0000, 0x00050000 | 38, 0x80000000
_OTHER_INTERFACE = 0x40000000  # where x86's second numbering of the same calls begins

# What of the machine is seen inside: libraries that the interpreter loads, read-only, without installed packages.
_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/nix/store")
_FOLDER = "/box"
_INSIDE, _NOBODY = 1000, 65534
# What a result may consist of beside literals.
_READABLE = {
    "builtins": ("set", "frozenset", "complex", "bytearray", "range", "slice", "list", "dict", "tuple", "int", "float"),
    "collections": ("Counter", "OrderedDict", "defaultdict", "deque"),
    "decimal": ("Decimal",),
    "fractions": ("Fraction",),
}
_LONGEST_REASON = 300
# How the first process inside ends with a verdict, and where the jail could not be built; tests may end it otherwise.
_SAID, _BROKEN = 100, 101

_libc = ctypes.CDLL(None, use_errno=True)


class SandboxUnavailableError(Exception):
    """This machine lacks what the isolation needs."""


class Ending(BaseException):  # an Exception could be caught by a test
    """Ends the tests with an outcome of `execution.Verdict` and its reason."""


@contextmanager
def _needing(what: str) -> Iterator[None]:
    """Says what a failure of the system means."""
    try:
        yield
    except OSError as error:
        raise SandboxUnavailableError(f"{what} ({error.strerror})") from error


def _call(name: str, *arguments: object) -> None:
    """A function of the C library that returns −1 when it fails."""
    typed = [ctypes.c_ulong(each) if isinstance(each, int) else each for each in arguments]
    if getattr(_libc, name)(*typed) == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    _call("mount", source.encode(), target.encode(), kind.encode(), flags, data.encode())


def _make_read_only(path: str, whole_tree: bool) -> None:
    # struct mount_attr: what to set, to clear, propagation, user namespace
    attributes = struct.pack("=4Q", _READ_ONLY | _NO_SET_UID | _NO_DEVICES, 0, 0, 0)
    flags = _WHOLE_TREE if whole_tree else 0
    _call("syscall", _MOUNT_SETATTR, _FROM_HERE, path.encode(), flags, attributes, len(attributes))


def make_namespaces() -> None:
    """Namespaces of users, mounts, processes, network, IPC and host name; the next child is the first process inside.

    Root is mapped to nobody, whom the limit on processes binds; anybody else to themselves. The maps must be written
    from outside, by a child that stays there.
    """
    ids, is_root, pid = (os.geteuid(), os.getegid()), os.geteuid() == 0, os.getpid()
    told, tell = os.pipe()
    helper = os.fork()
    if helper == 0:
        os.close(tell)
        status = 0
        if os.read(told, 1):
            try:
                for name, own in zip(("uid_map", "gid_map"), ids, strict=True):
                    if name == "gid_map" and not is_root:  # the kernel's condition for it
                        Path(f"/proc/{pid}/setgroups").write_text("deny")
                    lines = f"0 0 1\n{_INSIDE} {_NOBODY} 1" if is_root else f"{_INSIDE} {own} 1"
                    Path(f"/proc/{pid}/{name}").write_text(lines)
            except OSError as error:
                status = error.errno or 1
        os._exit(status)
    with _needing("no user namespaces: allow them (sysctl user.max_user_namespaces, or the container's settings)"):
        _call("unshare", _NEW_ALL)
    os.write(tell, b".")
    os.close(told)
    os.close(tell)
    _, status = os.waitpid(helper, 0)
    with _needing("users cannot be mapped into a namespace"):
        if status:
            raise OSError(status >> 8, os.strerror(status >> 8))


def hide_files(root: str, bytes_of_folder: int) -> None:
    """Leaves an empty folder of so many bytes and the libraries, read-only; all else is gone from sight.

    Args:
        root: an empty folder where the new tree is put together.
        bytes_of_folder: what may be written in all.
    """
    libraries: list[str] = []
    for path in (*_LIBRARIES, f"{sys.base_prefix}/lib", *sys.path):
        if Path(path).is_dir() and not any(f"{path}/".startswith(f"{known}/") for known in libraries):
            libraries.append(path)
    with _needing("no mounts in a user namespace: let the container, or on Ubuntu AppArmor, allow them"):
        _mount("none", "/", "", _RECURSIVE | _PRIVATE)
        _mount("tmpfs", root, "tmpfs", _NO_SET_UID | _NO_DEVICES, "size=1m,mode=755")
        for path in libraries:
            Path(root + path).mkdir(parents=True, exist_ok=True)
            _mount(path, root + path, "", _BIND | _RECURSIVE)
            for packages in Path(root + path).glob("python3*/*-packages"):
                _mount("tmpfs", str(packages), "tmpfs", _NO_SET_UID | _NO_DEVICES, "size=4k")
    with _needing("no read-only mounts: Linux 5.12 or newer is needed"):
        for path in libraries:
            _make_read_only(root + path, whole_tree=True)
        Path(root + _FOLDER).mkdir()
        own = f"size={bytes_of_folder},nr_inodes=1k,mode=700,uid={_INSIDE},gid={_INSIDE}"
        _mount("tmpfs", root + _FOLDER, "tmpfs", _NO_SET_UID | _NO_DEVICES, own)
        _make_read_only(root, whole_tree=False)
    with _needing("the old root cannot be left"):
        os.chdir(root)
        _call("pivot_root", b".", b".")
        _call("umount2", b".", _DETACH)
        os.chdir(_FOLDER)


def give_up_rights(limits: dict[str, int]) -> None:
    """Another user without capabilities, under limits and a filter of system calls; nothing brings rights back."""
    others = 2  # processes of the same user: this one and the outermost
    with _needing("capabilities cannot be dropped"):
        if os.getuid() == 0:
            others = 1
            os.setgroups([])
            os.setresgid(_INSIDE, _INSIDE, _INSIDE)
            os.setresuid(_INSIDE, _INSIDE, _INSIDE)
        _call("capset", struct.pack("=Ii", _CAPABILITIES_VERSION, 0), bytes(24))
    with _needing("limits cannot be set"):
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
    with _needing("no filter of system calls (seccomp)"):
        _call("prctl", _NO_NEW_PRIVILEGES, 1, 0, 0, 0)
        program = b"".join(struct.pack("=HBBI", *each) for each in _filter())
        buffer = ctypes.create_string_buffer(program, len(program))
        _call("prctl", _SECCOMP, _BY_FILTER, struct.pack("@HP", len(program) // 8, ctypes.addressof(buffer)), 0, 0)
    # Behind the change of user, which clears both: dies with the outermost process, and no other looks into it.
    _call("prctl", _PARENT_DEATH, int(signal.SIGKILL), 0, 0, 0)
    _call("prctl", _DUMPABLE, 0, 0, 0, 0)
    os.setsid()  # leaves the group of processes that the outermost is in, which a signal to one's own group reaches


def _filter() -> list[tuple[int, int, int, int]]:
    """The filter's instructions: what it does, how many to skip where a condition holds and where not, a number."""
    machine = platform.machine()
    if machine not in _REFUSED:
        raise SandboxUnavailableError(
            f"no filter of system calls is known for {machine}; known are {', '.join(_REFUSED)}"
        )
    name, refused, clone = _REFUSED[machine]
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
    """The program's side: runs it, then calls its function with what comes through the pipe, until nothing does."""

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
        except BaseException as error:  # whatever the program raises, a SystemExit too
            send("raised", traceback.format_exception_only(error)[-1].strip()[:_LONGEST_REASON])

    namespace: dict[str, Any] = {"__name__": "program"}
    attempt(lambda: exec(compile(task["program"], "program", "exec"), namespace))  # noqa: S102
    while True:
        arguments, keywords = pickle.load(calls)  # noqa: S301 - written by the tests' side
        attempt(lambda: namespace[task["entry_point"]](*arguments, **keywords))  # noqa: B023 - called at once


def _read_task() -> dict[str, Any]:
    """The next JSON object of standard input; not a byte behind it is read."""
    with os.fdopen(0, "rb", buffering=0, closefd=False) as stream:
        data, size = b"", int.from_bytes(stream.read(8), "little")
        while len(data) < size:
            more = stream.read(size - len(data))
            if not more:
                raise EOFError("a task ends early")
            data += more
    return json.loads(data)  # type: ignore[no-any-return]


def _exhausted(process: int, limits: dict[str, int]) -> tuple[bool, int]:
    """Whether a child died of the limit on processor time, and its exit status; waits for its end."""
    _, ended, used = os.wait4(process, 0)
    status = os.waitstatus_to_exitcode(ended)
    # For the limit the kernel counts whole ticks of its clock, what it reports is exact: some percent lie between them.
    spent = used.ru_utime + used.ru_stime >= limits["cpu_seconds"] / 2
    return status in (-signal.SIGXCPU, -signal.SIGKILL) and spent, status


class _Reader(pickle._Unpickler):
    """Reads plain values only: what a program sends is not trusted.

    The one instruction that sets attributes is unknown to it: it could give a class shared with the tests, or a value,
    another `__eq__`, and no readable value needs it. Only the reader written in Python lets an instruction be left out.
    """

    dispatch: ClassVar = {code: read for code, read in pickle._Unpickler.dispatch.items() if code != pickle.BUILD[0]}

    def find_class(self, module: str, name: str) -> Any:  # noqa: ANN401
        if name in _READABLE.get(module, ()):
            return super().find_class(module, name)
        raise Ending("failed", f"the program returned a {module}.{name}, which no test reads")


def judge(task: dict[str, Any], calls: int, answers: BufferedReader, program: int) -> NoReturn:
    """The tests' side: runs them with a stand-in for the program's function, and ends with their outcome.

    What the problem itself defines beside the function (imports, helpers) is there as it stands in the problem.

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
            kind, value = _Reader(BytesIO(data)).load()
        except MemoryError:
            raise
        except Exception as error:
            raise Ending("failed", "the program sent something that is no result") from error
        if kind == "returned":
            return value
        raise Ending("memory" if kind == "memory" else "failed", str(value)[:_LONGEST_REASON])

    def candidate(*arguments: object, **keywords: object) -> object:
        data = pickle.dumps((arguments, keywords))
        try:
            while data:
                data = data[os.write(calls, data) :]
        except BrokenPipeError:
            pass  # what became of the program is found where its answer is awaited
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
        raise Ending("failed", f"{said}: {line}"[:_LONGEST_REASON]) from error
    raise Ending("passed", "")


def go_inside(task: dict[str, Any], verdict: int) -> NoReturn:
    """The first process inside: takes the program's along, both without rights, and ends with the verdict.

    Args:
        task: what is asked, without its tests.
        verdict: the open file of the verdict, which the program does not get; what it or the tests print is dropped.

    Raises:
        Ending: always.
        Refusal: the machine cannot shut it in.
    """
    silence = os.open(os.devnull, os.O_RDWR)
    hide_files(task["root"], task["limits"]["file_bytes"])
    give_up_rights(task["limits"])
    calls, call = os.pipe()
    answers, answer = os.pipe()
    # No signal reaches the first process of a namespace from inside but those it handles: Python handles this one.
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
    task |= _read_task()  # the tests: behind the fork, so that the program's memory never held them
    for standard in range(3):
        os.dup2(silence, standard)
    for other in (silence, calls, answer):
        os.close(other)
    try:
        judge(task, call, os.fdopen(answers, "rb"), program)
    except Ending:
        raise
    except BaseException as error:  # no memory to say what happened, for one
        raise Ending("failed", "the tests broke off") from error


def main() -> None:
    """Reads a task from standard input, and writes its verdict to standard output."""
    task = _read_task()
    verdict = os.dup(1)

    def say(outcome: str, reason: str) -> None:
        os.write(verdict, json.dumps([outcome, reason]).encode())

    try:
        _call("prctl", _PARENT_DEATH, int(signal.SIGKILL), 0, 0, 0)
        # What the caller blocks or ignores is inherited, and a verdict must not hang on it.
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
            signal.signal(number, signal.SIG_DFL)
        make_namespaces()
        inside = os.fork()
        if inside == 0:
            status = 1
            try:
                go_inside(task, verdict)
            except Ending as ending:
                say(*ending.args)
                status = _SAID
            except SandboxUnavailableError as refusal:
                say("refused", str(refusal))
                status = _SAID
            except Exception:
                traceback.print_exc()
                status = _BROKEN
            finally:
                os._exit(status)
        exhausted, status = _exhausted(inside, task["limits"])
        if exhausted:
            say("timed_out", "the tests used up their processor time")
        elif status not in (_SAID, _BROKEN):
            say("failed", "the tests were ended before their verdict")
    except SandboxUnavailableError as refusal:
        say("refused", str(refusal))


if __name__ == "__main__":
    main()
