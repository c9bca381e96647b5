"""Placement of a model's layers: on one device, spread over several, in memory, or on disk until they run."""

import logging
import weakref
from collections.abc import Mapping
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
    """Return a device name or `disk` per layer; devices are filled up to their limits in bytes, in the given order."""
    free = list(limits.items())
    places = []
    for layer in layers:
        size = sum(parameter.numel() for parameter in layer.parameters()) * dtype.itemsize
        while free and free[0][1] < size:
            free.pop(0)
        if free:
            free[0] = free[0][0], free[0][1] - size
        places.append(free[0][0] if free else DISK)
    return places


class Placement:
    """The device map of a model whose layers are in different places, and the offloading of those layers.

    `meta` is the model on the meta device. Devices are filled with layers up to their limits in bytes, in their order;
    other layers stay on disk. `device` holds everything outside the layers; layers on disk, or in CPU memory next to a
    GPU, also compute there.

    Raises:
        InputError: no list of layers was found.
    """

    def __init__(
        self, meta: nn.Module, layers: int, limits: Mapping[str, int], dtype: torch.dtype, device: torch.device
    ) -> None:
        stack = layer_stack(meta, layers)
        if stack is None:
            raise InputError(f"{type(meta).__name__}: no list of {layers} layers was found; leave out `memory`")
        self._device = device
        self._name = next(name for name, module in meta.named_modules() if module is stack)
        self._places = places_of(stack, limits, dtype)
        inside = f"{self._name}."
        # Parameters of the modules around the list are named, too: some models hold one beside their layers.
        around = {"", *(name for name, _ in meta.named_modules() if inside.startswith(f"{name}."))}
        held = (name for name, _ in meta.named_parameters() if name.rpartition(".")[0] in around)
        outside = (name for name, _ in meta.named_modules() if not name.startswith(inside))
        self._map = {name: str(device) for name in (*outside, *held) if name not in around}
        self._map |= {f"{self._name}.{index}": place for index, place in enumerate(self._places)}
        # For weights that the library converts while loading. It is removed with the model, or if loading fails.
        scratch = Scratch()
        self._scratch = str(scratch.folder)
        weakref.finalize(self, scratch.discard)

    def arguments(self) -> dict[str, Any]:
        """Return the arguments for `from_pretrained`."""
        logging.getLogger("accelerate.big_modeling").setLevel(logging.ERROR)
        return {"device_map": self._map, "offload_folder": self._scratch}

    def place(self, model: nn.Module) -> None:
        """Replace accelerate's hooks by offloaded layers, in a model that was loaded with `arguments`.

        accelerate's hooks give modules new parameters at every call. But swapping weights, dropping sublayers and
        observing products need parameters that stay the same objects.
        """
        vars(model)["placement"] = self  # keeps the scratch directory as long as the model exists
        loaders = (
            getattr(getattr(each, "weights_map", None), "dataset", None)
            for hook in (vars(module).get("_hf_hook") for module in model.modules())
            for each in getattr(hook, "hooks", (hook,))
        )
        # The weights that accelerate left on disk; each access reads one.
        on_disk = (loader for loader in loaders if isinstance(loader, OffloadedWeightsLoader))
        weights = cast(Mapping[str, torch.Tensor], next(on_disk, {}))
        remove_hook_from_submodules(model)
        for module in model.modules():
            vars(module).pop("forward", None)
        for name in ("hf_device_map", "to", "cuda"):
            vars(model).pop(name, None)
        replaced: dict[nn.Parameter, nn.Parameter] = {}
        for index, layer in enumerate(model.get_submodule(self._name).children()):
            self._offload_layer(f"{self._name}.{index}", layer, self._places[index], weights, replaced)

    def _offload_layer(
        self,
        name: str,
        layer: nn.Module,
        place: str,
        weights: Mapping[str, torch.Tensor],
        replaced: dict[nn.Parameter, nn.Parameter],
    ) -> None:
        """Offload one layer; `replaced` maps parameters on disk to new ones, which keeps tied parameters tied."""
        final_device = torch.device(place) if place.startswith("cuda") else self._device
        is_streamed = place == DISK or torch.device(place).type != final_device.type
        if not is_streamed and final_device == self._device:
            return
        offloaded = OffloadedLayer(layer, final_device, self._device, is_streamed=is_streamed)
        for module_name, module in layer.named_modules(prefix=name):
            for key, parameter in list(module.named_parameters(recurse=False)):
                full = f"{module_name}.{key}"
                if not parameter.is_meta:
                    offload(parameter, offloaded)
                    continue
                if parameter not in replaced:
                    # Gains and biases stay in memory: they are a thousandth of a layer, and much code reads them.
                    stays = parameter.dim() < 2
                    value = weights[full] if stays else placeholder(parameter.shape, parameter.dtype, self._device)
                    replaced[parameter] = nn.Parameter(value.to(self._device), requires_grad=False)
                    offload(replaced[parameter], offloaded, None if stays else partial(weights.__getitem__, full))
                setattr(module, key, replaced[parameter])
            for buffer in module.buffers(recurse=False):
                offload(buffer, offloaded)
