"""A tiny encoder and a tiny decoder, loaded once."""

from pathlib import Path

import pytest

from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.models.load import load_decoder
from tests.tiny_encoders import save_embedder


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Decoder:
    """Load a bidirectional post-norm model."""
    return load_decoder(save_embedder(tmp_path_factory.mktemp("models") / "bert"), device="cpu")


@pytest.fixture(scope="session")
def causal(tiny_folder: Path) -> Decoder:
    """Load a decoder with its LM head."""
    return load_decoder(tiny_folder, device="cpu")


@pytest.fixture(params=["encoder", "causal"])
def either(request: pytest.FixtureRequest) -> Decoder:
    """Return the encoder and the decoder in turn."""
    return request.getfixturevalue(request.param)
