"""Greedy answers to many contexts at once, by whatever the decoder wears at the moment.

What an answer means is `extraction.py`'s; decoding that keeps streams for measures is `pipelines.traces.decoding`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pipelines.errors import ComputationError, InputError
from pipelines.metrics.products import quick_linears
from pipelines.metrics.text import distinct_n, repeat_rates
from pipelines.models.decoder import Decoder, TokenCache, padded_left, probe_tokens
from pipelines.models.probe import is_close

# Tokens of one batch, padding and answers included, whatever its rows: bounds the cache and the activations.
MOST_TOKENS = 16_384
# Worked examples stand in front of every question of a task; from so many tokens on, what all contexts of a batch begin
# with passes once.
LEAST_SHARED = 64


@dataclass(frozen=True)
class Written:
    """One answer.

    Attributes:
        text: up to the first stop string, which is not part of it; special tokens are left out.
        tokens: all generated ones, the ending included.
        ended: a stop string or an end token came before the limit.
        kept: how many of the tokens the text takes; behind them stands its ending.
    """

    text: str
    tokens: tuple[int, ...]
    ended: bool
    kept: int

    @property
    def distinct_2(self) -> float:
        """Share of distinct 2-grams among the text's tokens; 1 where there is none."""
        return distinct_n(self.tokens[: self.kept], 2)

    @property
    def repeat_rate(self) -> float:
        """Share of repeated 3-grams among the text's tokens; 0 where there is none."""
        rates = repeat_rates(self.tokens[: self.kept])
        return float(rates[-1]) if len(rates) else 0.0


@dataclass
class _Row:
    """A context on its way to an answer."""

    context: tuple[int, ...]
    until: tuple[str, ...]
    tokens: list[int] = field(default_factory=list)
    ended: bool = False


@torch.inference_mode()
def write(
    decoder: Decoder,
    contexts: Sequence[Sequence[int]],
    until: Sequence[Sequence[str]],
    max_new_tokens: int,
    batch: int = 16,
) -> list[Written]:
    """Answers every context greedily, up to one of its stop strings, an end token or the limit.

    The text is the one that lm-eval's `hf` model returns: a context too long for the model loses tokens at its
    beginning, an empty one begins with the token that begins a text, a stop string counts wherever tokens end, and
    equal logits go to the lower token id. Contexts are sorted by length and padded on the left; where that was found
    to change the states (`Decoder.can_pad`), each is written alone. Rows that ended leave their batch. A long beginning
    that all contexts of a batch share passes once, where going on behind it is found to change nothing.

    Args:
        decoder: worn or dense.
        contexts: token ids.
        until: the stop strings of each context; empty ones do not count.
        max_new_tokens: the limit.
        batch: most rows that are written together; fewer where they would take more than MOST_TOKENS.

    Raises:
        InputError: the limit leaves no room for a context; or a context is empty and no token begins a text.
        ComputationError: a logit is NaN or infinite.
    """
    room = decoder.context_length - max_new_tokens
    if room < 1:
        raise InputError(
            f"max_new_tokens {max_new_tokens}: the model's context of {decoder.context_length} tokens leaves no room "
            "for a question; choose fewer"
        )
    rows = [
        _Row(tuple(context)[-room:] or _beginning(decoder), tuple(stop for stop in stops if stop))
        for context, stops in zip(contexts, until, strict=True)
    ]
    with quick_linears(decoder.model):
        for together in _batches(rows, max_new_tokens, batch if decoder.can_pad else 1):
            _write_together(decoder, together, max_new_tokens)
    return [_finished(decoder, row) for row in rows]


def _beginning(decoder: Decoder) -> tuple[int]:
    """What stands for an empty context."""
    for token in (decoder.tokenizer.bos_token_id, decoder.tokenizer.eos_token_id):
        if token is not None:
            return (int(token),)
    raise InputError(f"{decoder.folder}: a context is empty, and the tokenizer has no token that begins or ends a text")


def _batches(rows: Sequence[_Row], new: int, most: int) -> Iterator[list[_Row]]:
    """Rows that run together, the longest first, so that what does not fit fails at once."""
    together: list[_Row] = []
    for row in sorted(rows, key=lambda row: -len(row.context)):
        count = len(together)
        if count and (count == most or (count + 1) * (len(together[0].context) + new) > MOST_TOKENS):
            yield together
            together = []
        together.append(row)
    if together:
        yield together


def _write_together(decoder: Decoder, rows: list[_Row], max_new_tokens: int) -> None:
    """Fills the rows' tokens, all through one key-value cache."""
    cache = None if decoder.cache_refusal else decoder.new_cache()
    given, real = _begun(decoder, [row.context for row in rows], cache)
    starts_with_one = given.shape[1] == 1
    for step in range(max_new_tokens):
        # Models that keep a recurrence's state in their modules (RecurrentGemma) would go on from the last text's if a
        # text began with one token; without a cache all tokens pass again.
        through = None if step == 0 and starts_with_one else cache
        best = _best(decoder, decoder.hidden(given, through, real)[:, -1])
        for row, token in zip(rows, best.tolist(), strict=True):
            row.tokens.append(token)
            row.ended = token in decoder.end_ids or _is_stopped(decoder.tokenizer, row)
        left = [index for index, row in enumerate(rows) if not row.ended]
        if not left:
            return
        real = torch.cat([real, torch.ones_like(best[:, None])], dim=1)
        given = torch.cat([given, best[:, None]], dim=1) if through is None else best[:, None]
        if len(left) < len(rows):
            rows, given, real = [rows[index] for index in left], given[left], real[left]
            if through is not None:
                through.keep(left)


def _begun(decoder: Decoder, contexts: list[tuple[int, ...]], cache: TokenCache | None) -> tuple[Tensor, Tensor]:
    """What is still to be read of every context, and which tokens count, those that the cache now holds among them."""
    first, last = min(contexts), max(contexts)  # in the order of tokens: all begin with what these two share
    common = next((n for n, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    shared = min(common, min(map(len, contexts)) - 2)  # a pass of one token has rules of its own
    if cache is None or len(contexts) == 1 or shared < LEAST_SHARED or not _can_go_on(decoder):
        return padded_left(contexts, decoder.device)
    decoder.hidden(torch.tensor([contexts[0][:shared]], device=decoder.device), cache)
    cache.keep([0] * len(contexts))
    given, real = padded_left([context[shared:] for context in contexts], decoder.device)
    return given, torch.cat([torch.ones_like(real[:, :1]).expand(-1, shared), real], dim=1)


def _can_go_on(decoder: Decoder) -> bool:
    """Whether texts of several lengths go on from one cached beginning, padded in between, found by running two."""
    cache = decoder.new_cache()
    if any(getattr(layer, "is_sliding", False) for layer in cache.layers):
        return False  # padding would push the beginning out of the window
    tokens = probe_tokens(decoder, 24)[0].tolist()
    begin, longer, shorter = tokens[:12], tokens[12:], tokens[14:19]
    try:
        decoder.hidden(torch.tensor([begin], device=decoder.device), cache)
        cache.keep([0, 0])
        given, real = padded_left([longer, shorter], decoder.device)
        real = torch.cat([torch.ones_like(real[:, :1]).expand(-1, len(begin)), real], dim=1)
        found = decoder.hidden(given, cache, real)[:, -1]
    except (RuntimeError, ValueError, TypeError, AttributeError, IndexError, KeyError):
        return False  # whatever an architecture raises on a cache that it does not know
    whole = [decoder.hidden(torch.tensor([begin + rest], device=decoder.device))[0, -1] for rest in (longer, shorter)]
    return is_close(found, torch.stack(whole))


def _best(decoder: Decoder, states: Tensor) -> Tensor:
    """The likeliest token behind each state, the lower id where two are equal."""
    logits, best = decoder.head.logits_of_state(states).max(dim=-1)
    if not bool(logits.isfinite().all()):
        raise ComputationError("NaN or infinite logits while an answer was written; the variant's weights are damaged")
    return best


def _is_stopped(tokenizer: Any, row: _Row) -> bool:  # noqa: ANN401
    """Whether a stop string was just completed, special tokens among them."""
    if not row.until:
        return False
    text = tokenizer.decode(row.tokens)
    return any(stop in text for stop in row.until)


def _finished(decoder: Decoder, row: _Row) -> Written:
    def read(count: int) -> str:
        return str(decoder.tokenizer.decode(row.tokens[:count], skip_special_tokens=True))

    kept = len(row.tokens)
    if row.tokens and row.tokens[-1] in decoder.end_ids:
        kept -= 1
    text = whole = read(kept)
    for stop in row.until:
        text = text.split(stop)[0]
    ended = row.ended or text != whole
    while ended and kept and read(kept - 1).startswith(text):
        kept -= 1
    return Written(text, tuple(row.tokens), ended, kept)
