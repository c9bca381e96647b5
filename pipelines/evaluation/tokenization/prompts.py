"""Prompts as the model sees them: chat template, token ids, option tokens, answers.

Tokenizer only; no weights are needed, so that a study can be refused before anything runs.
"""

import re
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.studies import Prompt, Study


@dataclass(frozen=True)
class TokenizedPrompt:
    """A prompt, its token ids through the template, and the token with which each option's label would begin."""

    prompt: Prompt
    ids: tuple[int, ...]
    option_ids: tuple[int, ...]


def tokenize_prompts(study: Study, tokenizer: Any, context_length: int) -> list[TokenizedPrompt]:  # noqa: ANN401
    """Token ids of every prompt of a study.

    Raises:
        InputError: a prompt with its new tokens is longer than the context, or two options begin with the same token.
    """
    return [_tokenized(prompt, study, tokenizer, context_length) for prompt in study.prompts]


def _tokenized(prompt: Prompt, study: Study, tokenizer: Any, context_length: int) -> TokenizedPrompt:  # noqa: ANN401
    has_template = bool(getattr(tokenizer, "chat_template", None))
    text = prompt.text
    if has_template:
        message = [{"role": "user", "content": prompt.text}]
        try:
            text = tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
        except TemplateError as error:
            raise InputError(f"the model's chat template does not work ({error}); mend or remove it") from error
    # A template writes its own special tokens; a bare text gets the tokenizer's.
    ids = tuple(tokenizer(text, add_special_tokens=not has_template, verbose=False).input_ids)
    if not ids:
        raise InputError(f"study {study.name}: prompt {prompt.id!r} has no tokens; write what the model is asked")
    needed = len(ids) + study.generation.new_tokens
    if needed > context_length:
        raise InputError(
            f"study {study.name}: prompt {prompt.id!r} has {len(ids)} tokens; with {study.generation.new_tokens} new "
            f"ones it is over the model's context of {context_length}; shorten it"
        )
    # After a template's header a label stands alone; after running text a space comes first.
    lead = "" if has_template else " "
    labels = [tokenizer(lead + option, add_special_tokens=False).input_ids for option in prompt.options]
    option_ids = tuple(label[0] for label in labels if label)
    if len(set(option_ids)) != len(prompt.options):
        raise InputError(f"study {study.name}: prompt {prompt.id!r}: options must begin with different tokens")
    return TokenizedPrompt(prompt, ids, option_ids)


def find_answer(prompt: Prompt, text: str) -> str | None:
    """What the prompt's pattern finds first in a generated text; None without a pattern or a find."""
    match = re.search(prompt.answer_pattern, text) if prompt.answer_pattern else None
    return match[1] if match else None
