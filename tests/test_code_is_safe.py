"""Safety of the code where no rule of ruff looks: exceptions from its rules, and switches of libraries."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = [path for room in ("assets", "pipelines", "sql", "warehouse") for path in (ROOT / room).rglob("*.py")]
SOURCES = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in FILES}
# Rules against pickles, evaluated texts and shells.
EXCEPTION = re.compile(r"noqa: .*\b(S102|S30[127]|S506|S60[245]|TID251)")
# Dangerous with any value but False.
SWITCH = re.compile(r"""\b(trust_remote_code|allow_pickle)\b["']?\s*[:=](?!\s*False\b)""")
# The sandbox script: it runs a model's programs, and exchanges plain values between its own two processes.
JAIL = "pipelines/evaluation/tasks/sandbox.py"
# A method in a user's own file, which runs only with --allow-python.
OWN_METHOD = "pipelines/pruning/methods/own_method.py"


def test_only_the_sandbox_opens_pickles_and_runs_texts() -> None:
    assert len(SOURCES) > 150
    assert [name for name, source in SOURCES.items() if EXCEPTION.search(source)] == [JAIL, OWN_METHOD]


@pytest.mark.parametrize(
    ("source", "is_open"),
    [
        ("f(trust_remote_code=study.trusts)", True),
        ("f(trust_remote_code = False)", False),
        ("f(**{'trust_remote_code': True})", True),
        ('f(**{"trust_remote_code": False})', False),
        ("np.load(f, allow_pickle=True)", True),
    ],
)
def test_a_switch_is_found_with_any_value_but_false(source: str, is_open: bool) -> None:
    assert bool(SWITCH.search(source)) == is_open


def test_no_library_is_told_to_run_code_or_to_open_a_pickle() -> None:
    assert [name for name, source in SOURCES.items() if SWITCH.search(source)] == []


def test_every_model_and_tokenizer_is_opened_without_code_of_its_own() -> None:
    """Set the option always: otherwise transformers asks at the terminal whether the model's code may run."""
    for name, source in SOURCES.items():
        if name.startswith("pipelines/") and ".from_pretrained(" in source and "import Auto" in source:
            assert "trust_remote_code" in source, name
