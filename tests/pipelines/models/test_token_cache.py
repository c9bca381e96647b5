"""The cache holds what the library's own cache holds, and a step writes only its own tokens."""

import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import Gemma3TextConfig, LlamaConfig
from transformers.cache_utils import DynamicCache, DynamicLayer

from prunescope.pipelines.models.token_cache import ROOM, TokenCache
from tests.examples import examples

CONFIG = LlamaConfig(num_hidden_layers=2)
STEPS = st.one_of(
    st.tuples(st.just("append"), st.integers(1, ROOM + 2)),
    st.tuples(st.just("crop"), st.integers(1, 3)),
    st.tuples(st.sampled_from(["keep", "select"]), st.lists(st.integers(0, 2), min_size=3, max_size=3)),
)


def _states(rows: int, tokens: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return keys and values of other sizes, as views of one product, which some attentions make."""
    whole = torch.rand((rows, tokens, 2, 7), generator=generator).transpose(1, 2)
    return whole[..., :3], whole[..., 3:]


@given(steps=st.lists(STEPS, max_size=8), seed=st.integers(0, 99))
@settings(max_examples=examples(40))
def test_it_holds_the_tokens_of_the_librarys_cache(steps: list[tuple[str, int | list[int]]], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    own, other = TokenCache(CONFIG), DynamicCache(config=CONFIG)
    for name, argument in [("append", 5), *steps, ("append", 1)]:
        match name, argument:
            case "append", int(tokens):
                for layer in range(2):
                    states = _states(3, tokens, generator)
                    got, expected = own.update(*states, layer), other.update(*states, layer)
                    assert all(torch.equal(*pair) for pair in zip(got, expected, strict=True))
            case "crop", int(tokens):
                for cache in (own, other):
                    cache.crop(-tokens)
            case "keep", list(rows):
                own.keep(rows)
                other.reorder_cache(torch.LongTensor(rows))
            case "select", list(rows):
                for cache in (own, other):
                    cache.batch_select_indices(torch.LongTensor(rows))
        assert own.get_seq_length() == other.get_seq_length()


def test_a_step_copies_no_earlier_token_until_the_buffer_is_full() -> None:
    generator = torch.Generator().manual_seed(0)
    cache = TokenCache(CONFIG)
    cache.update(*_states(3, 5, generator), 0)
    places = []
    for _ in range(2 * ROOM + 2):
        keys, values = cache.update(*_states(3, 1, generator), 0)
        places.append((keys.data_ptr(), values.data_ptr()))
        cache.crop(0)
    assert len(set(places)) == 3
    keys, _ = cache.update(*_states(3, 2, generator), 0)
    cache.crop(-1)
    assert cache.update(*_states(3, 1, generator), 0)[0].data_ptr() == keys.data_ptr()


def test_a_selected_batch_frees_the_buffers_of_the_whole_one() -> None:
    cache = TokenCache(CONFIG)
    for layer in range(2):
        cache.update(*_states(3, 5, torch.Generator()), layer)
    held = [weakref.ref(buffer) for layer in cache.layers for buffer in layer._buffers]  # type: ignore[union-attr]
    cache.keep([0, 2])
    assert [buffer() for buffer in held] == [None] * 4
    with pytest.raises(ValueError, match="tokens of 1 texts for the cache of 2"):
        cache.update(*_states(1, 1, torch.Generator()), 0)


def test_windows_and_other_layers_stay_the_librarys() -> None:
    layer_types = ["full_attention", "sliding_attention"]
    config = Gemma3TextConfig(num_hidden_layers=2, layer_types=layer_types, sliding_window=4)
    own, other = TokenCache(config).layers, DynamicCache(config=config).layers
    assert type(own[1]) is type(other[1]) is not DynamicLayer
    assert isinstance(own[0], DynamicLayer)
    assert type(own[0]) is not DynamicLayer
