"""Tokenization of texts into windows with their scored tokens. Needs no weights."""

import hashlib
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.corpora.text_sources import read_text
from prunescope.pipelines.studies import Study, TextSpec

# Only the needed beginning of a text is tokenized: at first this many characters per token, then twice as many, and
# so on.
_CHARACTERS_PER_TOKEN = 8


@dataclass(frozen=True)
class TokenizedText:
    """Windows of a text.

    Attributes:
        text: the study's entry.
        windows: token ids; every window begins with the tokenizer's beginning-of-text token, if it adds one.
        hash: SHA-256 of the whole text in UTF-8.
    """

    text: TextSpec
    windows: Int[Tensor, "windows context"]
    hash: str

    @property
    def targets(self) -> Int[Tensor, " tokens"]:
        """Scored tokens, window by window."""
        return self.windows[:, -self.text.scored :].reshape(-1)

    @property
    def positions(self) -> Int[Tensor, "windows scored"]:
        """Index of each scored token among the text's tokens; a beginning-of-text token has index 0."""
        first = self.text.context - self.text.scored + torch.arange(self.text.scored)
        return self.text.step * torch.arange(len(self.windows))[:, None] + first


def tokenize_texts(study: Study, tokenizer: Any, context_length: int) -> list[TokenizedText]:  # noqa: ANN401
    """Tokenize every text of a study.

    Raises:
        InputError: a text cannot be read, is shorter than one window, or its windows are longer than the context.
    """
    return [_tokenized(text, tokenizer, context_length) for text in study.texts]


def _tokenized(text: TextSpec, tokenizer: Any, context_length: int) -> TokenizedText:  # noqa: ANN401
    if text.context > context_length:
        raise InputError(
            f"text {text.id!r}: `context` {text.context} is over the model's {context_length} tokens; lower it"
        )
    max_windows = text.max_tokens // text.scored
    contents = read_text(text.source, text.what)
    ids = _first_tokens(contents, text.context + (max_windows - 1) * text.step, tokenizer)
    if len(ids) < text.context:
        raise InputError(
            f"{text.what} {text.source}: {len(ids)} tokens, fewer than one window of {text.context}; "
            "lower `context` or give a longer text"
        )
    windows = torch.tensor(ids).unfold(0, text.context, text.step)[:max_windows].clone()
    if _start_token(tokenizer):
        windows[:, 0] = ids[0]
    return TokenizedText(text, windows, hashlib.sha256(contents.encode()).hexdigest())


def _first_tokens(text: str, count: int, tokenizer: Any) -> list[int]:  # noqa: ANN401
    """Return the first tokens of a text after the beginning-of-text token, or all tokens of a shorter text.

    Cutting a text may change the tokens next to the cut, so the part must have twice as many tokens as needed.
    """
    start = _start_token(tokenizer)
    length = count * _CHARACTERS_PER_TOKEN
    while True:
        ids = tokenizer(text[:length], add_special_tokens=False, return_attention_mask=False, verbose=False).input_ids
        if len(ids) >= 2 * count or length >= len(text):
            return [*start, *ids][:count]
        length *= 2


def _start_token(tokenizer: Any) -> list[int]:  # noqa: ANN401
    """Return the beginning-of-text token if the tokenizer adds it to a text, otherwise an empty list."""
    begins = tokenizer("a").input_ids[:1]
    return begins if begins == [tokenizer.bos_token_id] else []
