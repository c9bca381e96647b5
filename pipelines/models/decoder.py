"""A loaded decoder whose parts were found by structure and proved by running it, not by its architecture's name.

Loading and finding only; what is measured on it lives in `pipelines.traces`, what changes it in `pipelines.pruning`.
"""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaModel
from transformers.cache_utils import Cache, DynamicCache
from transformers.pytorch_utils import Conv1D
from transformers.utils import logging as transformers_logging

from pipelines.errors import InputError
from pipelines.metrics.heads import Head, find_final_norm
from pipelines.prompts import context_length

Kind = Literal["attn", "mlp"]

# How far a rebuilt state may be from the model's own, relative to its length, by the type it runs in.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 4e-3}


@dataclass(frozen=True)
class Sublayer:
    """One attention or MLP of one layer.

    Attributes:
        layer: index from 0.
        kind: attn or mlp.
        name: the module's name in the model.
        mixer: the module that computes; its input is the normed stream.
        contribution: the module whose output is added to the stream: the mixer, or a norm behind it.
        linears: the weight matrices inside the mixer, by name in the model.
        returns: length of the tuple that the mixer returns; 0 where it returns a tensor.
    """

    layer: int
    kind: Kind
    name: str
    mixer: nn.Module
    contribution: nn.Module
    linears: dict[str, nn.Linear | Conv1D]
    returns: int

    @property
    def label(self) -> str:
        """Short name such as `attn.3`."""
        return f"{self.kind}.{self.layer}"


@dataclass(frozen=True)
class Layer:
    """One decoder layer: its two sublayers, in sequence or both on the same input (parallel)."""

    module: nn.Module
    attn: Sublayer
    mlp: Sublayer
    is_parallel: bool


@dataclass(frozen=True)
class Decoder:
    """A dense model, ready to be measured.

    Attributes:
        model: the transformers model, in eval mode, without gradients.
        trunk: the part below the LM head; returns the normed last state.
        layers: in order.
        final_norm: the module before the head; its input is the residual stream.
        head: final norm and LM head in the form that the metrics read.
        tokenizer: the model's own.
        end_ids: tokens that end a text.
        folder: where it was loaded from.
    """

    model: nn.Module
    trunk: nn.Module
    layers: tuple[Layer, ...]
    final_norm: nn.Module
    head: Head
    tokenizer: Any
    end_ids: frozenset[int]
    context_length: int
    folder: Path
    dtype: torch.dtype
    device: torch.device

    @property
    def sublayers(self) -> Iterator[Sublayer]:
        """Attention and MLP of every layer, in the order in which the stream meets them."""
        for layer in self.layers:
            yield layer.attn
            yield layer.mlp

    @torch.inference_mode()
    def hidden(
        self,
        tokens: Int[Tensor, "batch tokens"],
        cache: "CountedCache | None" = None,
        real: Int[Tensor, "batch seen"] | None = None,
    ) -> Float[Tensor, "batch tokens width"]:
        """Runs the trunk; the normed last states. What hooks saw is the caller's.

        Args:
            tokens: the new tokens.
            cache: keys and values of the tokens before; the new ones are added to it.
            real: 1 where a token counts, 0 where it pads on the left, over all tokens seen so far and the new ones.
        """
        keywords: dict[str, Any] = {"use_cache": False} if cache is None else {"use_cache": True, cache_key(): cache}
        if real is not None and not bool(real.all()):
            keywords["attention_mask"] = real
            # A padded prompt starts at position 0 all the same; models without position ids read the mask.
            if "position_ids" in inspect.signature(self.trunk.forward).parameters:
                positions = (real.cumsum(dim=1) - 1).clamp(min=0)
                keywords["position_ids"] = positions[:, -tokens.shape[1] :]
        states = self.trunk(input_ids=tokens, **keywords).last_hidden_state
        if cache is not None:
            cache.seen += tokens.shape[1]
        return cast(Tensor, states)


class CountedCache(DynamicCache):
    """A key-value cache that counts tokens itself, so that a model whose first attention is dropped keeps its place."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def get_seq_length(self, layer_idx: int = 0) -> int:  # noqa: ARG002 (the base class's signature)
        """Tokens seen by the model."""
        return self.seen

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:  # noqa: ARG002
        """Length and offset of the keys that the next call sees."""
        return self.seen + query_length, 0


def cache_key() -> str:
    """Name of the argument through which a trunk takes its cache; transformers 5.2x renamed it."""
    return "cache" if "cache" in inspect.signature(LlamaModel.forward).parameters else "past_key_values"


def first_tensor(value: object) -> Tensor:
    """The tensor of a module's output: itself, or the first of a tuple."""
    return cast(Tensor, value[0] if isinstance(value, tuple) else value)


@contextmanager
def hooks(*registered: "torch.utils.hooks.RemovableHandle") -> Iterator[None]:
    """Removes hooks at the end, whatever happens."""
    try:
        yield
    finally:
        for handle in registered:
            handle.remove()


def load_decoder(folder: Path, dtype: str = "float32", device: str = "auto") -> Decoder:
    """Loads a folder of safetensors and proves its structure.

    Raises:
        InputError: the architecture is unknown or not a decoder, or a part of it could not be proved; names the module.
    """
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    torch_dtype: torch.dtype = getattr(torch, dtype)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=torch_dtype,
            local_files_only=True,
            use_safetensors=True,
            attn_implementation="sdpa",
            output_loading_info=True,
        )
    except (ValueError, OSError, KeyError, RuntimeError) as error:
        raise InputError(f"{folder}: transformers cannot load it ({str(error).strip().splitlines()[0]})") from error
    model, loading = loaded
    # transformers fills what a checkpoint lacks with random numbers and only warns.
    lacking = sorted({*loading["missing_keys"], *(key for key, *_ in loading["mismatched_keys"])})
    if lacking:
        raise InputError(
            f"{folder}: the weights of {lacking[0]} are missing or of another shape; fetch the model again"
        )
    model.to(device).eval().requires_grad_(False)
    return discover(model, tokenizer, folder)


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

    layers = tuple(_prove_layer(index, module, run, names) for index, module in enumerate(stack))
    final = _module_before(head_module, run, names)
    bias = None if head_module.bias is None else head_module.bias.float()
    head = Head(weight=head_module.weight.float(), bias=bias, norm=find_final_norm(final))
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


def state_argument(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """The state that a module was called on: its first tensor, positional or `hidden_states`."""
    if args and isinstance(args[0], Tensor):
        return args[0]
    given = kwargs.get("hidden_states")
    if isinstance(given, Tensor):
        return given
    return next((value for value in kwargs.values() if isinstance(value, Tensor)), None)


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


def call_with_state(mixer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], state: Tensor) -> Tensor:
    """Calls a module as it was called before, on another state."""
    given = state_argument(args, kwargs)
    if args and args[0] is given:
        return first_tensor(mixer(state, *args[1:], **kwargs))
    return first_tensor(mixer(*args, **{key: state if value is given else value for key, value in kwargs.items()}))


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


def weight_matrix(linear: nn.Linear | Conv1D) -> Float[Tensor, "out in"]:
    """A linear module's weight with outputs as rows; GPT-2's Conv1D stores it the other way round. A view."""
    weight = linear.weight
    return weight.T if isinstance(linear, Conv1D) else weight


def swap_cache(kwargs: dict[str, Any], cache: Cache | None) -> dict[str, Any]:
    """The same keyword arguments with another key-value cache in place of the one that was passed."""
    return {key: cache if isinstance(value, Cache) else value for key, value in kwargs.items()}
