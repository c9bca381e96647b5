"""Training of a variant's gains, biases and scales to the dense model's probabilities, by backpropagation.

The closed forms are in `repair.py`; how a scale and a bias enter the weights is in `repair_target.py`.
"""

import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import cast

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.func import functional_call

from prunescope.pipelines.core import code_versions
from prunescope.pipelines.core.atomic_write import replace_file
from prunescope.pipelines.core.errors import ComputationError, InputError
from prunescope.pipelines.core.progress import SILENT, Progress
from prunescope.pipelines.metrics.logit_blocks import block_sizes
from prunescope.pipelines.metrics.output_head import OutputHead
from prunescope.pipelines.models.decoder import Decoder, probe_tokens
from prunescope.pipelines.models.module_calls import hooks, without_cache
from prunescope.pipelines.models.sublayer import Sublayer, has_matrix, watch_all
from prunescope.pipelines.pruning.calibration.statistics import tokens_hash
from prunescope.pipelines.pruning.layer_checkpoints import overlay
from prunescope.pipelines.pruning.output_projection import PROBE_TOKENS
from prunescope.pipelines.pruning.pruning_inputs import Statistics, Unfinished
from prunescope.pipelines.pruning.repair import checked, split
from prunescope.pipelines.pruning.repair_target import RepairTarget
from prunescope.pipelines.pruning.substitute import Substitute
from prunescope.pipelines.pruning.variant import Variant
from prunescope.pipelines.pruning.variant_patching import apply_variant
from prunescope.pipelines.pruning.weight_delta import WeightDelta
from prunescope.pipelines.recipes import DistillRecipe

# Tokens per backward pass: one sequence of the usual calibration, so that few activations are kept.
TRAINING_TOKENS = 512
# Weights move by this share of what vectors move: they are many, and each token moves all of them.
_WEIGHT_RATE = 0.1
# Updates between two checkpoints of the training.
_STORED_EVERY = 10

Tokens = Int[Tensor, "sequences length"]


def distill(
    decoder: Decoder, recipe: DistillRecipe, statistics: Statistics, base: Variant, progress: Progress = SILENT
) -> Variant:
    """Train a variant on the calibration tokens so that KL(dense ‖ variant) falls.

    Matrix products are in the statistics' dtype if it has 16 bits (autocast); what is trained is float32. The result is
    the base with other gains, biases and values, with scaled projections, and the fact `repair`. A training that was
    interrupted goes on from the state in `statistics.unfinished`.

    Raises:
        InputError: there are no tokens or no LM head, the model is not whole on one device, codes are to be trained, or
            a sublayer has no parameters that scale what it adds.
        ComputationError: a gradient is NaN or infinite.
    """
    tokens = statistics.require_tokens(recipe)
    if decoder.output is None or decoder.is_streamed or decoder.memory is not None:
        why = "has no LM head" if decoder.output is None else "must be whole on one device to be trained"
        raise InputError(f"recipe {recipe.name}: the model {why}")
    if recipe.weights and any(change.codes is not None for change in base.changes.values()):
        raise InputError(f"recipe {recipe.name}: codes of quantized weights cannot be trained; leave `weights` out")
    fitted, held_out, unchecked = split(tokens)
    student = Student(decoder, recipe, base, fitted)
    state = None if statistics.unfinished is None else _State(decoder, recipe, statistics, base)
    _train(student, recipe, fitted, statistics.dtype, state, progress)
    variant = student.variant()
    facts = {"tokens_fitted": fitted.numel()} | checked(decoder, base, variant, held_out, unchecked)
    return replace(variant, facts={**base.facts, "repair": facts})


class Student:
    """The variant in training: what is trained, and the forward pass with it.

    Everything is trained as a relative change: a value is start + size · change. The size is the root mean square of
    the start, or for the bias of a sublayer, that of what the dense sublayer adds to each channel.
    """

    def __init__(self, decoder: Decoder, recipe: DistillRecipe, base: Variant, tokens: Tokens) -> None:
        self.decoder, self._recipe, self._base = decoder, recipe, base
        self.changes: dict[str, Tensor] = {}
        self._starts: dict[str, Tensor] = {}
        self._sizes: dict[str, Tensor] = {}
        changed = [sublayer for sublayer in decoder.sublayers if base.changed(sublayer)]
        calls = decoder.calls_of(changed, probe_tokens(decoder, PROBE_TOKENS))
        self._targets = {
            each.label: RepairTarget(decoder, each, calls[each.label])
            for each in changed
            if each.label not in base.dropped
        }
        self.dense, squares = _dense_states(decoder, tokens, changed)
        ones, zeros = torch.ones(decoder.width), torch.zeros(decoder.width)
        for label, target in self._targets.items():
            # Raises before the training if its parameters cannot scale what it adds.
            ramp = torch.linspace(0.5, 1.5, decoder.width, dtype=torch.float64, device=decoder.device)
            target.repaired(base, ramp, torch.zeros_like(ramp))
            self._add(f"scale:{label}", ones)
            if recipe.bias and target.takes_bias:
                self._add(f"bias:{label}", zeros, squares[label].sqrt())
        for label in base.dropped if recipe.bias else ():
            for key, tensor in base.substitutes.get(label, Substitute(zeros)).tensors.items():
                self._add(f"substitute:{label}:{key}", tensor, squares[label].sqrt() if key == "bias" else None)
        with self._weights():
            for name, parameter in self._parameters():
                self._add(f"parameter:{name}", parameter.data)

    def _add(self, key: str, start: Tensor, size: Tensor | None = None) -> None:
        start = start.detach().float().to(self.decoder.device)
        # A vector of zeros has no size of its own; 1 is that of a gain.
        size = start.square().mean().sqrt() if size is None else size
        self._starts[key], self._sizes[key] = start, torch.where(size > 0, size, 1.0)
        self.changes[key] = torch.zeros_like(start, requires_grad=True)

    @contextmanager
    def _weights(self) -> Iterator[None]:
        """Apply the base without what is dropped, which the forward pass leaves out by itself.

        All weights are there together, because the backward pass reads them after the forward pass has ended.
        """
        with apply_variant(self.decoder, replace(self._base, dropped=(), substitutes={}), max_bytes=sys.maxsize):
            for parameter in self.decoder.trunk.parameters():
                if parameter.data.is_inference():  # autograd does not store these
                    parameter.data = parameter.data.clone()
            yield

    def _parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield the gains and biases of the layers, and the changed matrices if they are trained."""
        gone = {
            id(module)
            for sublayer in self.decoder.sublayers
            if sublayer.label in self._base.dropped
            for module in sublayer.modules.values()
        }
        matrices = {id(self.decoder.matrices[name].parameter) for name in self._base.changes if self._recipe.weights}
        inside = {id(module) for layer in self.decoder.layers for module in layer.module.modules()} - gone
        for path, module in self.decoder.model.named_modules():
            for key, parameter in module.named_parameters(recurse=False) if id(module) in inside else ():
                if key == "bias" and parameter.dim() == 1:
                    is_trained = self._recipe.bias
                else:
                    is_trained = id(parameter) in matrices or not has_matrix(module)
                if is_trained:
                    yield f"{path}.{key}", parameter

    def value(self, key: str) -> Tensor:
        """Return the trained value, float32; what was zero in a trained matrix stays zero."""
        start, change = self._starts[key], self.changes[key]
        moved = start + self._sizes[key] * change
        return moved * (start != 0) if start.dim() > 1 and key.startswith("parameter:") else moved

    def _values(self, prefix: str) -> dict[str, Tensor]:
        """Return the trained values whose keys have a prefix, by the rest of the key."""
        return {key.removeprefix(prefix): self.value(key) for key in self.changes if key.startswith(prefix)}

    @contextmanager
    def forward(self) -> Iterator[Callable[[Tensor], Tensor]]:
        """Apply the base, and yield a function of tokens that returns the last states, with gradients."""
        trunk = self.decoder.trunk
        # The trunk's own names: its prefix in the model differs between architectures.
        prefix = next(name for name, module in self.decoder.model.named_modules() if module is trunk)
        prefix = f"{prefix}." if prefix else ""

        def adjust(label: str, added: Tensor) -> Tensor:
            scaled = added.float() * self.value(f"scale:{label}")
            bias = self.value(key) if (key := f"bias:{label}") in self.changes else 0
            return (scaled + bias).to(added.dtype)

        def run(tokens: Tensor) -> Tensor:
            dense = dict(trunk.named_parameters())
            trained = {name.removeprefix(prefix): value for name, value in self._values("parameter:").items()}
            own = {name: value.to(dense[name].dtype) for name, value in trained.items()}
            arguments = {"input_ids": tokens, **without_cache(trunk)}
            return cast(Tensor, functional_call(trunk, own, (), arguments).last_hidden_state)

        fixed = {
            label: Substitute(**{key: tensor.to(self.decoder.device).clone() for key, tensor in each.tensors.items()})
            for label, each in self._base.substitutes.items()
        }
        trained = {label: lambda state, label=label: self._substitute(label)(state) for label in self._base.dropped}
        substitutes = trained if self._recipe.bias else fixed
        with (
            self._weights(),
            self.decoder.without(self._base.dropped, substitutes=substitutes),
            hooks(*watch_all((target.sublayer for target in self._targets.values()), adjust)),
        ):
            yield run

    def _substitute(self, label: str) -> Substitute:
        return Substitute(**self._values(f"substitute:{label}:"))

    @torch.inference_mode()
    def variant(self) -> Variant:
        """Return the trained variant; scales and biases are multiplied and added into the weights."""
        base, dtype = self._base, self.decoder.dtype
        trained = self._values("parameter:")
        vectors = {
            name: value.to("cpu", dtype)
            for name, value in trained.items()
            if value.dim() == 1 and not torch.equal(value, self._starts[f"parameter:{name}"])
        }
        changes: dict[str, WeightDelta] = {}
        names = {id(parameter): name for name, parameter in self.decoder.model.named_parameters()}
        for name, matrix in self.decoder.matrices.items():
            if names[id(matrix.parameter)] not in trained:
                continue
            stored = trained[names[id(matrix.parameter)]].to(dtype)
            stored = stored if matrix.expert is None else stored[matrix.expert]
            weight = stored.T if matrix.is_transposed else stored
            changes[name] = WeightDelta.valued(weight, base.changes[name].mask if name in base.changes else None)
        substitutes = {label: self._substitute(label).to("cpu", dtype) for label in base.dropped if self._recipe.bias}
        variant = replace(
            base,
            changes=overlay(changes, base.changes),
            parameters={**base.parameters, **vectors},
            substitutes=substitutes or base.substitutes,
        )
        for label, target in self._targets.items():
            scale, bias = self.value(f"scale:{label}").double(), torch.zeros(self.decoder.width, dtype=torch.float64)
            if (key := f"bias:{label}") in self.changes:
                bias = self.value(key).double()
            variant = target.repaired(variant, scale, bias.to(scale))
        return variant


def _dense_states(decoder: Decoder, tokens: Tokens, sublayers: list[Sublayer]) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the dense model's last states, (sequences, length, width), and the mean squares of contributions."""
    sums = {each.label: torch.zeros(decoder.width, device=decoder.device) for each in sublayers}

    def observe(label: str, added: Tensor) -> None:
        sums[label] += added.float().square().sum(dim=(0, 1))

    with hooks(*watch_all(sublayers, observe)):
        states = [decoder.hidden(part.to(decoder.device)).float() for part in tokens.split(_rows(decoder, tokens))]
    # A copy is no inference tensor.
    return torch.cat(states).clone(), {label: total.clone() / tokens.numel() for label, total in sums.items()}


def _rows(decoder: Decoder, tokens: Tensor) -> int:
    """Return the number of sequences per pass."""
    return decoder.at_once(max(1, TRAINING_TOKENS // tokens.shape[1]))


def _train(
    student: Student,
    recipe: DistillRecipe,
    tokens: Tokens,
    dtype: torch.dtype | None,
    state: "_State | None",
    progress: Progress,
) -> None:
    """Minimize the KL with Adam, from the stored state of the same training if there is one."""
    decoder, steps, batch = student.decoder, recipe.steps, recipe.batch
    shuffle = torch.Generator().manual_seed(recipe.seed)
    epochs = math.ceil(steps * batch / len(tokens))
    order = torch.cat([torch.randperm(len(tokens), generator=shuffle) for _ in range(epochs)])
    keys = list(student.changes)
    rates = [recipe.learning_rate * (1 if student.changes[key].dim() == 1 else _WEIGHT_RATE) for key in keys]
    groups = [{"params": [student.changes[key]], "lr": rate} for key, rate in zip(keys, rates, strict=True)]
    optimizer = torch.optim.Adam(groups)
    done = 0 if state is None else state.restore(student.changes, optimizer)
    progress.start(f"train {recipe.name}", steps - done, (steps - done) * batch * tokens.shape[1])
    half = dtype if dtype in {torch.bfloat16, torch.float16} else None
    precision = partial(torch.autocast, decoder.device.type, half) if half else nullcontext
    with student.forward() as forward:
        for step in range(done, steps):
            chosen = order[step * batch : (step + 1) * batch]
            optimizer.zero_grad()
            for rows in chosen.split(_rows(decoder, tokens)):
                with precision():
                    own = forward(tokens[rows].to(decoder.device))
                gradient = state_gradient(decoder.head, student.dense[rows].flatten(0, 1), own.detach().flatten(0, 1))
                own.backward((gradient / (batch * tokens.shape[1])).reshape(own.shape).to(own.dtype))
            if not all(bool(each.grad.isfinite().all()) for each in student.changes.values() if each.grad is not None):
                raise ComputationError(f"recipe {recipe.name}: a gradient is NaN or infinite; lower `learning_rate`")
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * _schedule(step, steps)
            optimizer.step()
            progress.advance()
            if state is not None and (step + 1) % _STORED_EVERY == 0:
                state.store(step + 1, student.changes, optimizer)
    progress.done()


def _schedule(step: int, steps: int) -> float:
    """Return the share of the learning rate: rising over the first tenth of the steps, then falling as a cosine."""
    return min(1.0, 10 * (step + 1) / steps) * (1 + math.cos(math.pi * step / steps)) / 2


class _State:
    """The file with the state of a training, valid only for the same recipe, base, weights and tokens."""

    def __init__(self, decoder: Decoder, recipe: DistillRecipe, statistics: Statistics, base: Variant) -> None:
        unfinished, tokens = cast(Unfinished, statistics.unfinished), cast(Tensor, statistics.tokens)
        self._file = unfinished.folder / "training.safetensors"
        versions = [code_versions.PRUNING, code_versions.REPAIR, str(statistics.dtype), str(decoder.dtype)]
        self._fingerprint = json.dumps([recipe.hash, unfinished.weight_hash, base.hash, tokens_hash(tokens), *versions])

    def store(self, done: int, changes: Mapping[str, Tensor], optimizer: torch.optim.Adam) -> None:
        """Store the state after some updates, atomically."""
        tensors = {f"change:{key}": change.detach() for key, change in changes.items()}
        for key, change in changes.items():
            # A value that no pass has read, such as the gain before a dropped sublayer, has no moments.
            tensors |= {f"{name}:{key}": tensor for name, tensor in optimizer.state.get(change, {}).items()}
        metadata = {"fingerprint": self._fingerprint, "done": str(done)}
        replace_file(self._file, lambda temporary: save_file(tensors, temporary, metadata))

    def restore(self, changes: Mapping[str, Tensor], optimizer: torch.optim.Adam) -> int:
        """Restore the stored state and return its number of updates; 0 without one of this training."""
        try:
            with safe_open(self._file, framework="pt") as opened:
                metadata = opened.metadata()
                stored = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (not a mapping)
        except (OSError, SafetensorError):
            return 0
        if metadata["fingerprint"] != self._fingerprint:
            return 0
        for name, tensor in stored.items():
            part, _, key = name.partition(":")
            if part == "change":
                changes[key].data.copy_(tensor)
            else:  # Adam counts its steps on the CPU
                place = "cpu" if part == "step" else changes[key].device
                optimizer.state[changes[key]][part] = tensor.to(place)
        return int(metadata["done"])


@torch.inference_mode()
def state_gradient(head: OutputHead, dense: Float[Tensor, "n d"], own: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """Return the gradient of Σ KL(dense ‖ own) with respect to the own last states, float32.

    With respect to the logits it is softmax(own) − softmax(dense); the cap's slope is 1 − (z/cap)².
    """
    parts = []
    for x, y in zip(dense.split(block := block_sizes(len(own))), own.split(block), strict=True):
        logits = head.logits_of_state(y.float())
        slope = logits.softmax(dim=-1).sub_(head.logits_of_state(x.float()).softmax(dim=-1))
        if head.cap is not None:
            slope *= 1 - (logits / head.cap).square()
        parts.append(slope @ head.weight.float() * head.scale)
    return torch.cat(parts)
