"""Sampled texts of both models under common noise, and both distributions at every token of either text."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Int
from torch import Tensor

from prunescope.pipelines.core.errors import ComputationError
from prunescope.pipelines.core.progress import SILENT, Progress
from prunescope.pipelines.evaluation.batching import batched
from prunescope.pipelines.evaluation.tokenization.prompts import TokenizedPrompt, tokenize_prompts
from prunescope.pipelines.evaluation.traces.decoding import decode, text_columns
from prunescope.pipelines.evaluation.traces.text_traces import DenseTextStates
from prunescope.pipelines.metrics.divergence import divergence
from prunescope.pipelines.metrics.sampling import draw, flip_probability, noise_key, nuclei, on_union, total_variation
from prunescope.pipelines.metrics.text_metrics import first_flip
from prunescope.pipelines.metrics.thread_map import in_parallel
from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.pruning.variant import Variant
from prunescope.pipelines.pruning.variant_patching import apply_variant
from prunescope.pipelines.studies import DecodingSpec, Study

# Columns of `divergence` that `sampled_steps` has.
MEASURES = ("kl_dense_pruned_nats", "kl_pruned_dense_nats", "entropy_dense_nats", "entropy_pruned_nats")
# Number of steps whose logits are in memory at the same time, per thread.
PIECE_ROWS = 64


@dataclass(frozen=True)
class _Text:
    """Text with its tokens, and the stream from which one of the models predicted each token."""

    tokens: tuple[int, ...]
    states: DenseTextStates


@dataclass(frozen=True)
class _Piece:
    """Some steps of one text, as the dense model and the variant read it.

    `text` is the number of the text. Rows up to the first flip belong to both trajectories, because both texts are the
    same there.
    """

    text: int
    steps: range
    dense: _Text
    pruned: _Text
    trajectories: tuple[str, ...]

    def of(self, text: _Text) -> DenseTextStates:
        """Return the streams of these steps."""
        return text.states.rows(slice(self.steps.start, self.steps.stop))

    def tokens(self, text: _Text, trajectory: str) -> list[int | None]:
        """Return the tokens of these steps; after the flip, None for the model that only reads the text."""
        is_written = trajectory in self.trajectories
        return [token if is_written else None for token in text.tokens[self.steps.start : self.steps.stop]]


class SamplingSession:
    """Sampled texts of the dense model, computed once and shared by the variants of a model.

    The final streams of a text take four bytes per number. Noise depends only on seed, prompt, sample, step and token.
    Therefore a variant's texts do not depend on other variants, and on other prompts only by rounding. `study` has the
    prompts and the settings `decoding`; if it has none, the defaults apply.

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
        self._dense = self._texts(f"model {model}", "dense model samples", progress)
        progress.done()

    def _texts(self, name: str, task: str, progress: Progress, known: Sequence[_Text] | None = None) -> list[_Text]:
        """Return texts that the model writes or reads with its current weights, prompt by prompt.

        `name` is the model or variant, for errors; `task` names the progress. `known` texts are read, in the batches in
        which they were written, because equal models must have equal streams. None samples new texts.
        """
        spec = self._spec

        def choose(logits: Float[Tensor, "rows vocabulary"], texts: Sequence[int], step: int) -> Int[Tensor, " rows"]:
            progress.advance(len(texts))
            if not bool(torch.isfinite(logits.amax(-1)).all()):  # the maximum of a row with a NaN is NaN
                raise ComputationError(f"{name}: NaN or infinite logits")
            if known is not None:
                return torch.tensor([known[text].tokens[step] for text in texts], device=logits.device)
            choices = nuclei(logits, spec.temperature, spec.top_p)
            tokens = [draw(nucleus, self._keys[text], step) for nucleus, text in zip(choices, texts, strict=True)]
            return torch.tensor(tokens, device=logits.device)

        prompts = [prompt.ids for prompt in self._prompts]
        least = [0 if known is None else len(known[text].tokens) for text in range(len(prompts) * spec.samples)]
        tokens = len(least) * self.study.generation.new_tokens
        progress.start(task, tokens, tokens)
        texts = decode(self.decoder, prompts, self.study.generation.new_tokens, choose, least, spec.samples)
        return [_Text(text.tokens, DenseTextStates.of(text.streams)) for text in texts]

    def trace(self, recipe: str, variant: Variant, progress: Progress = SILENT) -> dict[str, pl.DataFrame]:
        """Return the rows of `sampled_generations` and `sampled_steps` of one variant.

        Each model also reads the other model's texts, unless all texts are the same.

        Raises:
            ComputationError: the variant's states or logits are NaN or infinite.
        """
        name = f"{self.model}@{recipe}"
        dense_read, read = self._dense, self._dense
        with apply_variant(self.decoder, variant, skips=False):
            texts = self._texts(name, f"sample {recipe}", progress)
            if has_flips := [text.tokens for text in texts] != [text.tokens for text in self._dense]:
                read = self._texts(name, f"{recipe} reads the dense texts", progress, self._dense)
        # Only after the variant is undone: a head that is tied to changed weights must be the dense one.
        if has_flips:
            dense_read = self._texts(f"model {self.model}", f"dense model reads texts of {recipe}", progress, texts)
        # Pieces are measured together as long as they fit into one block.
        blocks = batched(
            self._pieces(texts, read, dense_read),
            lambda block, piece: sum(len(one.steps) for one in (*block, piece)) <= PIECE_ROWS,
        )
        frames = [pl.DataFrame(), *in_parallel(self._steps, blocks, self.decoder.device)]
        steps = pl.concat(frames, how="diagonal_relaxed")
        rows = [
            text_columns(self.decoder, self._prompt(number), text.tokens, dense.tokens)
            | {"sample": number % self._spec.samples, "temperature": self._spec.temperature, "top_p": self._spec.top_p}
            for number, (text, dense) in enumerate(zip(texts, self._dense, strict=True))
        ]
        progress.done()
        return {"sampled_generations": pl.DataFrame(rows, infer_schema_length=None), "sampled_steps": steps}

    def _prompt(self, text: int) -> TokenizedPrompt:
        return self._prompts[text // self._spec.samples]

    def _pieces(self, texts: Sequence[_Text], read: Sequence[_Text], dense_read: Sequence[_Text]) -> Iterator[_Piece]:
        """Yield the steps of all texts: the shared ones up to the flip, then those of each text.

        `texts` are those of the variant. `read` are the dense model's texts as the variant reads them, and `dense_read`
        the variant's texts as the dense model reads them.
        """
        for number, (dense, own) in enumerate(zip(self._dense, texts, strict=True)):
            flip = first_flip(dense.tokens, own.tokens)
            shared = len(dense.tokens) if flip is None else flip + 1
            for first, pair, trajectories in (
                (0, (dense, own), ("teacher_forced", "own_text")),
                (shared, (dense, read[number]), ("teacher_forced",)),
                (shared, (dense_read[number], own), ("own_text",)),
            ):
                end = len(pair[0].tokens) if first else shared
                for start in range(first, end, PIECE_ROWS):
                    yield _Piece(number, range(start, min(start + PIECE_ROWS, end)), *pair, trajectories)

    def _steps(self, pieces: Sequence[_Piece]) -> pl.DataFrame:
        """Return the rows of `sampled_steps` of some steps."""
        spec, head = self._spec, self.decoder.head
        dense_states = [piece.of(piece.dense) for piece in pieces]
        streams = torch.cat([states.streams().float() for states in dense_states])
        shifts = torch.cat(
            [
                states.shift_to(piece.of(piece.pruned).streams())
                for states, piece in zip(dense_states, pieces, strict=True)
            ]
        )
        states, moves = head.lens(streams, shifts, "normed")
        is_moved = bool(moves.any())
        measured = divergence(states, moves if is_moved else None, head, (spec.temperature,))
        dense = head.logits_of_state(states)
        before = nuclei(dense, spec.temperature, spec.top_p)
        after = nuclei(dense + head.shift(states, moves), spec.temperature, spec.top_p) if is_moved else before
        unions = [on_union(p, q) for p, q in zip(before, after, strict=True)]
        about = [(piece, step) for piece in pieces for step in piece.steps]
        return pl.DataFrame(
            {
                "prompt_id": [self._prompt(piece.text).prompt.id for piece, _ in about],
                "trajectory": [[*piece.trajectories] for piece, _ in about],
                "sample": [piece.text % spec.samples for piece, _ in about],
                "step": [step for _, step in about],
                "temperature": [spec.temperature] * len(about),
                "token_id_dense": [token for piece in pieces for token in piece.tokens(piece.dense, "teacher_forced")],
                "token_id_pruned": [token for piece in pieces for token in piece.tokens(piece.pruned, "own_text")],
                "total_variation": [total_variation(p, q) for p, q in unions],
                # After the flip the two texts differ already.
                "flip_probability": [
                    flip_probability(p, q) if len(piece.trajectories) > 1 else None
                    for (p, q), (piece, _) in zip(unions, about, strict=True)
                ],
                **{name: np.asarray(measured[name][0]) for name in MEASURES},
            }
        ).explode("trajectory")
