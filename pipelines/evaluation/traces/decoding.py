"""Decoding that records the final residual stream per step, and table rows that compare a dense and a pruned model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import islice
from typing import Any

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from prunescope.pipelines.evaluation.tasks.batched_generation import read_contexts
from prunescope.pipelines.evaluation.tokenization.prompts import TokenizedPrompt, find_answer
from prunescope.pipelines.evaluation.tokenization.thinking import thinking_steps
from prunescope.pipelines.metrics.divergence import divergence
from prunescope.pipelines.metrics.option_metrics import option_row
from prunescope.pipelines.metrics.ranking import top_ids
from prunescope.pipelines.metrics.text_metrics import collapse_step, distinct_n, first_flip, repeat_rate, repeat_rates
from prunescope.pipelines.models.decoder import Decoder, padded_left
from prunescope.pipelines.models.module_calls import first_tensor, hooks, quick_linears, watch_stream
from prunescope.pipelines.models.token_cache import KeyValues
from prunescope.pipelines.studies import MeasureSpec

# Columns of `text_columns` that the dense model's text after a flip has, too.
_OF_FORK = ("text", "token_ids", "collapse_step", "end_step", "answer", "is_correct")
# Number of steps whose logits are in memory at the same time.
STEPS_AT_ONCE = 64
# Bytes per row of `top_tokens`: short strings and float64 numbers.
TOP_TOKEN_BYTES = 80
# Bytes per row of the 44 divergence columns: float32, plus a quarter for the keys.
_ROW_BYTES = 5 * 44
# Number of texts decoded together; it bounds the memory of their key-value cache.
BATCH_TEXTS = 64


@dataclass(frozen=True)
class DecodingResult:
    """Generated tokens, and the residual stream that predicted each.

    The stream is the float64 sum of the embedding and all contributions. Streams are much longer than the difference
    between two of them, so subtracting float32 streams would cancel. A bfloat16 model rounds its own sums by more than
    that, so its stream is the one that the head reads.
    """

    tokens: tuple[int, ...]
    streams: Float64[Tensor, "steps width"]


# Chooses one token per row, given the logits, the number of each row's text, and the step.
Choice = Callable[[Float[Tensor, "rows vocabulary"], Sequence[int], int], Int[Tensor, " rows"]]


@torch.inference_mode()
def decode(
    decoder: Decoder,
    prompts: Sequence[tuple[int, ...]],
    steps: int | Sequence[int],
    choose: Choice,
    least: Sequence[int] | None = None,
    copies: int = 1,
    known: Sequence[KeyValues] | None = None,
    keep: Callable[[int, KeyValues | None], None] | None = None,
) -> list[DecodingResult]:
    """Decode texts in batches of `BATCH_TEXTS`; each batch has one key-value cache.

    Texts of similar length share a batch. In a batch, each prompt runs once for all its texts, and a prefix that all
    prompts share runs once. If the cache holds more than keys and values, shorter prompts are padded on the left
    instead. A finished text leaves its batch.

    Each prompt has `copies` texts. They are numbered prompt by prompt, for `choose` too, and returned in that order.
    `steps` is the maximum number of tokens per text, `least` the minimum, after which an end-of-text token ends the
    text. Without `least` every text gets `steps` tokens, so the steps of two models can be paired. `known` has keys and
    values of each prompt, at least of all tokens but the last; these tokens then do not run. `keep` receives the number
    of each finished text and views of the keys and values of all its tokens but the last; None if the cache has other
    states.
    """
    results: dict[int, DecodingResult] = {}
    for texts in _batches(decoder, [len(prompt) for prompt in prompts], copies):
        used = sorted({text // copies for text in texts})
        place = {prompt: row for row, prompt in enumerate(used)}
        rows = [place[text // copies] for text in texts]
        most = [steps if isinstance(steps, int) else steps[text // copies] for text in texts]
        shortest = None if least is None else [least[text] for text in texts]
        contexts = [prompts[prompt] for prompt in used]
        with quick_linears(decoder.model):
            read = [list(known[prompt]) for prompt in used] if known else read_contexts(decoder, contexts)
            decoded = _decode_batch(decoder, contexts, rows, texts, most, choose, shortest, read, keep)
        results |= dict(zip(texts, decoded, strict=True))
    return [results[text] for text in range(len(results))]


def _batches(decoder: Decoder, lengths: Sequence[int], copies: int) -> list[list[int]]:
    """Return the texts of each batch; each is alone if padding or other rows of the cache would change its states."""
    size = decoder.at_once(BATCH_TEXTS) if decoder.can_pad else 1
    if copies < size:  # all texts of a prompt share a batch, because some must choose the same tokens
        size -= size % copies
    prompts = sorted(range(len(lengths)), key=lambda prompt: lengths[prompt])
    texts = [prompt * copies + copy for prompt in prompts for copy in range(copies)]
    return [sorted(texts[first : first + size]) for first in range(0, len(texts), size)]


def _decode_batch(
    decoder: Decoder,
    prompts: Sequence[tuple[int, ...]],
    rows: Sequence[int],
    texts: Sequence[int],
    most: Sequence[int],
    choose: Choice,
    least: Sequence[int] | None,
    known: Sequence[KeyValues] | None,
    keep: Callable[[int, KeyValues | None], None] | None,
) -> list[DecodingResult]:
    """Decode one batch of texts.

    Per text, `rows` has the index of its prompt, `texts` its number, `most` its limit, and `least` its minimum.
    """
    cache = None if decoder.cache_refusal else decoder.new_cache()
    last: dict[str, Tensor] = {}  # embedding, contributions and final stream at the last position
    streams: list[list[Tensor]] = [[] for _ in texts]
    generated: list[list[int]] = [[] for _ in texts]
    live = list(range(len(texts)))
    kept = list(rows)  # row of the pass that each live text belongs to
    tokens, mask = padded_left(prompts, decoder.device)
    if cache is not None and known is not None:
        cache.fill(known, [len(prompt) - 1 for prompt in prompts])
        tokens = tokens[:, -1:]
    with hooks(*_record_last_position(decoder, last)):
        for step in range(max(most)):
            decoder.hidden(tokens, cache, mask)
            stream = last.pop("stream")
            logits = decoder.head.logits(stream.float())
            rebuilt = torch.stack(list(last.values())).sum(dim=0, dtype=torch.float64)
            states = stream.double() if decoder.is_rounded else rebuilt
            if kept != list(range(len(tokens))):  # after the prompts, each of which ran once for all its texts
                states, logits = states[kept], logits[kept]
            chosen = choose(logits, [texts[index] for index in live], step)
            going = []
            for row, (index, state, token) in enumerate(zip(live, states, chosen.tolist(), strict=True)):
                streams[index].append(state)
                generated[index].append(token)
                can_end = least is not None and len(generated[index]) >= least[index]
                is_over = can_end and end_of(decoder, generated[index]) is not None
                if len(generated[index]) < most[index] and not is_over:
                    going.append(row)
                elif keep is not None and cache is not None:
                    keep(texts[index], cache.text(kept[row], int((mask[kept[row]] == 0).sum())))
            if not going:
                break
            selected = [kept[row] for row in going]
            if selected != list(range(len(tokens))):
                mask, tokens = mask[selected], tokens[selected]
                if cache is not None:
                    cache.keep(selected)
            if len(going) < len(live):
                live, chosen = [live[row] for row in going], chosen[going]
            kept = list(range(len(live)))
            mask = torch.nn.functional.pad(mask, (0, 1), value=1)
            # Without a cache, all tokens run again.
            tokens = chosen[:, None] if cache is not None else torch.cat([tokens, chosen[:, None]], dim=1)
    return [DecodingResult(tuple(text), torch.stack(states)) for text, states in zip(generated, streams, strict=True)]


def bytes_per_variant(measure: MeasureSpec, points: int, steps: int, width: int, weights: int) -> int:
    """Return the bytes of a traced variant in memory: rows of `layer_transitions` and of steps, kept states and masks.

    `points` counts measured positions, summed over sublayers, and `steps` decoded steps, summed over prompts and
    trajectories. `width` is that of the residual stream, and `weights` the number of prunable weights.
    """
    settings = len(measure.scopes) * len(measure.lenses) * len(measure.temperatures)
    states = points * len(measure.scopes) * 2 * width if measure.keep_states else 0
    step = len(measure.temperatures) * _ROW_BYTES + 2 * measure.top_k * TOP_TOKEN_BYTES
    return points * settings * _ROW_BYTES + steps * step + states + weights // 8


def end_of(decoder: Decoder, tokens: Sequence[int]) -> int | None:
    """Return the step of the first end-of-text token; None if there is none."""
    return next((step for step, token in enumerate(tokens) if token in decoder.end_ids), None)


def up_to_end(decoder: Decoder, tokens: tuple[int, ...]) -> tuple[int, ...]:
    """Return the tokens up to and including the first end-of-text token."""
    end = end_of(decoder, tokens)
    return tokens if end is None else tokens[: end + 1]


def _record_last_position(decoder: Decoder, last: dict[str, Tensor]) -> list[RemovableHandle]:
    """Register hooks for the embedding, every contribution and the final stream, each (batch, width).

    The hooks save copies, because a view would keep the states of all prompt tokens in memory until the pass ends.
    """

    def save_embedding(stream: Tensor) -> None:
        last["embedded"] = stream[:, -1].clone()

    def save_stream(module: nn.Module, args: tuple[Any, ...], output: object) -> None:  # noqa: ARG001
        last["stream"] = first_tensor(output)[:, -1].clone()

    def save_added(label: str, added: Tensor) -> None:
        last[label] = added[:, -1].to(decoder.device, copy=True)

    return [
        watch_stream(decoder.layers[0].module, save_embedding),
        *(handle for s in decoder.sublayers for handle in s.watch(partial(save_added, s.label))),
        decoder.layers[-1].module.register_forward_hook(save_stream),
    ]


@dataclass(frozen=True)
class DensePrunedPair:
    """Both sides of one prompt in one trajectory: the dense stream, its shift, and the tokens of each side."""

    prompt: TokenizedPrompt
    trajectory: str
    streams: Float[Tensor, "steps width"]
    shifts: Float[Tensor, "steps width"]
    dense_tokens: tuple[int, ...]
    pruned_tokens: tuple[int, ...] = ()


def step_rows(decoder: Decoder, pairs: Sequence[DensePrunedPair], temperatures: tuple[float, ...]) -> pl.DataFrame:
    """Return the rows of `decoding_steps`; all pairs share one product with the head, which is faster."""
    streams, shifts = (torch.cat([getattr(pair, name) for pair in pairs]) for name in ("streams", "shifts"))
    measured = divergence(*decoder.head.lens(streams, shifts, "normed"), decoder.head, temperatures)
    text_of = _token_texts(decoder)
    about = pl.concat(
        [
            pl.DataFrame(
                {
                    "prompt_id": [pair.prompt.prompt.id] * len(pair.dense_tokens),
                    "trajectory": [pair.trajectory] * len(pair.dense_tokens),
                    "step": np.arange(len(pair.dense_tokens), dtype=np.int32),
                    "position": np.arange(len(pair.dense_tokens), dtype=np.int32) + len(pair.prompt.ids) - 1,
                    "token_id_dense": np.array(pair.dense_tokens, dtype=np.int32),
                    "token_id_pruned": np.array(pair.pruned_tokens, dtype=np.int32),
                    "token_text_dense": [*map(text_of, pair.dense_tokens)],
                    "token_text_pruned": [*map(text_of, pair.pruned_tokens)],
                    "repeat_rate_dense": repeat_rates(pair.dense_tokens),
                    "repeat_rate_pruned": repeat_rates(pair.pruned_tokens),
                }
            )
            for pair in pairs
        ]
    )
    return pl.concat(
        [
            about.with_columns(
                pl.lit(temperature).alias("temperature"),
                *(pl.Series(name, values[index]) for name, values in measured.items()),
            )
            for index, temperature in enumerate(temperatures)
        ]
    )


@torch.inference_mode()
def top_rows(decoder: Decoder, pairs: Sequence[DensePrunedPair], count: int) -> pl.DataFrame:
    """Return the rows of `top_tokens`: the most likely tokens of each side, with the values of both sides.

    Rows with the same side and rank follow the order of the pairs and their steps.
    """
    streams, shifts = (torch.cat([getattr(pair, name) for pair in pairs]) for name in ("streams", "shifts"))
    lengths = [len(pair.streams) for pair in pairs]
    about = {
        "prompt_id": np.repeat([pair.prompt.prompt.id for pair in pairs], lengths),
        "trajectory": np.repeat([pair.trajectory for pair in pairs], lengths),
        "step": np.concatenate([np.arange(length) for length in lengths]),
    }
    text_of, frames = _token_texts(decoder), []
    for first in range(0, len(streams), STEPS_AT_ONCE):
        part = slice(first, first + STEPS_AT_ONCE)
        states, moves = decoder.head.lens(streams[part], shifts[part], "normed")
        dense = decoder.head.logits_of_state(states)
        logits = {"dense": dense, "pruned": dense + decoder.head.shift(states, moves)}
        # One row at a time, because a float64 matrix of all rows would double the memory.
        totals = {side: torch.stack([z.double().logsumexp(-1) for z in values]) for side, values in logits.items()}
        for side, values in logits.items():
            best = top_ids(values, count)
            steps, ranks = best.shape
            numbers = {}
            for other, of_other in logits.items():
                at_best = of_other.gather(1, best).double()
                numbers[f"logit_{other}"] = at_best.flatten().cpu().numpy()
                numbers[f"probability_{other}"] = (at_best - totals[other][:, None]).exp().flatten().cpu().numpy()
            tokens = best.flatten().tolist()
            frames.append(
                pl.DataFrame(
                    {
                        **{name: np.repeat(column[part], ranks) for name, column in about.items()},
                        "side": [side] * len(tokens),
                        "rank": np.tile(np.arange(1, ranks + 1), steps),
                        "token_id": tokens,
                        "token_text": [*map(text_of, tokens)],
                        **numbers,
                    }
                )
            )
    return pl.concat(frames)


def first_tokens(pairs: Sequence[DensePrunedPair], tops: pl.DataFrame, side: str) -> list[tuple[int, ...]]:
    """Return the most likely tokens of one side per pair, read from their rows of `top_tokens`."""
    tokens = iter(tops.filter(side=side, rank=1)["token_id"].to_list())
    return [tuple(islice(tokens, len(pair.streams))) for pair in pairs]


def _token_texts(decoder: Decoder) -> Callable[[int], str]:
    """Return a cached function that decodes single tokens."""
    return lru_cache(maxsize=None)(lambda token: decoder.tokenizer.decode([token]))


def option_rows(decoder: Decoder, pair: DensePrunedPair, temperatures: tuple[float, ...]) -> list[dict[str, object]]:
    """Return the rows of `option_subspace` of one prompt, measured after its last token; empty if it has no options."""
    prompt = pair.prompt
    if not prompt.option_ids:
        return []
    states, moves = decoder.head.lens(pair.streams[:1], pair.shifts[:1], "normed")
    about: dict[str, object] = {
        "prompt_id": prompt.prompt.id,
        "options": list(prompt.prompt.options),
        "option_token_ids": list(prompt.option_ids),
        "gold": prompt.prompt.gold,
    }
    measure = partial(option_row, states[0], moves[0], decoder.head, prompt.option_ids, prompt.prompt.options)
    return [about | {"temperature": temperature} | measure(temperature) for temperature in temperatures]


def generation_row(
    decoder: Decoder, prompt: TokenizedPrompt, tokens: tuple[int, ...], dense: tuple[int, ...]
) -> dict[str, object]:
    """Return the row of `generations` of one prompt."""
    end = end_of(decoder, tokens)
    judged = text_columns(decoder, prompt, tokens, dense)
    answer_end = end
    if judged["answer"] is not None:  # the first step at which the text contains the final answer
        first = judged["thinking_steps"]
        parts = ((step, list(tokens[first : step + 1])) for step in range(first, len(tokens[:end])))
        texts = ((step, decoder.tokenizer.decode(part, skip_special_tokens=True)) for step, part in parts)
        steps = (step for step, text in texts if find_answer(prompt.prompt, text) == judged["answer"])
        answer_end = next(steps, end)
    return {
        "kind": prompt.prompt.kind,
        "prompt_text": prompt.prompt.text,
        "prompt_tokens": len(prompt.ids),
        **judged,
        "answer_end_step": answer_end,
    }


def fork_columns(
    decoder: Decoder, prompt: TokenizedPrompt, fork: tuple[int, ...] | None, dense: tuple[int, ...]
) -> dict[str, object]:
    """Return the columns of `generations` about the fork; all are None if there is no fork."""
    judged = {} if fork is None else text_columns(decoder, prompt, fork, dense)
    return {f"{name}_fork": judged.get(name) for name in _OF_FORK}


def text_columns(
    decoder: Decoder, prompt: TokenizedPrompt, tokens: tuple[int, ...], dense: tuple[int, ...]
) -> dict[str, Any]:
    """Return the columns stored for every text, greedy or sampled; flips after the dense text's end do not count.

    The answer is looked for after the thinking.
    """
    end = end_of(decoder, tokens)
    written = tokens[:end]
    thinking = thinking_steps(decoder.tokenizer, prompt.ids, written)
    text, thought, rest = (
        decoder.tokenizer.decode(list(part), skip_special_tokens=True)
        for part in (written, written[:thinking], written[thinking:])
    )
    answer, gold = find_answer(prompt.prompt, rest), prompt.prompt.gold
    is_graded = gold is not None and prompt.prompt.answer_pattern is not None
    return {
        "prompt_id": prompt.prompt.id,
        "text": text,
        "token_ids": list(tokens),
        "thinking_steps": thinking,
        "thinking_text": thought if thinking else None,
        "thinking_answer": find_answer(prompt.prompt, thought),
        "first_flip_step": first_flip(up_to_end(decoder, dense), tokens),
        "collapse_step": collapse_step(written),
        "end_step": end,
        "repeat_rate": repeat_rate(written),
        "distinct_1": distinct_n(written, 1),
        "distinct_2": distinct_n(written, 2),
        "answer": answer,
        "gold": gold,
        "is_correct": answer == gold if is_graded else None,
    }
