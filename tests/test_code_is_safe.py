"""Safety of the code: no pickle is opened, no text evaluated, no code of a file run by a library."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Modules whose functions create objects from bytes that may contain code.
UNPICKLING = ("cloudpickle", "dill", "joblib", "jsonpickle", "marshal", "pickle", "_pickle", "shelve")
FORBIDDEN = {
    *("eval", "exec", "torch.load", "pandas.read_pickle", "evaluate.load", "runpy.run_path", "runpy.run_module"),
    *("yaml.load", "yaml.load_all", "yaml.full_load", "yaml.unsafe_load", "yaml.Loader", "yaml.UnsafeLoader"),
    *("os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput"),
}
# Dangerous with any value but False.
SWITCHES = {"shell", "trust_remote_code", "allow_pickle"}
# The sandbox script: it runs a model's programs, and exchanges plain values between its own two processes.
JAIL = "pipelines/evaluation/tasks/sandbox.py"


def dangers(source: str) -> set[str]:
    """Return the dangerous names that the source uses, by full names, however imported."""
    tree = ast.parse(source)
    names = {
        alias.asname or alias.name.partition(".")[0]: (
            f"{node.module}.{alias.name}"
            if isinstance(node, ast.ImportFrom)
            else alias.name
            if alias.asname
            else alias.name.partition(".")[0]
        )
        for node in ast.walk(tree)
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for alias in node.names
    }
    return {found for node in ast.walk(tree) for found in _of(node, names)}


def _of(node: ast.AST, names: dict[str, str]) -> Iterator[str]:
    if isinstance(node, (ast.Name, ast.Attribute)):
        full = _full(node, names)
        if full in FORBIDDEN or (full.partition(".")[0] in UNPICKLING and "." in full):
            yield full
    elif isinstance(node, ast.keyword) and node.arg in SWITCHES and not _is_false(node.value):
        yield f"{node.arg}="
    elif isinstance(node, ast.Dict):
        for key, value in zip(node.keys, node.values, strict=True):
            if isinstance(key, ast.Constant) and key.value in SWITCHES and not _is_false(value):
                yield f"{key.value}="


def _full(node: ast.expr, names: dict[str, str]) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_full(node.value, names)}.{node.attr}"
    return names.get(node.id, node.id) if isinstance(node, ast.Name) else ""


def _is_false(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is False


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import pickle\npickle.loads(b'')", {"pickle.loads"}),
        ("from pickle import load as read\nread(file)", {"pickle.load"}),
        ("import torch as t\nt.load('x.pt')", {"torch.load"}),
        ("import torch\nload = torch.load", {"torch.load"}),
        ("from torch import load\nload('x')", {"torch.load"}),
        ("import yaml\nyaml.load(text, Loader=yaml.Loader)", {"yaml.load", "yaml.Loader"}),
        ("import yaml\nyaml.safe_load(text)", set()),
        ("eval('1')\nexec('2')\nmodel.eval()", {"eval", "exec"}),
        ("import subprocess\nsubprocess.run('x', shell=True)", {"shell="}),
        ("f(trust_remote_code=study.trusts)\nf(trust_remote_code=False)", {"trust_remote_code="}),
        ("f(**{'trust_remote_code': True})", {"trust_remote_code="}),
        ("import numpy as np\nnp.load(f, allow_pickle=True)", {"allow_pickle="}),
        ("import os.path\nos.system('x')", {"os.system"}),
    ],
)
def test_the_search_for_dangers_follows_imports(source: str, found: set[str]) -> None:
    assert dangers(source) == found


def test_the_packages_contain_no_danger_but_the_sandbox() -> None:
    files = [path for room in ("assets", "pipelines", "sql", "warehouse") for path in (ROOT / room).rglob("*.py")]
    assert len(files) > 150
    found = {str(path.relative_to(ROOT)): dangers(path.read_text(encoding="utf-8")) for path in files}
    assert {name: each for name, each in found.items() if each} == {JAIL: found[JAIL]}


def test_every_model_and_tokenizer_is_opened_without_code_of_its_own() -> None:
    """Set the option always: otherwise transformers asks at the terminal whether the model's code may run."""
    for path in (ROOT / "pipelines").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        if ".from_pretrained(" in text and "import Auto" in text:
            assert "trust_remote_code" in text, path
