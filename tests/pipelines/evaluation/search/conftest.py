"""The decoder that most tests of searches share."""

from collections.abc import Callable

import pytest

from prunescope.pipelines.models.decoder import Decoder


@pytest.fixture(scope="module")
def decoder(tiny_decoder: Callable[[str], Decoder]) -> Decoder:
    return tiny_decoder("llama")
