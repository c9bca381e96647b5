"""The config of an exported model: its layers, widths and biases.

Every change of a config is verified on empty modules, whose shapes must be those of the tensors to write.
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
from prunescope.pipelines.pruning.checkpoints.materialized_weights import MaterializedWeights
from prunescope.pipelines.pruning.checkpoints.shrink import Rules, Widths, widths_of
from prunescope.pipelines.pruning.module_selection import layer_of, layers_prefix, renumbered
from prunescope.pipelines.pruning.output_projection import last_matrices
from prunescope.pipelines.pruning.variant import Variant

# Maximum number of configs that a search tries.
_MAX_TRIED = 200
# Errors that config classes raise for values that do not give a model of their architecture.
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
    """The form in which a model is written: modules of the new config, on the meta device.

    `prefix` names the list of layers, of which those in `layers` remain, in order. `changes` are keys of the text
    config whose values differ from the dense model's, `cuts` the remaining indices per cut dimension, by parameter
    name.
    """

    model: nn.Module
    prefix: str
    layers: tuple[int, ...]
    changes: Mapping[str, Any] = field(default_factory=dict)
    cuts: Mapping[str, Cut] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def dense_name(self, name: str) -> str:
        """Return the dense model's name for a parameter of this one."""
        return renumbered(name, self.prefix, self.layers.__getitem__)

    @property
    def names(self) -> list[str]:
        """The names of parameters and persistent buffers, tied parameters once."""
        own = [name for name, _ in self.model.named_parameters()]
        tied = {name for name, _ in self.model.named_parameters(remove_duplicate=False)}
        return own + [name for name in self.model.state_dict() if name not in tied]

    @property
    def parameters(self) -> int:
        """The number of parameters, tied ones once."""
        return sum(parameter.numel() for parameter in self.model.parameters())


def form_of(decoder: Decoder, variant: Variant, weights: MaterializedWeights, *, shrink: bool) -> Form:
    """Return the form of a variant: without dropped blocks, if the class allows it, and with the variant's biases.

    With `shrink`, matrices become smaller if whole neurons or heads are zero.

    Raises:
        InputError: stock transformers has no form for the variant; names the reason.
    """
    configs = _Configs(decoder)
    whole = tuple(range(len(decoder.layers)))
    model = configs.build({})
    if model is None:
        raise InputError(f"{type(decoder.model).__name__}: transformers does not build it from its own config")
    form = Form(model, layers_prefix(decoder), whole)
    blocks = [i for i in whole if {f"attn.{i}", f"mlp.{i}"} <= set(variant.dropped) - set(variant.substitutes)]
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
        widths = widths_of(decoder, weights, last_matrices(decoder), form.layers)
        if not widths and form.layers == whole:
            raise InputError(
                "--shrink: no neuron or head is zero in every layer, nor is a block dropped; leave --shrink out"
            )
        for choices in widths:
            form = _narrowed(decoder, configs, form, choices)
    return replace(form, notes=(*form.notes, *_dropped_notes(variant, form)))


class _Configs:
    """Builder of the dense model's modules with changed config values, on the meta device."""

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
        """Return the modules, or None if the class cannot build them with these values."""
        whole = copy.deepcopy(self._config.to_dict())
        (whole if self._key is None else whole[self._key]).update(copy.deepcopy(dict(changes)))
        try:
            config = type(self._config).from_dict(whole)
            with torch.device("meta"):
                model: nn.Module = auto_class(config).from_config(config)
        except _REFUSALS:
            return None
        return model if type(model) is self._class else None

    def keys(self, wanted: int | None) -> list[str]:
        """Return the keys with this value."""
        return [key for key, value in self.text.items() if type(value) is type(wanted) and value == wanted]


def _without_layers(decoder: Decoder, configs: _Configs, form: Form, kept: tuple[int, ...]) -> Form | None:
    """Return the form with fewer layers, or None if no config gives the same layers under new numbers."""
    if not kept:
        return None
    count = len(decoder.layers)
    choices: list[list[tuple[str, Any]]] = []
    for key, value in configs.text.items():
        options = list(_lists_without(key, value, count, kept))
        if options:
            choices.append([(key, option) for option in options])
    dense = cast(nn.ModuleList, form.model.get_submodule(form.prefix))
    for chosen in islice(product(*choices), _MAX_TRIED):
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
    """Yield the possible values of a config's list for fewer layers: one per layer, layer numbers, or unchanged."""
    if not isinstance(value, (list, tuple)) or key.endswith(("token_id", "token_ids")):
        return
    if len(value) == count:
        yield [value[index] for index in kept]
    if all(type(item) is int and 0 <= item < count for item in value):
        yield [kept.index(item) for item in value if item in kept]
    yield list(value)


def _is_same_layer(dense: nn.Module, other: nn.Module, old: int, new: int) -> bool:
    """Return whether two layers have the same modules, shapes and settings, except for the layer number."""
    for (name, one), (other_name, two) in zip(dense.named_modules(), other.named_modules(), strict=False):
        if name != other_name or type(one) is not type(two):
            return False
        for key, value in vars(one).items():
            if isinstance(value, (int, float, str, type(None))) and key != "training":
                other_value = vars(two).get(key)
                if other_value != value and (value, other_value) != (old, new):
                    return False
    return _shapes(dense) == _shapes(other)


def _shapes(module: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in module.state_dict().items()}


def _with_biases(decoder: Decoder, variant: Variant, configs: _Configs, form: Form) -> Form:
    """Return the form with those of the variant's biases that the dense model lacks."""
    dense = set(decoder.model.state_dict())
    numbers = {old: new for new, old in enumerate(form.layers)}
    removed = [i for i in range(len(decoder.layers)) if i not in numbers]
    missing = {
        renumbered(name, form.prefix, numbers.__getitem__)
        for name in variant.parameters
        if name not in dense and layer_of(name, form.prefix) not in removed
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
        names = set(model.state_dict())
        if names >= expected | missing and all(name.endswith("bias") for name in names - expected):
            return replace(
                form,
                model=model,
                changes=changes,
                notes=(*form.notes, f"Biases that the dense model does not have are switched on by {_listed(chosen)}."),
            )
    raise InputError(
        f"{sorted(missing)[0]}: {type(decoder.model).__name__} has no such parameter and no key of its config gives "
        "it one; stock transformers cannot hold this variant. Leave biases out: repair with `+rescale` in place of "
        "`+affine`, with `bias: false` in a mapping of `distill`, remove units with `compensate: false`"
    )


def _subsets(keys: list[str], max_size: int) -> Iterator[tuple[str, ...]]:
    subsets = (chosen for count in range(1, max_size + 1) for chosen in combinations(keys, count))
    return islice(subsets, _MAX_TRIED)


def _narrowed(decoder: Decoder, configs: _Configs, form: Form, choices: list[Widths]) -> Form:
    """Return the form with the first of some widths that a config can produce."""
    for widths in choices:
        for changed in islice(_width_changes(configs, widths), _MAX_TRIED):
            changes = {**form.changes, **changed}
            model = configs.build(changes)
            cuts = None if model is None else _cuts(form, model, widths)
            if model is not None and cuts is not None:
                text = f"{widths.description[0].upper()}{widths.description[1:]}"
                note = f"{text} ({_listed(f'{k}={v}' for k, v in changed.items())})."
                return replace(
                    form, model=model, changes=changes, cuts={**form.cuts, **cuts}, notes=(*form.notes, note)
                )
    raise InputError(
        f"--shrink: {choices[0].description} would do, but no config of {type(decoder.model).__name__} has such "
        "matrices; leave --shrink out to write them with zeros"
    )


def _width_changes(configs: _Configs, widths: Widths) -> Iterator[dict[str, int]]:
    """Yield config changes to try: keys with the current value get the new one, alone or in pairs."""
    if widths.groups is None:
        for keys in _subsets(configs.keys(widths.before), 2):
            yield dict.fromkeys(keys, widths.after)
        for key in configs.keys(None):
            yield {key: widths.after}
        return
    # `head_dim` must keep its value, because the same number of narrower heads would have the same shapes.
    heads, groups = ([k for k in configs.keys(n) if k != "head_dim"] for n in (widths.before, widths.groups[0]))
    for sizes in ({}, {"head_dim": widths.size}):
        for some in _subsets(heads, 2):
            yield {**dict.fromkeys(some, widths.after), **sizes}
            for others in _subsets([key for key in groups if key not in some], 2):
                yield {**dict.fromkeys(some, widths.after), **dict.fromkeys(others, widths.groups[1]), **sizes}


def _cuts(form: Form, model: nn.Module, widths: Widths) -> dict[str, Cut] | None:
    """Return the remaining indices of every parameter for the model, or None if a shape cannot be explained."""
    before, after = _shapes(form.model), _shapes(model)
    if before.keys() != after.keys():
        return None
    cuts: dict[str, Cut] = {}
    for name, shape in after.items():
        if shape == before[name]:
            continue
        if len(shape) != len(before[name]):
            return None
        rules: Rules = next(
            (rule for module, rule in widths.rules.items() if form.dense_name(name).startswith(f"{module}.")), {}
        )
        sizes = {dim: (old, new) for dim, (old, new) in enumerate(zip(before[name], shape, strict=True)) if old != new}
        if not set(sizes.values()) <= rules.keys():
            return None
        cuts[name] = {dim: rules[size] for dim, size in sizes.items()}
    return cuts if widths.cut <= {form.dense_name(name) for name in cuts} else None


def _dropped_notes(variant: Variant, form: Form) -> Iterator[str]:
    gone = [label for label in variant.dropped if int(label.partition(".")[2]) not in form.layers]
    zeros = [label for label in variant.dropped if label not in {*gone, *variant.substitutes}]
    biases = [label for label in variant.dropped if label in variant.substitutes]
    if gone:
        removed = sorted({int(label.partition(".")[2]) for label in gone})
        yield f"Layers {_listed(removed)} of the dense model are removed; later layers have new numbers."
    if zeros:
        yield (
            f"Dropped sublayers {_listed(zeros)} are still there, with zeros in their last matrices, so that they add "
            "nothing: the class of this model cannot leave them out."
        )
    if biases:
        yield f"Dropped sublayers {_listed(biases)} are still there, with zeros and, as a bias, the repair's constant."


def _listed(items: Iterable[object]) -> str:
    return ", ".join(str(item) for item in items)
