"""Tokenization of prompts through the chat template, with option tokens and answer patterns; needs no weights."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from prunescope.pipelines.core.bounded_regex import BoundedPattern
from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.models.chat_template import in_chat_template
from prunescope.pipelines.studies import Prompt, Study


@dataclass(frozen=True)
class TokenizedPrompt:
    """A prompt, its token ids through the template, and the first token of each option's label."""

    prompt: Prompt
    ids: tuple[int, ...]
    option_ids: tuple[int, ...]


def tokenize_prompts(study: Study, tokenizer: Any, context_length: int) -> list[TokenizedPrompt]:  # noqa: ANN401
    """Tokenize every prompt of a study.

    Raises:
        InputError: a prompt with its new tokens is longer than the context, or two options begin with the same token.
    """
    return [_tokenized(prompt, study, tokenizer, context_length) for prompt in study.prompts]


def _tokenized(prompt: Prompt, study: Study, tokenizer: Any, context_length: int) -> TokenizedPrompt:  # noqa: ANN401
    has_template = bool(getattr(tokenizer, "chat_template", None))
    text = prompt.text
    if has_template:
        text = in_chat_template(tokenizer, prompt.text, add_generation_prompt=True)
    # A template contains its special tokens; a text without a template gets the tokenizer's.
    ids = tuple(tokenizer(text, add_special_tokens=not has_template, verbose=False).input_ids)
    if not ids:
        raise InputError(f"study {study.name}: prompt {prompt.id!r} has no tokens; write a text")
    needed = len(ids) + study.generation.new_tokens
    if needed > context_length:
        raise InputError(
            f"study {study.name}: prompt {prompt.id!r} has {len(ids)} tokens; with {study.generation.new_tokens} new "
            f"ones it is over the model's context of {context_length}; shorten it"
        )
    # A label follows a template's header directly, but running text after a space.
    separator = "" if has_template else " "
    labels = [tokenizer(separator + option, add_special_tokens=False).input_ids for option in prompt.options]
    option_ids = tuple(label[0] for label in labels if label)
    if len(set(option_ids)) != len(prompt.options):
        raise InputError(f"study {study.name}: prompt {prompt.id!r}: options must begin with different tokens")
    return TokenizedPrompt(prompt, ids, option_ids)


def find_answer(prompt: Prompt, text: str) -> str | None:
    """Return the first match of the prompt's answer pattern in a generated text; None without pattern or match.

    Raises:
        InputError: the pattern takes too long.
    """
    match = _pattern(prompt.answer_pattern).search(text) if prompt.answer_pattern else None
    return match[1] if match else None


@lru_cache(maxsize=256)
def _pattern(pattern: str) -> BoundedPattern:
    return BoundedPattern(pattern)
