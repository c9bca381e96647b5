"""Refuses what cannot work before anything is computed: prompts, texts, calibration, recipes, device.

Tokenizer, config and empty modules are enough; no weights are read.
"""

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.pytorch_utils import Conv1D

from pipelines.calibration import calibration_tokens
from pipelines.errors import InputError
from pipelines.models.load import check_device
from pipelines.prompts import context_length, tokenize_prompts
from pipelines.pruning.recipes import Drop, Magnitude, Wanda
from pipelines.studies import Study
from pipelines.texts import tokenize_texts


def check_study(study: Study, folder: Path) -> None:
    """Refuses a study that one of its models cannot run.

    Args:
        study: the study.
        folder: a model's folder of safetensors.

    Raises:
        InputError: names the prompt, text, key or recipe, and the fix.
    """
    check_device(study.device)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        with torch.device("meta"):
            model: nn.Module = AutoModelForCausalLM.from_config(config)
    except (ValueError, OSError, KeyError) as error:
        raise InputError(f"{folder}: transformers cannot load it ({str(error).strip().splitlines()[0]})") from error
    context = context_length(config, tokenizer)
    tokenize_prompts(study, tokenizer, context)
    tokenize_texts(study, tokenizer, context)
    if study.calibration.length > context:
        raise InputError(
            f"calibration length {study.calibration.length} is over the model's context of {context} tokens"
        )
    calibration_tokens(tokenizer, study.calibration)
    _check_recipes(study, config, model)


def _check_recipes(study: Study, config: Any, model: nn.Module) -> None:  # noqa: ANN401 (any architecture's config)
    layers = int(config.num_hidden_layers)
    head: object = getattr(model, "get_output_embeddings", lambda: None)()
    inputs = {
        module.in_features if isinstance(module, nn.Linear) else module.weight.shape[0]
        for module in model.modules()
        if isinstance(module, (nn.Linear, Conv1D)) and module is not head
    }
    for recipe in study.recipes:
        if isinstance(recipe, Drop) and recipe.count >= layers:
            raise InputError(f"recipe {recipe.name}: the model has {layers} layers; drop fewer")
        if isinstance(recipe, (Magnitude, Wanda)) and recipe.block is not None:
            uneven = sorted(size for size in inputs if size % recipe.block)
            if uneven:
                raise InputError(
                    f"recipe {recipe.name}: a module has {uneven[0]} inputs, not a multiple of {recipe.block}"
                )
