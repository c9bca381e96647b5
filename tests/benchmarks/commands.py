"""Processor time of interactive commands: `python -m tests.benchmarks.commands [WAREHOUSE [STUDY]]`.

Needs a warehouse in which the study is current (`make demo`). The fastest of several starts counts, after one that
fills caches: other work on the machine is not the command's.
"""

import os
import resource
import shlex
import subprocess
import sys
from pathlib import Path

from tests.benchmarks.measuring import Table

STARTS = 5


def processor_seconds(arguments: list[str], variables: dict[str, str], *, is_current: bool) -> float:
    """Return the seconds, of the user and the system, that a command takes with all processes that it starts."""
    command = [str(Path(sys.executable).with_name("prunescope")), *arguments]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        sys.exit(f"prunescope {shlex.join(arguments)}: {done.stderr}")
    if is_current and "everything is current" not in done.stderr:
        sys.exit(f"prunescope {shlex.join(arguments)}: the study is not current; run it first")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Measure, print and compare with the targets."""
    warehouse, study = [*sys.argv[1:], *["warehouse/data", "demo"][len(sys.argv) - 1 :]]
    completion = {"_PRUNESCOPE_COMPLETE": "complete_bash", "COMP_WORDS": "prunescope checkpoint ", "COMP_CWORD": "2"}
    targets: dict[str, tuple[float, list[str], dict[str, str]]] = {
        "--version": (0.3, ["--version"], {}),
        "--help": (0.3, ["--help"], {}),
        "completion of a variant": (0.3, [], completion),
        'sql "select 1"': (0.9, ["sql", "select 1"], {}),
        f"plan {study}, all current": (3.0, ["plan", study], {}),
        f"run {study}, all current": (2.0, ["run", study], {}),
    }
    table = Table()
    for name, (most, arguments, own) in targets.items():
        variables = own | {"PRUNESCOPE_WAREHOUSE": warehouse}
        found = [processor_seconds(arguments, variables, is_current=study in arguments) for _ in range(STARTS + 1)]
        table.add(f"{name}, processor s", min(found[1:]), most=most)
    table.print()


if __name__ == "__main__":
    main()
