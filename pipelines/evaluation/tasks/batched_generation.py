"""Greedy answers to many contexts at once, by whatever the decoder wears at the moment.

What an answer means is `extraction.py`'s; decoding that keeps streams for measures is `prunescope.pipelines.evaluation.traces.decoding`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from prunescope.pipelines.core.errors import ComputationError, InputError
from prunescope.pipelines.evaluation.tasks.speculative_decoding import DraftProposer, worth
from prunescope.pipelines.metrics.cpu_matmul import quick_linears
from prunescope.pipelines.metrics.text_metrics import distinct_n, repeat_rates
from prunescope.pipelines.models.decoder import Decoder, TokenCache, padded_left, probe_tokens
from prunescope.pipelines.models.forward_probe import is_close

# Tokens of one batch, padding and answers included, whatever its rows: bounds the cache and the activations.
MOST_TOKENS = 16_384
# States whose logits are in memory at once: a batch with guesses has up to seventeen times its rows.
BLOCK_ROWS = 64
# Worked examples stand in front of every question of a task; from so many tokens on, what all contexts of a batch begin
# with passes once.
LEAST_SHARED = 64


@dataclass(frozen=True)
class Generation:
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
    guesser: DraftProposer
    tokens: list[int] = field(default_factory=list)
    ended: bool = False


@torch.inference_mode()
def write(
    decoder: Decoder,
    contexts: Sequence[Sequence[int]],
    until: Sequence[Sequence[str]],
    max_new_tokens: int,
    batch: int = 16,
    others: Sequence[Sequence[int]] | None = None,
    *,
    goes_on: bool | None = None,
) -> list[Generation]:
    """Answers every context greedily, up to one of its stop strings, an end token or the limit.

    The text is the one that lm-eval's `hf` model returns: a context too long for the model loses tokens at its
    beginning, an empty one begins with the token that begins a text, a stop string counts wherever tokens end, and
    equal logits go to the lower token id. Contexts are sorted by length and padded on the left; where that was found
    to change the states (`Decoder.can_pad`), each is written alone. Rows that ended leave their batch. A long beginning
    that all contexts of a batch share passes once, where going on behind it is found to change nothing.

    Where that is found, too, tokens that are guessed (`guessing.py`) pass together with the last one, and of them stay
    those which the model would have written: the text is the one of single tokens but for logits that are equal up to
    the rounding of a pass with more rows.

    Args:
        decoder: worn or dense.
        contexts: token ids.
        until: the stop strings of each context; empty ones do not count.
        max_new_tokens: the limit.
        batch: most rows that are written together; fewer where they would take more than MOST_TOKENS.
        others: what another model wrote behind each context, to guess by; it decides no token.
        goes_on: what `can_reuse_prefix` found of the decoder, if it was asked already.

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
        _Row(
            kept := tuple(context)[-room:] or _beginning(decoder),
            tuple(stop for stop in stops if stop),
            DraftProposer(kept, other),
        )
        for context, stops, other in zip(contexts, until, others or [()] * len(contexts), strict=True)
    ]
    with quick_linears(decoder.model):
        if goes_on is None:
            goes_on = can_reuse_prefix(decoder)
        most_rows, most_tokens = decoder.at_once(batch) if decoder.can_pad else 1, decoder.at_once(MOST_TOKENS)
        for together in _batches(rows, max_new_tokens, most_rows, most_tokens):
            _write_together(decoder, together, max_new_tokens, goes_on=goes_on)
    return [_finished(decoder, row) for row in rows]


def _beginning(decoder: Decoder) -> tuple[int]:
    """What stands for an empty context."""
    for token in (decoder.tokenizer.bos_token_id, decoder.tokenizer.eos_token_id):
        if token is not None:
            return (int(token),)
    raise InputError(f"{decoder.folder}: a context is empty, and the tokenizer has no token that begins or ends a text")


def _batches(rows: Sequence[_Row], new: int, most_rows: int, most_tokens: int) -> Iterator[list[_Row]]:
    """Rows that run together, the longest first, so that what does not fit fails at once."""
    together: list[_Row] = []
    for row in sorted(rows, key=lambda row: -len(row.context)):
        count = len(together)
        if count and (count == most_rows or (count + 1) * (len(together[0].context) + new) > most_tokens):
            yield together
            together = []
        together.append(row)
    if together:
        yield together


def _write_together(decoder: Decoder, rows: list[_Row], max_new_tokens: int, *, goes_on: bool) -> None:
    """Fills the rows' tokens, all through one key-value cache."""
    cache = None if decoder.cache_refusal else decoder.new_cache()
    given, real = _begun(decoder, [row.context for row in rows], cache, goes_on=goes_on)
    # Models that keep a recurrence's state in their modules (RecurrentGemma) would go on from the last text's if a
    # text began with one token; without a cache all tokens pass again.
    through = None if given.shape[1] == 1 else cache
    guesses: list[list[int]] = [[] for _ in rows]
    while True:
        width = max(map(len, guesses))
        best, is_sound = _best(decoder, decoder.hidden(given, through, real)[:, -1 - width :])
        if width and through is not None and not is_sound:
            # A guess that the model would not have written may break what it stands beside: once more without any.
            _forget(through, width + 1)
            given, real, guesses, width, goes_on = given[:, :1], real[:, :-width], [[] for _ in rows], 0, False
            best, is_sound = _best(decoder, decoder.hidden(given, through, real))
        if not is_sound:
            raise ComputationError(
                "NaN or infinite logits while an answer was written; the variant's weights are damaged"
            )
        right = [
            _take(decoder, row, guess, tokens) for row, guess, tokens in zip(rows, guesses, best.tolist(), strict=True)
        ]
        left = [n for n, row in enumerate(rows) if not row.ended and len(row.tokens) < max_new_tokens]
        if not left:
            return
        rows, right, given, real = [rows[n] for n in left], [right[n] for n in left], given[left], real[left]
        if through is not None and len(left) < len(best):
            through.keep(left)
        if width and through is not None:
            _forget(through, width - max(right))
            # A wrong guess that stays in the cache, for another row's was right there, is never read.
            real = torch.cat([real[:, :-width], _first(right, max(right)).to(real)], dim=1)
        guesses = [row.guesser.guess(max_new_tokens - len(row.tokens) - 1) if goes_on else [] for row in rows]
        # What pads a guess is read like one, so that no row is masked whole; positions end with the model's context.
        room = decoder.context_length - max(len(row.context) + len(row.tokens) for row in rows)
        width = min(worth(guesses), room)
        guesses = [guess[:width] for guess in guesses]
        new = [[row.tokens[-1], *guess] + [0] * (width - len(guess)) for row, guess in zip(rows, guesses, strict=True)]
        read = torch.tensor(new, device=decoder.device)
        given = torch.cat([given, read], dim=1) if through is None else read
        real = torch.cat([real, torch.ones_like(read)], dim=1)
        through = cache


def _take(decoder: Decoder, row: _Row, guess: Sequence[int], tokens: Sequence[int]) -> int:
    """Adds what the model writes, up to the text's end; how many guesses were right.

    Args:
        decoder: whose end tokens and tokenizer count.
        row: the text.
        guess: what the model was given behind the last token.
        tokens: the likeliest behind the last token and behind each guess.
    """
    right = next((n for n, (a, b) in enumerate(zip(guess, tokens, strict=False)) if a != b), len(guess))
    row.guesser.saw(tokens[: right + 1])
    for token in tokens[: right + 1]:
        row.tokens.append(token)
        row.ended = token in decoder.end_ids or _is_stopped(decoder.tokenizer, row)
        if row.ended:
            break
    return right


def _first(counts: Sequence[int], width: int) -> Tensor:
    """Of every row as many ones as it counts, then zeros up to the width."""
    return torch.arange(width) < torch.tensor(counts)[:, None]


def _forget(cache: TokenCache, tokens: int) -> None:
    """The last tokens leave."""
    if tokens:
        cache.crop(-tokens)


def _begun(
    decoder: Decoder, contexts: list[tuple[int, ...]], cache: TokenCache | None, *, goes_on: bool
) -> tuple[Tensor, Tensor]:
    """What is still to be read of every context, and which tokens count, those that the cache now holds among them."""
    first, last = min(contexts), max(contexts)  # in the order of tokens: all begin with what these two share
    common = next((n for n, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    shared = min(common, min(map(len, contexts)) - 2)  # a pass of one token has rules of its own
    if cache is None or len(contexts) == 1 or shared < LEAST_SHARED or not goes_on:
        return padded_left(contexts, decoder.device)
    decoder.hidden(torch.tensor([contexts[0][:shared]], device=decoder.device), cache)
    cache.keep([0] * len(contexts))
    given, real = padded_left([context[shared:] for context in contexts], decoder.device)
    return given, torch.cat([torch.ones_like(real[:, :1]).expand(-1, shared), real], dim=1)


@torch.inference_mode()
def can_reuse_prefix(decoder: Decoder) -> bool:
    """Whether texts of several lengths go on from one cached beginning, padded in between, found by running two."""
    if decoder.cache_refusal is not None or _counts_columns(cast(Any, decoder.model).config.to_dict()):
        return False
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


# Rotations that change with the longest position of a pass, and so with a guess that reaches further.
_ROPES_BY_LENGTH = {"dynamic", "longrope"}


def _counts_columns(config: Any) -> bool:  # noqa: ANN401
    """Whether a model masks or rotates by how many columns a pass has, which two short texts would not show.

    GPT-Neo's local attention masks by `window_size` inside its module, where the cache shows no window.
    """
    if isinstance(config, dict):
        return any(
            (name.endswith("window_size") and bool(value))
            or (name in {"rope_type", "type"} and value in _ROPES_BY_LENGTH)
            or _counts_columns(value)
            for name, value in config.items()
            if isinstance(name, str)
        )
    return isinstance(config, list | tuple) and any(map(_counts_columns, config))


def _best(decoder: Decoder, states: Float[Tensor, "texts tokens width"]) -> tuple[Int[Tensor, "texts tokens"], bool]:
    """The likeliest token behind each state, the lower id where two are equal; whether all logits are numbers."""
    blocks = states.flatten(0, 1).split(decoder.at_once(BLOCK_ROWS))
    largest, best = zip(*(decoder.head.logits_of_state(block).max(dim=-1) for block in blocks), strict=True)
    return torch.cat(best).reshape(states.shape[:2]), bool(torch.cat(largest).isfinite().all())


def _is_stopped(tokenizer: Any, row: _Row) -> bool:  # noqa: ANN401
    """Whether a stop string was just completed, special tokens among them."""
    if not row.until:
        return False
    text = tokenizer.decode(row.tokens)
    return any(stop in text for stop in row.until)


def _finished(decoder: Decoder, row: _Row) -> Generation:
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
    return Generation(text, tuple(row.tokens), ended, kept)
