"""Texts as the model sees them: token ids, windows, and which tokens of them are scored.

Tokenizer only; no weights are needed, so that a study can be refused before anything runs.
"""

import hashlib
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.corpora.text_sources import read_text
from prunescope.pipelines.studies import Study, TextSpec

# Only as much of a text is tokenized as is needed: characters a token at first, then twice as many.
_CHARACTERS_A_TOKEN = 8


@dataclass(frozen=True)
class TokenizedText:
    """The windows of a text.

    Attributes:
        text: as the study names it.
        windows: token ids; where the tokenizer begins a text with a token of its own, every window begins with it.
        hash: SHA-256 of the whole text in UTF-8, however much of it is read.
    """

    text: TextSpec
    windows: Int[Tensor, "windows context"]
    hash: str

    @property
    def targets(self) -> Int[Tensor, " tokens"]:
        """The scored tokens, window by window."""
        return self.windows[:, -self.text.scored :].reshape(-1)

    @property
    def positions(self) -> Int[Tensor, "windows scored"]:
        """Index of each scored token in the text's sequence of tokens; a first token of the tokenizer's own is 0."""
        first = self.text.context - self.text.scored + torch.arange(self.text.scored)
        return self.text.step * torch.arange(len(self.windows))[:, None] + first


def tokenize_texts(study: Study, tokenizer: Any, context_length: int) -> list[TokenizedText]:  # noqa: ANN401
    """Windows of every text of a study.

    Raises:
        InputError: a text cannot be read, is shorter than one window, or its windows are longer than the context.
    """
    return [_tokenized(text, tokenizer, context_length) for text in study.texts]


def _tokenized(text: TextSpec, tokenizer: Any, context_length: int) -> TokenizedText:  # noqa: ANN401
    if text.context > context_length:
        raise InputError(
            f"text {text.id!r}: `context` {text.context} is over the model's of {context_length} tokens; lower it"
        )
    most = text.max_tokens // text.scored
    contents = read_text(text.source, text.what)
    ids = _first_tokens(contents, text.context + (most - 1) * text.step, tokenizer)
    if len(ids) < text.context:
        raise InputError(
            f"{text.what} {text.source}: {len(ids)} tokens, fewer than one window of {text.context}; "
            "lower `context` or give a longer text"
        )
    windows = torch.tensor(ids).unfold(0, text.context, text.step)[:most].clone()
    if _own_start(tokenizer):
        windows[:, 0] = ids[0]
    return TokenizedText(text, windows, hashlib.sha256(contents.encode()).hexdigest())


def _first_tokens(text: str, count: int, tokenizer: Any) -> list[int]:  # noqa: ANN401
    """The first tokens of a text, behind the tokenizer's own first token; fewer where the text is shorter.

    Where a text is cut may change the tokens next to the cut, so twice as many as needed must come before it.
    """
    start = _own_start(tokenizer)
    length = count * _CHARACTERS_A_TOKEN
    while True:
        ids = tokenizer(text[:length], add_special_tokens=False, return_attention_mask=False, verbose=False).input_ids
        if len(ids) >= 2 * count or length >= len(text):
            return [*start, *ids][:count]
        length *= 2


def _own_start(tokenizer: Any) -> list[int]:  # noqa: ANN401
    """The token that the tokenizer puts in front of a text by itself: its beginning of text, or none."""
    begins = tokenizer("a").input_ids[:1]
    return begins if begins == [tokenizer.bos_token_id] else []
