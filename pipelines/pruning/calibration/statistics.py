"""Statistics of the dense model on calibration tokens: inputs of each matrix, influence of each sublayer.

One forward pass gives both tables. Recipes read them instead of running the model again.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import polars as pl
import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from prunescope.pipelines.core.errors import ComputationError, InputError
from prunescope.pipelines.core.progress import SILENT, Progress
from prunescope.pipelines.corpora.text_sources import read_documents
from prunescope.pipelines.metrics.vector_metrics import space_metrics
from prunescope.pipelines.models.chat_template import messages_in_chat_template
from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.models.module_calls import hooks, stream_of
from prunescope.pipelines.models.sublayer import Sublayer
from prunescope.pipelines.models.weight_matrices import Matrix
from prunescope.pipelines.pruning.calibration.activation_moments import ActivationMoments
from prunescope.pipelines.pruning.calibration.layerwise_forward import Streams
from prunescope.pipelines.studies import CalibrationSpec

_WHAT = "calibration source"
# A channel counts as an outlier if its RMS exceeds the median channel's by this factor.
OUTLIER = 6.0


@dataclass(frozen=True)
class CalibrationResult:
    """Rows of `activation_stats` and `block_influence`."""

    activation_stats: pl.DataFrame
    block_influence: pl.DataFrame


def calibration_tokens(tokenizer: Any, spec: CalibrationSpec) -> Int[Tensor, "sequences length"]:  # noqa: ANN401
    """Return windows of the calibration text, drawn at random with the spec's seed.

    Raises:
        InputError: the text cannot be read or is too short, or the model has no chat template to apply.
    """
    documents = read_documents(spec.source, _WHAT)
    generator = torch.Generator().manual_seed(spec.seed)
    if spec.documents == "single":
        return _from_single_documents(tokenizer, spec, documents, generator)
    if spec.template:
        text = "".join(_templated(tokenizer, document) for document in documents)
    else:
        text = "\n\n".join(documents)
    tokens = _ids(tokenizer, text)
    if len(tokens) < spec.length:
        raise InputError(f"{_WHAT} {spec.source}: {len(tokens)} tokens, fewer than one window of {spec.length}")
    starts = torch.randint(0, len(tokens) - spec.length + 1, (spec.sequences,), generator=generator)
    return torch.stack([tokens[start : start + spec.length] for start in starts.tolist()])


def _from_single_documents(
    tokenizer: Any,  # noqa: ANN401
    spec: CalibrationSpec,
    documents: Sequence[str],
    generator: torch.Generator,
) -> Int[Tensor, "sequences length"]:
    """Draw each window from one document; all documents that are long enough are equally likely."""
    candidates, tokenized, windows, longest = list(range(len(documents))), dict[int, Tensor](), list[Tensor](), 0
    while len(windows) < spec.sequences:
        if not candidates:
            raise InputError(
                f"{_WHAT} {spec.source}: its longest document has {longest} tokens, fewer than one window of "
                f"{spec.length}; lower `length` or set `documents: joined`"
            )
        index = int(torch.randint(0, len(candidates), (1,), generator=generator))
        drawn = candidates[index]
        if drawn not in tokenized:
            document = documents[drawn]
            tokenized[drawn] = _ids(tokenizer, _templated(tokenizer, document) if spec.template else document)
        tokens = tokenized[drawn]
        if len(tokens) < spec.length:
            longest = max(longest, len(tokens))
            candidates.pop(index)
            continue
        start = int(torch.randint(0, len(tokens) - spec.length + 1, (1,), generator=generator))
        windows.append(tokens[start : start + spec.length])
    return torch.stack(windows)


def _ids(tokenizer: Any, text: str) -> Int[Tensor, " tokens"]:  # noqa: ANN401
    ids = tokenizer(text, add_special_tokens=False, return_attention_mask=False, verbose=False).input_ids
    return torch.tensor(ids, dtype=torch.int64)


def _templated(tokenizer: Any, document: str) -> str:  # noqa: ANN401
    if not getattr(tokenizer, "chat_template", None):
        raise InputError("calibration.template: the model has no chat template; set it to false")
    messages = [{"role": "user", "content": document}]
    return messages_in_chat_template(tokenizer, messages, add_generation_prompt=False)


def calibration_dtype(spec: CalibrationSpec) -> torch.dtype | None:
    """Return the dtype in which calibration tokens pass the layers; None is the model's own."""
    return None if spec.dtype == "model" else {"float32": torch.float32, "bfloat16": torch.bfloat16}[spec.dtype]


def tokens_hash(tokens: Int[Tensor, "sequences length"]) -> str:
    """Return the SHA-256 of calibration tokens."""
    return hashlib.sha256(tokens.numpy().astype("<i4").tobytes()).hexdigest()


def require_context(spec: CalibrationSpec, context: int, key: str = "`calibration.length`") -> None:
    """Raise an InputError for windows longer than a model's context; `key` names the setting of the length in it."""
    if spec.length > context:
        raise InputError(f"{key} {spec.length} is over the model's context of {context} tokens; give at most {context}")


def calibrate(decoder: Decoder, spec: CalibrationSpec, model: str, progress: Progress = SILENT) -> CalibrationResult:
    """Measure the dense model on the calibration tokens; `model` is its name in the tables.

    Raises:
        InputError: the windows are longer than the model's context.
        ComputationError: an activation is NaN or infinite.
    """
    require_context(spec, decoder.context_length)
    tokens = calibration_tokens(decoder.tokenizer, spec)
    digest = tokens_hash(tokens)
    owners = {name: sublayer for sublayer in decoder.sublayers for name in sublayer.matrices}
    influence = Influence(decoder)
    streams = Streams(decoder, tokens, calibration_dtype(spec))
    inputs: dict[str, ActivationMoments] = {}
    progress.start("calibrate", len(decoder.layers), tokens.numel())
    with hooks(*influence.watch()):
        for index, layer in enumerate(decoder.layers):
            matrices = layer.attn.matrices | layer.mlp.matrices
            inputs |= streams.measure(index, matrices, with_tails=True, advances=True)
            progress.advance()
    progress.done()
    # An expert that no token reached has no row.
    stats = [
        _row(model, owners[name], matrix, inputs[name], digest)
        for name, matrix in decoder.matrices.items()
        if name in inputs
    ]
    return CalibrationResult(
        pl.DataFrame(stats, schema_overrides={"mean": pl.List(pl.Float32), "second_moment": pl.List(pl.Float32)}),
        influence.rows(model, digest),
    )


class Influence:
    """1 − cos of the stream before and after each attention, MLP and block, averaged over tokens in float64.

    The decoder's passes are measured while the hooks of `watch` are registered.
    """

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._sums: dict[tuple[int, str], tuple[float, float]] = {}
        self._tokens = 0
        self._contributions: dict[str, Tensor] = {}

    def watch(self) -> list[RemovableHandle]:
        """Measure every pass from now on; the caller removes the hooks."""
        handles = []
        for index, layer in enumerate(self._decoder.layers):
            for sublayer in layer.sublayers:
                handles += sublayer.watch(partial(self._contributions.__setitem__, sublayer.kind))
            handles.append(layer.module.register_forward_hook(partial(self._measure, index), with_kwargs=True))
        return handles

    def _measure(self, index: int, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], __: object) -> None:
        before = stream_of(args, kwargs)
        attn, mlp = (self._contributions[kind].to(before.device) for kind in ("attn", "mlp"))
        middle = before if self._decoder.layers[index].is_parallel else before + attn
        for unit, start, add in (("attn", before, attn), ("mlp", middle, mlp), ("block", before, attn + mlp)):
            flat, shift = (tensor.reshape(-1, tensor.shape[-1]) for tensor in (start, add))
            metrics = space_metrics(flat, shift)
            sums = self._sums.get((index, unit), (0.0, 0.0))
            defect, orthogonal = float(metrics["one_minus_cos_h"].sum()), float(metrics["orth_rel_h"].sum())
            self._sums[index, unit] = (sums[0] + defect, sums[1] + orthogonal)
        if index == 0:
            self._tokens += before.shape[0] * before.shape[1]

    @property
    def means(self) -> dict[str, float]:
        """Influence by label of the unit, `attn.3`, `mlp.3` or `block.3`; ComputationError if it is NaN or infinite."""
        means = {f"{unit}.{layer}": defect / self._tokens for (layer, unit), (defect, _) in self._sums.items()}
        if not all(map(math.isfinite, means.values())):
            raise ComputationError("an activation is NaN or infinite on the calibration tokens")
        return means

    def rows(self, model: str, digest: str) -> pl.DataFrame:
        """Return the rows of `block_influence`, each kind of unit ranked by influence; ties go to the lower layer."""
        means = self.means
        frame = pl.DataFrame(
            [
                {
                    "model": model,
                    "layer": layer,
                    "unit": unit,
                    "influence": means[f"{unit}.{layer}"],
                    "orth_rel_mean": orthogonal / self._tokens,
                    "tokens": self._tokens,
                    "calibration_hash": digest,
                }
                for (layer, unit), (_, orthogonal) in self._sums.items()
            ]
        )
        ranked = frame.sort("unit", "influence", "layer").with_columns(
            drop_order=pl.int_range(1, pl.len() + 1).over("unit").cast(pl.Int32)
        )
        return ranked.sort("layer", "unit")


def _row(model: str, sublayer: Sublayer, matrix: Matrix, inputs: ActivationMoments, digest: str) -> dict[str, object]:
    second = inputs.second_moment.cpu()
    outputs, channels = matrix.shape
    mean = float(second.mean())
    kurtosis = float(inputs.fourth) / (inputs.tokens * channels) / mean**2 if mean else 0.0
    rms = second.sqrt()
    return {
        "model": model,
        "module": matrix.name,
        "layer": sublayer.layer,
        "sublayer": sublayer.kind,
        "in_features": channels,
        "out_features": outputs,
        "tokens": inputs.tokens,
        "mean": inputs.mean.float().tolist(),
        "second_moment": second.float().tolist(),
        "rms": mean**0.5,
        "kurtosis": kurtosis,
        "max_abs": float(inputs.largest),
        "outlier_channels": int((rms > OUTLIER * rms.median()).sum()),
        "calibration_hash": digest,
    }
