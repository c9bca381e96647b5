"""Tiny decoders whose answers do not depend on the rounding of a batch."""

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest

from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.models.load import load_decoder
from tests.tiny_models import save_tiny


@pytest.fixture(scope="session")
def exact(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Decoder]:
    """Return a function that loads a decoder once per process, in float64 unless its softmax is float32 anyway."""

    @cache
    def load(architecture: str) -> Decoder:
        decoder = load_decoder(save_tiny(tmp_path_factory.mktemp("exact") / architecture, architecture))
        model: Any = decoder.model
        if model.config._attn_implementation != "eager":
            model.double()
        return decoder

    return load
