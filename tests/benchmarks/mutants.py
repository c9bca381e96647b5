"""Faults from `mutants.tsv`, put into a copy of the tree one by one, and the test that notices each.

Run by `python -m tests.benchmarks.mutants [NUMBER ...]`; prints a line per fault and ends with 1 if one survives. The
table has a line per fault: the file, the text in it, the text that replaces it, and fast tests that should notice. A
tab parts the columns, a space the tests; a line break in a text is `\n`, and a backslash is doubled. A text occurs once
in its file. If it no longer does, the fault has to follow the code, and nothing runs.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from tests.benchmarks.measuring import ROOT, seconds

# A fault that makes its tests hang counts as noticed.
PATIENCE = 300


class Fault(NamedTuple):
    """A line of the table, with the tests as arguments of pytest."""

    path: str
    right: str
    wrong: str
    tests: list[str]


def faults() -> dict[int, Fault]:
    """Return the faults by number, from 1."""
    found = {}
    lines = Path(__file__).with_suffix(".tsv").read_text(encoding="utf-8").splitlines()[1:]
    for number, line in enumerate(lines, start=1):
        path, right, wrong, tests = line.split("\t")
        texts = (re.sub(r"\\(.)", lambda found: {"n": "\n"}.get(found[1], found[1]), text) for text in (right, wrong))
        found[number] = Fault(path, *texts, [f"tests/{test}" for test in tests.split(" ")])
    return found


def absent(tree: Path) -> list[str]:
    """Return the faults whose text is missing or not unique in its file, or whose test is missing."""
    found = []
    for number, fault in faults().items():
        file = tree / fault.path
        times = file.read_text(encoding="utf-8").count(fault.right) if file.exists() else 0
        if times != 1:
            found.append(f"{number}: {fault.path} holds {times} times, not once: {fault.right.strip()}")
        for path, _, name in (test.partition("::") for test in fault.tests):
            held = (tree / path).read_text(encoding="utf-8") if (tree / path).exists() else ""
            if f"def {name.partition('[')[0]}" not in held:
                found.append(f"{number}: there is no {path}::{name}")
    return found


def run(tree: Path, tests: list[str], patience: int = PATIENCE) -> str:
    """Return the first of the tests that fails, `it ran too long`, or an empty text if all pass.

    Raises:
        RuntimeError: pytest ran no test.
    """
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-m", "not exhaustive", *tests]
    # A changed file has another time, so that compiled modules of the copy are renewed.
    own = {"PYTHONPATH": f"{tree / '.src'}:{tree}", "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": ""}
    try:
        done = subprocess.run(
            command, cwd=tree, env=os.environ | own, capture_output=True, text=True, timeout=patience, check=False
        )
    except subprocess.TimeoutExpired:
        return "it ran too long"
    if done.returncode not in (0, 1, 2):
        raise RuntimeError(f"pytest ended with {done.returncode}, so no test has run:\n{done.stdout}{done.stderr}")
    failed = re.search(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.MULTILINE)
    return "" if done.returncode == 0 else failed[1] if failed else "pytest ended early"


def copied(folder: Path) -> Path:
    """Copy the files of the tree that git knows; a link of `.src` stays a link, into the copy."""
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, names.split("\0")):
        if (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name, follow_symlinks=False)
    return folder


def main() -> None:
    """Inject the named faults, or all."""
    if gone := absent(ROOT):
        sys.exit("\n".join(["these faults have to follow the code:", *gone]))
    known = faults()
    chosen = {number: known[number] for number in map(int, sys.argv[1:])} or known
    survived = 0
    with tempfile.TemporaryDirectory(prefix="prunescope-mutants-") as folder:
        tree = copied(Path(folder))
        sound = dict.fromkeys(test for fault in chosen.values() for test in fault.tests)
        if failed := run(tree, list(sound), PATIENCE * len(chosen)):
            sys.exit(f"without any fault the tests fail: {failed}")
        for number, fault in chosen.items():
            file, by = tree / fault.path, list[str]()
            before = file.read_text(encoding="utf-8")
            file.write_text(before.replace(fault.right, fault.wrong), encoding="utf-8")
            spent = seconds(lambda by=by, fault=fault: by.append(run(tree, fault.tests)))
            file.write_text(before, encoding="utf-8")
            survived += not by[0]
            sys.stdout.write(
                f"{number:3} {fault.path:50} {spent:5.0f} s  {by[0].removeprefix('tests/') or 'SURVIVED'}\n"
            )
            sys.stdout.flush()
    sys.stdout.write(f"{len(chosen) - survived} of {len(chosen)} faults were noticed\n")
    sys.exit(survived > 0)


if __name__ == "__main__":
    main()
