"""Greedy generation of answers to many contexts in one batch, with the decoder's current weights."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from prunescope.pipelines.core.errors import ComputationError, InputError
from prunescope.pipelines.evaluation.tasks.speculative_decoding import DraftProposer, best_draft_length
from prunescope.pipelines.metrics.text_metrics import common_prefix_length
from prunescope.pipelines.models.decoder import Decoder, padded_left, padded_right, probe_tokens
from prunescope.pipelines.models.known_text import WHOLE, KnownText, Pass
from prunescope.pipelines.models.module_calls import quick_linears
from prunescope.pipelines.models.token_cache import KeyValues, TokenCache

# Maximum contexts per batch: on a CPU, a row of a product of 64 rows takes half the time of a row of a product of 16.
# After the first FEW_CONTEXTS, a context joins only if its padding is at most half as long as an answer.
BATCH_CONTEXTS, FEW_CONTEXTS = 64, 16
# Tokens per batch, padding and answers included; they bound the cache and the activations.
MAX_TOKENS = 32_768
# Number of states whose logits are in memory at the same time. Drafts make up to 17 states per row.
BLOCK_ROWS = 64
# Minimum length of a prefix that all contexts of a batch share, such as worked examples, to run it once.
MIN_SHARED_PREFIX = 64
# If a pass over contexts needs more padding tokens than this, two passes are faster.
MAX_PADDING = 64
# Maximum size of the kept keys and values of contexts.
KEPT_CONTEXT_BYTES = 2**30
# RoPE variants that depend on the longest position of a pass, and therefore on the length of a draft.
_LENGTH_DEPENDENT_ROPE = {"dynamic", "longrope"}


@dataclass(frozen=True)
class Generation:
    """One answer.

    Attributes:
        text: text before the first stop string, without special tokens.
        tokens: all generated tokens, including the end token or stop string.
        ended: whether a stop string or an end token came before the limit.
        kept: number of tokens that form the text.
    """

    text: str
    tokens: tuple[int, ...]
    ended: bool
    kept: int


@dataclass
class _Row:
    """Context, its keys and values if they are known, and the answer generated so far."""

    context: tuple[int, ...]
    states: KeyValues | None
    stops: tuple[str, ...]
    limit: int
    proposer: DraftProposer
    tokens: list[int] = field(default_factory=list)
    ended: bool = False

    @property
    def is_finished(self) -> bool:
        """Return whether the text has ended or has as many tokens as it may have."""
        return self.ended or len(self.tokens) >= self.limit


@dataclass
class _Batch:
    """Texts that are written together.

    Attributes:
        rows: the unfinished texts.
        uses_drafts: whether a pass may check drafts.
        cache: keys and values of all tokens but the last of each text; None before they are read, or if the model
            cannot use a cache.
        mask: 1 for tokens in the cache, 0 for padding.
    """

    rows: list[_Row]
    uses_drafts: bool
    cache: TokenCache | None = None
    mask: Int[Tensor, "texts tokens"] = field(default_factory=lambda: torch.ones(0, 0, dtype=torch.int64))

    def remove_finished(self) -> None:
        """Take finished texts out of the batch."""
        unfinished = [n for n, row in enumerate(self.rows) if not row.is_finished]
        if 0 < len(unfinished) < len(self.rows) and self.cache is not None:
            self.cache.keep(unfinished)
        self.rows, self.mask = [self.rows[n] for n in unfinished], self.mask[unfinished]

    def join(self, other: "_Batch", cache: TokenCache, added: TokenCache) -> None:
        """Add the texts of another batch, after removing the columns that are padding in all texts of this one."""
        padding = int(self.mask.any(dim=0).int().argmax())
        cache.join(added, padding)
        columns = cache.get_seq_length()
        masks = [torch.nn.functional.pad(each, (columns - each.shape[1], 0)) for each in (self.mask, other.mask)]
        self.rows, self.mask = self.rows + other.rows, torch.cat(masks)


@torch.inference_mode()
def generate_greedy(
    decoder: Decoder,
    contexts: Sequence[Sequence[int]],
    until: Sequence[Sequence[str]],
    max_new_tokens: int,
    batch: int = BATCH_CONTEXTS,
    others: Sequence[Sequence[int]] | None = None,
    starts: Sequence[Sequence[int]] | None = None,
    *,
    reuses_prefix: bool | None = None,
    known: Mapping[tuple[int, ...], KeyValues] | None = None,
) -> list[Generation]:
    """Generate a greedy answer to every context, up to a stop string, an end token or the limit.

    The text equals that of lm-eval's `hf` model. A context that is too long loses tokens at its beginning. An empty
    context becomes the token that begins a text. A stop string may begin and end inside tokens. Equal logits go to the
    lower token id. Contexts are sorted by length and padded on the left; if padding changes the states
    (`Decoder.can_pad`), each runs alone. Finished rows leave their batch.

    If `can_reuse_prefix` holds, a long prefix that a batch shares runs once. The pass of a text's last token also
    checks its draft (`speculative_decoding`). New contexts take the places of finished rows. The text is the same as
    token by token, unless two logits are so close that the rounding of a pass with more rows reverses them.

    `until` has the stop strings of each context; empty ones do not count. `batch` is the maximum of rows per batch;
    MAX_TOKENS may lower it. `others` has another model's tokens after each context; they serve as drafts and decide no
    token. `starts` has the tokens that each answer must begin with; they count towards the limit. `reuses_prefix` is
    the result of `can_reuse_prefix`, if it is known. `known` has keys and values by context, from `read_contexts`;
    these contexts are not read again.

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
    rows, none = [], [()] * len(contexts)
    for tokens, stops, other, start in zip(contexts, until, others or none, starts or none, strict=True):
        context = tuple(tokens)[-room:] or _first_token(decoder)
        proposer = DraftProposer(context, other)
        row = _Row(
            context,
            (known or {}).get(context),
            tuple(stop for stop in stops if stop),
            max_new_tokens,
            proposer,
            list(start),
        )
        row.proposer.observe(start)
        row.ended = bool(start) and _has_ended(decoder, row)
        rows.append(row)
    # The longest first: memory then runs out at once or never.
    waiting = deque(sorted((row for row in rows if not row.is_finished), key=lambda row: -len(row.context)))
    with quick_linears(decoder.model):
        if reuses_prefix is None:
            reuses_prefix = can_reuse_prefix(decoder)
        max_rows, max_tokens = decoder.at_once(batch) if decoder.can_pad else 1, decoder.at_once(MAX_TOKENS)

        def next_rows(running: int = 0, columns: int = 0) -> list[_Row]:
            """Take waiting rows that fit into a batch with `running` texts and `columns` of cache."""
            taken = list[_Row]()
            columns = max(columns, len(waiting[0].context)) + max_new_tokens
            while waiting and running + len(taken) < max_rows:
                count = running + len(taken) + 1
                padding = len(taken[0].context) - len(waiting[0].context) if taken else 0
                if count > 1 and count * columns > max_tokens:
                    break
                if len(taken) >= FEW_CONTEXTS and padding > max_new_tokens // 2:
                    break
                taken.append(waiting.popleft())
            return taken

        while waiting:
            together = _Batch(next_rows(), reuses_prefix)
            size = len(together.rows)
            while together.rows:
                _step(decoder, together, reuses_prefix=reuses_prefix)
                columns = together.mask.shape[1]
                has_room = 0 < 2 * len(together.rows) <= size and columns + max_new_tokens < decoder.context_length
                if waiting and has_room and reuses_prefix:
                    _fill(decoder, together, partial(next_rows, len(together.rows), columns))
    return [_finished(decoder, row) for row in rows]


def _first_token(decoder: Decoder) -> tuple[int]:
    """Return the token that replaces an empty context."""
    for token in (decoder.tokenizer.bos_token_id, decoder.tokenizer.eos_token_id):
        if token is not None:
            return (int(token),)
    raise InputError(f"{decoder.folder}: a context is empty, and the tokenizer has no token that begins or ends a text")


def _step(decoder: Decoder, batch: _Batch, *, reuses_prefix: bool) -> None:
    """Write the next token of every text, and the tokens of its draft that are right."""
    rows, cache, width = batch.rows, batch.cache, 0
    drafts: list[list[int]] = [[] for _ in rows]
    if cache is None:
        cache = None if decoder.cache_refusal else decoder.new_cache()
        if cache is not None and reuses_prefix and all(row.states for row in rows):
            tokens, mask = _after_contexts(decoder, rows, cache)
        else:
            read = [(*row.context, *row.tokens) for row in rows]
            tokens, mask = _prefill(decoder, read, cache, reuses_prefix=reuses_prefix)
        # RecurrentGemma keeps its state in its modules and resets it only on a pass of several tokens: a text that
        # begins with one token would continue the previous text. Without a cache all tokens run again.
        cache = None if mask.shape[1] == 1 else cache
    else:
        if batch.uses_drafts:
            drafts = [row.proposer.propose(row.limit - len(row.tokens) - 1) for row in rows]
        # The padding of a draft is read like a draft, because no row may be masked entirely. No position may exceed the
        # model's context.
        room = decoder.context_length - max(len(row.context) + len(row.tokens) for row in rows)
        width = min(best_draft_length(drafts), room)
        drafts = [draft[:width] for draft in drafts]
        new = [[row.tokens[-1], *draft] + [0] * (width - len(draft)) for row, draft in zip(rows, drafts, strict=True)]
        tokens = torch.tensor(new, device=decoder.device)
        mask = torch.nn.functional.pad(batch.mask, (0, width + 1), value=1)
    best, is_finite = _best(decoder, decoder.hidden(tokens, cache, mask)[:, -1 - width :])
    if width and cache is not None and not is_finite:
        # A wrong draft may cause the NaN, in other rows too: repeat the pass without drafts.
        cache.crop(-1 - width)
        batch.uses_drafts = False
        _step(decoder, batch, reuses_prefix=reuses_prefix)
        return
    if not is_finite:
        raise ComputationError("NaN or infinite logits during generation; the variant's weights are damaged")
    right = [_accept(decoder, row, draft, new) for row, draft, new in zip(rows, drafts, best.tolist(), strict=True)]
    if width and cache is not None:
        # A row's wrong draft tokens stay in the cache if another row's were right; the mask hides them.
        longest = max(right)
        if longest < width:  # `crop(0)` would remove all
            cache.crop(longest - width)
        accepted = torch.arange(longest) < torch.tensor(right)[:, None]
        mask = torch.cat([mask[:, :-width], accepted.to(mask)], dim=1)
    batch.cache, batch.mask = cache, mask
    batch.remove_finished()


def _fill(decoder: Decoder, batch: _Batch, next_rows: Callable[[], list[_Row]]) -> None:
    """Let texts take the places of finished ones, if the cache has a column for every token."""
    if batch.cache is None or not batch.cache.holds_every_token:
        return
    added = _Batch(next_rows(), uses_drafts=False)
    while added.rows and added.cache is None:
        _step(decoder, added, reuses_prefix=True)
    if added.rows and added.cache is not None:
        batch.join(added, batch.cache, added.cache)


def _accept(decoder: Decoder, row: _Row, draft: Sequence[int], tokens: Sequence[int]) -> int:
    """Append the tokens that the model writes, up to the end of the text; return how many draft tokens were right."""
    right = common_prefix_length(draft, tokens)
    row.proposer.observe(tokens[: right + 1])
    for token in tokens[: right + 1]:
        row.tokens.append(token)
        row.ended = _has_ended(decoder, row)
        if row.ended:
            break
    return right


def _prefill(
    decoder: Decoder, contexts: list[tuple[int, ...]], cache: TokenCache | None, *, reuses_prefix: bool
) -> tuple[Tensor, Tensor]:
    """Run a shared prefix into the cache; return the padded tokens that remain, and the mask of all tokens."""
    common = common_prefix_length(min(contexts), max(contexts))  # all others lie between these two in token order
    shared = min(common, min(map(len, contexts)) - 2)  # models treat a pass of one token as a decoding step
    if cache is None or len(contexts) == 1 or shared < MIN_SHARED_PREFIX or not reuses_prefix:
        return padded_left(contexts, decoder.device)
    return _after_prefix(decoder, contexts[0][:shared], [context[shared:] for context in contexts], cache)


def _after_contexts(decoder: Decoder, rows: Sequence[_Row], cache: TokenCache) -> tuple[Tensor, Tensor]:
    """Fill the cache with known contexts; return the padded tokens that remain, and the mask of all tokens."""
    cache.fill([list(cast(KeyValues, row.states)) for row in rows], [len(row.context) - 1 for row in rows])
    _, before = padded_left([row.context[:-1] for row in rows], decoder.device)
    tokens, after = padded_left([(row.context[-1], *row.tokens) for row in rows], decoder.device)
    return tokens, torch.cat([before, after], dim=1)


def _after_prefix(
    decoder: Decoder, prefix: Sequence[int], ends: Sequence[Sequence[int]], cache: TokenCache
) -> tuple[Tensor, Tensor]:
    decoder.hidden(torch.tensor([prefix], device=decoder.device), cache)
    cache.keep([0] * len(ends))
    tokens, mask = padded_left(ends, decoder.device)
    return tokens, torch.cat([torch.ones_like(mask[:, :1]).expand(-1, len(prefix)), mask], dim=1)


def read_contexts(decoder: Decoder, contexts: Sequence[tuple[int, ...]]) -> list[KeyValues] | None:
    """Return keys and values of each context, at least of all tokens but the last; None if it holds other states.

    A prefix that all contexts share runs first; then contexts of similar length run together, padded on the right.
    """
    # In token order all other contexts lie between these two.
    shared = min(*(len(context) - 2 for context in contexts), common_prefix_length(min(contexts), max(contexts)))
    if shared < 0 or decoder.cache_refusal is not None or not decoder.new_cache().holds_every_token:
        return None
    config = cast(Any, decoder.model).config.to_dict()
    is_worth_a_pass = shared * (len(contexts) - 1) > MAX_PADDING and not depends_on_pass_length(config)
    prefix = read_contexts(decoder, [contexts[0][: shared + 1]]) if is_worth_a_pass else None
    shared = shared if prefix else 0
    groups: list[list[int]] = []
    for context in sorted(range(len(contexts)), key=lambda context: len(contexts[context])):
        if not groups or sum(len(contexts[context]) - len(contexts[each]) for each in groups[-1]) > MAX_PADDING:
            groups.append([])
        groups[-1].append(context)
    by_context: dict[int, KeyValues | None] = {}
    for group in groups:
        cache = decoder.new_cache()
        if prefix:
            cache.fill([list(prefix[0]) for _ in group], [shared] * len(group))
        decoder.hidden(padded_right([contexts[context][shared:-1] for context in group]).to(decoder.device), cache)
        by_context |= {context: cache.text(row, 0) for row, context in enumerate(group)}
    texts = [by_context[context] for context in range(len(contexts))]
    return None if None in texts else cast(list[KeyValues], texts)


@torch.inference_mode()
def add_contexts(
    decoder: Decoder, known: dict[tuple[int, ...], KeyValues], contexts: Sequence[tuple[int, ...]]
) -> None:
    """Read contexts that are not yet known, if the keys and values of all fit into KEPT_CONTEXT_BYTES."""
    missing = sorted({*contexts} - {*known}, key=lambda context: (len(context), context))
    missing = [context for context in missing if 1 < len(context) < decoder.context_length]
    first = read_contexts(decoder, missing[:1]) if missing else None
    if not first:
        return
    bytes_per_token = sum(side[:, :1].nbytes for both in first[0] for side in both)
    if bytes_per_token * sum(map(len, (*known, *missing))) > KEPT_CONTEXT_BYTES:
        return
    size = decoder.at_once(BATCH_CONTEXTS)
    for batch in (missing[start : start + size] for start in range(0, len(missing), size)):
        with quick_linears(decoder.model):
            states = cast(list[KeyValues], read_contexts(decoder, batch))
        for context, layers in zip(batch, states, strict=True):
            end = len(context) - 1  # a view would keep the whole batch in memory
            known[context] = [(keys[:, :end].clone(), values[:, :end].clone()) for keys, values in layers]


@torch.inference_mode()
def can_reuse_prefix(decoder: Decoder) -> bool:
    """Run two texts of different lengths after one cached prefix, padded in between; return whether they are right."""
    if decoder.cache_refusal is not None or depends_on_pass_length(cast(Any, decoder.model).config.to_dict()):
        return False
    cache = decoder.new_cache()
    if any(getattr(layer, "is_sliding", False) for layer in cache.layers):
        return False  # padding would push the prefix out of the window
    tokens = probe_tokens(decoder, 24)[0].tolist()
    prefix, longer, shorter = tokens[:12], tokens[12:], tokens[14:19]
    ends: list[Tensor] = []

    def passes() -> Iterator[Pass]:
        yield lambda: ends.extend(_after_prefix(decoder, prefix, [longer, shorter], cache)), WHOLE
        yield partial(decoder.hidden, ends[0], cache, ends[1]), slice(-len(shorter), None)

    return KnownText(decoder, torch.tensor([prefix + shorter], device=decoder.device)).is_read_by(passes())


def depends_on_pass_length(config: Any) -> bool:  # noqa: ANN401
    """Return whether masks or rotations depend on the length of a pass, which two short texts would not show.

    GPT-Neo's local attention masks by `window_size` inside its module; its cache does not show the window.
    """
    if isinstance(config, dict):
        return any(
            (name.endswith("window_size") and bool(value))
            or (name in {"rope_type", "type"} and value in _LENGTH_DEPENDENT_ROPE)
            or depends_on_pass_length(value)
            for name, value in config.items()
            if isinstance(name, str)
        )
    return isinstance(config, list | tuple) and any(map(depends_on_pass_length, config))


def _best(decoder: Decoder, states: Float[Tensor, "texts tokens width"]) -> tuple[Int[Tensor, "texts tokens"], bool]:
    """Return the likeliest token after each state, the lower id on ties, and whether all logits are finite."""
    blocks = states.flatten(0, 1).split(decoder.at_once(BLOCK_ROWS))
    largest, best = zip(*map(decoder.head.likeliest, blocks), strict=True)
    return torch.cat(best).reshape(states.shape[:2]), bool(torch.cat(largest).isfinite().all())


def _has_ended(decoder: Decoder, row: _Row) -> bool:
    """Return whether the last token ends the text, or completes a stop string, special tokens included."""
    # A character has at most four tokens. One is added, because a tokenizer may strip a space at the start of a text.
    last = 4 * max(map(len, row.stops), default=0) + 1
    text = decoder.tokenizer.decode(row.tokens[-last:]) if row.stops else ""
    return row.tokens[-1] in decoder.end_ids or any(stop in text for stop in row.stops)


def _finished(decoder: Decoder, row: _Row) -> Generation:
    def decoded(count: int) -> str:
        return str(decoder.tokenizer.decode(row.tokens[:count], skip_special_tokens=True))

    kept = len(row.tokens)
    if row.tokens and row.tokens[-1] in decoder.end_ids:
        kept -= 1
    text = whole = decoded(kept)
    for stop in row.stops:
        text = text.split(stop)[0]
    ended = row.ended or text != whole
    while ended and kept and decoded(kept - 1).startswith(text):
        kept -= 1
    return Generation(text, tuple(row.tokens), ended, kept)
