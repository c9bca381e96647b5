"""lm-eval's `hf` model on a loaded decoder with its current weights: batched, with shared prefixes run once.

Tokenization, windows and truncation are lm-eval's own code. Only the arithmetic on token ids is replaced.
"""

import copy
import hashlib
import json
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial, partialmethod
from itertools import product
from typing import Any

import torch
from jaxtyping import Float, Int
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs
from torch import Tensor

from prunescope.pipelines.core.errors import ComputationError, InputError
from prunescope.pipelines.core.progress import SILENT, Progress
from prunescope.pipelines.evaluation.batching import batched
from prunescope.pipelines.evaluation.tasks.batched_generation import (
    Generation,
    add_contexts,
    can_reuse_prefix,
    generate_greedy,
)
from prunescope.pipelines.evaluation.tasks.loading import quiet
from prunescope.pipelines.metrics.text_metrics import common_prefix_length
from prunescope.pipelines.models.decoder import Decoder, padded_left, padded_right, probe_tokens
from prunescope.pipelines.models.float64_pass import float64_norms, in_float64
from prunescope.pipelines.models.known_text import WHOLE, KnownText, Pass
from prunescope.pipelines.models.module_calls import CODE_ERRORS, quick_linears
from prunescope.pipelines.models.token_cache import KeyValues

# Tokens per forward pass, padding included: enough to fill the matrix products, but little memory.
PASS_TOKENS = 2048
# Number of rows whose logits are in memory at the same time.
BLOCK_ROWS = 256
# Lengths of continuations that are scored in float64, which takes twice the time. The rounding of float32 adds up to
# 1.2e-4 nats over 150 tokens of SmolLM2-135M. In shorter continuations it does not matter; longer ones are windows of a
# text.
LONG = range(17, 257)
# The log-likelihood of a continuation, and whether greedy decoding would write it.
Likelihood = tuple[float, bool]
Request = tuple[Any, list[int], list[int]]
# Request, row and position of a state, and the token whose likelihood the state gives.
Read = tuple[int, int, int, int]


@dataclass(frozen=True)
class _Row:
    """A sequence that the model reads, and the continuations that are scored in it.

    Attributes:
        fed: the tokens that the model reads.
        scored: per continuation, its request, the position of the state that predicts its first token, and its tokens.
    """

    fed: tuple[int, ...]
    scored: tuple[tuple[int, int, tuple[int, ...]], ...]


@dataclass(frozen=True)
class _Group:
    """Rows with a common prefix, which runs once.

    Attributes:
        rows: in token order.
        shared: length of the prefix; the full length for a single row.
    """

    rows: tuple[_Row, ...]
    shared: int

    @property
    def longest(self) -> int:
        """Length of the longest row."""
        return max(len(row.fed) for row in self.rows)

    @property
    def is_long(self) -> bool:
        """Return whether a continuation needs float64."""
        return any(len(tokens) in LONG for row in self.rows for *_, tokens in row.scored)

    @property
    def tokens(self) -> int:
        """Number of tokens that run."""
        return self.shared + sum(len(row.fed) - self.shared for row in self.rows)

    @property
    def reads(self) -> int:
        """Number of states whose logits are computed; in the prefix, rows with equal tokens share one."""
        reads = [read for index, row in enumerate(self.rows) for read in _reads(row, index)]
        return len({(position, token, index * (position >= self.shared)) for _, index, position, token in reads})


class VariantLM(HFLM):  # type: ignore[misc] # lm-eval has no types
    """Model for lm-eval's requests that runs one loaded decoder, dense or with a variant applied.

    A prefix that several requests share, such as a question before its options, runs once. Their ends continue from its
    key-value cache, all of a batch together. Logits are computed only at scored tokens. Log-likelihoods equal those of
    lm-eval's `hf` model in float32 up to the order of sums. It is made with the dense model, without a variant applied.

    Attributes:
        progress: advances once per request, or per window of a text.
        task: name of the current task in the progress.
        written: generations by `sample_hash`, until the caller clears it.
        others: another model's tokens by `sample_hash`; they serve as drafts and decide no token.
        starts: by `sample_hash`, the tokens that a text must begin with; other texts stay empty. None leaves all texts
            free.
        contexts: keys and values of contexts that the applied weights have read; None if they are not to be kept.
        is_noise: whether the applied variant is rounding noise, which float64 would hide.
    """

    def __init__(self, decoder: Decoder) -> None:
        # Copy the tokenizer, because lm-eval adds a padding token to it. lm-eval batches the windows of a text itself;
        # this batch size passes all of them on together.
        with quiet():
            super().__init__(pretrained=decoder.model, tokenizer=copy.deepcopy(decoder.tokenizer), batch_size=2**31)
        self.decoder = decoder
        # Probed on the dense model, because results must not depend on which variant comes first.
        self._can_share, self._reuses_prefix = _can_share(decoder), can_reuse_prefix(decoder)
        self._norms = float64_norms(decoder)
        self.is_noise = False
        self.progress: Progress = SILENT
        self.task = "task"
        self.written: dict[str, Generation] = {}
        self.others: Mapping[str, Sequence[int]] = {}
        self.starts: Mapping[str, Sequence[int]] | None = None
        self.contexts: dict[tuple[int, ...], KeyValues] | None = None

    def set_context(self, context: int | None) -> None:
        """Set the number of tokens per window of a text; None is the model's context."""
        self._max_length = context

    # Without lm-eval's progress bars.
    loglikelihood = partialmethod(HFLM.loglikelihood, disable_tqdm=True)
    loglikelihood_rolling = partialmethod(HFLM.loglikelihood_rolling, disable_tqdm=True)

    @torch.inference_mode()
    def _loglikelihood_tokens(self, requests: Sequence[Request], **_unused: object) -> list[Likelihood]:
        """Return the log-likelihoods of continuations after their contexts, in the order of the requests.

        Raises:
            InputError: a continuation is longer than the model's context.
            ComputationError: a logit is NaN or infinite.
        """
        max_tokens = self.decoder.at_once(PASS_TOKENS)
        groups = grouped(token_rows(requests, self.max_length), max_tokens, can_share=self._can_share)
        likelihoods: dict[int, list[Likelihood]] = defaultdict(list)
        self.progress.start(self.task, len(requests), sum(len(row.fed) for group in groups for row in group.rows))
        norms = None if self.is_noise or self.decoder.is_rounded else self._norms
        for is_shared, is_long in product((False, True), repeat=2):
            selected = [group for group in groups if (len(group.rows) > 1, group.is_long) == (is_shared, is_long)]
            run = self._run_shared if is_shared else self._run_whole
            same_length = is_shared and not self.decoder.can_pad
            precision = in_float64(self.decoder, norms) if is_long and norms is not None else nullcontext()
            with precision, quick_linears(self.decoder.model):  # float64 products are unchanged
                for batch in _batches(selected, max_tokens, same_length=same_length):
                    for states, reads in run(batch):
                        values = self._likelihoods(states, [read[1:] for read in reads])
                        for (request, *_), value in zip(reads, values, strict=True):
                            likelihoods[request].append(value)
                    self.progress.advance(sum(len(row.scored) for group in batch for row in group.rows))
        self.progress.done()
        by_request = [likelihoods[index] for index in range(len(requests))]
        return [(sum(value for value, _ in parts), all(is_greedy for _, is_greedy in parts)) for parts in by_request]

    def generate_until(self, requests: list[Any], disable_tqdm: bool = True) -> list[str]:  # noqa: ARG002
        """Return greedy answers up to the first stop string; `written` keeps the whole generations.

        Raises:
            InputError: the task samples tokens, or its limit leaves no room for a question.
        """
        by_limit: dict[int, list[tuple[str, tuple[int, ...], list[str]]]] = defaultdict(list)
        keys = [sample_hash([request.args]) for request in requests]
        eos = self.tok_decode(self.eot_token_id, skip_special_tokens=False)
        for key, request in zip(keys, requests, strict=True):
            context, arguments = request.args
            settings = normalize_gen_kwargs(dict(arguments), self.max_gen_toks)
            if settings.get("do_sample") and settings.get("temperature", 1.0) > 0:
                raise InputError(f"task {request.task_name}: it samples its answers; only greedy tasks can be paired")
            until = handle_stop_sequences(settings.get("until"), eos=eos)
            ids = tuple(int(token) for token in self.tok_batch_encode([context])[0][0])
            by_limit[int(settings["max_gen_toks"])].append((key, ids, until))
        # All contexts: what is kept must not depend on which texts have starts.
        if self.contexts is not None and self._reuses_prefix:
            add_contexts(self.decoder, self.contexts, [ids for group in by_limit.values() for _, ids, _ in group])
        if (given := self.starts) is not None:
            self.written |= {key: Generation("", (), ended=False, kept=0) for key in keys}
            by_limit = {limit: [each for each in group if each[0] in given] for limit, group in by_limit.items()}
        waiting = [len(ids) for group in by_limit.values() for _, ids, _ in group]
        self.progress.start(self.task, len(waiting), sum(waiting))
        for limit, group in by_limit.items():
            others, starts = ([known.get(key, ()) for key, *_ in group] for known in (self.others, self.starts or {}))
            contexts, stops = [ids for _, ids, _ in group], [until for *_, until in group]
            answers = generate_greedy(
                self.decoder,
                contexts,
                stops,
                limit,
                others=others,
                starts=starts,
                reuses_prefix=self._reuses_prefix,
                known=self.contexts,
            )
            self.written |= {key: answer for (key, *_), answer in zip(group, answers, strict=True)}
            self.progress.advance(len(group))
        self.progress.done()
        return [self.written[key].text for key in keys]

    def _run_whole(self, groups: Sequence[_Group]) -> Iterator[tuple[Tensor, list[Read]]]:
        """Run rows in one pass, padded on the right, which causal models never read."""
        rows = [row for group in groups for row in group.rows]
        states = self.decoder.hidden(padded_right([row.fed for row in rows]).to(self.decoder.device))
        yield states, [read for index, row in enumerate(rows) for read in _reads(row, index)]

    def _run_shared(self, groups: Sequence[_Group]) -> Iterator[tuple[Tensor, list[Read]]]:
        """Run the prefixes once, padded on the left, then the ends of all rows from the cache of the prefixes."""
        device, cache = self.decoder.device, self.decoder.new_cache()
        prefixes, mask = padded_left([group.rows[0].fed[: group.shared] for group in groups], device)
        padding = [prefixes.shape[1] - group.shared for group in groups]
        states = self.decoder.hidden(prefixes, cache, mask)
        rows = [(index, row) for index, group in enumerate(groups) for row in group.rows]
        yield (
            states,
            [
                (request, number, padding[index] + position, token)
                for index, row in rows
                for request, number, position, token in _reads(row, index)
                if position < groups[index].shared
            ],
        )
        unfinished = [(index, row) for index, row in rows if len(row.fed) > groups[index].shared]

        def length(end: tuple[int, _Row]) -> int:
            return len(end[1].fed) - groups[end[0]].shared

        # No end is padded to more than twice its length. Each part has its own copy of the cache.
        by_length = sorted(unfinished, key=length, reverse=True)
        parts = list(batched(by_length, lambda part, end: 2 * length(end) >= length(part[0])))
        for part, ends in enumerate(parts, start=1):
            part_cache = cache if part == len(parts) else copy.deepcopy(cache)
            sources = [index for index, _ in ends]
            part_cache.keep(sources)
            tokens = padded_right([row.fed[groups[index].shared :] for index, row in ends])
            # Padding on the right is never read, but it must not count as a position.
            lengths = torch.tensor([len(row.fed) - groups[index].shared for index, row in ends])
            is_real = torch.arange(tokens.shape[1]) < lengths[:, None]
            after = is_real if self.decoder.can_pad else torch.ones_like(tokens)
            yield (
                self.decoder.hidden(tokens.to(device), part_cache, torch.cat([mask[sources], after.to(mask)], dim=1)),
                [
                    (request, number, position - groups[index].shared, token)
                    for number, (index, row) in enumerate(ends)
                    for request, _, position, token in _reads(row, number)
                    if position >= groups[index].shared
                ],
            )

    def _likelihoods(
        self, states: Float[Tensor, "rows tokens width"], reads: Sequence[tuple[int, int, int]]
    ) -> list[Likelihood]:
        """Return the log-likelihood of tokens after states (row, position), and whether each token is the likeliest."""
        likelihoods, size = list[Likelihood](), self.decoder.at_once(BLOCK_ROWS)
        # Continuations with the same beginning read the same tokens.
        distinct = dict.fromkeys(reads)
        for start in range(0, len(distinct), size):
            block: Int[Tensor, "reads three"] = torch.tensor([*distinct][start : start + size], device=states.device)
            rows, positions, tokens = block.unbind(dim=1)
            head = self.decoder.head
            read = states[rows, positions]
            logits = head.exact_logits(read) if states.dtype == torch.float64 else head.logits_of_state(read)
            of_tokens = logits.gather(1, tokens[:, None])[:, 0] - logits.logsumexp(dim=1)
            values, is_likeliest = torch.stack([of_tokens, (logits.argmax(dim=1) == tokens).to(of_tokens)]).tolist()
            if not all(map(math.isfinite, values)):
                raise ComputationError("NaN or infinite logits in a task; the variant's weights are damaged")
            likelihoods += zip(values, map(bool, is_likeliest), strict=True)
        by_read = dict(zip(distinct, likelihoods, strict=True))
        return [by_read[read] for read in reads]


@torch.inference_mode()
def _can_share(decoder: Decoder) -> bool:
    """Run two continuations of many tokens from one cached context; return whether both are right."""
    tokens = probe_tokens(decoder, 24)
    split = tokens.shape[1] * 2 // 3

    def passes() -> Iterator[Pass]:
        cache = decoder.new_cache()
        yield partial(decoder.hidden, tokens[:, :split], cache), WHOLE
        cache.keep([0, 0])
        yield partial(decoder.hidden, tokens[:, split:].repeat(2, 1), cache), WHOLE

    return KnownText(decoder, tokens).is_read_by(passes(), (InputError, *CODE_ERRORS))


def sample_hash(requests: Sequence[Sequence[Any]], scoring: str = "greedy") -> str:
    """Return a hash of a sample's prompts and of their continuations or generation arguments."""
    return hashed([scoring, [list(arguments) for arguments in requests]])


def hashed(value: object) -> str:
    """Return the SHA-256 of a value's JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def _reads(row: _Row, index: int) -> list[Read]:
    return [
        (request, index, first + step, token)
        for request, first, tokens in row.scored
        for step, token in enumerate(tokens)
    ]


def token_rows(requests: Sequence[Request], max_length: int) -> list[_Row]:
    """Return the distinct token rows of the requests, cut from the left as lm-eval does.

    Raises:
        InputError: a continuation has no token, or more than `max_length`, the model's context.
    """
    scored: dict[tuple[int, ...], list[tuple[int, int, tuple[int, ...]]]] = defaultdict(list)
    for index, (_, context, continuation) in enumerate(requests):
        if not 0 < len(continuation) <= max_length:
            raise InputError(
                f"a task scores an answer of {len(continuation)} tokens; it must have 1 to {max_length}, the model's "
                "context"
            )
        fed = (*context, *continuation)[-(max_length + 1) : -1]
        scored[fed].append((index, len(fed) - len(continuation), tuple(continuation)))
    return [_Row(fed, tuple(continuations)) for fed, continuations in scored.items()]


def grouped(rows: Sequence[_Row], max_tokens: int, *, can_share: bool) -> list[_Group]:
    """Group neighbours in token order, as long as that lowers the number of tokens to run."""
    groups: list[_Group] = []
    for row in sorted(rows, key=lambda row: row.fed):
        if groups and can_share:
            last = groups[-1]
            common = min(last.shared, common_prefix_length(last.rows[-1].fed, row.fed))
            is_worth_it = (last.shared - common) * len(last.rows) < common
            if is_worth_it and (len(last.rows) + 1) * max(last.longest, len(row.fed)) <= max_tokens:
                groups[-1] = _Group((*last.rows, row), common)
                continue
        groups.append(_Group((row,), len(row.fed)))
    return groups


def _batches(groups: Sequence[_Group], max_tokens: int, *, same_length: bool) -> Iterator[list[_Group]]:
    """Divide groups into batches, the longest prefixes first: if memory runs out, it does so in the first batch."""

    def fits(batch: list[_Group], group: _Group) -> bool:
        rows = sum(len(other.rows) for other in (*batch, group))
        width = max(other.longest for other in (*batch, group))
        return rows * width <= max_tokens and not (same_length and group.shared != batch[0].shared)

    return batched(sorted(groups, key=lambda group: -group.shared), fits)
