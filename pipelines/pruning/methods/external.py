"""Reads a checkpoint that another tool made as a variant of the dense model: what differs, and which layers are gone.

Every way to refuse one stands here; where its files come from is `prunescope.pipelines.models.sources`'.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.core.progress import SILENT, Progress
from prunescope.pipelines.models.decoder import Decoder, probe_tokens
from prunescope.pipelines.models.forward_probe import distance
from prunescope.pipelines.models.lm_head import allowed
from prunescope.pipelines.models.load import load_model
from prunescope.pipelines.models.module_calls import first_tensor, hooks
from prunescope.pipelines.models.sources import locate
from prunescope.pipelines.models.sublayer import Sublayer
from prunescope.pipelines.models.weight_matrices import Matrix
from prunescope.pipelines.models.weight_offload import data_of, on_device
from prunescope.pipelines.pruning.variant import Variant
from prunescope.pipelines.pruning.variant_patching import apply_variant
from prunescope.pipelines.pruning.weight_delta import WeightDelta
from prunescope.pipelines.recipes import ExternalRecipe

# Rows of each matrix that layers are compared by, and by how much (cosine) the best order of layers has to be ahead
# of every other one: layers of different depth have cosines near 0, pruned copies of one layer above 0.7.
_ROWS = 32
_AHEAD = 0.1
_PROBE_TOKENS = 16
# Keys of a config that no number of the forward pass depends on.
_IDLE = ("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version", "use_cache")


@torch.inference_mode()
def external(decoder: Decoder, recipe: ExternalRecipe, cache: Path, progress: Progress = SILENT) -> Variant:
    """What another tool did to a model.

    Weights that are zero and were not become a mask; where the others are the dense ones that is all, else their
    values are kept. Other parameters that differ are kept as they are; those outside the sublayers (gains of a
    layer's norms, learned positions) are worn by runs of the whole model only, not by the swap of one sublayer.

    Args:
        decoder: the dense model; the other one is loaded in its type, beside it.
        recipe: where the other one is.
        cache: folder for what is fetched or converted.
        progress: one step a layer.

    Raises:
        InputError: the other one does not fit the dense model; names the parameter or setting and the reason.
    """
    folder = locate(recipe.source, cache, progress)
    model, tokenizer = load_model(folder, decoder.dtype, decoder.device, decoder.memory_for_second_model)
    where = f"recipe {recipe.name}: {recipe.source}"
    if type(model) is not type(decoder.model):
        raise InputError(f"{where}: is a {type(model).__name__}, the dense model a {type(decoder.model).__name__}")
    _require_same_tokens(decoder.tokenizer, tokenizer, where)
    pair = _Pair(decoder, model, where)
    layers, likeness = _matched(pair, recipe.layers)
    progress.start(f"compare {recipe.name}", len(layers))
    changes: dict[str, WeightDelta] = {}
    changed = 0
    for new, old in enumerate(layers):
        with on_device(decoder.layers[old].module, pair.stack[new]):
            for sublayer in decoder.layers[old].sublayers:
                for name, matrix in sublayer.matrices.items():
                    weight = pair.matrix(matrix, new)
                    change = _change(matrix, weight)
                    if change is not None:
                        changes[name] = change
                        kept = weight != 0 if change.bits is not None else torch.ones_like(weight, dtype=torch.bool)
                        changed += int(((weight != matrix.weight) & kept).sum())
        progress.advance()
    own, replaced = pair.others(dict(zip(layers, range(len(layers)), strict=True)), recipe.head)
    progress.done()
    facts: dict[str, Any] = {"weights_changed": changed}
    if replaced:
        facts["head_difference"] = replaced
    if len(layers) < len(decoder.layers):
        facts |= {"layers": list(layers), "likeness": likeness}
    dropped = tuple(f"{kind}.{i}" for i in range(len(decoder.layers)) if i not in layers for kind in ("attn", "mlp"))
    variant = _without_silent(decoder, Variant(changes, own, dropped, facts=facts))
    _require_same_logits(pair, variant, replaced)
    return variant


def _change(matrix: Matrix, weight: Float[Tensor, "out in"]) -> WeightDelta | None:
    """From the dense weight to another one."""
    dense = matrix.weight
    if torch.equal(weight, dense):
        return None
    removed = (weight == 0) & (dense != 0)
    if bool(((weight == dense) | removed).all()):
        return WeightDelta.masked(~removed)
    return WeightDelta.valued(weight, ~removed if bool(removed.any()) else None)


def _without_silent(decoder: Decoder, variant: Variant) -> Variant:
    """The variant with the sublayers dropped that add nothing, as this package writes them where a class keeps them."""
    suspects = [sublayer for sublayer in decoder.sublayers if _may_be_silent(sublayer, variant)]
    loud: set[str] = set()

    def see(label: str) -> Callable[[Tensor], None]:
        return lambda added: loud.add(label) if bool(added.any()) else None

    with (
        apply_variant(decoder, variant, skips=False),
        hooks(*(h for each in suspects for h in each.watch(see(each.label)))),
    ):
        decoder.hidden(probe_tokens(decoder, _PROBE_TOKENS, seed=2))
    silent = [sublayer for sublayer in suspects if sublayer.label not in loud]
    gone = {name for sublayer in silent for name in (*sublayer.matrices, *sublayer.modules)}
    return Variant(
        {name: change for name, change in variant.changes.items() if name not in gone},
        {name: value for name, value in variant.parameters.items() if name.rpartition(".")[0] not in gone},
        (*variant.dropped, *(sublayer.label for sublayer in silent)),
        facts=variant.facts,
    )


def _may_be_silent(sublayer: Sublayer, variant: Variant) -> bool:
    """Whether one of its matrices is zero, or one matrix of every expert: those that no token reaches count as well."""
    zero: dict[int, list[bool]] = {}
    for name, matrix in sublayer.matrices.items():
        change = variant.changes.get(name)
        is_zero = change is not None and change.bits is not None and not bool(change.bits.any())
        if matrix.expert is not None or not any(each.expert is not None for each in sublayer.matrices.values()):
            zero.setdefault(id(matrix.parameter), []).append(is_zero)
    return any(all(each) for each in zero.values())


@dataclass(frozen=True)
class _Pair:
    """The dense model and another one of its class.

    Attributes:
        decoder: the dense model.
        other: the other one.
        where: how messages call it.
    """

    decoder: Decoder
    other: nn.Module
    where: str

    @cached_property
    def prefix(self) -> str:
        """Name of the list of layers in both."""
        names: dict[nn.Module, str] = {module: name for name, module in self.decoder.model.named_modules()}
        return names[self.decoder.layers[0].module].rpartition(".")[0]

    @property
    def stack(self) -> nn.ModuleList:
        """The other one's layers."""
        return cast(nn.ModuleList, self.other.get_submodule(self.prefix))

    def matrix(self, matrix: Matrix, new: int) -> Float[Tensor, "out in"]:
        """The other one's weight in the place of a dense one's, in its layer of that number."""
        stem, _, expert = matrix.name.partition("[")
        name = self.renamed(stem if expert else f"{stem}.weight", lambda _: new)
        parameter = self.parameter(name, matrix.parameter.shape)
        stored = parameter[int(expert[:-1])] if expert else parameter
        return stored.T if matrix.is_transposed else stored

    def renamed(self, name: str, number: Callable[[int], int]) -> str:
        """A parameter's name under other numbers of the layers."""
        if not name.startswith(f"{self.prefix}."):
            return name
        index, _, rest = name.removeprefix(f"{self.prefix}.").partition(".")
        return f"{self.prefix}.{number(int(index))}.{rest}"

    def parameter(self, name: str, shape: torch.Size) -> Tensor:
        """A parameter of the other one, which must have a shape and hold numbers."""
        try:
            found = data_of(self.other.get_parameter(name)).detach()
        except AttributeError as error:
            raise InputError(f"{self.where}: has no {name}, which the dense model has") from error
        if found.shape != shape:
            sizes = " × ".join(map(str, found.shape)), " × ".join(map(str, shape))
            raise InputError(f"{self.where}: {name} is {sizes[0]}, the dense model's is {sizes[1]}; it does not fit")
        if not bool(found.isfinite().all()):
            raise InputError(f"{self.where}: {name} holds NaN or infinite numbers")
        return found

    def others(self, numbers: Mapping[int, int], head: str) -> tuple[dict[str, Tensor], dict[str, float]]:
        """Parameters that are no matrices of sublayers: those that differ, and how far off is what is replaced.

        Args:
            numbers: of the layers that are there, from the dense model's to the other one's.
            head: as in the recipe.
        """
        model = self.decoder.model
        matrices = {id(matrix.parameter) for matrix in self.decoder.matrices.values()}
        names = {name for name, _ in self.other.named_parameters(remove_duplicate=False)}
        theirs = {name for name, _ in self.other.named_parameters()}
        own: dict[str, Tensor] = {}
        replaced: dict[str, float] = {}
        reading = self._reading(head)
        for name, parameter in model.named_parameters():
            layer = name.removeprefix(f"{self.prefix}.").partition(".")[0] if name.startswith(f"{self.prefix}.") else ""
            if id(parameter) in matrices or (layer and int(layer) not in numbers):
                continue
            renamed = self.renamed(name, numbers.__getitem__)
            theirs.discard(renamed)
            if name.endswith("bias") and renamed not in names:
                value = torch.zeros_like(data_of(parameter))
            else:
                value = self.parameter(renamed, parameter.shape)
            dense = data_of(parameter)
            if torch.equal(value, dense):
                continue
            if id(parameter) not in reading:
                own[name] = value.cpu().clone()
            elif head == "dense":
                replaced[name] = distance(value, dense)
            else:
                raise InputError(
                    f"{self.where}: {name} differs from the dense model's by {distance(value, dense):.1e} of its "
                    "length, and both sides are read through one head; `head: dense` measures the body under the "
                    "dense model's embeddings and head"
                )
        return own | dict(self._more(theirs, numbers)), replaced

    def _reading(self, head: str) -> set[int]:
        """The parameters that both sides are read through: head, final norm, a tied embedding."""
        model = cast(Any, self.decoder.model)
        embedding, output = model.get_input_embeddings(), model.get_output_embeddings()
        modules = [output] if self.decoder.head.norm is None else [output, self.decoder.final_norm]
        if head == "dense":
            modules.append(embedding)
        return {id(parameter) for module in modules for parameter in module.parameters()}

    def _more(self, theirs: set[str], numbers: Mapping[int, int]) -> Iterator[tuple[str, Tensor]]:
        """Parameters that the other one has and the dense model has not: biases, of which those of zeros do nothing."""
        dense = dict(self.decoder.model.named_parameters(remove_duplicate=False))
        back = {new: old for old, new in numbers.items()}
        for name in sorted(theirs):
            own = self.renamed(name, back.__getitem__)
            if own in dense:  # a matrix, or tied on one side only
                continue
            value = data_of(self.other.get_parameter(name)).detach()
            if not bool(value.any()):
                continue
            module, _, key = own.rpartition(".")
            if getattr(self.decoder.model.get_submodule(module), key, value) is not None:
                raise InputError(f"{self.where}: has {name}, for which the dense model has no place")
            yield own, value.cpu().clone()


def _require_same_tokens(dense: Any, other: Any, where: str) -> None:  # noqa: ANN401 (any tokenizer)
    """Refuses a tokenizer that gives a token of the dense model's another number."""
    found = other.get_vocab()
    wrong = next((token for token, number in dense.get_vocab().items() if found.get(token) != number), None)
    if wrong is not None:
        raise InputError(f"{where}: its tokenizer is another one ({wrong!r} has another number or none)")


def _matched(pair: _Pair, given: tuple[int, ...] | None) -> tuple[tuple[int, ...], list[float]]:
    """Which of the dense model's layers the other one's are, and how like each is (cosine)."""
    count, own = len(pair.decoder.layers), len(pair.stack)
    if own > count:
        raise InputError(f"{pair.where}: has {own} layers, the dense model {count}")
    if given is not None and (len(given) != own or given[-1] >= count):
        raise InputError(f"{pair.where}: has {own} of {count} layers; `layers` names {len(given)}, up to {given[-1]}")
    if own == count:
        return tuple(range(count)), []
    likeness = _likeness(pair)
    chosen = tuple(_aligned(likeness, pair.where)) if given is None else given
    for new, old in enumerate(chosen):
        best = int(likeness[:, new].argmax())
        if likeness[old, new] < likeness[best, new] - _AHEAD:
            raise InputError(
                f"{pair.where}: `layers` calls its layer {new} the dense model's {old} (cosine "
                f"{float(likeness[old, new]):.2f}), but it is like {best} ({float(likeness[best, new]):.2f})"
            )
    return chosen, [float(likeness[old, new]) for new, old in enumerate(chosen)]


def _likeness(pair: _Pair) -> Float[Tensor, "dense own"]:
    """Cosines between the weights of every two layers, by some rows of each matrix; −1 where shapes differ."""
    dense = [_sample(layer.module) for layer in pair.decoder.layers]
    own = [_sample(layer) for layer in pair.stack]
    found = torch.full((len(dense), len(own)), -1.0)
    for i, (shapes, one) in enumerate(dense):
        for j, (other_shapes, other) in enumerate(own):
            if shapes == other_shapes:
                found[i, j] = float(one @ other)
    if bool((found.max(dim=0).values < 0).any()):
        shapes, own_shapes = dense[0][0], own[0][0]
        name = next((n for n in own_shapes if shapes.get(n) != own_shapes[n]), "a layer")
        raise InputError(f"{pair.where}: {pair.prefix}.0.{name} has another shape than the dense model's")
    return found


def _sample(layer: nn.Module) -> tuple[dict[str, torch.Size], Tensor]:
    """Shapes of a layer's matrices, and some of their rows as one vector of length 1."""
    matrices = {name: data_of(p) for name, p in layer.named_parameters() if p.dim() >= 2}
    rows = [p.detach().flatten(0, -2)[:: max(1, p[..., 0].numel() // _ROWS)].float() for p in matrices.values()]
    vector = torch.cat([each.reshape(-1) for each in rows])
    return {name: p.shape for name, p in matrices.items()}, vector / vector.norm().clamp_min(1e-30)


def _aligned(likeness: Float[Tensor, "dense own"], where: str) -> list[int]:
    """The order-keeping choice of dense layers with the largest sum of likenesses (dynamic programming).

    Raises:
        InputError: another choice is nearly as good.
    """
    count, own = likeness.shape
    scores = likeness.double().tolist()
    low = float("-inf")
    # before[i][j]: the best sum of the first j own layers among the first i dense ones; after[i][j]: of those from j on
    # among the dense ones from i on.
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
        if through[best[j]][j] - second < _AHEAD or any(low >= high for low, high in pairwise(best)):
            raise InputError(
                f"{where}: has {own} of {count} layers, and its layer {j} may be more than one of the dense model's; "
                "say which they are with `layers: [0, 1, …]`"
            )
    return best


def _require_same_logits(pair: _Pair, variant: Variant, replaced: Mapping[str, float]) -> None:
    """The dense model that wears the variant computes what the other one does, under the dense head where that is used.

    Raises:
        InputError: it does not, so something differs that is no weight.
    """
    decoder = pair.decoder
    for name in replaced:
        pair.other.get_parameter(name).data = decoder.model.get_parameter(name).data
    probe = probe_tokens(decoder, _PROBE_TOKENS, seed=2)
    truth = first_tensor(cast(Any, pair.other)(input_ids=probe, use_cache=False).logits)
    with apply_variant(decoder, variant):
        found = first_tensor(cast(Any, decoder.model)(input_ids=probe, use_cache=False).logits)
    apart = distance(found.float(), truth.float())
    if not apart <= allowed(decoder.dtype, len(decoder.layers)):
        configs = (cast(Any, pair.other).config.to_dict(), cast(Any, decoder.model).config.to_dict())
        keys = [key for key in configs[0] if key not in _IDLE and configs[0][key] != configs[1].get(key)]
        differing = f"; their configs differ in {', '.join(keys)}" if keys else ""
        raise InputError(
            f"{pair.where}: computes something else than the dense model with its weights "
            f"(logits differ by {apart:.1e} of their length){differing}; it cannot be measured as a variant"
        )
