"""Sandboxed programs that try to escape, to survive, to exhaust resources or to pass without being right."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from prunescope.pipelines.core.errors import ComputationError
from prunescope.pipelines.evaluation.tasks import sandbox_client
from prunescope.pipelines.evaluation.tasks.sandbox_client import ExecutionVerdict, Limits, refusal, run_tests

pytestmark = pytest.mark.namespaces
PROBLEM = 'import math\n\n\ndef helper(x):\n    return x + 1\n\n\ndef double(x):\n    """Doubles."""\n'
TESTS = "def check(candidate):\n    assert candidate(2) == 4\n    assert candidate(3) == helper(5)\n\n\ncheck(double)\n"
RIGHT = "    return 2 * x\n"
SHORT = Limits(seconds=0.7)


@pytest.fixture(scope="module", autouse=True)
def _namespaces() -> None:
    reason = refusal()
    if reason:
        pytest.skip(f"this machine has no sandbox: {reason}")


def verdict_of(completion: str, limits: Limits | None = None) -> ExecutionVerdict:
    return run_tests(PROBLEM, completion, TESTS, "double", limits)


def sandboxed(expression: str, before: str = "pass") -> object:
    """Return a value that a sandboxed program computes, read from the message of an exception."""
    verdict = verdict_of(f"    import json, os, sys\n    {before}\n    raise ValueError(json.dumps({expression}))\n")
    assert verdict.reason.startswith("ValueError: "), verdict
    return json.loads(verdict.reason.removeprefix("ValueError: "))


def test_a_right_program_passes_and_a_wrong_one_fails_with_its_line() -> None:
    assert verdict_of(RIGHT) == ExecutionVerdict("passed")
    assert verdict_of("    return 4\n") == ExecutionVerdict(
        "failed", "AssertionError: assert candidate(3) == helper(5)"
    )
    assert verdict_of("    return 2 * helper(x) - 2\n").outcome == "passed"


@pytest.mark.parametrize(
    ("completion", "reason"),
    [
        ("    import sys; sys.exit(0)\n", "SystemExit: 0"),
        ("    return 1\nimport sys; sys.exit(0)\n", "SystemExit: 0"),
        ("    import os; os._exit(0)\n", "the program ended before its tests did"),
        ("    return 1\nimport os; os._exit(0)\n", "the program ended before its tests did"),
        # An answer that equals everything, and one whose class says how to unpickle it.
        ("    return always\nclass Always(int):\n    __eq__ = lambda *_: True\nalways = Always()\n", "program.Always"),
        ("    return E()\nclass E:\n    def __reduce__(self): return exec, ('x',)\n", "builtins.exec"),
        ("    return E()\nclass E:\n    def __reduce__(self): return __import__('os')._exit, (0,)\n", "posix._exit"),
        # Patch builtins that the tests use; the tests run in another process.
        ("    __import__('builtins').AssertionError = StopIteration\n    helper.__code__ = (lambda x: -x).__code__\n"
         "    __import__('sys').modules.clear()\n    return 4\n", "AssertionError: assert candidate(3)"),
        # A verdict, and bytes without meaning, down every open file.
        ("    import os\n    for file in range(32):\n        try: os.write(file, b'[\"passed\", \"\"]')\n"
         "        except OSError: pass\n    return 1\n", ""),
        ("    yield 4\n", "cannot pickle 'generator' object"),
        ("    return (\n", "SyntaxError"),
        ("    return double(x)\n", "RecursionError"),
        ("    import ctypes; ctypes.string_at(0)\n", "the program ended before its tests did"),
        # Signals to its own group end the program alone; SIGXCPU, which the limit of time sends, is no timeout then.
        *((f"    import os; os.kill(0, {number})\n", "the program ended before its tests did") for number in (9, 15)),
        *((f"    import os; os.kill(os.getpid(), {number})\n", "the program ended before its tests did")
          for number in (9, 24)),
        ("    return 'x' * 2**21\n", "returned more than 1048576 bytes"),
    ],
)  # fmt: skip
def test_no_wrong_program_passes(completion: str, reason: str) -> None:
    verdict = verdict_of(completion)
    assert verdict.outcome == "failed"
    assert reason in verdict.reason


def sending(message: str) -> str:
    """Return a program that answers this call and the next with arbitrary bytes."""
    return f"""    import os, pickle, struct, sys
    data = {message}
    answer = [file for file in range(3, 32) if is_open(os, file)][-1]
    os.write(answer, 2 * (struct.pack("<Q", len(data)) + data))
    import time; time.sleep(60)


def is_open(os, file):
    try:
        return os.fstat(file)
    except OSError:
        return None
"""


@pytest.mark.parametrize("kind", ["collections Counter", "fractions Fraction", "collections OrderedDict"])
def test_no_answer_changes_equality_in_the_tests(kind: str) -> None:
    module, name = kind.split()
    # ("returned", kind()) where a state beside it made kind.__eq__ something that is true of all.
    values = f"b'(S\\'returned\\'\\nc{module}\\n{name}\\n(N}}S\\'__eq__\\'\\ncbuiltins\\nslice\\nstb'"
    verdict = verdict_of(sending(f"{values} + b')Rt.'"))
    assert verdict == ExecutionVerdict("failed", "the program sent something that is not a result")


@pytest.mark.parametrize("number", [2, 9, 11, 15])
def test_no_signal_ends_the_tests(number: int) -> None:
    assert verdict_of(f"    import os\n    os.kill(1, {number})\n" + RIGHT) == ExecutionVerdict("passed")


@pytest.mark.parametrize("how", ["ignored", "blocked"])
def test_signals_that_the_caller_does_not_want_reach_the_program(how: str) -> None:
    handler = signal.signal(signal.SIGTERM, signal.SIG_IGN if how == "ignored" else signal.SIG_DFL)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM} if how == "blocked" else ())
    try:
        verdict = verdict_of("    import os\n    os.kill(0, 15)\n")
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGTERM, handler)
    assert verdict == ExecutionVerdict("failed", "the program ended before its tests did")


@pytest.mark.parametrize("at", ["loaded", "called"])
def test_an_answer_too_large_to_be_read_is_a_verdict(at: str) -> None:
    # A bytearray of 2^40 bytes by its head: no memory holds it, whatever follows.
    completion = sending("b'\\x80\\x05\\x96' + struct.pack('<Q', 2**40)")
    if at == "loaded":
        completion += "\n\ndouble(0)\n"
    assert verdict_of(completion) == ExecutionVerdict("memory", "the tests ran out of memory")


def test_output_of_the_tests_is_no_part_of_the_verdict() -> None:
    loud = "import os, sys\nprint('x' * 10_000, flush=True)\nos.write(1, b'y')\nprint('z' * 10_000, file=sys.stderr)\n"
    assert run_tests(PROBLEM, RIGHT, loud + TESTS, "double") == ExecutionVerdict("passed")
    assert run_tests(PROBLEM, RIGHT, loud + "raise ValueError", "double") == ExecutionVerdict(
        "failed", "ValueError: raise ValueError"
    )


@pytest.mark.parametrize("tests", ["raise SystemExit(0)", "raise KeyboardInterrupt", "import os\nos._exit(0)",
                                   "import ctypes\nctypes.string_at(0)"])  # fmt: skip
def test_tests_that_end_themselves_have_failed(tests: str) -> None:
    verdict = run_tests(PROBLEM, RIGHT, tests, "double")
    assert verdict.outcome == "failed"
    assert verdict.reason


def test_a_program_finds_no_text_of_its_tests_in_its_process() -> None:
    completion = """    import gc, os, sys
    wanted = "of-the-tests-alone".replace("-", " ")
    found, seen, frame = [], set(), sys._getframe()
    while frame:
        found += [frame.f_locals, frame.f_globals]
        frame = frame.f_back
    found += gc.get_objects()
    while found:
        each = found.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        if isinstance(each, str | bytes) and each != wanted and wanted in str(each):
            raise ValueError(each)
        found += gc.get_referents(each)
    if os.read(0, 1):
        raise ValueError("the tests are still to be read")
    return 2 * x
"""
    tests = TESTS + "# of the tests alone" + " " * 2**17  # longer than a pipe holds
    verdict = run_tests(PROBLEM, completion, tests, "double", Limits(seconds=60))
    assert verdict.outcome == "passed", verdict.reason


@pytest.mark.parametrize("value", ["[1, (2.5, None)]", "{1, 2}", "{'a': [b'x']}", "1e400", "2**200", "1j", "range(3)"])
def test_values_reach_the_tests_as_they_are(value: str) -> None:
    tests = f"result = f({value})\nassert result == [{value}] * 2 and type(result[0]) is type({value})"
    assert run_tests("def f(x):\n    pass\n", "    return [x, x]\n", tests, "f").outcome == "passed"


def test_collections_of_the_standard_library_are_values_too() -> None:
    completion = "    from collections import Counter, defaultdict\n    return [Counter(x), defaultdict(int, a=1)]\n"
    assert run_tests(
        "def f(x):\n    pass\n", completion, "assert f('aab') == [{'a': 2, 'b': 1}, {'a': 1}]", "f"
    ).outcome == ("passed")


@pytest.mark.parametrize(
    "completion",
    [
        "    while True: pass\n",
        "    import time; time.sleep(60)\n",
        "    while True: print('x' * 100_000)\n",
        "    import os\n    while True:\n        try: os.fork()\n        except OSError: pass\n",
        # Both copies stay alive and keep the pipe open.
        "    import os\n    os.fork() or os.setsid()\n    import time; time.sleep(60)\n",
    ],
)
def test_endless_programs_are_killed_with_their_processes(completion: str, mark: str) -> None:
    assert verdict_of(completion, SHORT) == ExecutionVerdict("timed_out", "not done after 0.7 s")
    assert not running(mark)


@pytest.fixture
def mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A variable of the environment by which the sandbox's processes are found."""
    monkeypatch.setitem(sandbox_client._ENVIRONMENT, "MARK", str(tmp_path))
    return f"MARK={tmp_path}\0"


def test_processes_of_a_running_sandbox_are_found(mark: str) -> None:
    with ThreadPoolExecutor() as pool:
        verdict = pool.submit(verdict_of, "    import time; time.sleep(60)\n", Limits(seconds=3))
        time.sleep(1)
        assert len(processes(mark)) == 3  # bubblewrap, the tests, the program
    assert verdict.result().outcome == "timed_out"
    assert not running(mark)


def test_a_sandbox_ends_soon_after_its_client_was_killed(mark: str, tmp_path: Path) -> None:
    script = (
        "from prunescope.pipelines.evaluation.tasks import sandbox_client as s\n"
        f"s._ENVIRONMENT['MARK'] = {str(tmp_path)!r}\nprint('ready', flush=True)\n"
        "s.run_tests('', 'import time; time.sleep(60)', '', 'f', s.Limits(seconds=2))\n"
    )
    environment = os.environ | {"PYTHONPATH": str(Path.cwd() / ".src")}
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, env=environment) as client:
        assert client.stdout is not None
        client.stdout.readline()
        time.sleep(1)
        client.kill()
    assert not running(mark)


def processes(mark: str) -> list[str]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it just ended
            if mark.encode() in (process / "environ").read_bytes():
                found.append(process.name)
    return found


def running(mark: str) -> list[str]:
    """Return processes with this mark, after some time for killed ones to end."""
    for _ in range(100):
        if not processes(mark):
            return []
        time.sleep(0.05)
    return processes(mark)


def test_a_child_that_outlives_a_right_program_dies_with_the_verdict(mark: str) -> None:
    child = "    import os, time\n    if os.fork() == 0:\n        os.setsid()\n        time.sleep(60)\n"
    assert verdict_of(child + RIGHT).outcome == "passed"
    assert not running(mark)


def test_processor_time_ends_before_the_deadline_does() -> None:
    verdict = verdict_of("    while True: pass\n", Limits(seconds=60, cpu_seconds=1))
    assert verdict == ExecutionVerdict("timed_out", "the program used up its processor time")


def test_processor_time_of_the_tests_ends_too() -> None:
    verdict = run_tests(PROBLEM, RIGHT, "while True: pass", "double", Limits(seconds=60, cpu_seconds=1))
    assert verdict == ExecutionVerdict("timed_out", "the tests used up their processor time")


def test_the_number_of_processes_is_limited() -> None:
    forks = """made, signal = 0, __import__("signal")
    try:
        while os.fork(): made += 1
        signal.pause()
    except OSError: pass"""
    assert sandboxed("made", forks) == 7
    threads = """made, threading = 0, __import__("threading")
    try:
        while True:
            threading.Thread(target=threading.Event().wait, daemon=True).start()
            made += 1
    except RuntimeError: pass"""
    assert sandboxed("made", threads) == 7


@pytest.mark.parametrize(
    "completion", ["    return bytearray(10 * 2**30)\n", "    x = [x]\n    while True: x = x * 2\n"]
)
def test_memory_has_a_limit(completion: str) -> None:
    assert verdict_of(completion, Limits(memory_bytes=2**28)).outcome == "memory"


def test_the_working_folder_is_empty_and_limited_in_size() -> None:
    assert sandboxed("[os.getcwd(), os.listdir(), os.environ['HOME'], os.environ['TMPDIR']]") == [
        "/box",
        [],
        "/box",
        "/box",
    ]
    assert verdict_of("    open('a', 'w').write('b')\n    return 2 * x\n").outcome == "passed"
    assert sandboxed("os.listdir()") == []
    assert "File too large" in verdict_of("    open('a', 'wb').write(bytes(2**25))\n").reason
    many = "    for i in range(9): open(str(i), 'wb').write(bytes(2**21))\n"
    assert "No space left" in verdict_of(many).reason
    assert "Too many open files" in verdict_of("    files = [open('a', 'w') for _ in range(40)]\n").reason


def test_only_libraries_are_visible_and_all_are_read_only(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("s")
    hidden = [f"/{name}" for name in ("etc/passwd", "home", "proc", "sys", "dev/zero", "dev/shm", "tmp", "var", "run")]
    hidden = [path for path in hidden if not f"{sys.base_prefix}/".startswith(f"{path}/")] + [str(secret)]
    assert sandboxed(f"[path for path in {hidden} if os.path.exists(path)]") == []
    for path in ("/etc/passwd", str(secret), f"/../..{secret}", "/proc/1/root/etc/passwd"):
        assert "No such file" in verdict_of(f"    open({path!r})\n").reason
    assert "No module named" in verdict_of("    import numpy\n").reason
    assert sandboxed("len(__import__('hashlib').md5(b'').hexdigest())") == 32
    for path in ("/x", "/usr/x", "/usr/lib/x", os.__file__):
        reason = verdict_of(f"    open({path!r}, 'a')\n").reason
        assert "Read-only file system" in reason or "Permission denied" in reason
    assert secret.read_text() == "s"
    flags = "[bool(os.statvfs(path).f_flag & os.ST_RDONLY) for path in ('/', '/usr/lib', os.__file__, '/box')]"
    assert sandboxed(flags) == [True, True, True, False]


def test_nothing_of_the_caller_is_inherited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", "secret")
    assert set(sandboxed("list(os.environ)")) <= {"HOME", "TMPDIR", "PYTHONHASHSEED", "PYTHONUTF8", "LC_CTYPE", "PWD"}
    user, group, *processes = sandboxed("[os.getuid(), os.getgid(), os.getpid(), os.getppid()]")
    assert user == group != 0
    assert processes == [2, 1]
    opened = """files = []
    for file in range(3, 32):
        try: os.fstat(file)
        except OSError: continue
        files.append(file)"""
    assert len(sandboxed("files", opened)) == 2  # the pipe to its tests, there and back


@pytest.mark.parametrize(
    "kind", ["AF_INET, socket.SOCK_STREAM", "AF_INET, socket.SOCK_DGRAM", "AF_UNIX, socket.SOCK_STREAM"]
)
def test_there_is_no_network_and_no_socket(kind: str, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s"))
        verdict = verdict_of(f"    import socket\n    socket.socket(socket.{kind}).connect({str(tmp_path / 's')!r})\n")
    assert verdict == ExecutionVerdict("failed", "OSError: [Errno 38] Function not implemented")


def test_the_parent_is_out_of_reach_and_rights_stay_dropped() -> None:
    assert (
        verdict_of("    import os\n    os.kill(os.getppid(), 9)\n    os.kill(1, 15)\n    return 2 * x\n").outcome
        == "passed"
    )
    assert "not permitted" in verdict_of("    import os; os.setuid(0)\n").reason
    assert (
        "not allowed to raise"
        in verdict_of("    import resource as r; r.setrlimit(r.RLIMIT_AS, (2**40, 2**40))\n").reason
    )
    names = ("ptrace", "unshare", "shmget", "setns", "memfd_create")
    calls = "import ctypes\n    libc = ctypes.CDLL(None, use_errno=True)\n    errors = []"
    calls += "".join(f"\n    libc.{name}(0, 0, 0, 0); errors.append(ctypes.get_errno())" for name in names)
    calls += "\n    libc.syscall(447, 0); errors.append(ctypes.get_errno())"  # memfd_secret
    calls += "\n    libc.mount(b'none', b'/box', b'tmpfs', 0, 0); errors.append(ctypes.get_errno())"
    assert sandboxed("errors", calls) == [38] * (len(names) + 1) + [1]


def test_sets_come_in_the_same_order_every_time() -> None:
    orders = {str(sandboxed("list({'a', 'b', 'c', 'd', 'e', 'f'})")) for _ in range(3)}
    assert len(orders) == 1


def test_without_namespaces_nothing_runs_and_the_message_names_them(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    script = (
        "from prunescope.pipelines.evaluation.tasks.sandbox_client import run_tests, refusal\n"
        f"print(run_tests('', {f'open({str(ran)!r}, mode=chr(119))'!r}, '', 'f').outcome, refusal())"
    )
    unshare = shutil.which("unshare")
    assert unshare, "util-linux is missing"
    forbid = "echo 0 > /proc/sys/user/max_user_namespaces && exec "
    done = subprocess.run(
        [unshare, "-Ur", "sh", "-c", f'{forbid} "$@"', "sh", sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(Path.cwd() / ".src")},
    )
    assert done.stdout.startswith("refused bubblewrap cannot isolate programs on this machine (bwrap: ")
    assert not ran.exists()


def test_without_bubblewrap_nothing_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert verdict_of(RIGHT).outcome == "refused"
    assert refusal() == "bubblewrap is missing; install it on Linux: apt-get install bubblewrap"


def test_a_failing_sandbox_is_an_error_and_no_verdict() -> None:
    with pytest.raises(ComputationError, match="the sandbox for a program failed: TypeError"):
        run_tests(PROBLEM, RIGHT, TESTS, "double", Limits(memory_bytes=None))  # type: ignore[arg-type]
