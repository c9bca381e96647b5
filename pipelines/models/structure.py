"""Finds layers, sublayers, final norm and head of a model by running a short probe, and proves each.

What cannot be proved is refused by name; what the parts are is told in `decoder.py`.
"""

from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from pipelines.errors import ComputationError, InputError
from pipelines.metrics.heads import Head, find_final_norm
from pipelines.models.decoder import Decoder, Kind, Layer, Sublayer, call_with_state, first_tensor, state_argument
from pipelines.prompts import context_length

# How far a rebuilt state may be from the model's own, relative to its length, by the type it runs in.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 4e-3}


@torch.inference_mode()
def discover(model: nn.Module, tokenizer: Any, folder: Path) -> Decoder:  # noqa: ANN401 (any tokenizer)
    """Finds layers, sublayers, final norm and head by running a short probe, and proves each.

    Proof: residual stream plus contributions rebuilds every layer's output, and norm plus head rebuild the logits,
    to `TOLERANCE`.
    """
    parameter = next(model.parameters())
    head_module = cast(Any, model).get_output_embeddings()
    if not isinstance(head_module, nn.Linear):
        raise InputError(f"{folder}: the LM head is not one linear module, which is not supported")
    vocabulary = head_module.weight.shape[0]
    generator = torch.Generator().manual_seed(0)
    probe = torch.randint(0, vocabulary, (1, 12), generator=generator).to(parameter.device)
    names = {module: name for name, module in model.named_modules()}
    stack = _layer_stack(model)

    run = _Recorder(model)
    with run:
        logits = first_tensor(model(input_ids=probe, use_cache=False).logits)

    for module, output in run.outputs.items():
        if not bool(torch.isfinite(output).all()):
            raise ComputationError(
                f"{names[module]}: NaN or infinite numbers on the first tokens; its weights are damaged"
            )
    layers = tuple(_prove_layer(index, module, run, names) for index, module in enumerate(stack))
    final = _module_before(head_module, run, names)
    # Views of their own: the head stays as it is when a variant puts other weights into the modules.
    bias = None if head_module.bias is None else head_module.bias.detach().float()
    head = Head(weight=head_module.weight.detach().float(), bias=bias, norm=find_final_norm(final))
    stream = run.outputs[stack[-1]]
    _require(
        run.inputs[final],
        stream,
        f"{names[final]}: the final norm does not read the last layer's output",
        parameter.dtype,
    )
    rebuilt = head.logits(stream[0].float())
    _require(
        rebuilt,
        logits[0],
        f"{names[head_module]}: logits are not head × norm (soft-capped or scaled?)",
        parameter.dtype,
    )

    config = cast(Any, model).config
    ends = [cast(Any, model).generation_config.eos_token_id, config.eos_token_id, tokenizer.eos_token_id]
    flat = [end for group in ends for end in (group if isinstance(group, list) else [group]) if end is not None]
    return Decoder(
        model=model,
        trunk=cast(Any, model).base_model,
        layers=layers,
        final_norm=final,
        head=head,
        tokenizer=tokenizer,
        end_ids=frozenset(flat),
        context_length=context_length(config, tokenizer),
        folder=folder,
        dtype=parameter.dtype,
        device=parameter.device,
    )


class _Recorder:
    """Inputs and outputs of every module during one forward pass, and the order of the calls."""

    def __init__(self, model: nn.Module) -> None:
        self.inputs: dict[nn.Module, Tensor] = {}
        self.arguments: dict[nn.Module, tuple[tuple[Any, ...], dict[str, Any]]] = {}
        self.outputs: dict[nn.Module, Tensor] = {}
        self.returns: dict[nn.Module, int] = {}
        self._model = model
        self._handles: list[torch.utils.hooks.RemovableHandle] = []

    def __enter__(self) -> None:
        for module in self._model.modules():
            self._handles.append(module.register_forward_hook(self._record, with_kwargs=True))

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _record(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: object) -> None:
        given = state_argument(args, kwargs)
        result = output[0] if isinstance(output, (tuple, list)) and output else output
        if given is not None and isinstance(result, Tensor):
            self.inputs[module] = given
            self.arguments[module] = (args, kwargs)
            self.outputs[module] = result
            self.returns[module] = len(output) if isinstance(output, (tuple, list)) else 0


def _layer_stack(model: nn.Module) -> nn.ModuleList:
    """The list of decoder layers: the longest list whose members are of one class and hold matrices."""
    stacks = [
        module
        for module in model.modules()
        if isinstance(module, nn.ModuleList)
        and len({type(member) for member in module}) == 1
        and _has_matrix(module[0])
    ]
    if not stacks:
        raise InputError(f"{type(model).__name__}: no list of decoder layers was found; is it a decoder?")
    return max(stacks, key=len)


def _has_matrix(module: nn.Module) -> bool:
    return any(parameter.dim() >= 2 for parameter in module.parameters())


def _prove_layer(index: int, module: nn.Module, run: _Recorder, names: dict[nn.Module, str]) -> Layer:
    """Finds attention and MLP of one layer and what each adds to the stream."""
    here = names[module]
    mixers = [child for child in module.children() if child in run.outputs and _has_matrix(child)]
    if len(mixers) != 2:
        found = ", ".join(names[child] for child in mixers) or "none"
        raise InputError(f"{here}: expected one attention and one MLP module with weights, found {found}; refused")
    mixing = [_mixes_positions(mixer, run) for mixer in mixers]
    if sorted(mixing) != [False, True]:
        raise InputError(
            f"{here}: could not tell attention from MLP among {names[mixers[0]]}, {names[mixers[1]]}; refused"
        )
    attn, mlp = (mixers[0], mixers[1]) if mixing[0] else (mixers[1], mixers[0])

    before, after = run.inputs[module], run.outputs[module]
    for attn_adds in _candidates(attn, module, run):
        for mlp_adds in _candidates(mlp, module, run):
            middle = before + run.outputs[attn_adds]
            if not _is_close(middle + run.outputs[mlp_adds], after):
                continue
            readers = [child for child in module.children() if child in run.inputs and child not in {attn, attn_adds}]
            reads_middle = any(_is_close(run.inputs[child], middle) for child in readers)
            reads_before = any(run.inputs[child] is before for child in [mlp, *readers])
            if not reads_middle and not reads_before:
                raise InputError(
                    f"{names[mlp]}: what it reads is neither the stream nor the stream after attention; refused"
                )
            return Layer(
                module=module,
                attn=_sublayer(index, "attn", attn, attn_adds, run, names),
                mlp=_sublayer(index, "mlp", mlp, mlp_adds, run, names),
                is_parallel=not reads_middle,
            )
    raise InputError(f"{here}: stream + attention + MLP does not rebuild its output; refused")


def _candidates(mixer: nn.Module, layer: nn.Module, run: _Recorder) -> list[nn.Module]:
    """What a mixer may add to the stream: its own output, or that of a norm right behind it (sandwich norms)."""
    output = run.outputs[mixer]
    behind = [
        child
        for child in layer.children()
        if child is not mixer and run.inputs.get(child) is output and not _has_matrix(child)
    ]
    return [*behind, mixer]


def _mixes_positions(mixer: nn.Module, run: _Recorder) -> bool:
    """Whether the output at the last position depends on the first token: attention does, an MLP does not."""
    args, kwargs = run.arguments[mixer]
    given = run.inputs[mixer]
    changed = given.clone()
    changed[:, 0] = changed[:, 0].flip(-1) * 2 + 1
    output = call_with_state(mixer, args, kwargs, changed)
    return not torch.equal(output[:, -1], run.outputs[mixer][:, -1])


def _module_before(head: nn.Module, run: _Recorder, names: dict[nn.Module, str]) -> nn.Module:
    """The module whose output the head reads."""
    given = run.inputs[head]
    for module, output in reversed(run.outputs.items()):
        is_leaf = not any(True for _ in module.children())
        if module is not head and is_leaf and output.shape[-1] == given.shape[-1] and _is_close(output, given):
            return module
    raise InputError(f"{names[head]}: no final norm was found before the LM head; refused")


def _sublayer(
    index: int, kind: Kind, mixer: nn.Module, adds: nn.Module, run: _Recorder, names: dict[nn.Module, str]
) -> Sublayer:
    linears: dict[str, nn.Linear | Conv1D] = {
        names[module]: module for module in mixer.modules() if isinstance(module, (nn.Linear, Conv1D))
    }
    covered = {id(module.weight) for module in linears.values()}
    for name, parameter in mixer.named_parameters():
        if parameter.dim() >= 2 and id(parameter) not in covered:
            raise InputError(f"{names[mixer]}.{name}: a weight outside a linear module; refused")
    return Sublayer(index, kind, names[mixer], mixer, adds, linears, run.returns[mixer])


def _is_close(rebuilt: Tensor, truth: Tensor) -> bool:
    if rebuilt.shape != truth.shape:
        return False
    error = (rebuilt.float() - truth.float()).norm()
    return bool(error <= TOLERANCE[truth.dtype] * truth.float().norm())


def _require(rebuilt: Tensor, truth: Tensor, message: str, dtype: torch.dtype) -> None:
    error = (rebuilt.float() - truth.float()).norm() / truth.float().norm().clamp_min(1e-30)
    if not error <= TOLERANCE[dtype]:
        raise InputError(f"{message}; relative error {float(error):.1e}; refused")
