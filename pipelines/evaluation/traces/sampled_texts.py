"""Sampled texts of both models under common noise, and the distributions that decide where they part."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from prunescope.pipelines.core.errors import ComputationError
from prunescope.pipelines.core.progress import SILENT, Progress
from prunescope.pipelines.core.thread_map import in_parallel
from prunescope.pipelines.evaluation.tokenization.prompts import TokenizedPrompt, tokenize_prompts
from prunescope.pipelines.evaluation.traces.decoding import DecodingResult, decode, text_columns
from prunescope.pipelines.evaluation.traces.text_traces import DenseTextStates
from prunescope.pipelines.metrics.divergence import divergence
from prunescope.pipelines.metrics.sampling import draw, flip_probability, noise_key, nuclei, on_union, total_variation
from prunescope.pipelines.metrics.text_metrics import first_flip
from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.pruning.variant import Variant
from prunescope.pipelines.pruning.variant_patching import apply_variant
from prunescope.pipelines.studies import DecodingSpec, Study

_Types = dict[str, pl.DataType | type[pl.DataType]]
_GENERATION_TYPES: _Types = {
    **dict.fromkeys(("model", "recipe", "prompt_id"), pl.String),
    "sample": pl.Int32,
    **dict.fromkeys(("temperature", "top_p"), pl.Float64),
    "text": pl.String,
    "token_ids": pl.List(pl.Int32),
    **dict.fromkeys(("first_flip_step", "collapse_step", "end_step"), pl.Int32),
    **dict.fromkeys(("repeat_rate", "distinct_1", "distinct_2"), pl.Float64),
    **dict.fromkeys(("answer", "gold"), pl.String),
    "is_correct": pl.Boolean,
}
_STEP_TYPES: _Types = {
    **dict.fromkeys(("model", "recipe", "prompt_id"), pl.String),
    **dict.fromkeys(("sample", "step"), pl.Int32),
    "temperature": pl.Float64,
    **dict.fromkeys(("token_id_dense", "token_id_pruned"), pl.Int32),
    **dict.fromkeys(("total_variation", "flip_probability"), pl.Float64),
    **dict.fromkeys(("kl_dense_pruned_nats", "entropy_dense_nats", "entropy_pruned_nats"), pl.Float32),
}
GENERATION_SCHEMA, STEP_SCHEMA = pl.Schema(_GENERATION_TYPES), pl.Schema(_STEP_TYPES)
# Steps whose logits are in memory at once, on each thread.
PIECE_ROWS = 64


@dataclass(frozen=True)
class _DenseText:
    """One sampled text of the dense model: its tokens and the stream that predicted each."""

    tokens: tuple[int, ...]
    states: DenseTextStates


@dataclass(frozen=True)
class _Piece:
    """Some steps of one text before the two models part, the step of the flip included.

    Attributes:
        text: number of the text.
        first: first of the steps.
        tokens: tokens of the variant.
        streams: streams of the variant, float64; a view, because all pieces wait in memory.
    """

    text: int
    first: int
    tokens: tuple[int, ...]
    streams: Float64[Tensor, "steps width"]


class SamplingSession:
    """The dense model's sampled texts, computed once and shared by the variants of a model.

    A text keeps four bytes a number of its final streams. Noise depends on seed, prompt, sample, step and token, so
    that a variant's texts do not depend on other variants, nor on other prompts beyond rounding.

    Args:
        decoder: the dense model.
        model: its name in the tables.
        study: prompts and `decoding`; without it the settings are its defaults.
        progress: one step.

    Raises:
        InputError: a prompt does not fit the model.
        ComputationError: the dense model's states are NaN or infinite.
    """

    def __init__(self, decoder: Decoder, model: str, study: Study, progress: Progress = SILENT) -> None:
        self.decoder, self.model, self.study = decoder, model, study
        self._spec = study.decoding or DecodingSpec()
        self._prompts = tokenize_prompts(study, decoder.tokenizer, decoder.context_length)
        self._keys = [
            noise_key(self._spec.seed, prompt.prompt.id, sample)
            for prompt in self._prompts
            for sample in range(self._spec.samples)
        ]
        self._dense = [
            _DenseText(text.tokens, DenseTextStates.of(text.streams))
            for text in self._sampled(f"model {model}", "dense model samples", progress)
        ]
        progress.done()

    def _sampled(self, name: str, task: str, progress: Progress) -> list[DecodingResult]:
        """Return the texts of the model as it now is, prompt by prompt; progress is one step a token."""
        spec = self._spec

        def choose(logits: Float[Tensor, "rows vocabulary"], texts: Sequence[int], step: int) -> Int[Tensor, " rows"]:
            progress.advance(len(texts))
            if not bool(torch.isfinite(logits.amax(-1)).all()):  # a NaN is the maximum, too
                raise ComputationError(f"{name}: NaN or infinite logits")
            found = nuclei(logits, spec.temperature, spec.top_p)
            tokens = [draw(nucleus, self._keys[text], step) for nucleus, text in zip(found, texts, strict=True)]
            return torch.tensor(tokens, device=logits.device)

        prompts = [prompt.ids for prompt in self._prompts]
        least = [0] * (len(prompts) * spec.samples)
        tokens = len(least) * self.study.generation.new_tokens
        progress.start(task, tokens, tokens)
        return decode(self.decoder, prompts, self.study.generation.new_tokens, choose, least, spec.samples)

    def trace(self, recipe: str, variant: Variant, progress: Progress = SILENT) -> dict[str, pl.DataFrame]:
        """Sample from one variant and compare it with the dense model.

        Returns:
            Rows of `sampled_generations` and `sampled_steps`.

        Raises:
            ComputationError: the variant's states or logits are NaN or infinite.
        """
        with apply_variant(self.decoder, variant, skips=False):
            texts = self._sampled(f"{self.model}@{recipe}", f"sample {recipe}", progress)
        # After the variant is undone, because a head tied to changed weights must be the dense one.
        steps = [STEP_SCHEMA.to_frame(), *in_parallel(self._steps, self._pieces(texts), self.decoder.device)]
        names = {"model": pl.lit(self.model), "recipe": pl.lit(recipe)}
        rows = [
            text_columns(self.decoder, self._prompt(number), text.tokens, dense.tokens)
            | {"sample": number % self._spec.samples, "temperature": self._spec.temperature, "top_p": self._spec.top_p}
            for number, (text, dense) in enumerate(zip(texts, self._dense, strict=True))
        ]
        schema = pl.Schema({name: type_ for name, type_ in GENERATION_SCHEMA.items() if name not in names})
        progress.done()
        return {
            "sampled_generations": pl.DataFrame(rows, schema=schema)
            .with_columns(**names)
            .select(GENERATION_SCHEMA.names()),
            "sampled_steps": pl.concat(steps).with_columns(**names),
        }

    def _prompt(self, text: int) -> TokenizedPrompt:
        return self._prompts[text // self._spec.samples]

    def _pieces(self, texts: Sequence[DecodingResult]) -> Iterator[list[_Piece]]:
        """Yield the steps up to the flip of all texts, as many at a time as one block holds."""
        pieces: list[_Piece] = []
        for number, (text, dense) in enumerate(zip(texts, self._dense, strict=True)):
            flip = first_flip(dense.tokens, text.tokens)
            steps = len(dense.tokens) if flip is None else flip + 1
            for first in range(0, steps, PIECE_ROWS):
                part = slice(first, min(first + PIECE_ROWS, steps))
                piece = _Piece(number, first, text.tokens[part], text.streams[part])
                if pieces and sum(len(one.tokens) for one in pieces) + len(piece.tokens) > PIECE_ROWS:
                    yield pieces
                    pieces = []
                pieces.append(piece)
        if pieces:
            yield pieces

    def _steps(self, pieces: Sequence[_Piece]) -> pl.DataFrame:
        """Return the rows of `sampled_steps` of some steps, without model and recipe."""
        spec, head = self._spec, self.decoder.head
        own = [
            self._dense[piece.text].states.rows(slice(piece.first, piece.first + len(piece.tokens))) for piece in pieces
        ]
        streams = torch.cat([states.streams().float() for states in own])
        shifts = torch.cat([states.shift_to(piece.streams) for states, piece in zip(own, pieces, strict=True)])
        states, moves = head.lens(streams, shifts, "normed")
        is_moved = bool(moves.any())
        measured = divergence(states, moves if is_moved else None, head, (spec.temperature,))
        dense = head.logits_of_state(states)
        before = nuclei(dense, spec.temperature, spec.top_p)
        after = nuclei(dense + head.shift(states, moves), spec.temperature, spec.top_p) if is_moved else before
        unions = [on_union(p, q) for p, q in zip(before, after, strict=True)]
        about = [
            (number, first + step)
            for number, first, count in ((piece.text, piece.first, len(piece.tokens)) for piece in pieces)
            for step in range(count)
        ]
        texts = [number for number, _ in about]
        return pl.DataFrame(
            {
                "model": [""] * len(about),
                "recipe": [""] * len(about),
                "prompt_id": [self._prompt(number).prompt.id for number in texts],
                "sample": [number % spec.samples for number in texts],
                "step": [step for _, step in about],
                "temperature": [spec.temperature] * len(about),
                "token_id_dense": [self._dense[number].tokens[step] for number, step in about],
                "token_id_pruned": [token for piece in pieces for token in piece.tokens],
                "total_variation": [total_variation(p, q) for p, q in unions],
                "flip_probability": [flip_probability(p, q) for p, q in unions],
                **{
                    name: np.asarray(measured[name][0])
                    for name in ("kl_dense_pruned_nats", "entropy_dense_nats", "entropy_pruned_nats")
                },
            },
            schema=STEP_SCHEMA,
        )
