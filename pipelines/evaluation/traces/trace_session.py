"""The dense side of a study, computed once and shared by every variant; each variant is then laid beside it.

The five trace tables leave here as polars frames; who stores them is not this module's business.
"""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast

import numpy as np
import polars as pl
import torch
from torch import Tensor

from prunescope.pipelines.core.errors import ComputationError
from prunescope.pipelines.core.progress import SILENT, Progress
from prunescope.pipelines.core.thread_map import in_parallel
from prunescope.pipelines.evaluation.tokenization.prompts import TokenizedPrompt, tokenize_prompts
from prunescope.pipelines.evaluation.traces.activation_capture import Capture, replay, run_known
from prunescope.pipelines.evaluation.traces.decoding import (
    GENERATION_SCHEMA,
    OPTION_SCHEMA,
    DecodingResult,
    DensePrunedPair,
    decode_greedily,
    generation_row,
    option_rows,
    pruned_tokens,
    step_rows,
    top_rows,
)
from prunescope.pipelines.evaluation.traces.isolated import IsolatedEffect
from prunescope.pipelines.evaluation.traces.stored_states import STATE_SCHEMA, state_rows
from prunescope.pipelines.metrics.divergence import COLUMN_NAMES, divergence
from prunescope.pipelines.metrics.logit_blocks import BLOCK_ROWS, Workspace
from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.models.sublayer import Sublayer
from prunescope.pipelines.pruning.variant import Variant
from prunescope.pipelines.pruning.variant_patching import apply_variant
from prunescope.pipelines.studies import Study

Columns = dict[str, np.ndarray]


@dataclass(frozen=True)
class _DensePrompt:
    """One prompt on the dense side: its greedy continuation, and a pass over both that kept every sublayer's call."""

    prompt: TokenizedPrompt
    decoded: DecodingResult
    tokens: Tensor
    first: int
    capture: Capture
    at_once: Capture

    @property
    def positions(self) -> range:
        """Measured positions."""
        return range(self.first, self.tokens.shape[1])


@dataclass(frozen=True)
class _Moved:
    """One variant beside the dense model.

    Attributes:
        shifts: of the stream behind every sublayer, by label, one a prompt.
        isolated: of the final stream by each changed sublayer alone, by label, one a prompt; empty where that is not
            measured.
        free: what the variant wrote on its own; None where that is not measured.
    """

    shifts: list[dict[str, Tensor]]
    isolated: list[dict[str, Tensor]]
    free: list[DecodingResult] | None


class TraceSession:
    """Everything dense that the variants of one model and study share.

    Args:
        decoder: the dense model.
        model: its name in the tables.
        study: prompts and settings.
        progress: one step a prompt.

    Raises:
        InputError: a prompt does not fit the model.
        ComputationError: the dense model's states are NaN or infinite.
    """

    def __init__(self, decoder: Decoder, model: str, study: Study, progress: Progress = SILENT) -> None:
        self.decoder, self.model, self.study = decoder, model, study
        prompts = tokenize_prompts(study, decoder.tokenizer, decoder.context_length)
        progress.start("dense model on every prompt", len(prompts) + 1)
        decoded = self._decode(prompts)
        progress.advance()
        self._prompts = [self._dense(*each, progress) for each in zip(prompts, decoded, strict=True)]
        progress.done()
        self._of_thread = threading.local()
        self._isolation = IsolatedEffect(decoder)

    def _decode(self, prompts: list[TokenizedPrompt]) -> list[DecodingResult]:
        return decode_greedily(self.decoder, [prompt.ids for prompt in prompts], self.study.generation.new_tokens)

    def _dense(self, prompt: TokenizedPrompt, decoded: DecodingResult, progress: Progress) -> _DensePrompt:
        tokens = torch.tensor([[*prompt.ids, *decoded.tokens]], device=self.decoder.device)
        first = 0 if self.study.measure.positions == "every" else len(prompt.ids) - 1
        capture = self._run(tokens, len(prompt.ids), first, keep_calls=True)
        if not all(bool(torch.isfinite(states).all()) for states in capture.added.values()):
            raise ComputationError(f"model {self.model}: NaN or infinite states on prompt {prompt.prompt.id!r}")
        progress.advance()
        is_again = "isolated" in self.study.measure.scopes and self.study.measure.cache
        at_once = run_known(self.decoder, tokens, first, by_token_from=None, keep_calls=True) if is_again else capture
        return _DensePrompt(prompt, decoded, tokens, first, capture, at_once)

    def _run(self, tokens: Tensor, prompt_length: int, first: int, *, keep_calls: bool) -> Capture:
        by_token_from = prompt_length if self.study.measure.cache else None
        return run_known(self.decoder, tokens, first, by_token_from=by_token_from, keep_calls=keep_calls)

    @property
    def bytes_a_variant(self) -> int:
        """Bytes that one variant keeps waiting: rows of `layer_transitions`, kept states and masks."""
        measure = self.study.measure
        kinds = len(measure.scopes) * len(measure.lenses) * len(measure.temperatures)
        places = sum(len(dense.positions) for dense in self._prompts) * 2 * len(self.decoder.layers)
        states = places * len(measure.scopes) * 2 * self.decoder.head.weight.shape[1] if measure.keep_states else 0
        masks = sum(matrix.size for matrix in self.decoder.matrices.values()) // 8
        return places * kinds * 5 * len(COLUMN_NAMES) + states + masks

    def trace(self, recipe: str, variant: Variant, progress: Progress = SILENT) -> dict[str, pl.DataFrame]:
        """Measures one variant; as `trace_all`."""
        return self.trace_all({recipe: variant}, progress)[recipe]

    def trace_all(
        self, variants: Mapping[str, Variant], progress: Progress = SILENT
    ) -> dict[str, dict[str, pl.DataFrame]]:
        """Measures variants beside one another, so that they share the dense logits and softmax of every row.

        A variant's rows are the same, bit for bit, whatever others stand beside it.

        Returns:
            By recipe: rows of `layer_transitions`, `decoding_steps`, `top_tokens`, `option_subspace`,
            `generations` and `hidden_states`.

        Raises:
            ComputationError: a variant's states or logits are NaN or infinite.
        """
        sublayers = list(self.decoder.sublayers)
        progress.start(f"trace {', '.join(variants)}", len(sublayers) + len(variants) * (len(self._prompts) + 1))
        moved = {recipe: self._moved(recipe, variant, progress) for recipe, variant in variants.items()}
        layers: dict[str, list[pl.DataFrame]] = {recipe: [] for recipe in variants}
        states: dict[str, list[pl.DataFrame]] = {recipe: [] for recipe in variants}
        work = partial(self._transitions, variants=variants, moved=moved)
        for frames in in_parallel(work, sublayers, self.decoder.device):
            for recipe, (own, kept) in frames.items():
                layers[recipe] += own
                states[recipe].append(kept)
            progress.advance()
        tables = {
            recipe: {"layer_transitions": pl.concat(layers.pop(recipe)), "hidden_states": pl.concat(states.pop(recipe))}
            | self._decoding(moved[recipe])
            for recipe in variants
        }
        progress.done()
        return {
            recipe: {
                name: frame.with_columns(model=pl.lit(self.model), recipe=pl.lit(recipe)) for name, frame in own.items()
            }
            for recipe, own in tables.items()
        }

    def _moved(self, recipe: str, variant: Variant, progress: Progress) -> _Moved:
        """Run the variant whole on the dense tokens, and let it write its own.

        The recipe `dense` runs like any other: that it comes out at exactly zero is a check of model and machine.
        """
        shifts: list[dict[str, Tensor]] = []
        free = None
        with apply_variant(self.decoder, variant, skips=False):
            for dense in self._prompts:
                captured = self._run(dense.tokens, len(dense.prompt.ids), dense.first, keep_calls=False)
                shifts.append(_propagated(self.decoder, dense.capture, captured))
                progress.advance()
            if "free_running" in self.study.measure.trajectories:
                free = self._decode([dense.prompt for dense in self._prompts])
            progress.advance()
        if not all(bool(torch.isfinite(shift).all()) for each in shifts for shift in each.values()):
            raise ComputationError(f"{self.model}@{recipe}: NaN or infinite states")
        return _Moved(shifts, self._isolated(variant), free)

    def _isolated(self, variant: Variant) -> list[dict[str, Tensor]]:
        """Shift of the final stream by every changed sublayer alone, by label, one a prompt."""
        if "isolated" not in self.study.measure.scopes:
            return []
        passes = [(dense.at_once, 0) for dense in self._prompts]
        changed = [sublayer for sublayer in self.decoder.sublayers if variant.changed(sublayer)]
        local = {sublayer.label: _local(sublayer, variant, passes) for sublayer in changed}
        found = []
        for index, dense in enumerate(self._prompts):
            shifts = self._isolation.shifts(dense.at_once, {label: moved[index] for label, moved in local.items()})
            found.append({label: shift[dense.first :] for label, shift in shifts.items()})
        return found

    # -- layers ---------------------------------------------------------------------------------------------------

    def _transitions(
        self, sublayer: Sublayer, variants: Mapping[str, Variant], moved: Mapping[str, _Moved]
    ) -> dict[str, tuple[list[pl.DataFrame], pl.DataFrame]]:
        """Rows of one sublayer by recipe, at every position of every prompt.

        Returns:
            Rows of `layer_transitions`, all scopes, lenses and temperatures; rows of `hidden_states`.
        """
        measure = self.study.measure
        stream = torch.cat([_after(self.decoder, dense.capture, sublayer) for dense in self._prompts])
        final = torch.cat([_after(self.decoder, dense.capture, self.decoder.layers[-1].mlp) for dense in self._prompts])
        moves: dict[str, dict[str, Tensor | None]] = {scope: {} for scope in measure.scopes}
        for recipe, variant in variants.items():
            is_changed = variant.changed(sublayer)
            if "local" in moves:
                passes = [(dense.capture, dense.first) for dense in self._prompts]
                moves["local"][recipe] = torch.cat(_local(sublayer, variant, passes)) if is_changed else None
            if "isolated" in moves:
                alone = [shift[sublayer.label] for shift in moved[recipe].isolated if is_changed]
                moves["isolated"][recipe] = torch.cat(alone) if is_changed else None
            if "propagated" in moves:
                moves["propagated"][recipe] = torch.cat([shift[sublayer.label] for shift in moved[recipe].shifts])
        frames: dict[str, list[pl.DataFrame]] = {recipe: [] for recipe in variants}
        # An isolated swap is measured at the output, the other scopes behind the sublayer.
        for read, scopes in ((stream, ("local", "propagated")), (final, ("isolated",))):
            here = {(recipe, scope): move for scope in scopes for recipe, move in moves.get(scope, {}).items()}
            for (recipe, scope), columns in self._measured(read, here).items():
                is_changed = variants[recipe].changed(sublayer)
                for lens, own in zip(measure.lenses, columns, strict=True):
                    frames[recipe].extend(self._frames(sublayer, lens, scope, is_changed, own))
        states = {recipe: self._states(sublayer, recipe, stream, moves) for recipe in variants}
        return {recipe: (own, states[recipe]) for recipe, own in frames.items()}

    def _states(
        self, sublayer: Sublayer, recipe: str, stream: Tensor, moves: Mapping[str, Mapping[str, Tensor | None]]
    ) -> pl.DataFrame:
        """Rows of `hidden_states`: the stream itself for the dense model, its shifts for a variant."""
        if not self.study.measure.keep_states:
            return STATE_SCHEMA.to_frame()
        kept = {"dense": stream} if recipe == "dense" else {scope: own[recipe] for scope, own in moves.items()}
        ids = [dense.prompt.prompt.id for dense in self._prompts for _ in dense.positions]
        positions = [position for dense in self._prompts for position in dense.positions]
        return state_rows(ids, positions, sublayer.layer, sublayer.kind, kept)

    def _workspace(self) -> Workspace:
        """Buffers of the calling thread."""
        if not hasattr(self._of_thread, "workspace"):
            self._of_thread.workspace = Workspace()
        return cast(Workspace, self._of_thread.workspace)

    def _measured(
        self, stream: Tensor, moves: Mapping[tuple[str, str], Tensor | None]
    ) -> dict[tuple[str, str], list[Columns]]:
        """Compute the columns of every shift, one set a lens; zero shifts share the dense side's own.

        What the head reads through all lenses is multiplied together where it fits into one block: a matrix product
        is the faster the more rows it has.
        """
        if not moves:
            return {}
        lenses = self.study.measure.lenses
        is_one_block = len(lenses) * len(stream) <= BLOCK_ROWS
        found: dict[tuple[str, str], list[Columns]] = {key: [] for key in moves}
        for together in [lenses] if is_one_block else [(lens,) for lens in lenses]:
            for key, columns in self._measured_together(together, stream, moves).items():
                for start in range(0, len(together) * len(stream), len(stream)):
                    own = slice(start, start + len(stream))
                    found[key].append({name: values[:, own] for name, values in columns.items()})
        return found

    def _measured_together(
        self, lenses: Sequence[str], stream: Tensor, moves: Mapping[tuple[str, str], Tensor | None]
    ) -> dict[tuple[str, str], Columns]:
        """Compute the columns of every shift with the rows of one lens after the other."""
        head = self.decoder.head

        def read(move: Tensor, side: int) -> Tensor:
            return torch.cat([head.lens(stream, move, lens)[side] for lens in lenses])

        shifts: dict[tuple[str, str] | None, Tensor | None] = {
            key: read(move, 1) for key, move in moves.items() if move is not None and bool(move.any())
        }
        if len(shifts) < len(moves):
            shifts[None] = None
        columns = divergence(
            read(torch.zeros_like(stream), 0),
            list(shifts.values()),
            head,
            self.study.measure.temperatures,
            workspace=self._workspace(),
        )
        measured = dict(zip(shifts, columns, strict=True))
        return {key: measured[key if key in measured else None] for key in moves}

    def _frames(
        self, sublayer: Sublayer, lens: str, scope: str, is_changed: bool, columns: Columns
    ) -> list[pl.DataFrame]:
        keys = [
            (dense.prompt.prompt.id, position, _step(dense, position, self.study.generation.new_tokens))
            for dense in self._prompts
            for position in dense.positions
        ]
        about = {"prompt_id": [k[0] for k in keys], "position": [k[1] for k in keys], "step": [k[2] for k in keys]}
        schema = {"position": pl.Int32, "step": pl.Int32}
        return [
            pl.DataFrame(
                about | {name: values[index] for name, values in columns.items()}, schema_overrides=schema
            ).with_columns(
                layer=pl.lit(sublayer.layer, pl.Int16),
                sublayer=pl.lit(sublayer.kind),
                scope=pl.lit(scope),
                lens=pl.lit(lens),
                temperature=pl.lit(temperature),
                is_changed=pl.lit(is_changed),
            )
            for index, temperature in enumerate(self.study.measure.temperatures)
        ]

    # -- decoding -------------------------------------------------------------------------------------------------

    def _decoding(self, moved: _Moved) -> dict[str, pl.DataFrame]:
        """The four tables of the output."""
        measure, decoder = self.study.measure, self.decoder
        steps, tops, generations, options = [], [], [], []
        for index, (dense, shift) in enumerate(zip(self._prompts, moved.shifts, strict=True)):
            forced = self._forced_pair(dense, shift)
            options += option_rows(decoder, forced, measure.temperatures)
            if "teacher_forced" in measure.trajectories:
                steps.append(step_rows(decoder, forced, measure.temperatures))
                tops.append(top_rows(decoder, forced, measure.top_k))
            if moved.free is not None:
                pair = self._free_pair(dense, moved.free[index])
                steps.append(step_rows(decoder, pair, measure.temperatures))
                tops.append(top_rows(decoder, pair, measure.top_k))
                generations.append(generation_row(decoder, dense.prompt, pair.pruned_tokens, pair.dense_tokens))
        return {
            "decoding_steps": pl.concat(steps),
            "top_tokens": pl.concat(tops),
            "option_subspace": pl.DataFrame(options, schema=OPTION_SCHEMA),
            "generations": pl.DataFrame(generations, schema=GENERATION_SCHEMA),
        }

    def _free_pair(self, dense: _DensePrompt, free: DecodingResult) -> DensePrunedPair:
        """Step t of what the dense model wrote beside step t of what the variant wrote."""
        own = dense.decoded
        move = (free.streams - own.streams).float()
        return DensePrunedPair(dense.prompt, "free_running", own.streams.float(), move, own.tokens, free.tokens)

    def _forced_pair(self, dense: _DensePrompt, shift: dict[str, Tensor]) -> DensePrunedPair:
        """The model's output on the dense tokens, at the positions that predict a generated token."""
        count = self.study.generation.new_tokens
        start = len(dense.prompt.ids) - 1 - dense.first
        last = self.decoder.layers[-1].mlp
        streams = _after(self.decoder, dense.capture, last)[start : start + count]
        move = shift[last.label][start : start + count]
        tokens = pruned_tokens(self.decoder, streams, move)
        return DensePrunedPair(dense.prompt, "teacher_forced", streams, move, dense.decoded.tokens, tokens)


def _local(sublayer: Sublayer, variant: Variant, passes: Sequence[tuple[Capture, int]]) -> list[Tensor]:
    """What a changed sublayer adds in the dense context less what the dense one adds.

    Args:
        sublayer: the sublayer.
        variant: which changes it.
        passes: dense passes, each with the first position that is wanted.
    """
    if sublayer.label in variant.dropped:
        return [-dense.whole[sublayer.label][first:] for dense, first in passes]
    with sublayer.on_device():
        weights = variant.weights(sublayer)
        added = [replay(sublayer, dense.calls[sublayer.label], weights, first) for dense, first in passes]
    wholes = [dense.whole[sublayer.label][first:] for dense, first in passes]
    return [own.to(whole.device) - whole for own, whole in zip(added, wholes, strict=True)]


def _after(decoder: Decoder, capture: Capture, sublayer: Sublayer) -> Tensor:
    """The dense residual stream behind a sublayer; a parallel layer has one point behind both."""
    layer = decoder.layers[sublayer.layer]
    stream = capture.streams[sublayer.layer] + capture.added[layer.attn.label]
    if sublayer.kind == "mlp" or layer.is_parallel:
        stream = stream + capture.added[layer.mlp.label]
    return stream


def _propagated(decoder: Decoder, dense: Capture, pruned: Capture) -> dict[str, Tensor]:
    """Shift of the stream behind every sublayer when the pruned model runs whole on the same tokens.

    The embeddings are the same, so the shift is the sum of the differences of all contributions so far, kept in
    float64: subtracting two residual streams would cancel, they are much longer than their difference.
    """
    shift = torch.zeros_like(next(iter(dense.added.values())), dtype=torch.float64)
    shifts = {}
    for layer in decoder.layers:
        pair = [layer.attn, layer.mlp]
        moves = [pruned.added[s.label].double() - dense.added[s.label].double() for s in pair]
        shifts[layer.attn.label] = (shift + (moves[0] + moves[1] if layer.is_parallel else moves[0])).float()
        shift = shift + moves[0] + moves[1]
        shifts[layer.mlp.label] = shift.float()
    return shifts


def _step(dense: _DensePrompt, position: int, new_tokens: int) -> int | None:
    """The generated token that a position predicts; None inside the prompt and behind the last generated token."""
    step = position - (len(dense.prompt.ids) - 1)
    return step if 0 <= step < new_tokens else None
