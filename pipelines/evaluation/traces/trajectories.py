"""Tables of the output in every trajectory, from the texts of both models. Decoding belongs in `greedy_texts`."""

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import polars as pl
import torch

from prunescope.pipelines.evaluation.traces.decoding import (
    DecodingResult,
    DensePrunedPair,
    first_tokens,
    fork_columns,
    generation_row,
    option_rows,
    step_rows,
    top_rows,
    up_to_end,
)
from prunescope.pipelines.evaluation.traces.greedy_texts import VariantTexts
from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.studies import MeasureSpec


def output_tables(
    decoder: Decoder,
    measure: MeasureSpec,
    forced: Sequence[DensePrunedPair],
    dense: Sequence[DecodingResult],
    texts: Sequence[VariantTexts],
) -> dict[str, pl.DataFrame]:
    """Return `decoding_steps`, `top_tokens`, `option_subspace` and `generations` of one variant.

    Per prompt, `forced` has both models on the dense text, `dense` that text, and `texts` the variant's texts. `texts`
    is empty if the variant was measured only on the dense text, in one pass.
    """
    written = [(pair, known, text) for pair, known, text in zip(forced, dense, texts, strict=False) if text.own]
    tops = [top_rows(decoder, forced, measure.top_k)]
    tokens = first_tokens(forced, tops[0], "pruned")
    pairs = [[replace(pair, pruned_tokens=firsts) for pair, firsts in zip(forced, tokens, strict=True)]]
    if "own_text" in measure.trajectories and written:
        own_texts = [_own_text(decoder, pair, text) for pair, _, text in written]
        tops.append(top_rows(decoder, own_texts, measure.top_k))
        tokens = first_tokens(own_texts, tops[-1], "dense")
        # What the dense model would write: its own text up to the flip, then its most likely tokens.
        for place, ((forced_pair, _, text), firsts) in enumerate(zip(written, tokens, strict=True)):
            shared = len(firsts) if text.flip is None else text.flip + 1
            dense_tokens = (*forced_pair.dense_tokens[:shared], *firsts[shared:])
            own_texts[place] = replace(own_texts[place], dense_tokens=dense_tokens)
        pairs.append(own_texts)
    if "fork" in measure.trajectories:
        pairs.append([_step_by_step(decoder, "fork", *each) for each in written if each[2].fork])
    if "free_running" in measure.trajectories:
        pairs.append([_step_by_step(decoder, "free_running", *each) for each in written])
    generations = [
        generation_row(decoder, pair.prompt, text.own.tokens, known.tokens)
        | fork_columns(decoder, pair.prompt, text.fork.tokens if text.fork else None, known.tokens)
        for pair, known, text in written
        if text.own
    ]
    options = [row for pair in forced for row in option_rows(decoder, pair, measure.temperatures)]
    return {
        "decoding_steps": pl.concat([step_rows(decoder, each, measure.temperatures) for each in pairs if each]),
        "top_tokens": pl.concat(tops),
        "option_subspace": pl.DataFrame(options, infer_schema_length=None),
        "generations": pl.DataFrame(generations, infer_schema_length=None),
    }


def _own_text(decoder: Decoder, forced: DensePrunedPair, text: VariantTexts) -> DensePrunedPair:
    """Pair both models on the variant's text, up to its end. Up to the flip it is the dense text."""
    own = cast(DecodingResult, text.own)
    tokens = up_to_end(decoder, own.tokens)
    shared = len(tokens) if text.read is None else cast(int, text.flip) + 1
    streams, shifts = forced.streams[:shared], forced.shifts[:shared]
    if text.read is not None:
        rest = slice(shared, len(tokens))
        streams = torch.cat([streams, text.read.streams[rest].float()])
        shifts = torch.cat([shifts, (own.streams[rest] - text.read.streams[rest]).float()])
    return DensePrunedPair(forced.prompt, "own_text", streams, shifts, (), tokens)


def _step_by_step(
    decoder: Decoder, trajectory: str, forced: DensePrunedPair, dense: DecodingResult, text: VariantTexts
) -> DensePrunedPair:
    """Pair the dense text with the fork, which equals it up to the flip, or with the variant's own text."""
    other, known = cast(DecodingResult, text.fork if trajectory == "fork" else text.own), dense.tokens
    tokens = other.tokens
    if trajectory == "fork":
        known, tokens = up_to_end(decoder, known), up_to_end(decoder, tokens)
    steps = min(len(known), len(tokens))
    shifts = (other.streams[:steps] - dense.streams[:steps]).float()
    return DensePrunedPair(
        forced.prompt, trajectory, dense.streams[:steps].float(), shifts, known[:steps], tokens[:steps]
    )
