"""lm-eval's `hf` model with its arithmetic replaced: serves whatever the loaded decoder wears, shares work, no copies.

Tokenization, windows and truncation are lm-eval's own code; only token ids come here. What is asked is `score.py`'s.
"""

import copy
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
from jaxtyping import Float, Int
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs
from torch import Tensor

from prunescope.pipelines.core.errors import ComputationError, InputError
from prunescope.pipelines.core.progress import SILENT, Progress
from prunescope.pipelines.evaluation.tasks.batched_generation import Generation, can_reuse_prefix, write
from prunescope.pipelines.evaluation.tasks.loading import quiet
from prunescope.pipelines.metrics.cpu_matmul import quick_linears
from prunescope.pipelines.models.decoder import Decoder, padded_left, probe_tokens
from prunescope.pipelines.models.forward_probe import is_close

# Tokens of one forward pass, padding included: enough to fill the matrix products, little memory.
PASS_TOKENS = 2048
# Rows whose logits are in memory at once.
BLOCK_ROWS = 256
# A continuation's log-likelihood, and whether greedy decoding would write it.
Likelihood = tuple[float, bool]
Request = tuple[Any, list[int], list[int]]
# Request, row and place of a state, and the token whose likelihood is read there.
Read = tuple[int, int, int, int]
_T = TypeVar("_T")


@dataclass(frozen=True)
class _Row:
    """Tokens that the model reads, and what is asked of it there.

    Attributes:
        fed: the tokens.
        asked: request, place of the state that predicts its first token, and its tokens.
    """

    fed: tuple[int, ...]
    asked: tuple[tuple[int, int, tuple[int, ...]], ...]


@dataclass(frozen=True)
class _Group:
    """Rows that begin alike, so that their beginning passes once.

    Attributes:
        rows: in the order of their tokens.
        shared: tokens of the beginning; all of a row that is alone.
    """

    rows: tuple[_Row, ...]
    shared: int

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return max(len(row.fed) for row in self.rows)

    @property
    def requests(self) -> int:
        """How many requests it answers."""
        return sum(len(row.asked) for row in self.rows)


class VariantLM(HFLM):  # type: ignore[misc] # lm-eval has no types
    """Answers lm-eval's requests with a decoder that was loaded once, worn or dense.

    What several requests begin with passes through the model once, a question with its options and with their letters;
    they go on from its key-value cache, all of a batch together. Logits are formed only where something is asked.
    Log-likelihoods equal those of lm-eval's
    `hf` model in float32 up to the rounding of sums in another order.

    Args:
        decoder: the dense model; nothing is worn yet.

    Attributes:
        progress: told one step a request, or a window of a text.
        task: how progress calls what is asked.
        written: what was written to each context, by context and arguments, until the caller clears it.
        others: what another model wrote to a sample, by the sample's number, to guess by; it decides no token.
    """

    def __init__(self, decoder: Decoder) -> None:
        # lm-eval gives its tokenizer a padding token; the decoder's own stays as it is.
        # Windows of a text come in batches of lm-eval's: all of them together, they are batched here.
        with quiet():
            super().__init__(pretrained=decoder.model, tokenizer=copy.deepcopy(decoder.tokenizer), batch_size=2**31)
        self.decoder = decoder
        # Asked of the dense model: what a variant is asked must not depend on which one came first.
        self._can_share, self._goes_on = _can_share(decoder), can_reuse_prefix(decoder)
        self.progress: Progress = SILENT
        self.task = "task"
        self.written: dict[tuple[str, str], Generation] = {}
        self.others: Mapping[int, str] = {}

    def set_context(self, context: int | None) -> None:
        """How many tokens a window of a text has; None is what the model holds."""
        self._max_length = context

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = True) -> list[Likelihood]:  # noqa: ARG002
        """Of every request's continuation behind its context; lm-eval's bars stay away, ours are told."""
        found: list[Likelihood] = super().loglikelihood(requests, disable_tqdm=True)
        return found

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = True) -> list[float]:  # noqa: ARG002
        """Of every request's whole text, window by window."""
        found: list[float] = super().loglikelihood_rolling(requests, disable_tqdm=True)
        return found

    @torch.inference_mode()
    def _loglikelihood_tokens(
        self,
        requests: Sequence[Request],
        disable_tqdm: bool = True,  # noqa: ARG002 (lm-eval's signature)
        override_bs: int | None = None,  # noqa: ARG002
    ) -> list[Likelihood]:
        """Log-likelihoods of continuations behind contexts, in the order of the requests.

        Raises:
            InputError: a continuation is longer than the model's context.
            ComputationError: a logit is NaN or infinite.
        """
        most = self.decoder.at_once(PASS_TOKENS)
        groups = _groups(self._rows(requests), most, can_share=self._can_share)
        alone = [group for group in groups if len(group.rows) == 1]
        shared = [group for group in groups if len(group.rows) > 1]
        likelihoods: dict[int, list[Likelihood]] = defaultdict(list)
        self.progress.start(self.task, len(requests))
        with quick_linears(self.decoder.model):
            for batch in _batches(alone, most, is_alike=False):
                self._answer(likelihoods, self._whole(batch))
                self.progress.advance(sum(group.requests for group in batch))
            for batch in _batches(shared, most, is_alike=not self.decoder.can_pad):
                self._answer(likelihoods, self._sharing(batch))
                self.progress.advance(sum(group.requests for group in batch))
        self.progress.done()
        return [_summed(likelihoods[index]) for index in range(len(requests))]

    def generate_until(self, requests: list[Any], disable_tqdm: bool = True) -> list[str]:  # noqa: ARG002
        """Greedy answers up to the first stop string; kept whole in `written`.

        Raises:
            InputError: the task asks for samples instead of the likeliest tokens, or leaves a question no room.
        """
        by_limit: dict[int, list[tuple[int, tuple[int, ...], list[str]]]] = defaultdict(list)
        eos = self.tok_decode(self.eot_token_id, skip_special_tokens=False)
        for index, request in enumerate(requests):
            context, asked = request.args
            given = normalize_gen_kwargs(dict(asked), self.max_gen_toks)
            if given.get("do_sample") and given.get("temperature", 1.0) > 0:
                raise InputError(f"task {request.task_name}: it draws its answers; only greedy tasks can be paired")
            until = handle_stop_sequences(given.get("until"), eos=eos)
            ids = tuple(int(token) for token in self.tok_batch_encode([context])[0][0])
            by_limit[int(given["max_gen_toks"])].append((index, ids, until))
        texts: dict[int, str] = {}
        self.progress.start(self.task, len(requests))
        for limit, group in by_limit.items():
            others = [self._other(requests[index]) for index, *_ in group]
            contexts, stops = [ids for _, ids, _ in group], [until for *_, until in group]
            answers = write(self.decoder, contexts, stops, limit, others=others, goes_on=self._goes_on)
            for (index, *_), answer in zip(group, answers, strict=True):
                texts[index] = answer.text
                self.written[written_key(requests[index].args)] = answer
            self.progress.advance(len(group))
        self.progress.done()
        return [texts[index] for index in range(len(requests))]

    def _other(self, request: Any) -> list[int]:  # noqa: ANN401 (lm-eval has no types)
        text = self.others.get(int(request.doc_id), "")
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"]) if text else []

    def _rows(self, requests: Sequence[Request]) -> list[_Row]:
        """What has to be read, every row once, cut from the left as lm-eval cuts it."""
        asked: dict[tuple[int, ...], list[tuple[int, int, tuple[int, ...]]]] = defaultdict(list)
        for index, (_, before, continuation) in enumerate(requests):
            if not 0 < len(continuation) <= self.max_length:
                raise InputError(
                    f"a task asks for an answer of {len(continuation)} tokens; the model's context holds "
                    f"{self.max_length}, and one is the least"
                )
            fed = (*before, *continuation)[-(self.max_length + 1) : -1]
            asked[fed].append((index, len(fed) - len(continuation), tuple(continuation)))
        return [_Row(fed, tuple(each)) for fed, each in asked.items()]

    def _whole(self, groups: Sequence[_Group]) -> Iterator[tuple[Tensor, list[Read]]]:
        """Rows in one pass; padding on the right, which causal models never read."""
        rows = [row for group in groups for row in group.rows]
        states = self.decoder.hidden(_padded([row.fed for row in rows]).to(self.decoder.device))
        yield states, [read for index, row in enumerate(rows) for read in _reads(row, index)]

    def _sharing(self, groups: Sequence[_Group]) -> Iterator[tuple[Tensor, list[Read]]]:
        """Beginnings once, padded on the left; then what is left of all rows behind their caches."""
        device, cache = self.decoder.device, self.decoder.new_cache()
        begun, real = padded_left([group.rows[0].fed[: group.shared] for group in groups], device)
        padding = [begun.shape[1] - group.shared for group in groups]
        states = self.decoder.hidden(begun, cache, real)
        rest = [(index, row) for index, group in enumerate(groups) for row in group.rows]
        yield (
            states,
            [
                (request, each, padding[index] + place, token)
                for index, row in rest
                for request, each, place, token in _reads(row, index)
                if place < groups[index].shared
            ],
        )
        left = [(index, row) for index, row in rest if len(row.fed) > groups[index].shared]
        # Long ends and short ones apart, each behind a cache of its own.
        alike = list(_alike(left, lambda each: len(each[1].fed) - groups[each[0]].shared))
        for number, ends in enumerate(alike, start=1):
            own = cache if number == len(alike) else copy.deepcopy(cache)
            kept = torch.tensor([index for index, _ in ends], device=device)
            own.reorder_cache(cast(torch.LongTensor, kept))  # repeats rows, and is the one that recurrent states know
            tokens = _padded([row.fed[groups[index].shared :] for index, row in ends])
            # What pads on the right comes last and is never read; but it must not be counted as a position either.
            lengths = torch.tensor([len(row.fed) - groups[index].shared for index, row in ends])
            is_real = torch.arange(tokens.shape[1]) < lengths[:, None]
            after = is_real if self.decoder.can_pad else torch.ones_like(tokens)
            yield (
                self.decoder.hidden(tokens.to(device), own, torch.cat([real[kept], after.to(real)], dim=1)),
                [
                    (request, each, place - groups[index].shared, token)
                    for number, (index, row) in enumerate(ends)
                    for request, each, place, token in _reads(row, number)
                    if place >= groups[index].shared
                ],
            )

    def _answer(self, found: dict[int, list[Likelihood]], passes: Iterator[tuple[Tensor, list[Read]]]) -> None:
        """Adds the likelihoods of tokens to their requests."""
        for states, reads in passes:
            for (request, *_), each in zip(reads, self._likelihoods(states, [read[1:] for read in reads]), strict=True):
                found[request].append(each)

    def _likelihoods(
        self, states: Float[Tensor, "rows tokens width"], reads: Sequence[tuple[int, int, int]]
    ) -> list[Likelihood]:
        """Log-likelihood of tokens, each read from the state at a row and place, and whether it is the likeliest."""
        found, most = list[Likelihood](), self.decoder.at_once(BLOCK_ROWS)
        for start in range(0, len(reads), most):
            block: Int[Tensor, "reads three"] = torch.tensor(reads[start : start + most], device=states.device)
            rows, places, tokens = block.unbind(dim=1)
            logits = self.decoder.head.logits_of_state(states[rows, places])
            own = logits.gather(1, tokens[:, None])[:, 0] - logits.logsumexp(dim=1)
            if not bool(own.isfinite().all()):
                raise ComputationError("NaN or infinite logits in a task; the variant's weights are damaged")
            found += zip(own.tolist(), (logits.argmax(dim=1) == tokens).tolist(), strict=True)
        return found


@torch.inference_mode()
def _can_share(decoder: Decoder) -> bool:
    """Whether several continuations of many tokens go on from one cached context, found by running some."""
    tokens = probe_tokens(decoder, 24)
    split = tokens.shape[1] * 2 // 3
    try:
        cache = decoder.new_cache()
        decoder.hidden(tokens[:, :split], cache)
        cache.reorder_cache(cast(torch.LongTensor, torch.zeros(2, dtype=torch.long, device=decoder.device)))
        found = decoder.hidden(tokens[:, split:].repeat(2, 1), cache)
    except (InputError, RuntimeError, ValueError, TypeError, AttributeError, IndexError, KeyError):
        return False  # whatever an architecture raises on a cache that it does not know
    return is_close(found, decoder.hidden(tokens)[:, split:].expand_as(found))


def written_key(arguments: tuple[Any, ...]) -> tuple[str, str]:
    """By what an answer is found again: its context and how it was asked for."""
    context, asked = arguments
    return context, repr(asked)


def _reads(row: _Row, index: int) -> list[Read]:
    """Every token that is asked for in a row: request, row, place of the state that predicts it, token."""
    return [
        (request, index, first + step, token)
        for request, first, tokens in row.asked
        for step, token in enumerate(tokens)
    ]


def _alike(rows: Sequence[_T], length_of: Callable[[_T], int]) -> Iterator[list[_T]]:
    """Rows from the longest to the shortest, so that none is padded to more than twice its length."""
    together: list[_T] = []
    for row in sorted(rows, key=length_of, reverse=True):
        if together and 2 * length_of(row) < length_of(together[0]):
            yield together
            together = []
        together.append(row)
    if together:
        yield together


def _padded(rows: Sequence[tuple[int, ...]]) -> Int[Tensor, "rows tokens"]:
    """Rows with zeros on the right."""
    return torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)


def _summed(likelihoods: Sequence[Likelihood]) -> Likelihood:
    """Of an answer, from those of its tokens; summed in float64."""
    return sum(value for value, _ in likelihoods), all(is_greedy for _, is_greedy in likelihoods)


def _groups(rows: Sequence[_Row], most: int, *, can_share: bool) -> list[_Group]:
    """Neighbours in the order of their tokens join as long as fewer tokens pass together than apart."""
    groups: list[_Group] = []
    for row in sorted(rows, key=lambda row: row.fed):
        if groups and can_share:
            last = groups[-1]
            common = min(last.shared, _common(last.rows[-1].fed, row.fed))
            is_worth_it = (last.shared - common) * len(last.rows) < common
            if is_worth_it and (len(last.rows) + 1) * max(last.longest, len(row.fed)) <= most:
                groups[-1] = _Group((*last.rows, row), common)
                continue
        groups.append(_Group((row,), len(row.fed)))
    return groups


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two rows begin with alike."""
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _batches(groups: Sequence[_Group], most: int, *, is_alike: bool) -> Iterator[list[_Group]]:
    """Groups that pass together, the longest beginnings first, so that what does not fit fails at once.

    Args:
        groups: all of them.
        most: tokens, padding included.
        is_alike: whether only beginnings of one length may pass together.
    """
    together: list[_Group] = []
    rows = longest = 0
    for group in sorted(groups, key=lambda group: -group.shared):
        width = max(longest, group.longest)
        is_full = (rows + len(group.rows)) * width > most
        if together and (is_full or (is_alike and group.shared != together[0].shared)):
            yield together
            together, rows, width = [], 0, group.longest
        together.append(group)
        rows, longest = rows + len(group.rows), width
    if together:
        yield together
