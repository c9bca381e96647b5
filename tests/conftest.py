"""Fixtures that more than one room's tests use."""

from pathlib import Path

import pytest

from tests.tiny_models import save_tiny


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of three layers."""
    return save_tiny(tmp_path_factory.mktemp("models") / "tiny-llama")
