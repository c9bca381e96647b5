"""Parameters of a pruned model, built on access, and those that are zero because their sublayer is dropped."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache, reduce
from pathlib import Path

import torch
from torch import Tensor, nn

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.models.decoder import Decoder, probe_tokens
from prunescope.pipelines.models.load import load_model
from prunescope.pipelines.models.sources import stored_weights
from prunescope.pipelines.models.sublayer import Branch, has_matrix
from prunescope.pipelines.models.weight_matrices import Matrix
from prunescope.pipelines.models.weight_offload import data_of, swapped_data
from prunescope.pipelines.pruning.output_projection import (
    PROBE_TOKENS,
    biased_matrix,
    last_matrices,
    output_projections,
)
from prunescope.pipelines.pruning.variant import Variant
from prunescope.pipelines.pruning.variant_patching import apply_variant, contributing
from prunescope.pipelines.pruning.weight_delta import LazyMapping, WeightDelta

_FLOATS = {"float64", "float32", "bfloat16", "float16"}


def stored_dtype(folder: Path) -> torch.dtype:
    """Return the dtype of most weights in a folder; InputError if none is a float of 16 bits or more."""
    return _stored_dtypes(folder).most_common(1)[0][0]


def unchanged(decoder: Decoder) -> Mapping[str, Tensor]:
    """Return the dense parameters and buffers as they are stored, by name.

    If the decoder runs in a smaller dtype than the files have, its weights are rounded, so the files are read again.
    """
    widest = reduce(torch.promote_types, _stored_dtypes(decoder.folder))
    model = decoder.model
    if torch.promote_types(widest, decoder.dtype) != decoder.dtype:
        model, _ = load_model(decoder.folder, widest, torch.device("cpu"), decoder.memory_for_second_model)
    return _tensors(model)


def _tensors(model: nn.Module) -> Mapping[str, Tensor]:
    """Return parameters and buffers, read from disk on access if they are offloaded."""
    tensors = dict(model.state_dict(keep_vars=True))
    return LazyMapping(tensors, lambda name: data_of(tensors[name]).detach())


def _stored_dtypes(folder: Path) -> Counter[torch.dtype]:
    counts = Counter({getattr(torch, kind): n for kind, n in stored_weights(folder).items() if kind in _FLOATS})
    if not counts:
        raise InputError(f"{folder}: none of its weights is a float of 16 bits or more; such a model is not exported")
    return counts


def as_stored(decoder: Decoder, variant: Variant, dtype: torch.dtype) -> Variant:
    """Return the variant with its new values rounded to the dtype in which they are stored."""
    if torch.promote_types(dtype, decoder.dtype) == dtype:
        return variant
    matrices = decoder.matrices

    def rounded(name: str) -> WeightDelta:
        change, dense = variant.changes[name], matrices[name].weight
        if change.values is None and change.codes is None:
            return change
        return WeightDelta.valued(change.weight(dense).to(dtype).to(dense.dtype), change.mask)

    parameters = {name: value.to(dtype).to(value.dtype) for name, value in variant.parameters.items()}
    substitutes = {label: each.to(dtype).to(each.bias.dtype) for label, each in variant.substitutes.items()}
    changes = LazyMapping(variant.changes, rounded)
    return replace(variant, changes=changes, parameters=parameters, substitutes=substitutes)


@torch.inference_mode()
def with_biases(decoder: Decoder, variant: Variant) -> Variant:
    """Return a variant with the constants that a repair added also as biases of the dropped sublayers' projections.

    Raises:
        InputError: a dropped sublayer has a linear map in its place, or no module whose bias is added to the stream.
    """
    replaced = [sublayer for sublayer in decoder.sublayers if sublayer.label in variant.substitutes]
    calls = decoder.calls_of(replaced, probe_tokens(decoder, PROBE_TOKENS)) if replaced else {}
    biases: dict[str, Tensor] = {}
    for sublayer in replaced:
        substitute, name = variant.substitutes[sublayer.label], type(decoder.model).__name__
        if substitute.reads is not None:
            raise InputError(
                f"{sublayer.label}: no class of transformers has a linear map in its place; repair with `+affine`"
            )
        matrix = biased_matrix(sublayer, output_projections(sublayer, calls[sublayer.label], decoder.width))
        if matrix is None:
            raise InputError(f"{sublayer.label}: {name} has no bias for the constant in its place; drop without repair")
        biases[f"{matrix.name}.bias"] = substitute.bias / sublayer.parts[0].multiplier
    return replace(variant, parameters={**variant.parameters, **biases})


class MaterializedWeights:
    """The parameters and buffers of a decoder with a variant applied, by name."""

    def __init__(self, decoder: Decoder, variant: Variant) -> None:
        self.silenced = silencing(decoder, variant) if variant.dropped else frozenset()
        self._variant, self._device = variant, decoder.device
        self._dense = _tensors(decoder.model)
        names = {id(parameter): name for name, parameter in decoder.model.named_parameters()}
        self._matrices: dict[str, list[Matrix]] = {}
        for matrix in decoder.matrices.values():
            if matrix.name in variant.changes:
                self._matrices.setdefault(names[id(matrix.parameter)], []).append(matrix)

    def __contains__(self, name: str) -> bool:
        """Return whether a parameter or buffer has that name."""
        return name in self._dense or name in self._variant.parameters

    def is_changed(self, name: str) -> bool:
        """Return whether it differs from the dense model's."""
        return name in self.silenced or name in self._matrices or name in self._variant.parameters

    def tensor(self, name: str) -> Tensor:
        """Return a parameter or buffer on the model's device, as a new tensor if it is changed."""
        changed, value = self._matrices.get(name, []), self._variant.parameters.get(name)
        if name in self.silenced:
            return torch.zeros_like(self._dense[name] if value is None else value, device=self._device)
        if value is not None:
            return value.to(self._dense[name]) if name in self._dense else value.to(self._device)
        if changed and changed[0].expert is None:
            return self._changed(changed[0])
        stack = self._dense[name].clone() if changed else self._dense[name]
        for matrix in changed:
            stack[matrix.expert] = self._changed(matrix)
        return stack

    def _changed(self, matrix: Matrix) -> Tensor:
        weight = self._variant.changes[matrix.name].weight(matrix.weight)
        return weight.T.contiguous() if matrix.is_transposed else weight


@torch.inference_mode()
def silencing(decoder: Decoder, variant: Variant) -> frozenset[str]:
    """Return the names of the parameters that must be zero for the dropped sublayers to add nothing, as verified.

    These are the last matrix of each branch and the biases after it. If that is not enough (experts next to a shared
    one), they are all parameters of the branch. Biases of `with_biases` are not among the names.

    Raises:
        InputError: a dropped sublayer adds something even if all its parameters are zero.
    """
    last = last_matrices(decoder)
    dropped = [sublayer for sublayer in decoder.sublayers if sublayer.label in variant.dropped]
    probe = probe_tokens(decoder, PROBE_TOKENS, seed=1)
    silenced: set[str] = set()
    with apply_variant(decoder, replace(variant, dropped=(), noise=None, substitutes={})):
        weights = dict(decoder.model.named_parameters())
        names = {id(parameter): name for name, parameter in weights.items()}
        loud = set(last)
        zeros = cache(torch.zeros)  # one tensor per shape, because they may be many and offloaded to disk
        for whole in (False, True):
            for sublayer in dropped:
                if sublayer.label in loud:
                    for branch in sublayer.parts:
                        parameters = (
                            (parameter for module in branch.chain for parameter in module.parameters())
                            if whole
                            else _last_parameters(branch, last[sublayer.label])
                        )
                        silenced |= {names[id(parameter)] for parameter in parameters}
            silent = [weights[name] for name in silenced]
            with swapped_data(silent, lambda each: zeros(each.shape, dtype=each.dtype, device=each.device)):
                loud = contributing(decoder, dropped, probe)
    if loud:
        raise InputError(f"{sorted(loud)[0]}: adds to the stream even without weights; its drop cannot be exported")
    inside = {module for sublayer in dropped for module in sublayer.modules}
    return frozenset(silenced) - {name for name in variant.parameters if name.rpartition(".")[0] in inside}


def _last_parameters(branch: Branch, last: list[Matrix]) -> Iterator[nn.Parameter]:
    """Yield the last matrix's parameter, all biases of its module, and biases of norms after it."""
    own = {id(matrix.parameter) for matrix in last}
    for mixer in branch.chain:
        for module in mixer.modules():
            parameters = dict(module.named_parameters(recurse=False))
            if any(id(parameter) in own for parameter in parameters.values()):
                yield from (p for key, p in parameters.items() if id(p) in own or key == "bias")
            elif not has_matrix(mixer):
                yield from (p for key, p in parameters.items() if key == "bias")
