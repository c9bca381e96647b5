"""Tests that messages are short and without secrets."""

import pytest

from prunescope.pipelines.core.errors import ComputationError, InputError


@pytest.mark.parametrize("kind", [InputError, ComputationError])
def test_a_message_that_quotes_a_long_name_keeps_its_ends(kind: type[Exception]) -> None:
    message = str(kind(f"model '{'a' * 5000}': no such file; give a folder"))
    assert len(message) < 700
    assert message.startswith("model 'aaa")
    assert message.endswith("give a folder")
    assert str(kind("x" * 2000)) == "x" * 2000
