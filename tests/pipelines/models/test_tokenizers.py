"""A tokenizer that does not fit its model, or that its library refuses, ends in one line, at load where that shows."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.models.load import load_decoder
from prunescope.pipelines.models.meta_model import load_meta_model


@pytest.fixture
def changed(folder: Path) -> Callable[[Callable[[dict[str, Any]], None]], Path]:
    """Return a function that changes the tokenizer.json of a tiny model and returns the model's folder."""

    def change(edit: Callable[[dict[str, Any]], None]) -> Path:
        content = json.loads((folder / "tokenizer.json").read_text())
        edit(content)
        (folder / "tokenizer.json").write_text(json.dumps(content))
        return folder

    return change


def last_id(number: int) -> Callable[[dict[str, Any]], None]:
    def edit(content: dict[str, Any]) -> None:
        vocabulary = content["model"]["vocab"]
        vocabulary[max(vocabulary, key=vocabulary.get)] = number

    return edit


def test_a_vocabulary_beyond_the_embedding_is_refused_at_load(changed: Callable[..., Path]) -> None:
    with pytest.raises(InputError, match=r"model: its tokenizer gives token 300 \('\w+'\), and .* has rows 0 to 299;"):
        load_decoder(changed(last_id(300)))


@pytest.mark.parametrize("number", [-1, 2**40])
def test_an_id_that_the_library_refuses_ends_in_one_line_before_and_at_load(
    changed: Callable[..., Path], number: int
) -> None:
    folder = changed(last_id(number))
    # `load_meta_model` is what a study checks every model with, and an InputError refuses that model alone.
    for load in (load_meta_model, load_decoder):
        with pytest.raises(
            InputError, match=rf"model: transformers cannot load it \(invalid value: integer `{number}`"
        ):
            load(folder)


def test_an_added_token_beyond_the_embedding_is_refused_in_the_text_that_has_it(changed: Callable[..., Path]) -> None:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    token = {"id": 300, "content": "<image>", "special": True} | flags
    decoder = load_decoder(changed(lambda content: content["added_tokens"].append(token)))
    tokens = torch.tensor([decoder.tokenizer("a<image>b").input_ids])
    for run in (decoder.hidden, lambda rows: decoder.padded(rows, torch.tensor([3]))):
        with pytest.raises(InputError, match=r"its tokenizer gives token 300 \('<image>'\)"):
            run(tokens)


def test_padding_beyond_the_embedding_is_replaced(tiny_decoder: Callable[[str], Decoder]) -> None:
    class Padded:
        pad_token_id = 300

    assert replace(tiny_decoder("llama"), tokenizer=Padded()).padding == 0
