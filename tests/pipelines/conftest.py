"""Fixtures with the tiny decoders, each loaded once per process."""

import shutil
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
from torch import Tensor

from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.models.load import load_decoder
from tests.tiny_models import EVERY_DECODER, save_tiny


@pytest.fixture(scope="session")
def _decoders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Decoder, dict[str, Tensor]]]:
    """Return a function that loads a decoder once per process, with a copy of its weights."""

    @cache
    def load(name: str) -> tuple[Decoder, dict[str, Tensor]]:
        decoder = load_decoder(save_tiny(tmp_path_factory.mktemp("decoders") / name, name))
        return decoder, {key: value.clone() for key, value in decoder.model.state_dict().items()}

    return load


@pytest.fixture(scope="module")
def tiny_decoder(
    _decoders: Callable[[str], tuple[Decoder, dict[str, Tensor]]],
) -> Iterator[Callable[[str], Decoder]]:
    """Return a function from a name to a shared decoder; afterwards check that its weights and hooks are unchanged."""
    given = set()

    def give(name: str) -> Decoder:
        given.add(name)
        return _decoders(name)[0]

    yield give
    for name in given:
        decoder, weights = _decoders(name)
        left = decoder.model.state_dict()
        assert left.keys() == weights.keys(), name
        changed = [key for key, w in weights.items() if left[key].dtype != w.dtype or not left[key].equal(w)]
        assert changed == [], name
        hooked = [key for key, m in decoder.model.named_modules() if m._forward_hooks or m._forward_pre_hooks]
        assert hooked == [], name


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    """Copy the random Llama of three layers for a test that changes it."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "model"))


@pytest.fixture(scope="module")
def decoder(tiny_folder: Path) -> Decoder:
    """Load the random Llama of three layers."""
    return load_decoder(tiny_folder)


@pytest.fixture(scope="module", params=EVERY_DECODER)
def each_decoder(request: pytest.FixtureRequest, tiny_decoder: Callable[[str], Decoder]) -> Decoder:
    """Return every form of decoder in turn, shared with other tests."""
    return tiny_decoder(request.param)
