"""Teacher-forced measurement of texts: per token, the shift of the output and the likelihood of the true token."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Float64, Int32
from torch import Tensor

from prunescope.pipelines.core.errors import ComputationError
from prunescope.pipelines.core.progress import SILENT, Progress
from prunescope.pipelines.evaluation.tokenization.texts import TokenizedText, tokenize_texts
from prunescope.pipelines.evaluation.traces.final_streams import final_streams
from prunescope.pipelines.metrics.divergence import TARGET_NAMES, divergence
from prunescope.pipelines.metrics.thread_map import in_parallel
from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.pruning.variant import Variant
from prunescope.pipelines.pruning.variant_patching import apply_variant
from prunescope.pipelines.studies import Study

Columns = dict[str, np.ndarray[Any, Any]]

# Tokens per forward pass: enough to fill the matrix products, but little memory.
PASS_TOKENS = 2048
# Number of rows that one thread measures at a time.
PIECE_ROWS = 256
# Columns of `divergence` that the table has.
MEASURES = (
    "one_minus_cos_h",
    "one_minus_cos_z",
    "one_minus_cos_p",
    "var_p_dz",
    "t3_kl_nats",
    "kl_dense_pruned_nats",
    "kl_pruned_dense_nats",
    "js_nats",
    "total_variation",
    "is_top1_same",
    "rank_of_dense_top1",
    "p_dense_top1_dense",
    "p_dense_top1_pruned",
    "entropy_dense_nats",
    "entropy_pruned_nats",
    "margin_dense",
    "margin_pruned",
)


@dataclass(frozen=True)
class DenseTextStates:
    """Final streams of the dense model in four bytes per number: integer multiples of one step per channel.

    The step is 2⁻³¹ of the channel's largest number, at least 128 times finer than float32 there. Both sides are
    rounded to these multiples before they are subtracted, so equal streams differ by exactly zero.
    """

    counts: Int32[Tensor, "rows width"]
    step: Float64[Tensor, " width"]

    @classmethod
    def of(cls, streams: Float64[Tensor, "rows width"]) -> "DenseTextStates":
        """Return the streams as multiples of their own steps."""
        largest = streams.abs().amax(dim=0)
        step = torch.where(largest > 0, largest, 1) / torch.iinfo(torch.int32).max
        return cls((streams / step).round().int(), step)

    def rows(self, selection: slice) -> "DenseTextStates":
        """Return some of the rows."""
        return DenseTextStates(self.counts[selection], self.step)

    def streams(self) -> Float64[Tensor, "rows width"]:
        """Return the streams, exact to half a step."""
        return self.counts * self.step

    def shift_to(self, streams: Float64[Tensor, "rows width"]) -> Float[Tensor, "rows width"]:
        """Return other streams of the same rows minus these, in float32."""
        return (((streams / self.step).round() - self.counts) * self.step).float()


class TextSession:
    """Dense side of a study's texts, computed once and shared by the variants of a model.

    Only the final stream of each scored token is stored (width numbers). Logits are computed from it for each variant,
    block by block. So a variant costs one pass, half the cost of running both models, and memory never holds tokens ×
    vocabulary numbers.

    Raises:
        InputError: a text cannot be read or does not fit the model.
        ComputationError: the dense model's states are NaN or infinite.
    """

    def __init__(self, decoder: Decoder, model: str, study: Study, progress: Progress = SILENT) -> None:
        self.decoder, self.model = decoder, model
        self._texts = tokenize_texts(study, decoder.tokenizer, decoder.context_length)
        self._windows = sum(len(text.windows) for text in self._texts)
        self._tokens = sum(text.windows.numel() for text in self._texts)
        progress.start("dense model on every text", self._windows, self._tokens)
        self._dense = [
            [DenseTextStates.of(streams) for streams in self._streams(text, model, progress)] for text in self._texts
        ]
        progress.done()

    def trace(self, recipe: str, variant: Variant, progress: Progress = SILENT) -> pl.DataFrame:
        """Return the rows of `text_tokens` of one variant; none if the study has no texts.

        Raises:
            ComputationError: the variant's states or logits are NaN or infinite.
        """
        progress.start(f"texts {recipe}", self._windows + len(self._texts), self._tokens)
        shifts = []
        with apply_variant(self.decoder, variant):
            for text, batches in zip(self._texts, self._dense, strict=True):
                streams = self._streams(text, f"{self.model}@{recipe}", progress)
                shifts.append([dense.shift_to(pruned) for dense, pruned in zip(batches, streams, strict=True)])
        # Only after the variant is undone: a head that is tied to changed weights must be the dense one.
        frames = [pl.DataFrame()]
        for text, batches, moves in zip(self._texts, self._dense, shifts, strict=True):
            frames.append(self._rows(text, batches, moves))
            progress.advance()
        progress.done()
        return pl.concat(frames, how="diagonal")

    def _streams(self, text: TokenizedText, name: str, progress: Progress) -> Iterator[Float64[Tensor, "rows width"]]:
        """Yield the final streams that predict the scored tokens, some windows at a time."""
        for windows in text.windows.split(max(1, self.decoder.at_once(PASS_TOKENS) // text.text.context)):
            reads = slice(-text.text.scored - 1, -1)
            streams = final_streams(self.decoder, windows.to(self.decoder.device), reads).flatten(end_dim=1)
            if not bool(torch.isfinite(streams).all()):
                raise ComputationError(f"{name}: NaN or infinite states on text {text.text.id!r}")
            yield streams
            progress.advance(len(windows))

    def _rows(self, text: TokenizedText, batches: list[DenseTextStates], moves: list[Tensor]) -> pl.DataFrame:
        """Return all rows of a text, computed in parallel."""
        head, targets = self.decoder.head, text.targets.split([len(move) for move in moves])

        def measure(piece: tuple[DenseTextStates, Tensor, Tensor]) -> Columns:
            dense, move, true = piece
            states, shift = head.lens(dense.streams(), move, "normed")
            # A zero shift needs the dense side only.
            return divergence(states, shift if bool(shift.any()) else None, head, (1.0,), targets=true)

        pieces = (
            (dense.rows(rows), move[rows], true[rows])
            for dense, move, true in zip(batches, moves, targets, strict=True)
            for rows in (slice(first, first + PIECE_ROWS) for first in range(0, len(move), PIECE_ROWS))
        )
        columns = list(in_parallel(measure, pieces, self.decoder.device))
        about = {
            "text_id": text.text.id,
            "text_hash": text.hash,
            "context": text.text.context,
            "stride": text.text.step,
            "window_id": np.repeat(np.arange(len(text.windows)), text.text.scored),
            "position": text.positions.reshape(-1).numpy(),
            "token_id": text.targets.numpy(),
        }
        names = (*TARGET_NAMES, *MEASURES)
        return pl.DataFrame(about | {name: np.concatenate([piece[name][0] for piece in columns]) for name in names})
