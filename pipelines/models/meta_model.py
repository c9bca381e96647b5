"""A model without weights, from a folder or a GGUF header: config, tokenizer, empty modules and their sizes."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES
from transformers.pytorch_utils import Conv1D
from transformers.utils import logging as transformers_logging

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.models.config_validation import check_config
from prunescope.pipelines.models.file_validation import TOKENIZER_FILES, check_gguf, library_errors
from prunescope.pipelines.models.weight_matrices import CONVOLUTIONS


@dataclass(frozen=True)
class MetaModel:
    """Config of the text decoder, tokenizer and modules on the meta device, with empty parameters.

    The tokenizer is None if the folder has none, as in a plan from a config alone. The context length is in tokens.
    """

    config: Any
    tokenizer: Any
    module: nn.Module
    context_length: int

    @property
    def head(self) -> nn.Module | None:
        """Return the LM head, or None in a model that only embeds."""
        head: object = getattr(self.module, "get_output_embeddings", lambda: None)()
        return head if isinstance(head, nn.Module) else None

    @property
    def matrices(self) -> dict[str, tuple[int, int]]:
        """Return outputs and inputs of every matrix but the head's, by its name."""
        embedding: torch.Tensor = self.module.get_input_embeddings().weight  # type: ignore[operator]
        heads = {name for name, module in self.module.named_modules() if module is self.head}
        found = dict(_matrices(self.module, embedding.shape[1]))
        return {name: shape for name, shape in found.items() if name not in heads}


@dataclass(frozen=True)
class Shape:
    """The sizes of a decoder that determine its costs, counted in numbers, not bytes.

    Attributes:
        layers: decoder layers, each with an attention and an MLP.
        width: width of the residual stream.
        vocabulary: rows of the LM head, or of the embedding if there is no head.
        parameters: all parameters, with tied ones counted once.
        body: parameters below the head, a tied embedding included.
        active: weights of the layers' matrices used per token; only the selected experts count.
        prunable: weights of the linear modules in the layers.
        largest_sublayer: weights of the largest attention or MLP.
        largest_matrix: outputs and inputs of the largest linear module in the layers.
        attention_width: heads × head size.
        cache_width: numbers in the key-value cache per token and layer.
    """

    layers: int
    width: int
    vocabulary: int
    parameters: int
    body: int
    active: int
    prunable: int
    largest_sublayer: int
    largest_matrix: tuple[int, int]
    attention_width: int
    cache_width: int


def auto_class(config: Any) -> Any:  # noqa: ANN401 (transformers' own)
    """Return transformers' auto class for a config: with an LM head, unless the config names a class without one."""
    bare = MODEL_MAPPING_NAMES.get(config.model_type)
    return AutoModel if bare is not None and (config.architectures or [None])[0] == bare else AutoModelForCausalLM


def context_length(config: Any, tokenizer: Any) -> int:  # noqa: ANN401 (the config of any architecture)
    """Return the longest sequence that a model was made for, in tokens; without a limit the largest 32-bit number."""
    for key in ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length"):
        if getattr(config, key, None):
            return int(getattr(config, key))
    # A tokenizer without a limit has a model_max_length of about 1e30.
    return min(int(tokenizer.model_max_length), 2**31 - 1)


def load_meta_model(path: Path) -> MetaModel:
    """Load config, tokenizer and empty modules from a GGUF file, or a folder with config.json and maybe a tokenizer.

    Raises:
        InputError: transformers cannot load it.
    """
    transformers_logging.set_verbosity_error()
    # Unless `trust_remote_code` is set, transformers asks at the terminal.
    arguments: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    if path.is_file():
        check_gguf(path)
        arguments |= {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    else:
        arguments["pretrained_model_name_or_path"] = str(path)
    with library_errors(path):
        config = AutoConfig.from_pretrained(**arguments)
        check_config(path, config.to_dict())
        has_tokenizer = path.is_file() or any((path / name).exists() for name in TOKENIZER_FILES)
        tokenizer = AutoTokenizer.from_pretrained(**arguments) if has_tokenizer else None
        with torch.device("meta"):
            module: nn.Module = auto_class(config).from_config(config, trust_remote_code=False)
        text = config.get_text_config()
        return MetaModel(text, tokenizer, module, context_length(text, tokenizer))


def shape_of(model: MetaModel) -> Shape:
    """Return the sizes of a model; InputError if it has no list of as many layers as its config states."""
    config = model.config
    stack = layer_stack(model.module, int(config.num_hidden_layers))
    embedding: torch.Tensor = model.module.get_input_embeddings().weight  # type: ignore[operator]
    weight = embedding if model.head is None else cast(torch.Tensor, model.head.weight)
    if stack is None:
        raise InputError(
            f"{type(model.module).__name__}: no list of {config.num_hidden_layers} decoder layers was found; is "
            "it a decoder?"
        )
    matrices = [shape for _, shape in _matrices(stack, weight.shape[1])]
    mixers = [child for layer in stack for child in layer.children()]
    heads = int(config.num_attention_heads)
    size = int(getattr(config, "head_dim", None) or config.hidden_size // heads)
    parameters = sum(parameter.numel() for parameter in model.module.parameters())
    is_tied = weight is embedding
    return Shape(
        layers=len(stack),
        width=weight.shape[1],
        vocabulary=weight.shape[0],
        parameters=parameters,
        body=parameters - (0 if is_tied else weight.numel()),
        active=round(sum(_active(name, parameter, config) for name, parameter in stack.named_parameters())),
        prunable=sum(math.prod(shape) for shape in matrices),
        largest_sublayer=max(sum(p.numel() for p in mixer.parameters()) for mixer in mixers),
        largest_matrix=max(matrices, key=math.prod),
        attention_width=heads * size,
        cache_width=2 * int(getattr(config, "num_key_value_heads", None) or heads) * size,
    )


def _matrices(parent: nn.Module, width: int) -> Iterator[tuple[str, tuple[int, int]]]:
    """Yield the name of every matrix with its outputs and inputs.

    For stacked experts, whose layout only a run shows, names decide.
    """
    for name, module in parent.named_modules():
        if isinstance(module, (nn.Linear, Conv1D)):
            outputs, inputs = module.weight.shape
            yield name, (inputs, outputs) if isinstance(module, Conv1D) else (outputs, inputs)
        elif not isinstance(module, CONVOLUTIONS):
            for key, stacked in module.named_parameters(recurse=False):
                if stacked.dim() == 3 and min(stacked.shape) > 1:
                    _, one, other = stacked.shape
                    inner = other if one == width else one
                    shape = (width, inner) if "down" in key else (inner, width)
                    yield from ((f"{name}.{key}[{index}]", shape) for index in range(len(stacked)))


def layer_stack(model: nn.Module, layers: int) -> nn.ModuleList | None:
    """Return the outermost list with matrices and as many members as the config has layers, or None."""
    stacks = (module for module in model.modules() if isinstance(module, nn.ModuleList) and len(module) == layers)
    return next((stack for stack in stacks if any(p.dim() >= 2 for p in stack[0].parameters())), None)


def _active(name: str, parameter: nn.Parameter, config: Any) -> float:  # noqa: ANN401 (any architecture's config)
    """Return the number of a matrix's weights that are used per token."""
    if parameter.dim() < 2:
        return 0
    if re.search(r"(^|\.)experts\.", name):
        names = ("num_local_experts", "num_experts", "n_routed_experts")
        experts = next((getattr(config, name) for name in names if getattr(config, name, None)), 1)
        return parameter.numel() * int(getattr(config, "num_experts_per_tok", 1)) / experts
    return parameter.numel()
