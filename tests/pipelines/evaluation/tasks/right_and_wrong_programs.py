"""The samples of the task `humaneval_choice`: for each problem of HumanEval its solution and three wrong versions.

`python -m tests.pipelines.evaluation.tasks.right_and_wrong_programs` writes them anew. A wrong version differs from
the solution in one place (an operator, a comparison, a constant, a condition) and fails the problem's tests; all four
are printed from their syntax trees, so that no layout tells them apart. Problems whose solution has fewer than three
such versions are left out.
"""

import ast
import copy
import json
import multiprocessing
import random
import resource
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from prunescope.pipelines.evaluation.tasks.definition import DATA

FILE = DATA / "humaneval_choice.jsonl"
OPTIONS = 4
_SECONDS, _BYTES = 3, 1 << 30
_OPERATORS: dict[type, type] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.FloorDiv: ast.Mult,
    ast.Div: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.And: ast.Or,
    ast.Or: ast.And,
}
_NAMES = {"min": "max", "max": "min", "any": "all", "all": "any", "upper": "lower", "lower": "upper"}


def versions(solution: ast.FunctionDef) -> Iterator[ast.FunctionDef]:
    """Yield the versions of a function that differ in one place, in the order of its syntax tree."""
    for index, node in enumerate(ast.walk(solution)):
        for change in _changes(node):
            changed = copy.deepcopy(solution)
            change(list(ast.walk(changed))[index])
            yield changed


def _changes(node: ast.AST) -> Iterator[Callable[[Any], None]]:
    """Yield functions that change such a node in place."""
    if isinstance(node, ast.BinOp | ast.AugAssign | ast.BoolOp) and type(node.op) in _OPERATORS:
        yield lambda other: setattr(other, "op", _OPERATORS[type(other.op)]())
    if isinstance(node, ast.Compare) and type(node.ops[0]) in _OPERATORS:
        yield lambda other: other.ops.__setitem__(0, _OPERATORS[type(other.ops[0])]())
    if isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield lambda other: setattr(other, "value", not other.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, int):
        yield lambda other: setattr(other, "value", other.value + 1)
        if node.value > 0:
            yield lambda other: setattr(other, "value", other.value - 1)
    if isinstance(node, ast.Name) and node.id in _NAMES:
        yield lambda other: setattr(other, "id", _NAMES[other.id])
    if isinstance(node, ast.Attribute) and node.attr in _NAMES:
        yield lambda other: setattr(other, "attr", _NAMES[other.attr])
    if isinstance(node, ast.IfExp):
        yield _exchange


def _exchange(node: ast.IfExp) -> None:
    node.body, node.orelse = node.orelse, node.body


def passes(program: str) -> bool:
    """Return whether a program with its tests ends without an error, in a process with little time and memory."""
    process = multiprocessing.get_context("fork").Process(target=_run, args=(program,))
    process.start()
    process.join(20 * _SECONDS)  # its processor time is limited; on a busy machine it takes longer
    if process.is_alive():
        process.kill()
        process.join()
    return process.exitcode == 0


def _run(program: str) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (_BYTES, _BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (_SECONDS, _SECONDS))
    signal.signal(signal.SIGXCPU, signal.SIG_DFL)
    exec(program, {"__name__": "tested"})  # noqa: S102 - published solutions with one change


def program_of(problem: dict[str, str], body: str) -> str:
    """Return the program of a problem with a body, and its tests."""
    return f"{problem['prompt']}{body}\n{problem['test']}\ncheck({problem['entry_point']})"


def body_of(problem: dict[str, str], function: ast.FunctionDef) -> str:
    """Return the text of a function below its signature and docstring."""
    lines = ast.unparse(ast.Module(function.body, [])).splitlines()
    return "\n".join(f"    {line}" if line else line for line in lines)


def sample(problem: dict[str, str]) -> dict[str, object] | None:
    """Return the record of a problem, or None if it has too few wrong versions."""
    module = ast.parse(problem["prompt"] + problem["canonical_solution"])
    functions = [node for node in module.body if isinstance(node, ast.FunctionDef)]
    [function] = [node for node in functions if node.name == problem["entry_point"]]
    if isinstance(function.body[0], ast.Expr) and isinstance(function.body[0].value, ast.Constant):
        del function.body[0]  # its docstring is in the prompt
    right = body_of(problem, function)
    if not passes(program_of(problem, right)):
        return None
    generator = random.Random(problem["task_id"])  # noqa: S311 - a reproducible order
    bodies = list(dict.fromkeys(body_of(problem, version) for version in versions(function)))
    generator.shuffle(bodies)
    wrong: list[str] = []
    for body in bodies:
        if len(wrong) < OPTIONS - 1 and body != right and not passes(program_of(problem, body)):
            wrong.append(body)
    if len(wrong) < OPTIONS - 1:
        return None
    gold = generator.randrange(OPTIONS)
    wrong.insert(gold, right)
    return {"task_id": problem["task_id"], "query": problem["prompt"], "choices": wrong, "gold": gold}


def problems(path: Path = DATA / "humaneval.jsonl") -> list[dict[str, Any]]:
    """Return HumanEval's problems, or the records of another file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def main() -> None:
    """Write the file."""
    found = [record for problem in problems() if (record := sample(problem))]
    FILE.write_text("".join(f"{json.dumps(record, ensure_ascii=False)}\n" for record in found), encoding="utf-8")


if __name__ == "__main__":
    main()
