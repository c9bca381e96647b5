"""lm-eval's `hf` model with its arithmetic replaced: serves whatever the loaded decoder wears, shares work, no copies.

Tokenization, windows and truncation are lm-eval's own code; only token ids come here. What is asked is `scoring.py`'s.
"""

import copy
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs
from torch import Tensor

from pipelines.errors import ComputationError, InputError
from pipelines.metrics.products import quick_linears
from pipelines.models.decoder import Decoder, probe_tokens
from pipelines.models.probe import is_close
from pipelines.progress import SILENT, Progress
from pipelines.tasks.loading import quiet
from pipelines.tasks.writing import Written, write

# Tokens of one forward pass, padding included: enough to fill the matrix products, little memory.
PASS_TOKENS = 2048
# Rows whose logits are in memory at once.
BLOCK_ROWS = 256
# A continuation's log-likelihood, and whether greedy decoding would write it.
Likelihood = tuple[float, bool]
Request = tuple[Any, list[int], list[int]]


@dataclass(frozen=True)
class _Option:
    """A continuation, and the request that asks for it."""

    request: int
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class _Question:
    """A context, cut to what the model holds, and everything that is asked behind it."""

    context: tuple[int, ...]
    options: tuple[_Option, ...]


class WornModel(HFLM):  # type: ignore[misc] # lm-eval has no types
    """Answers lm-eval's requests with a decoder that was loaded once, worn or dense.

    A context that several options share passes through the model once; the options go on from its key-value cache,
    all of a batch together. Logits are formed only where something is asked. Log-likelihoods equal those of lm-eval's
    `hf` model in float32 up to the rounding of sums in another order.

    Args:
        decoder: the dense model.

    Attributes:
        progress: told one step a request, or a window of a text.
        task: how progress calls what is asked.
        written: what was written to each context, by context and arguments, until the caller clears it.
    """

    def __init__(self, decoder: Decoder) -> None:
        # lm-eval gives its tokenizer a padding token; the decoder's own stays as it is.
        # Windows of a text come in batches of lm-eval's: all of them together, they are batched here.
        with quiet():
            super().__init__(pretrained=decoder.model, tokenizer=copy.deepcopy(decoder.tokenizer), batch_size=2**31)
        self.decoder = decoder
        self._can_share = _can_share(decoder)
        self.progress: Progress = SILENT
        self.task = "task"
        self.written: dict[tuple[str, str], Written] = {}

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
        shared: list[_Question] = []
        alone: list[_Question] = []
        for question in self._questions(requests):
            (shared if self._can_share and len(question.options) > 1 else alone).append(question)
        found: dict[int, Likelihood] = {}
        self.progress.start(self.task, len(requests))
        with quick_linears(self.decoder.model):
            for batch in _batches(alone, self._whole_length, is_alike=False):
                found |= self._whole(batch)
                self.progress.advance(sum(len(question.options) for question in batch))
            for batch in _batches(shared, lambda question: len(question.context), is_alike=not self.decoder.can_pad):
                found |= self._sharing(batch)
                self.progress.advance(sum(len(question.options) for question in batch))
        self.progress.done()
        return [found[index] for index in range(len(requests))]

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
            answers = write(self.decoder, [ids for _, ids, _ in group], [until for *_, until in group], limit)
            for (index, *_), answer in zip(group, answers, strict=True):
                texts[index] = answer.text
                self.written[written_key(requests[index].args)] = answer
            self.progress.advance(len(group))
        self.progress.done()
        return [texts[index] for index in range(len(requests))]

    def _questions(self, requests: Sequence[Request]) -> Iterator[_Question]:
        """Requests by the context that they have once it is cut from the left, as lm-eval cuts it."""
        by_context: dict[tuple[int, ...], list[_Option]] = defaultdict(list)
        for index, (_, before, continuation) in enumerate(requests):
            if not 0 < len(continuation) <= self.max_length:
                raise InputError(
                    f"a task asks for an answer of {len(continuation)} tokens; the model's context holds "
                    f"{self.max_length}, and one is the least"
                )
            whole = (*before, *continuation)[-(self.max_length + 1) :]
            by_context[whole[: -len(continuation)]].append(_Option(index, tuple(continuation)))
        for context, options in by_context.items():
            yield _Question(context, tuple(options))

    @staticmethod
    def _whole_length(question: _Question) -> int:
        return len(question.context) + max(len(option.tokens) for option in question.options)

    def _whole(self, questions: Sequence[_Question]) -> dict[int, Likelihood]:
        """Every context with every continuation in one pass; padding on the right, which causal models never read."""
        rows = [(question.context, option) for question in questions for option in question.options]
        longest = max(len(context) + len(option.tokens) - 1 for context, option in rows)
        tokens = torch.zeros(len(rows), longest, dtype=torch.long)
        for row, (context, option) in enumerate(rows):
            ids = (*context, *option.tokens[:-1])
            tokens[row, : len(ids)] = torch.tensor(ids)
        states = self.decoder.hidden(tokens.to(self.decoder.device))
        reads = [
            (row, len(context) - 1 + place, token)
            for row, (context, option) in enumerate(rows)
            for place, token in enumerate(option.tokens)
        ]
        return _summed([option for _, option in rows], self._likelihoods(states, reads))

    def _sharing(self, questions: Sequence[_Question]) -> dict[int, Likelihood]:
        """Contexts once, padded on the left; then all continuations of more than one token behind their caches."""
        device = self.decoder.device
        longest = max(len(question.context) for question in questions)
        padding = [longest - len(question.context) for question in questions]
        tokens = torch.tensor([[0] * pad + list(q.context) for pad, q in zip(padding, questions, strict=True)])
        real = torch.tensor([[0] * pad + [1] * (longest - pad) for pad in padding], device=device)
        cache = self.decoder.new_cache()
        last = self.decoder.hidden(tokens.to(device), cache, real)[:, -1:]
        options = [(row, option) for row, question in enumerate(questions) for option in question.options]
        firsts = self._likelihoods(last, [(row, 0, option.tokens[0]) for row, option in options])
        longer = [(row, option) for row, option in options if len(option.tokens) > 1]
        likelihoods: dict[int, list[Likelihood]] = {
            option.request: [first] for (_, option), first in zip(options, firsts, strict=True)
        }
        if longer:
            chosen = torch.tensor([row for row, _ in longer], device=device)
            cache.reorder_cache(
                cast(torch.LongTensor, chosen)
            )  # repeats rows, and is the one selection that recurrent states know too
            width = max(len(option.tokens) for _, option in longer) - 1
            tokens = torch.zeros(len(longer), width, dtype=torch.long)
            for row, (_, option) in enumerate(longer):
                tokens[row, : len(option.tokens) - 1] = torch.tensor(option.tokens[:-1])
            # What pads on the right comes last and is never read; but it must not be counted as a position either.
            lengths = torch.tensor([len(option.tokens) - 1 for _, option in longer])
            after = (torch.arange(width) < lengths[:, None]) if self.decoder.can_pad else torch.ones_like(tokens)
            seen = torch.cat([real[chosen], after.to(real)], dim=1)
            states = self.decoder.hidden(tokens.to(device), cache, seen)
            reads = [
                (row, place, token)
                for row, (_, option) in enumerate(longer)
                for place, token in enumerate(option.tokens[1:])
            ]
            rest = iter(self._likelihoods(states, reads))
            for _, option in longer:
                likelihoods[option.request] += [next(rest) for _ in option.tokens[1:]]
        whole = [option for _, option in options]
        return _summed(whole, [each for option in whole for each in likelihoods[option.request]])

    def _likelihoods(
        self, states: Float[Tensor, "rows tokens width"], reads: Sequence[tuple[int, int, int]]
    ) -> list[Likelihood]:
        """Log-likelihood of tokens, each read from the state at a row and place, and whether it is the likeliest."""
        found: list[Likelihood] = []
        for start in range(0, len(reads), BLOCK_ROWS):
            block: Int[Tensor, "reads three"] = torch.tensor(reads[start : start + BLOCK_ROWS], device=states.device)
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


def _summed(options: Sequence[_Option], likelihoods: Sequence[Likelihood]) -> dict[int, Likelihood]:
    """Likelihoods of tokens, option by option, as likelihoods of options; summed in float64."""
    each = iter(likelihoods)
    found = {}
    for option in options:
        own = [next(each) for _ in option.tokens]
        found[option.request] = (sum(value for value, _ in own), all(is_greedy for _, is_greedy in own))
    return found


def _batches(questions: Sequence[_Question], length_of: Any, *, is_alike: bool) -> Iterator[list[_Question]]:  # noqa: ANN401
    """Questions that pass together, the longest first, so that what does not fit fails at once.

    Args:
        questions: all of them.
        length_of: tokens that a question takes.
        is_alike: whether only questions of one length may pass together.
    """
    together: list[_Question] = []
    rows = longest = 0
    for question in sorted(questions, key=lambda question: (-length_of(question), question.context)):
        length, more = length_of(question), len(question.options)
        if together and ((rows + more) * longest > PASS_TOKENS or (is_alike and length != longest)):
            yield together
            together, rows = [], 0
        if not together:
            longest = length
        together.append(question)
        rows += more
    if together:
        yield together
