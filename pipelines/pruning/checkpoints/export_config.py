"""In what form a pruned model is written: which layers its config announces, how wide they are, where biases stand.

Every change of a config is proved on empty modules: the shapes that come out must be those of the tensors to write.
"""

import copy
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import combinations, islice, product
from typing import Any, cast

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.models.meta_model import auto_class
from prunescope.pipelines.pruning.checkpoints.materialized_weights import MaterializedWeights, last_matrices
from prunescope.pipelines.pruning.checkpoints.shrink import Rules, Widths, widths_of
from prunescope.pipelines.pruning.variant import Variant

# Configs that are tried before the search for one ends.
_MOST_TRIED = 200
# What a config class raises on numbers that make no model of its architecture: anything.
_REFUSALS = (
    StrictDataclassError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    RuntimeError,
    ArithmeticError,
)
Cut = Mapping[int, Tensor]


@dataclass(frozen=True)
class Form:
    """How a model is written.

    Attributes:
        model: modules of its config, on the meta device.
        prefix: name of the list of layers.
        layers: which of the dense model's layers it has, in order.
        changes: keys of the text config with other values than the dense model's.
        cuts: by the name of a parameter, which indices of which dimension are left; none where all are.
        notes: what the reader of the model card should know, in sentences.
    """

    model: nn.Module
    prefix: str
    layers: tuple[int, ...]
    changes: Mapping[str, Any] = field(default_factory=dict)
    cuts: Mapping[str, Cut] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def dense_name(self, name: str) -> str:
        """The name in the dense model of a parameter of this one."""
        return _renumbered(name, self.prefix, dict(enumerate(self.layers)))

    @property
    def names(self) -> list[str]:
        """Its parameters, tied ones once, and persistent buffers."""
        own = [name for name, _ in self.model.named_parameters()]
        tied = {name for name, _ in self.model.named_parameters(remove_duplicate=False)}
        return own + [name for name in self.model.state_dict() if name not in tied]

    @property
    def parameters(self) -> int:
        """How many numbers it has, tied ones once."""
        return sum(parameter.numel() for parameter in self.model.parameters())


def form_of(decoder: Decoder, variant: Variant, worn: MaterializedWeights, *, shrink: bool) -> Form:
    """The form of a variant: without blocks that are dropped whole where its class can do without, with its biases.

    Args:
        decoder: the dense model.
        variant: what was done to it.
        worn: its parameters.
        shrink: also make its matrices smaller where whole neurons or heads are zero.

    Raises:
        InputError: stock transformers has no form for the variant; names the reason.
    """
    names = {module: name for name, module in decoder.model.named_modules()}
    prefix = names[decoder.layers[0].module].rpartition(".")[0]
    configs = _Configs(decoder)
    whole = tuple(range(len(decoder.layers)))
    form = Form(configs.required({}), prefix, whole)
    blocks = [i for i in whole if {f"attn.{i}", f"mlp.{i}"} <= set(variant.dropped)]
    if blocks:
        shorter = _without_layers(decoder, configs, form, tuple(i for i in whole if i not in blocks))
        if shorter is None and shrink:
            raise InputError(
                f"--shrink: no config of {type(decoder.model).__name__} has layers {_listed(blocks)} removed; "
                "leave --shrink out to write them as zeros"
            )
        form = shorter or form
    form = _with_biases(decoder, variant, configs, form)
    if shrink:
        last = last_matrices(decoder)
        widths = widths_of(decoder, worn, last, form.layers)
        if not widths and form.layers == whole:
            raise InputError(
                "--shrink: no neuron or head is zero in every layer, nor is a block dropped; leave --shrink out"
            )
        for each in widths:
            form = _narrowed(decoder, configs, form, each)
    return replace(form, notes=(*form.notes, *_dropped_notes(variant, form)))


class _Configs:
    """Modules of the dense model's config with other values under some keys, on the meta device."""

    def __init__(self, decoder: Decoder) -> None:
        self._config = cast(Any, decoder.model).config
        self._class = type(decoder.model)
        text = self._config.get_text_config()
        whole = self._config.to_dict()
        self._key = next(
            (key for key in whole if text is not self._config and getattr(self._config, key, None) is text), None
        )
        self.text: dict[str, Any] = whole if self._key is None else whole[self._key]
        self.layers_key = getattr(text, "attribute_map", {}).get("num_hidden_layers", "num_hidden_layers")

    def build(self, changes: Mapping[str, Any]) -> nn.Module | None:
        """The modules; None where the class makes none of these values."""
        whole = copy.deepcopy(self._config.to_dict())
        (whole if self._key is None else whole[self._key]).update(copy.deepcopy(dict(changes)))
        try:
            config = type(self._config).from_dict(whole)
            with torch.device("meta"):
                model: nn.Module = auto_class(config).from_config(config)
        except _REFUSALS:
            return None
        return model if type(model) is self._class else None

    def required(self, changes: Mapping[str, Any]) -> nn.Module:
        """The modules of a config that has to work."""
        model = self.build(changes)
        if model is None:
            raise InputError(f"{self._class.__name__}: transformers does not build it from its own config")
        return model

    def keys(self, *values: int | None) -> list[str]:
        """Keys whose value is one of some numbers, in that order."""
        return [key for wanted in values for key, value in self.text.items() if _is(value, wanted)]


def _is(value: object, wanted: int | None) -> bool:
    return value is None if wanted is None else (type(value) is int and value == wanted)


def _without_layers(decoder: Decoder, configs: _Configs, form: Form, kept: tuple[int, ...]) -> Form | None:
    """The form with fewer layers; None where no config gives the same layers under new numbers."""
    if not kept:
        return None
    count = len(decoder.layers)
    choices: list[list[tuple[str, Any]]] = []
    for key, value in configs.text.items():
        options = list(_lists_without(key, value, count, kept))
        if options:
            choices.append([(key, option) for option in options])
    dense = cast(nn.ModuleList, form.model.get_submodule(form.prefix))
    for chosen in islice(product(*choices), _MOST_TRIED):
        changes = {configs.layers_key: len(kept), **dict(chosen)}
        model = configs.build(changes)
        if model is None:
            continue
        layers = cast(nn.ModuleList, model.get_submodule(form.prefix))
        if len(layers) == len(kept) and all(
            _is_same_layer(dense[old], layers[new], old, new) for new, old in enumerate(kept)
        ):
            return replace(form, model=model, layers=kept, changes=changes)
    return None


def _lists_without(key: str, value: object, count: int, kept: tuple[int, ...]) -> Iterator[list[Any]]:
    """What a list of a config may be when layers are gone: one entry a layer, numbers of layers, or what it was."""
    if not isinstance(value, (list, tuple)) or key.endswith(("token_id", "token_ids")):
        return
    if len(value) == count:
        yield [value[index] for index in kept]
    if all(type(each) is int and 0 <= each < count for each in value):
        yield [kept.index(each) for each in value if each in kept]
    yield list(value)


def _is_same_layer(dense: nn.Module, other: nn.Module, old: int, new: int) -> bool:
    """Whether two layers have the same modules, shapes and settings; one may know its own number."""
    for (name, one), (other_name, two) in zip(dense.named_modules(), other.named_modules(), strict=False):
        if name != other_name or type(one) is not type(two):
            return False
        for key, value in vars(one).items():
            if isinstance(value, (int, float, str, type(None))) and key != "training":
                found = vars(two).get(key)
                if found != value and (value, found) != (old, new):
                    return False
    return _shapes(dense) == _shapes(other)


def _shapes(module: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in module.state_dict().items()}


def _with_biases(decoder: Decoder, variant: Variant, configs: _Configs, form: Form) -> Form:
    """The form with the biases that the variant has and the dense model's class does not have by itself."""
    dense = set(decoder.model.state_dict())
    numbers = {old: new for new, old in enumerate(form.layers)}
    removed = [i for i in range(len(decoder.layers)) if i not in numbers]
    missing = {
        _renumbered(name, form.prefix, numbers)
        for name in variant.parameters
        if name not in dense and not any(name.startswith(f"{form.prefix}.{i}.") for i in removed)
    }
    if not missing:
        return form
    expected = set(form.model.state_dict())
    switches = [key for key, value in configs.text.items() if "bias" in key and value is False]
    for chosen in _subsets(switches, len(switches)):
        changes = {**form.changes, **dict.fromkeys(chosen, True)}
        model = configs.build(changes)
        if model is None:
            continue
        found = set(model.state_dict())
        if found >= expected | missing and all(name.endswith("bias") for name in found - expected):
            return replace(
                form,
                model=model,
                changes=changes,
                notes=(*form.notes, f"Biases that the dense model does not have are switched on by {_listed(chosen)}."),
            )
    raise InputError(
        f"{sorted(missing)[0]}: {type(decoder.model).__name__} has no such parameter and no key of its config gives "
        "it one; stock transformers cannot hold this variant"
    )


def _subsets(keys: list[str], most: int) -> Iterator[tuple[str, ...]]:
    every = (chosen for count in range(1, most + 1) for chosen in combinations(keys, count))
    return islice(every, _MOST_TRIED)


def _narrowed(decoder: Decoder, configs: _Configs, form: Form, choices: list[Widths]) -> Form:
    """The form with narrower matrices: the first of some widths for which there is a config."""
    for widths in choices:
        for changed in islice(_width_changes(configs, widths), _MOST_TRIED):
            changes = {**form.changes, **changed}
            model = configs.build(changes)
            cuts = None if model is None else _cuts(form, model, widths)
            if model is not None and cuts is not None:
                note = f"{widths.told[0].upper()}{widths.told[1:]} ({_listed(f'{k}={v}' for k, v in changed.items())})."
                return replace(
                    form, model=model, changes=changes, cuts={**form.cuts, **cuts}, notes=(*form.notes, note)
                )
    raise InputError(
        f"--shrink: {choices[0].told} would do, but no config of {type(decoder.model).__name__} has such matrices; "
        "leave --shrink out to write them with zeros"
    )


def _width_changes(configs: _Configs, widths: Widths) -> Iterator[dict[str, int]]:
    """Values to try: every key with the present number gets the new one, alone or two together."""
    if widths.groups is None:
        for keys in _subsets(configs.keys(widths.before), 2):
            yield dict.fromkeys(keys, widths.after)
        for key in configs.keys(None):
            yield {key: widths.after}
        return
    # As many smaller heads would have the same shapes; and their size must not follow from their number.
    heads, groups = ([k for k in configs.keys(n) if k != "head_dim"] for n in (widths.before, widths.groups[0]))
    for sizes in ({}, {"head_dim": widths.size}):
        for some in _subsets(heads, 2):
            yield {**dict.fromkeys(some, widths.after), **sizes}
            for others in _subsets([key for key in groups if key not in some], 2):
                yield {**dict.fromkeys(some, widths.after), **dict.fromkeys(others, widths.groups[1]), **sizes}


def _cuts(form: Form, model: nn.Module, widths: Widths) -> dict[str, Cut] | None:
    """What is left of every parameter for the model to hold it; None where a shape cannot be explained."""
    before, after = _shapes(form.model), _shapes(model)
    if before.keys() != after.keys():
        return None
    found: dict[str, Cut] = {}
    for name, shape in after.items():
        if shape == before[name]:
            continue
        if len(shape) != len(before[name]):
            return None
        known: Rules = next(
            (rule for module, rule in widths.rules.items() if form.dense_name(name).startswith(f"{module}.")), {}
        )
        sizes = {dim: (old, new) for dim, (old, new) in enumerate(zip(before[name], shape, strict=True)) if old != new}
        if not set(sizes.values()) <= known.keys():
            return None
        found[name] = {dim: known[size] for dim, size in sizes.items()}
    return found if widths.cut <= {form.dense_name(name) for name in found} else None


def _renumbered(name: str, prefix: str, numbers: Mapping[int, int]) -> str:
    if not name.startswith(f"{prefix}."):
        return name
    index, _, rest = name.removeprefix(f"{prefix}.").partition(".")
    return f"{prefix}.{numbers[int(index)]}.{rest}"


def _dropped_notes(variant: Variant, form: Form) -> Iterator[str]:
    gone = [label for label in variant.dropped if int(label.partition(".")[2]) not in form.layers]
    zeros = [label for label in variant.dropped if label not in gone]
    if gone:
        removed = sorted({int(label.partition(".")[2]) for label in gone})
        yield f"Layers {_listed(removed)} of the dense model are removed; those behind them have new numbers."
    if zeros:
        yield (
            f"Dropped sublayers {_listed(zeros)} are still there, with zeros in their last matrices, so that they add "
            "nothing: the class of this model cannot leave them out."
        )


def _listed(items: Iterable[object]) -> str:
    return ", ".join(str(item) for item in items)
