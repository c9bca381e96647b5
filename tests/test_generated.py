"""Derived files are those of the code, so that every change of them is seen in a commit."""

from pathlib import Path

import pytest

from tests.generated import FILES


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_derived_file_is_up_to_date_with_the_code(path: Path) -> None:
    assert path.read_text(encoding="utf-8") == FILES[path](), (
        f"{path} differs from the code; if the change is meant, `make generated` writes it anew for the commit"
    )
