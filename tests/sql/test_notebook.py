"""The notebook, run on warehouses and exported to a page without a browser."""

import os
import re
import shutil
import subprocess
import sys

import pytest

from tests.sql.built_whole import whole_warehouse


@pytest.fixture(scope="module")
def notebook():
    """Import the notebook, and marimo with it, only in the process that runs these tests."""
    from prunescope.sql import notebook

    return notebook


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("notebook") / "warehouse"
    whole_warehouse().connect(root).close()
    return root


def texts(outputs):
    return [" ".join(re.sub(r"<[^>]+>", "", output.text).split()) for output in outputs if hasattr(output, "text")]


def test_it_asks_five_questions_and_explains_each_answer(notebook, root, monkeypatch):
    monkeypatch.setenv("PRUNESCOPE_WAREHOUSE", str(root))
    outputs, defined = notebook.app.run()
    said = [text[text.index("Answer.") :] for text in texts(outputs) if "Answer." in text]
    assert len(said) == 5
    assert sum("vega" in output.text for output in outputs if hasattr(output, "text")) == 5
    assert not any("nan" in text.split() for text in said)
    flips = defined["flips"]
    assert flips.height
    flipped = flips.drop_nulls("first_flip_step").height
    assert said[0].startswith(f"Answer. {flipped} of {flips.height} texts leave the dense one")


def test_an_empty_warehouse_is_reported_and_breaks_nothing(notebook, tmp_path, monkeypatch):
    monkeypatch.setenv("PRUNESCOPE_WAREHOUSE", str(tmp_path))
    outputs, defined = notebook.app.run()
    assert defined["flips"].is_empty()
    assert any("prunescope run demo" in text for text in texts(outputs))


@pytest.mark.exhaustive  # by marimo, which runs the same cells as above
def test_it_is_exported_to_a_page_without_a_browser(notebook, root, tmp_path):
    # A copy, because marimo keeps a session beside the file that it runs.
    copy = shutil.copy(notebook.__file__, tmp_path)
    page = tmp_path / "page.html"
    command = [sys.executable, "-m", "marimo", "export", "html", str(copy), "-o", str(page)]
    environment = {**os.environ, "PRUNESCOPE_WAREHOUSE": str(root), "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    content = page.read_text()
    assert content.count("Answer.") >= 5
    assert "Traceback" not in content
