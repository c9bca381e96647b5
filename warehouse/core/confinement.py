"""Limits of this process that the kernel enforces, also on the code of libraries.

Limits of files, programs and network need Linux, resource limits any POSIX system. A limit that the kernel lacks is
left out.
"""

import ctypes
import os
import re
import resource
import signal
import struct
import sys
from collections.abc import Iterable
from contextlib import suppress
from math import inf
from pathlib import Path

# From the kernel's headers linux/landlock.h, linux/prctl.h and linux/sched.h; the numbers are those of every machine.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION, _BENEATH = 1, 1
_READ_FILE, _READ_FOLDER = 1 << 2, 1 << 3
# By Landlock's version: file accesses that it can forbid, and the bytes of its struct of attributes.
_FILE_ACCESSES = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}
_ATTRIBUTE_BYTES = {1: 8, 4: 16, 6: 24}
_TCP, _OTHER_PROCESSES = 3, 3
_NO_NEW_PRIVILEGES = 38
_NEW_NETWORK, _NEW_USERS = 0x40000000, 0x10000000


def forbid_files(readable: Iterable[Path]) -> None:
    """Forbid this process for good to write, create or remove files, to start programs, and to read other files.

    Only threads that are started afterwards are bound, too: call it before the first.

    Args:
        readable: folders below which files may be read; missing ones are skipped.
    """
    if not sys.platform.startswith("linux"):
        return
    libc = ctypes.CDLL(None, use_errno=True)
    version = libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint(_VERSION))
    if version < 1:  # no Landlock, which Linux has since 5.13
        return
    accesses, size = (
        max((known, value) for known, value in table.items() if known <= version)[1]
        for table in (_FILE_ACCESSES, _ATTRIBUTE_BYTES)
    )
    attributes = struct.pack("=3Q", accesses, _TCP, _OTHER_PROCESSES)[:size]
    ruleset = libc.syscall(_CREATE_RULESET, attributes, ctypes.c_size_t(size), ctypes.c_uint(0))
    if ruleset < 0:
        return
    try:
        for folder in readable:
            with suppress(OSError):
                descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
                try:
                    rule = struct.pack("=Qi", _READ_FILE | _READ_FOLDER, descriptor)
                    libc.syscall(_ADD_RULE, ruleset, ctypes.c_int(_BENEATH), rule, ctypes.c_uint(0))
                finally:
                    os.close(descriptor)
        libc.prctl(_NO_NEW_PRIVILEGES, *map(ctypes.c_ulong, (1, 0, 0, 0)))
        libc.syscall(_RESTRICT_SELF, ruleset, ctypes.c_uint(0))
    finally:
        os.close(ruleset)


def forbid_network() -> None:
    """Move this process for good into a network namespace without devices, if the user may; it must have one thread."""
    if sys.platform.startswith("linux"):
        libc = ctypes.CDLL(None, use_errno=True)
        # Root needs no namespace of users, in which it could no longer read files of others.
        if libc.unshare(_NEW_NETWORK):
            libc.unshare(_NEW_NETWORK | _NEW_USERS)


def limit_memory(gibibytes: float) -> None:
    """Limit the memory that this process may allocate from now on, as address space, in GiB."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    used = _address_space()
    if used is None:
        return
    size = used + int(gibibytes * (1 << 30))
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (size if hard == resource.RLIM_INFINITY else min(size, hard), hard))


def memory_left() -> float:
    """Return how many GiB of address space `limit_memory` still allows; freed memory may stay with the process."""
    limit, used = resource.getrlimit(resource.RLIMIT_AS)[0], _address_space()
    return inf if used is None or limit == resource.RLIM_INFINITY else (limit - used) / (1 << 30)


def _address_space() -> int | None:
    """Return the bytes of this process's address space; None if the system does not tell."""
    status = Path("/proc/self/status")
    used = re.search(r"VmSize:\s+(\d+) kB", status.read_text()) if status.exists() else None
    return None if used is None else int(used[1]) * 1024


def limit_time(seconds: float) -> None:
    """Let the kernel end this process after that time, unless `unlimited_time` comes first.

    Args:
        seconds: wall-clock time; processor time is limited to as much on every core.
    """
    used = resource.getrusage(resource.RUSAGE_SELF)
    cores = os.cpu_count() or 1
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime + seconds * cores) + 1, hard))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, seconds)


def unlimited_time() -> None:
    """Undo `limit_time`."""
    signal.setitimer(signal.ITIMER_REAL, 0)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (hard, hard))
