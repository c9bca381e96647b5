"""Comparison of variants with the dense model, per layer and per step, as rows of the trace tables."""

import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import polars as pl
import torch
from torch import Tensor

from prunescope.pipelines.core.errors import ComputationError
from prunescope.pipelines.core.progress import SILENT, Progress
from prunescope.pipelines.evaluation.tokenization.prompts import TokenizedPrompt, tokenize_prompts
from prunescope.pipelines.evaluation.traces.activation_capture import Capture, replay, run_known, stream_after
from prunescope.pipelines.evaluation.traces.decoding import DecodingResult, DensePrunedPair, bytes_per_variant
from prunescope.pipelines.evaluation.traces.greedy_texts import GreedyTexts, VariantTexts
from prunescope.pipelines.evaluation.traces.isolated import IsolatedEffect, restoring_shifts
from prunescope.pipelines.evaluation.traces.stored_states import AT_OUTPUT, state_rows
from prunescope.pipelines.evaluation.traces.trajectories import output_tables
from prunescope.pipelines.metrics.divergence import divergences
from prunescope.pipelines.metrics.logit_blocks import BLOCK_ROWS, Workspace
from prunescope.pipelines.metrics.output_head import Lens
from prunescope.pipelines.metrics.thread_map import in_parallel
from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.models.float64_pass import Norms, float64_norms
from prunescope.pipelines.models.sublayer import Sublayer
from prunescope.pipelines.pruning.variant import Variant
from prunescope.pipelines.pruning.variant_patching import apply_variant
from prunescope.pipelines.studies import Study

Columns = dict[str, np.ndarray]
# Shifts of a variant from the dense model by label of a sublayer, per prompt that is measured at every layer.
Shifts = list[dict[str, Tensor]]


@dataclass(frozen=True)
class _DensePrompt:
    """Dense side of one prompt.

    `decoded` is its greedy continuation. `forced` has the same tokens, read in batches of the same shape as those in
    which a variant reads them. `tokens` are prompt and continuation, (1, length).
    """

    prompt: TokenizedPrompt
    decoded: DecodingResult
    forced: DecodingResult
    tokens: Tensor

    @property
    def streams(self) -> Tensor:
        """Final stream at the positions that predict a token of the continuation, float32."""
        return self.forced.streams.float()


@dataclass(frozen=True)
class _LayeredPrompt(_DensePrompt):
    """Dense side of one prompt that is measured at every layer.

    `first` is the first measured position. `capture` is a pass over the tokens, with the calls of every sublayer.
    `full_pass` is a pass over all tokens at once in the model's own type, for scope `isolated`; otherwise `capture`.
    """

    decoder: Decoder
    first: int
    capture: Capture
    full_pass: Capture

    @property
    def predicting(self) -> slice:
        """Measured positions that predict a token of the continuation."""
        start = len(self.prompt.ids) - 1 - self.first
        return slice(start, start + len(self.decoded.tokens))

    @property
    def streams(self) -> Tensor:
        """Final stream at the positions that predict a token of the continuation, float32."""
        return stream_after(self.decoder, self.capture, self.decoder.layers[-1].mlp)[self.predicting]


class TraceSession:
    """Dense side of a study's prompts, computed once and shared by the variants of a model.

    Only the prompts of `Study.layer_prompts` keep the states of their sublayers. The others keep their final streams.

    Raises:
        InputError: a prompt does not fit the model.
        ComputationError: the dense model's states are NaN or infinite.
    """

    def __init__(self, decoder: Decoder, model: str, study: Study, progress: Progress = SILENT) -> None:
        self.decoder, self.model, self.study = decoder, model, study
        self._layer_ids = frozenset(study.layer_prompts)
        prompts = tokenize_prompts(study, decoder.tokenizer, decoder.context_length)
        self._texts = GreedyTexts(decoder, study, prompts)
        decoded = self._texts.of_dense(progress)
        progress.start("dense model on every prompt", len(prompts), sum(len(prompt.ids) for prompt in prompts))
        # If tokens pass one by one, weights would have to be converted to float64 for every token.
        self._norms = None if study.measure.cache else float64_norms(decoder)
        self._prompts = [self._dense(*pair, progress) for pair in zip(prompts, decoded, strict=True)]
        self._layered = [dense for dense in self._prompts if isinstance(dense, _LayeredPrompt)]
        # Measured positions, each with the step of the generated token that it predicts, if it predicts one.
        self._positions = pl.DataFrame(
            [
                (dense.prompt.prompt.id, position, step if 0 <= step < len(dense.decoded.tokens) else None)
                for dense in self._layered
                for step, position in enumerate(range(dense.first, dense.tokens.shape[1]), -dense.predicting.start)
            ],
            schema={"prompt_id": pl.String, "position": pl.Int32, "step": pl.Int32},
            orient="row",
        )
        progress.done()
        self._thread_local = threading.local()
        self._isolation = IsolatedEffect(decoder)

    def _dense(self, prompt: TokenizedPrompt, decoded: tuple[DecodingResult, ...], progress: Progress) -> _DensePrompt:
        measure, start = self.study.measure, len(prompt.ids) - 1
        forced, free = decoded[0], decoded[-1]
        tokens = torch.tensor([[*prompt.ids, *free.tokens]], device=self.decoder.device)
        states = [forced.streams]
        dense = _DensePrompt(prompt, free, forced, tokens)
        if prompt.prompt.id in self._layer_ids:
            first = 0 if measure.positions == "every" else start
            capture = self._run(tokens, len(prompt.ids), first, self._norms, keep_calls=True)
            full_pass = capture
            # Scope `isolated` repeats the calls of this pass in the model's own type.
            if "isolated" in measure.scopes and (measure.cache or self._norms is not None):
                full_pass = run_known(self.decoder, tokens, first, by_token_from=None, keep_calls=True)
            dense = _LayeredPrompt(prompt, free, forced, tokens, self.decoder, first, capture, full_pass)
            states += capture.added.values()
        if not _all_finite(states):
            raise ComputationError(f"model {self.model}: NaN or infinite states on prompt {prompt.prompt.id!r}")
        progress.advance()
        return dense

    def _run(self, tokens: Tensor, prompt_length: int, first: int, norms: Norms | None, *, keep_calls: bool) -> Capture:
        by_token_from = prompt_length if self.study.measure.cache else None
        return run_known(self.decoder, tokens, first, by_token_from=by_token_from, keep_calls=keep_calls, norms=norms)

    @property
    def bytes_per_variant(self) -> int:
        """Bytes that one variant needs until its tables are written."""
        measure = self.study.measure
        points = len(self._positions) * 2 * len(self.decoder.layers)
        steps = sum(len(dense.decoded.tokens) for dense in self._prompts) * len(measure.trajectories)
        weights = sum(matrix.size for matrix in self.decoder.matrices.values())
        return bytes_per_variant(measure, points, steps, self.decoder.head.weight.shape[1], weights)

    def trace(self, recipe: str, variant: Variant, progress: Progress = SILENT) -> dict[str, pl.DataFrame]:
        """Measure one variant, as `trace_all` does."""
        return self.trace_all({recipe: variant}, progress)[recipe]

    def trace_all(
        self, variants: Mapping[str, Variant], progress: Progress = SILENT
    ) -> dict[str, dict[str, pl.DataFrame]]:
        """Measure several variants together; they share the dense logits and softmax of every row.

        The rows of a variant are bit-identical, whichever variants are measured with it. The result has, by recipe, the
        rows of `layer_transitions`, `decoding_steps`, `top_tokens`, `option_subspace`, `generations` and
        `hidden_states`.

        Raises:
            ComputationError: a variant's states or logits are NaN or infinite.
        """
        sublayers = list(self.decoder.sublayers)
        moved, tables = {}, {}
        for recipe, variant in variants.items():
            moved[recipe], tables[recipe] = self._outputs(recipe, variant, progress)
        layers: dict[str, list[pl.DataFrame]] = {recipe: [] for recipe in variants}
        states: dict[str, list[pl.DataFrame]] = {recipe: [] for recipe in variants}
        progress.start(f"trace {', '.join(variants)}", len(sublayers))
        work = partial(self._transitions, variants=variants, moved=moved)
        for frames in in_parallel(work, sublayers, self.decoder.device):
            for recipe, (transitions, hidden) in frames.items():
                layers[recipe] += transitions
                states[recipe] += hidden
            progress.advance()
        for recipe, of_recipe in tables.items():
            of_recipe |= {
                "layer_transitions": pl.concat(layers.pop(recipe)),
                "hidden_states": pl.concat([pl.DataFrame(), *states.pop(recipe)], how="diagonal"),
            }
        progress.done()
        return tables

    def _outputs(
        self, recipe: str, variant: Variant, progress: Progress
    ) -> tuple[dict[str, Shifts], dict[str, pl.DataFrame]]:
        """Run the whole variant on the dense tokens, decode its own continuations, and measure both at the output.

        The result has the shifts by scope and the tables of the output. `propagated` has the shifts of the stream after
        each sublayer. `isolated` has the shift of the final stream that each changed sublayer causes alone, `restored`
        the shift that all other changed sublayers cause; both are empty if they are not measured.

        The recipe `dense` runs like any other: its exact zeros check the model and the machine.
        """
        shifts: Shifts = []
        forced: list[Tensor] = []
        norms = None if variant.noise else self._norms  # noise is the rounding of the model's own type
        last = self.decoder.layers[-1].mlp.label
        known = [dense.decoded.tokens for dense in self._prompts]
        with apply_variant(self.decoder, variant, skips=False):
            texts = list[VariantTexts]()
            if self.study.measure.writes or len(self._layered) < len(self._prompts):
                texts = self._texts.of_variant(recipe, known, progress)
            progress.start(f"{recipe} on every prompt", len(self._layered))
            for index, dense in enumerate(self._prompts):
                if isinstance(dense, _LayeredPrompt):
                    captured = self._run(dense.tokens, len(dense.prompt.ids), dense.first, norms, keep_calls=False)
                    shifts.append(_propagated_shifts(self.decoder, dense.capture, captured))
                    forced.append(shifts[-1][last][dense.predicting])
                    progress.advance()
                else:
                    streams = texts[index].forced.streams[: len(dense.decoded.tokens)]
                    forced.append((streams - dense.forced.streams).float())
        states = [*forced, *(shift for by_label in shifts for shift in by_label.values())]
        states += [text.own.streams for text in texts if text.own]
        if not _all_finite(states):
            raise ComputationError(f"{self.model}@{recipe}: NaN or infinite states")
        dense_texts = [dense.decoded for dense in self._prompts]
        # The variant is undone by now: the dense model reads the variant's texts and continues them.
        texts = self._texts.with_dense(recipe, dense_texts, texts, progress) if texts else texts
        pairs = [
            DensePrunedPair(dense.prompt, "teacher_forced", dense.streams, shift, dense.decoded.tokens)
            for dense, shift in zip(self._prompts, forced, strict=True)
        ]
        tables = output_tables(self.decoder, self.study.measure, pairs, dense_texts, texts)
        moved = {"propagated": shifts, "isolated": self._isolated(variant), "restored": self._restored(variant, shifts)}
        return moved, tables

    def _isolated(self, variant: Variant) -> Shifts:
        """Return, per prompt and label, the shift of the final stream by this changed sublayer alone."""
        if "isolated" not in self.study.measure.scopes:
            return []
        # Noise is rounding, so it is compared with the exact pass, as in scope `local`.
        passes = [(dense.capture if variant.noise else dense.full_pass, 0) for dense in self._layered]
        changed = [sublayer for sublayer in self.decoder.sublayers if variant.moves(sublayer)]
        local = {sublayer.label: _local_shifts(sublayer, variant, passes) for sublayer in changed}
        isolated = []
        for index, dense in enumerate(self._layered):
            moves = {(label, "pruned"): moved[index] for label, moved in local.items()}
            shifts = self._isolation.shifts(dense.full_pass, moves)
            isolated.append({label: shift[dense.first :] for (label, _), shift in shifts.items()})
        return isolated

    def _restored(self, variant: Variant, shifts: Shifts) -> Shifts:
        """Return, per prompt and label, the shift of the final stream by the variant with this sublayer dense again."""
        if "restored" not in self.study.measure.scopes:
            return []
        last, restored = self.decoder.layers[-1].mlp.label, []
        for dense, whole in zip(self._layered, shifts, strict=True):
            back = restoring_shifts(self.decoder, self._isolation, variant, dense.tokens)
            restored.append({label: whole[last] + shift[dense.first :] for label, shift in back.items()})
        return restored

    def _transitions(
        self, sublayer: Sublayer, variants: Mapping[str, Variant], moved: Mapping[str, Mapping[str, Shifts]]
    ) -> dict[str, tuple[list[pl.DataFrame], list[pl.DataFrame]]]:
        """Return one sublayer's rows of `layer_transitions` and of `hidden_states`, per recipe."""
        measure = self.study.measure
        stream = torch.cat([stream_after(self.decoder, dense.capture, sublayer) for dense in self._layered])
        final = torch.cat(
            [stream_after(self.decoder, dense.capture, self.decoder.layers[-1].mlp) for dense in self._layered]
        )
        moves = {recipe: self._moves(sublayer, variant, moved[recipe]) for recipe, variant in variants.items()}
        frames: dict[str, list[pl.DataFrame]] = {recipe: [] for recipe in variants}
        for states, scopes in ((stream, ("local", "propagated")), (final, AT_OUTPUT)):
            shifts = {(recipe, scope): own[scope] for scope in scopes for recipe, own in moves.items() if scope in own}
            for (recipe, scope), by_lens in self._measured(states, shifts).items():
                is_changed = variants[recipe].moves(sublayer)
                for lens, columns in zip(measure.lenses, by_lens, strict=True):
                    frames[recipe].extend(self._frames(sublayer, lens, scope, is_changed, columns))
        # The dense model keeps its stream, a variant its shifts.
        kept = moves | {"dense": {"dense": stream}}
        ids, positions = self._positions["prompt_id"], self._positions["position"]
        return {
            recipe: (
                rows,
                state_rows(ids, positions, sublayer.layer, sublayer.kind, kept[recipe]) if measure.keep_states else [],
            )
            for recipe, rows in frames.items()
        }

    def _moves(self, sublayer: Sublayer, variant: Variant, moved: Mapping[str, Shifts]) -> dict[str, Tensor | None]:
        """Return a variant's shifts at a sublayer by scope; None is a shift of zero, without a computation."""
        is_changed, moves = variant.moves(sublayer), dict[str, Tensor | None]()
        for scope in self.study.measure.scopes:
            if is_changed and scope == "local":
                passes = [(dense.capture, dense.first) for dense in self._layered]
                moves[scope] = torch.cat(_local_shifts(sublayer, variant, passes))
            elif is_changed or scope == "propagated":
                moves[scope] = torch.cat([shift[sublayer.label] for shift in moved[scope]])
            elif scope != "restored" or not any(moved[scope]):  # a variant without a change is the dense model
                moves[scope] = None
        return moves

    def _measured(
        self, stream: Tensor, moves: Mapping[tuple[str, str], Tensor | None]
    ) -> dict[tuple[str, str], list[Columns]]:
        """Compute the columns of every shift, one set per lens.

        Lenses share one matrix product if their rows fit into one block, because a product with more rows is faster.
        """
        if not moves:
            return {}
        lenses = self.study.measure.lenses
        is_one_block = len(lenses) * len(stream) <= BLOCK_ROWS
        measured: dict[tuple[str, str], list[Columns]] = {key: [] for key in moves}
        for together in [lenses] if is_one_block else [(lens,) for lens in lenses]:
            for key, columns in self._measured_together(together, stream, moves).items():
                for start in range(0, len(together) * len(stream), len(stream)):
                    of_lens = slice(start, start + len(stream))
                    measured[key].append({name: values[:, of_lens] for name, values in columns.items()})
        return measured

    def _measured_together(
        self, lenses: Sequence[Lens], stream: Tensor, moves: Mapping[tuple[str, str], Tensor | None]
    ) -> dict[tuple[str, str], Columns]:
        """Compute the columns of every shift, lens after lens in the rows; all zero shifts share one set."""
        head = self.decoder.head

        def head_input(move: Tensor, side: int) -> Tensor:
            return torch.cat([head.lens(stream, move, lens)[side] for lens in lenses])

        moved = [(key, move) for key, move in moves.items() if move is not None]
        is_moved = torch.stack([move.any() for _, move in moved]).tolist() if moved else []
        shifts: dict[tuple[str, str] | None, Tensor | None] = {
            key: head_input(move, 1) for (key, move), is_any in zip(moved, is_moved, strict=True) if is_any
        }
        if len(shifts) < len(moves):
            shifts[None] = None
        columns = divergences(
            head_input(torch.zeros_like(stream), 0),
            list(shifts.values()),
            head,
            self.study.measure.temperatures,
            workspace=vars(self._thread_local).setdefault("workspace", Workspace()),
        )
        measured = dict(zip(shifts, columns, strict=True))
        return {key: measured[key if key in measured else None] for key in moves}

    def _frames(
        self, sublayer: Sublayer, lens: str, scope: str, is_changed: bool, columns: Columns
    ) -> list[pl.DataFrame]:
        return [
            self._positions.with_columns(
                *(pl.Series(name, values[index]) for name, values in columns.items()),
                layer=pl.lit(sublayer.layer, pl.Int16),
                sublayer=pl.lit(sublayer.kind),
                scope=pl.lit(scope),
                lens=pl.lit(lens),
                temperature=pl.lit(temperature),
                is_changed=pl.lit(is_changed),
            )
            for index, temperature in enumerate(self.study.measure.temperatures)
        ]


def _local_shifts(sublayer: Sublayer, variant: Variant, passes: Sequence[tuple[Capture, int]]) -> list[Tensor]:
    """Return, per pass, the pruned contribution of a sublayer in the dense context minus the dense contribution.

    The variant changes the sublayer. Each pass comes with the first position to return. The shifts are subtracted in
    the type of the pass and returned as float32.
    """
    wholes = [dense.whole[sublayer.label][first:] for dense, first in passes]
    substitute = variant.substitutes.get(sublayer.label)
    if substitute is not None:
        added = [substitute.added(dense.calls[sublayer.label])[first:] for dense, first in passes]
    elif sublayer.label in variant.dropped:
        return [-whole.float() for whole in wholes]
    else:
        with sublayer.on_device():
            weights = variant.weights(sublayer)
            added = [
                replay(sublayer, dense.calls[sublayer.label], weights, first, dense.norms, variant.noise)
                for dense, first in passes
            ]
    return [(own.to(whole.device) - whole).float() for own, whole in zip(added, wholes, strict=True)]


def _propagated_shifts(decoder: Decoder, dense: Capture, pruned: Capture) -> dict[str, Tensor]:
    """Return the shift of the stream after every sublayer when the whole pruned model runs on the same tokens.

    The shift is the float64 sum of the differences of the embeddings and of all contributions so far. External
    checkpoints and rounding change the embeddings, too. Subtracting two residual streams would cancel, because streams
    are much longer than their difference.
    """
    shift = pruned.streams[0].double() - dense.streams[0].double()
    shifts = {}
    for layer in decoder.layers:
        attn, mlp = (pruned.added[s.label].double() - dense.added[s.label].double() for s in (layer.attn, layer.mlp))
        shifts[layer.attn.label] = (shift + (attn + mlp if layer.is_parallel else attn)).float()
        shift = shift + attn + mlp
        shifts[layer.mlp.label] = shift.float()
    return shifts


def _all_finite(tensors: Iterable[Tensor]) -> bool:
    """Return whether all numbers are finite; an accelerator is synchronized once."""
    return bool(torch.stack([torch.isfinite(tensor).all() for tensor in tensors]).all())
