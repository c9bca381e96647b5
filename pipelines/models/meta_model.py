"""What a model is before any weight is read: config, tokenizer and empty modules, and the sizes that follow from them.

From a folder or from a GGUF file's header. How a loaded model is read is told in `decoder.py`.
"""

import re
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
from prunescope.pipelines.models.context_length import context_length
from prunescope.pipelines.models.file_validation import check_gguf


@dataclass(frozen=True)
class MetaModel:
    """Config, tokenizer and modules on the meta device.

    Attributes:
        config: of the text decoder.
        tokenizer: the model's own.
        module: all modules without numbers in them.
        context_length: in tokens.
    """

    config: Any
    tokenizer: Any
    module: nn.Module
    context_length: int

    @property
    def head(self) -> nn.Module | None:
        """The LM head; None in a model that only embeds."""
        head: object = getattr(self.module, "get_output_embeddings", lambda: None)()
        return head if isinstance(head, nn.Module) else None


@dataclass(frozen=True)
class Shape:
    """The sizes of a decoder from which its costs follow; counts are of numbers, not bytes.

    Attributes:
        layers: decoder layers, each with an attention and an MLP.
        width: of the residual stream.
        vocabulary: rows of the LM head, or of the embedding where there is none.
        parameters: all, tied ones once.
        body: those below the head: a tied embedding counts here.
        active: weights of the layers' matrices that one token meets; of experts those that it is sent to.
        prunable: weights of the linear modules in the layers.
        modules: how many linear modules those are.
        inputs: inputs of all of them together.
        largest_sublayer: weights of the largest attention or MLP.
        largest_matrix: outputs and inputs of the largest linear module in the layers.
        attention_width: heads × size of a head.
        cache_width: numbers that the key-value cache keeps per token and layer.
    """

    layers: int
    width: int
    vocabulary: int
    parameters: int
    body: int
    active: int
    prunable: int
    modules: int
    inputs: int
    largest_sublayer: int
    largest_matrix: tuple[int, int]
    attention_width: int
    cache_width: int


def auto_class(config: Any) -> Any:  # noqa: ANN401 (transformers' own)
    """How a checkpoint is loaded: with its LM head, or without where it says that it holds the bare model.

    Encoders and embedding models are published so.
    """
    bare = MODEL_MAPPING_NAMES.get(config.model_type)
    return AutoModel if bare is not None and (config.architectures or [None])[0] == bare else AutoModelForCausalLM


def load_outline(place: Path) -> MetaModel:
    """Config, tokenizer and empty modules of a model.

    Args:
        place: folder with config.json and a tokenizer, or a GGUF file.

    Raises:
        InputError: transformers cannot load it.
    """
    transformers_logging.set_verbosity_error()
    # Said, or transformers asks at the terminal.
    where: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    if place.is_file():
        check_gguf(place)
        where |= {"pretrained_model_name_or_path": str(place.parent), "gguf_file": place.name}
    else:
        where["pretrained_model_name_or_path"] = str(place)
    try:
        tokenizer = AutoTokenizer.from_pretrained(**where)
        config = AutoConfig.from_pretrained(**where)
        with torch.device("meta"):
            module: nn.Module = auto_class(config).from_config(config, trust_remote_code=False)
    except (ValueError, OSError, KeyError) as error:
        raise InputError(f"{place}: transformers cannot load it ({str(error).strip().splitlines()[0]})") from error
    text = config.get_text_config()
    return MetaModel(text, tokenizer, module, context_length(text, tokenizer))


def shape_of(outline: MetaModel) -> Shape:
    """The sizes of a model.

    Raises:
        InputError: it has no list of layers as its config announces.
    """
    config = outline.config
    stack = layer_stack(outline.module, int(config.num_hidden_layers))
    embedding: torch.Tensor = outline.module.get_input_embeddings().weight  # type: ignore[operator]
    weight = embedding if outline.head is None else cast(torch.Tensor, outline.head.weight)
    if stack is None:
        raise InputError(
            f"{type(outline.module).__name__}: no list of {config.num_hidden_layers} decoder layers was found; is "
            "it a decoder?"
        )
    linears = [module for module in stack.modules() if isinstance(module, (nn.Linear, Conv1D))]
    mixers = [child for layer in stack for child in layer.children()]
    heads = int(config.num_attention_heads)
    size = int(getattr(config, "head_dim", None) or config.hidden_size // heads)
    parameters = sum(parameter.numel() for parameter in outline.module.parameters())
    is_tied = weight is embedding
    largest = max((_matrix(module) for module in linears), key=torch.Tensor.numel)
    return Shape(
        layers=len(stack),
        width=weight.shape[1],
        vocabulary=weight.shape[0],
        parameters=parameters,
        body=parameters - (0 if is_tied else weight.numel()),
        active=round(sum(_active(name, parameter, config) for name, parameter in stack.named_parameters())),
        prunable=sum(module.weight.numel() for module in linears),
        modules=len(linears),
        inputs=sum(_matrix(module).shape[1] for module in linears),
        largest_sublayer=max(sum(p.numel() for p in mixer.parameters()) for mixer in mixers),
        largest_matrix=(largest.shape[0], largest.shape[1]),
        attention_width=heads * size,
        cache_width=2 * int(getattr(config, "num_key_value_heads", None) or heads) * size,
    )


def _matrix(module: nn.Linear | Conv1D) -> torch.Tensor:
    """The weight with outputs as rows."""
    return module.weight.T if isinstance(module, Conv1D) else module.weight


def layer_stack(model: nn.Module, layers: int) -> nn.ModuleList | None:
    """The list of as many members as the config has layers; experts of one layer are a list of their own."""
    stacks = (module for module in model.modules() if isinstance(module, nn.ModuleList) and len(module) == layers)
    return next((stack for stack in stacks if any(p.dim() >= 2 for p in stack[0].parameters())), None)


def _active(name: str, parameter: nn.Parameter, config: Any) -> float:  # noqa: ANN401 (any architecture's config)
    """Weights of a matrix that one token meets."""
    if parameter.dim() < 2:
        return 0
    if re.search(r"(^|\.)experts\.", name):
        names = ("num_local_experts", "num_experts", "n_routed_experts")
        experts = next((getattr(config, name) for name in names if getattr(config, name, None)), 1)
        return parameter.numel() * int(getattr(config, "num_experts_per_tok", 1)) / experts
    return parameter.numel()
