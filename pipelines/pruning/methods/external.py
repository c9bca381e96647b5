"""Import of another tool's checkpoint as a variant of the dense model: which weights differ, which layers are gone."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.core.progress import SILENT, Progress
from prunescope.pipelines.metrics.rounding import allowed, distance, other_rounding
from prunescope.pipelines.models.decoder import Decoder, probe_tokens
from prunescope.pipelines.models.module_calls import logits_of
from prunescope.pipelines.models.sublayer import Sublayer
from prunescope.pipelines.models.weight_matrices import Matrix
from prunescope.pipelines.models.weight_offload import data_of, on_device
from prunescope.pipelines.pruning.module_selection import layer_of, layers_prefix, renumbered
from prunescope.pipelines.pruning.variant import Variant
from prunescope.pipelines.pruning.variant_patching import apply_variant, contributing
from prunescope.pipelines.pruning.weight_delta import WeightDelta
from prunescope.pipelines.recipes import ExternalRecipe

# Layers are matched by the cosine of a sample of each matrix's rows. The best match must lead every other one by this
# margin. Layers of different depth have cosines near 0, pruned copies of one layer above 0.7.
_ROWS = 32
_MARGIN = 0.1
_PROBE_TOKENS = 16
# Keys of a config that do not affect the forward pass.
_IRRELEVANT = ("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version", "use_cache")


@torch.inference_mode()
def external(
    decoder: Decoder,
    recipe: ExternalRecipe,
    model: nn.Module,
    tokenizer: Any,  # noqa: ANN401 (any tokenizer)
    progress: Progress = SILENT,
) -> Variant:
    """Return another tool's checkpoint, which is loaded in the decoder's dtype, as a variant.

    Weights that are zero, but not in the dense model, become a mask. If any other weight of a matrix differs, all its
    values are stored. Other parameters that differ are stored as they are. Those outside the sublayers (gains of a
    layer's norms, learned positions) are applied only in runs of the whole model, not if one sublayer is swapped.

    Raises:
        InputError: the checkpoint does not fit the dense model; names the parameter or setting and the reason.
    """
    where = f"recipe {recipe.name}: {recipe.source}"
    if type(model) is not type(decoder.model):
        raise InputError(f"{where}: is a {type(model).__name__}, the dense model a {type(decoder.model).__name__}")
    vocabulary = tokenizer.get_vocab()
    for wrong in (token for token, number in decoder.tokenizer.get_vocab().items() if vocabulary.get(token) != number):
        raise InputError(f"{where}: its tokenizer differs ({wrong!r} has another id or none)")
    pair = _Pair(decoder, model, where)
    layers, similarities = _matched_layers(pair, recipe.layers)
    progress.start(f"compare {recipe.name}", len(layers))
    changes: dict[str, WeightDelta] = {}
    changed = 0
    for new, old in enumerate(layers):
        with on_device(decoder.layers[old].module, pair.layers[new]):
            for sublayer in decoder.layers[old].sublayers:
                for name, matrix in sublayer.matrices.items():
                    weight = pair.matrix(matrix, new)
                    change = _change(matrix, weight)
                    if change is not None:
                        changes[name] = change
                        kept = weight != 0 if change.bits is not None else torch.ones_like(weight, dtype=torch.bool)
                        changed += int(((weight != matrix.weight) & kept).sum())
        progress.advance()
    parameters, replaced = pair.others(dict(zip(layers, range(len(layers)), strict=True)), recipe.head)
    progress.done()
    facts: dict[str, Any] = {"weights_changed": changed}
    if replaced:
        facts["head_difference"] = replaced
    if len(layers) < len(decoder.layers):
        facts |= {"layers": list(layers), "likeness": similarities}
    dropped = tuple(f"{kind}.{i}" for i in range(len(decoder.layers)) if i not in layers for kind in ("attn", "mlp"))
    variant = Variant(changes, parameters, dropped, facts=facts)
    # Exports write drops as zeros if a class cannot omit sublayers, so sublayers that contribute nothing are dropped.
    suspects = [sublayer for sublayer in decoder.sublayers if _may_be_silent(sublayer, variant)]
    with apply_variant(decoder, variant, skips=False):
        loud = contributing(decoder, suspects, probe_tokens(decoder, _PROBE_TOKENS, seed=2))
    variant = variant.without([sublayer for sublayer in suspects if sublayer.label not in loud])
    _require_same_logits(pair, variant, replaced)
    return variant


def _change(matrix: Matrix, weight: Float[Tensor, "out in"]) -> WeightDelta | None:
    dense = matrix.weight
    if torch.equal(weight, dense):
        return None
    # A matrix of zeros is a drop, even if the dense matrix has zeros, too.
    removed = (weight == 0) & ((dense != 0) | ~weight.any())
    if bool(((weight == dense) | removed).all()):
        return WeightDelta.masked(~removed)
    return WeightDelta.valued(weight, ~removed if bool(removed.any()) else None)


def _may_be_silent(sublayer: Sublayer, variant: Variant) -> bool:
    """Return whether a matrix is zero, or a stack of all experts' matrices, including experts that no token reaches."""
    has_experts = any(matrix.expert is not None for matrix in sublayer.matrices.values())
    zero: dict[int, list[bool]] = {}
    for name, matrix in sublayer.matrices.items():
        change = variant.changes.get(name)
        is_zero = change is not None and change.bits is not None and not bool(change.bits.any())
        if matrix.expert is not None or not has_experts:
            zero.setdefault(id(matrix.parameter), []).append(is_zero)
    return any(all(flags) for flags in zero.values())


@dataclass(frozen=True)
class _Pair:
    """The dense model and another one of its class; `where` names the recipe and its source in messages."""

    decoder: Decoder
    other: nn.Module
    where: str

    @cached_property
    def prefix(self) -> str:
        """The name of the list of layers in both models."""
        return layers_prefix(self.decoder)

    @property
    def layers(self) -> nn.ModuleList:
        """The other model's layers."""
        return cast(nn.ModuleList, self.other.get_submodule(self.prefix))

    def matrix(self, matrix: Matrix, new: int) -> Float[Tensor, "out in"]:
        """Return the other model's weight for a dense matrix, from its layer `new`."""
        stem, _, expert = matrix.name.partition("[")
        name = renumbered(stem if expert else f"{stem}.weight", self.prefix, lambda _: new)
        parameter = self.parameter(name, matrix.parameter.shape)
        stored = parameter[int(expert[:-1])] if expert else parameter
        return stored.T if matrix.is_transposed else stored

    def parameter(self, name: str, shape: torch.Size) -> Tensor:
        """Return a parameter of the other model, which must have this shape and finite values."""
        try:
            parameter = data_of(self.other.get_parameter(name)).detach()
        except AttributeError as error:
            raise InputError(f"{self.where}: has no {name}, which the dense model has") from error
        if parameter.shape != shape:
            sizes = " × ".join(map(str, parameter.shape)), " × ".join(map(str, shape))
            raise InputError(f"{self.where}: {name} is {sizes[0]}, the dense model's is {sizes[1]}; it does not fit")
        if not bool(parameter.isfinite().all()):
            raise InputError(f"{self.where}: {name} holds NaN or infinite numbers")
        return parameter

    def others(self, numbers: Mapping[int, int], head: str) -> tuple[dict[str, Tensor], dict[str, float]]:
        """Return differing parameters that are not sublayers' matrices, and the distances of those to be replaced.

        `numbers` maps the dense model's layer numbers to the other model's; `head` is the recipe's.
        """
        model = self.decoder.model
        matrices = {id(matrix.parameter) for matrix in self.decoder.matrices.values()}
        names = {name for name, _ in self.other.named_parameters(remove_duplicate=False)}
        differing: dict[str, Tensor] = {}
        replaced: dict[str, float] = {}
        head_parameters = self._head_parameters(head)
        for name, parameter in model.named_parameters():
            layer = layer_of(name, self.prefix)
            if id(parameter) in matrices or (layer is not None and layer not in numbers):
                continue
            other_name = renumbered(name, self.prefix, numbers.__getitem__)
            dense = data_of(parameter)
            if name.endswith("bias") and other_name not in names:
                value = torch.zeros_like(dense)
            else:
                value = self.parameter(other_name, parameter.shape)
            if torch.equal(value, dense):
                continue
            if id(parameter) not in head_parameters:
                differing[name] = value.cpu().clone()
            elif head == "dense":
                replaced[name] = distance(value, dense)
            else:
                raise InputError(
                    f"{self.where}: {name} differs from the dense model's by {distance(value, dense):.1e} of its "
                    "length, and both sides are read through one head; `head: dense` measures the body under the "
                    "dense model's embeddings and head"
                )
        return differing | dict(self._added_biases(numbers)), replaced

    def _head_parameters(self, head: str) -> set[int]:
        """Return the ids of the shared parameters: head, final norm, and embedding if the recipe's `head` is dense."""
        model = cast(Any, self.decoder.model)
        embedding, output = model.get_input_embeddings(), model.get_output_embeddings()
        modules = [output] if self.decoder.head.norm is None else [output, self.decoder.final_norm]
        if head == "dense":
            modules.append(embedding)
        return {id(parameter) for module in modules for parameter in module.parameters()}

    def _added_biases(self, numbers: Mapping[int, int]) -> Iterator[tuple[str, Tensor]]:
        """Yield nonzero biases that the dense model does not have."""
        dense = dict(self.decoder.model.named_parameters(remove_duplicate=False))
        back = {new: old for old, new in numbers.items()}
        for name, parameter in sorted(self.other.named_parameters()):
            own = renumbered(name, self.prefix, back.__getitem__)
            if own in dense or not bool((value := data_of(parameter).detach()).any()):
                continue
            module, _, key = own.rpartition(".")
            if getattr(self.decoder.model.get_submodule(module), key, value) is not None:
                raise InputError(f"{self.where}: has {name}, for which the dense model has no place")
            yield own, value.cpu().clone()


def _matched_layers(pair: _Pair, listed: tuple[int, ...] | None) -> tuple[tuple[int, ...], list[float]]:
    """Return the dense number of each layer of the other model, and its cosine to that dense layer."""
    count, own = len(pair.decoder.layers), len(pair.layers)
    if own > count:
        raise InputError(f"{pair.where}: has {own} layers, the dense model {count}")
    if listed is not None and (len(listed) != own or listed[-1] >= count):
        raise InputError(f"{pair.where}: has {own} of {count} layers; `layers` names {len(listed)}, up to {listed[-1]}")
    if own == count:
        return tuple(range(count)), []
    cosines = _cosines(pair)
    chosen = tuple(_aligned(cosines, pair.where)) if listed is None else listed
    for new, old in enumerate(chosen):
        best = int(cosines[:, new].argmax())
        if cosines[old, new] < cosines[best, new] - _MARGIN:
            raise InputError(
                f"{pair.where}: `layers` calls its layer {new} the dense model's {old} (cosine "
                f"{float(cosines[old, new]):.2f}), but it is like {best} ({float(cosines[best, new]):.2f})"
            )
    return chosen, [float(cosines[old, new]) for new, old in enumerate(chosen)]


def _cosines(pair: _Pair) -> Float[Tensor, "dense own"]:
    """Return the cosine between the sampled weights of every two layers, −1 if their shapes differ."""
    dense = [_sample(layer.module) for layer in pair.decoder.layers]
    own = [_sample(layer) for layer in pair.layers]
    cosines = torch.full((len(dense), len(own)), -1.0)
    for i, (shapes, vector) in enumerate(dense):
        for j, (own_shapes, own_vector) in enumerate(own):
            if shapes == own_shapes:
                cosines[i, j] = float(vector @ own_vector)
    if bool((cosines.max(dim=0).values < 0).any()):
        shapes, own_shapes = dense[0][0], own[0][0]
        name = next((n for n in own_shapes if shapes.get(n) != own_shapes[n]), "a layer")
        raise InputError(f"{pair.where}: {pair.prefix}.0.{name} has another shape than the dense model's")
    return cosines


def _sample(layer: nn.Module) -> tuple[dict[str, torch.Size], Tensor]:
    """Return the shapes of a layer's matrices, and some of their rows as one vector of norm 1."""
    matrices = {name: data_of(p) for name, p in layer.named_parameters() if p.dim() >= 2}
    rows = [p.detach().flatten(0, -2)[:: max(1, p[..., 0].numel() // _ROWS)].float() for p in matrices.values()]
    vector = torch.cat([part.reshape(-1) for part in rows])
    return {name: p.shape for name, p in matrices.items()}, vector / vector.norm().clamp_min(1e-30)


def _aligned(cosines: Float[Tensor, "dense own"], where: str) -> list[int]:
    """Return the ascending choice of dense layers with the largest sum of cosines (dynamic programming).

    Raises:
        InputError: another choice is nearly as good.
    """
    count, own = cosines.shape
    scores = cosines.double().tolist()
    low = float("-inf")
    # before[i][j] is the best sum of own layers before j among dense layers before i; after[i][j] is the best sum of
    # the layers from j and i on.
    before = [[0.0] + [low] * own for _ in range(count + 1)]
    after = [[low] * own + [0.0] for _ in range(count + 1)]
    for i in range(1, count + 1):
        for j in range(1, own + 1):
            before[i][j] = max(before[i - 1][j], before[i - 1][j - 1] + scores[i - 1][j - 1])
    for i in range(count - 1, -1, -1):
        for j in range(own - 1, -1, -1):
            after[i][j] = max(after[i + 1][j], scores[i][j] + after[i + 1][j + 1])
    through = [[before[i][j] + scores[i][j] + after[i + 1][j + 1] for j in range(own)] for i in range(count)]
    best = [max(range(count), key=lambda i, j=j: through[i][j]) for j in range(own)]  # type: ignore[misc]
    for j in range(own):
        second = max(through[i][j] for i in range(count) if i != best[j])
        if through[best[j]][j] - second < _MARGIN or any(low >= high for low, high in pairwise(best)):
            raise InputError(
                f"{where}: has {own} of {count} layers, and its layer {j} may be more than one of the dense model's; "
                "say which they are with `layers: [0, 1, …]`"
            )
    return best


def _require_same_logits(pair: _Pair, variant: Variant, replaced: Mapping[str, float]) -> None:
    """Refuse a checkpoint whose logits, under the dense head if that replaces its own, differ from the variant's.

    Raises:
        InputError: they differ, so something other than the weights does.
    """
    decoder = pair.decoder
    for name in replaced:
        pair.other.get_parameter(name).data = decoder.model.get_parameter(name).data
    probe = probe_tokens(decoder, _PROBE_TOKENS, seed=2)
    expected = logits_of(pair.other, probe).float()
    with other_rounding(pair.other):
        rounding = distance(logits_of(pair.other, probe).float(), expected)
    with apply_variant(decoder, variant):
        apart = distance(logits_of(decoder.model, probe).float(), expected)
    if not apart <= allowed(rounding, decoder.dtype):
        configs = (cast(Any, pair.other).config.to_dict(), cast(Any, decoder.model).config.to_dict())
        keys = [key for key in configs[0] if key not in _IRRELEVANT and configs[0][key] != configs[1].get(key)]
        differing = f"; their configs differ in {', '.join(keys)}" if keys else ""
        raise InputError(
            f"{pair.where}: differs from the dense model with the same weights "
            f"(logits differ by {apart:.1e} of their length){differing}; it cannot be measured as a variant"
        )
