"""Where the layers of a model lie: on one device, spread over several, in memory, or on disk until they run.

transformers and accelerate load the weights; how they come for their turn is `turns.py`'s.
"""

import logging
import weakref
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, cast

import torch
from accelerate.hooks import remove_hook_from_submodules
from accelerate.utils import OffloadedWeightsLoader
from torch import nn

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.core.scratch_directory import Scratch
from prunescope.pipelines.models.meta_model import layer_stack
from prunescope.pipelines.models.weight_offload import OffloadedLayer, offload, placeholder

DISK = "disk"


def places_of(layers: nn.ModuleList, limits: Mapping[str, int], dtype: torch.dtype) -> list[str]:
    """Where each layer rests: device by device in the order of the limits as long as it fits, then on disk.

    Args:
        layers: of a model, of which only sizes are read.
        limits: bytes of layers on each device.
        dtype: type of the weights.
    """
    left = list(limits.items())
    places = []
    for layer in layers:
        size = sum(parameter.numel() for parameter in layer.parameters()) * dtype.itemsize
        while left and left[0][1] < size:
            left.pop(0)
        if left:
            left[0] = left[0][0], left[0][1] - size
        places.append(left[0][0] if left else DISK)
    return places


class Placement:
    """Loads a model whose layers lie in different places.

    Args:
        outline: the model on the meta device.
        layers: how many it has by its config.
        limits: bytes of layers on each device, which is filled in this order; the rest stays on disk.
        dtype: type of the weights.
        device: of everything outside the layers, and where layers compute that rest on disk, or in memory beside a GPU.

    Raises:
        InputError: no list of layers was found.
    """

    def __init__(
        self, outline: nn.Module, layers: int, limits: Mapping[str, int], dtype: torch.dtype, device: torch.device
    ) -> None:
        stack = layer_stack(outline, layers)
        if stack is None:
            raise InputError(f"{type(outline).__name__}: no list of {layers} layers was found; leave out `memory`")
        self._device = device
        self._name = next(name for name, module in outline.named_modules() if module is stack)
        self.places = places_of(stack, limits, dtype)
        self._map = {name: str(device) for name in _outside(outline, self._name)}
        self._map |= {f"{self._name}.{index}": place for index, place in enumerate(self.places)}
        # For weights whose form on disk is not the model's; gone with the model, or when it cannot be loaded.
        scratch = Scratch()
        self._scratch = str(scratch.folder)
        weakref.finalize(self, scratch.discard)

    def arguments(self) -> dict[str, Any]:
        """For `from_pretrained`."""
        logging.getLogger("accelerate.big_modeling").setLevel(logging.ERROR)
        return {"device_map": self._map, "offload_folder": self._scratch}

    def place(self, model: nn.Module) -> None:
        """Takes accelerate's hooks off a model that was loaded with `arguments`, and lets its layers come in turns.

        Its hooks give modules other parameters at every call; here parameters stay the same objects, as whoever
        swaps weights, drops sublayers or watches products needs them.
        """
        vars(model)["placement"] = self  # lives as long
        weights = _on_disk(model)
        remove_hook_from_submodules(model)
        for module in model.modules():
            vars(module).pop("forward", None)
        for name in ("hf_device_map", "to", "cuda"):
            vars(model).pop(name, None)
        made: dict[nn.Parameter, nn.Parameter] = {}
        for index, layer in enumerate(model.get_submodule(self._name).children()):
            self._let_come(f"{self._name}.{index}", layer, self.places[index], weights, made)

    def _let_come(
        self,
        name: str,
        layer: nn.Module,
        place: str,
        weights: Mapping[str, torch.Tensor],
        made: dict[nn.Parameter, nn.Parameter],
    ) -> None:
        """Prepares one layer; `made` has what took the place of parameters on disk, so that tied ones stay tied."""
        computes = torch.device(place) if place.startswith("cuda") else self._device
        comes = place == DISK or torch.device(place).type != computes.type
        if not comes and computes == self._device:
            return
        turn = OffloadedLayer(layer, computes, self._device, comes=comes)
        for inner, module in layer.named_modules(prefix=name):
            for key, parameter in list(module.named_parameters(recurse=False)):
                full = f"{inner}.{key}"
                if not parameter.is_meta:
                    offload(parameter, turn)
                    continue
                if parameter not in made:
                    # Gains and biases are a thousandth of a layer, and read by many.
                    stays = parameter.dim() < 2
                    value = weights[full] if stays else placeholder(parameter.shape, parameter.dtype, self._device)
                    made[parameter] = nn.Parameter(value.to(self._device), requires_grad=False)
                    offload(made[parameter], turn, None if stays else partial(weights.__getitem__, full))
                setattr(module, key, made[parameter])
            for _, buffer in module.named_buffers(recurse=False):
                offload(buffer, turn)


def _on_disk(model: nn.Module) -> Mapping[str, torch.Tensor]:
    """The weights that accelerate has left on disk, by name, each read when it is asked for."""
    for module in model.modules():
        hook = vars(module).get("_hf_hook")
        for each in getattr(hook, "hooks", (hook,)):
            found = getattr(getattr(each, "weights_map", None), "dataset", None)
            if isinstance(found, OffloadedWeightsLoader):
                return cast(Mapping[str, torch.Tensor], found)
    return {}


def _outside(model: nn.Module, stack: str) -> Iterator[str]:
    """Names of the modules and parameters that hold everything but a list of layers."""
    parts = stack.split(".")
    around = [".".join(parts[:count]) for count in range(len(parts))]
    for name in around:
        module = model.get_submodule(name)
        inside = [
            *(key for key, _ in module.named_children()),
            *(key for key, _ in module.named_parameters(recurse=False)),
        ]
        for key in inside:
            full = f"{name}.{key}".removeprefix(".")
            if full != stack and full not in around:
                yield full
