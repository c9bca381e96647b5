"""Tokenization of prompts through their template, with option tokens and answer patterns. Needs no weights."""

from dataclasses import dataclass
from typing import Any

from prunescope.pipelines.core.bounded_regex import BoundedRe, SlowPatternError
from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.models.chat_template import (
    TemplateFailedError,
    check_chat_template,
    messages_in_chat_template,
    messages_in_template,
)
from prunescope.pipelines.studies import Prompt, Study
from prunescope.pipelines.studies.prompts import number_text

# Two prompts that no template contains by chance.
_MARKS = ("\u2603\u2764", "\u2764\u2603")


@dataclass(frozen=True)
class TokenizedPrompt:
    """A prompt, its token ids through the template, and the first token of each option's label."""

    prompt: Prompt
    ids: tuple[int, ...]
    option_ids: tuple[int, ...]


def tokenize_prompts(study: Study, tokenizer: Any, context_length: int) -> list[TokenizedPrompt]:  # noqa: ANN401
    """Tokenize every prompt of a study.

    Raises:
        InputError: a prompt with its new tokens exceeds the context, has ids beyond the vocabulary, or names a template
            that fails or that the model does not have; the first token of an option is unknown or only part of a
            character; or two options begin with the same token.
    """
    for template in dict.fromkeys(prompt.template or study.template for prompt in study.prompts):
        _check_template(template, study, tokenizer)
    return [_tokenized(prompt, study, tokenizer, context_length) for prompt in study.prompts]


def _check_template(template: str | None, study: Study, tokenizer: Any) -> None:  # noqa: ANN401
    if template == "chat" and not _has_template(tokenizer):
        raise InputError(
            f"study {study.name}: `template: chat`, but the model has no chat template; write `plain` or the path of a "
            "Jinja file"
        )
    if template in {None, "chat"}:
        check_chat_template(tokenizer)
    if template in {None, "chat", "plain"}:
        return
    try:
        first, second = (
            messages_in_template(str(template), tokenizer, [{"role": "user", "content": mark}]) for mark in _MARKS
        )
    except TemplateFailedError as error:
        raise InputError(f"study {study.name}: `template`: the Jinja file fails ({error}); fix it") from error
    if first == second:
        raise InputError(
            f"study {study.name}: `template`: the Jinja file leaves the prompt out; write {{{{ text }}}} where it "
            "belongs, or loop over `messages`"
        )


def _tokenized(prompt: Prompt, study: Study, tokenizer: Any, context_length: int) -> TokenizedPrompt:  # noqa: ANN401
    where = f"study {study.name}: {prompt.what}"
    if prompt.ids:
        ids = prompt.ids
        if (beyond := max(ids)) >= len(tokenizer):
            raise InputError(
                f"{where}: `ids` holds {beyond}, but the model has {len(tokenizer):,} tokens, from 0; take ids of its "
                "own tokenizer"
            )
        text = tokenizer.decode(list(ids))
        prompt = prompt if prompt.text else prompt.model_copy(update={"text": text})
        adds_special_tokens, is_header = False, False
    else:
        text, adds_special_tokens, is_header = _in_template(prompt, study, tokenizer)
        ids = tuple(tokenizer(text, add_special_tokens=adds_special_tokens, verbose=False).input_ids)
    if not ids:
        raise InputError(f"{where} has no tokens; write a text")
    needed = len(ids) + study.generation.new_tokens
    if needed > context_length:
        raise InputError(
            f"{where} has {len(ids)} tokens; with {study.generation.new_tokens} new ones it is over the model's "
            f"context of {context_length}; shorten it"
        )
    # An option's label directly follows the header of a template. After running text, a space comes before it.
    is_header = is_header or text[-1:].isspace() or text.endswith(tuple(filter(None, tokenizer.all_special_tokens)))
    labels = [
        tokenizer(option, add_special_tokens=False).input_ids
        if is_header
        else _continuation(tokenizer, text, f" {option}", ids, adds_special_tokens)
        for option in prompt.options
    ]
    firsts: dict[int, str] = {}
    for option, label in zip(prompt.options, labels, strict=True):
        if label[:1] in ([], [tokenizer.unk_token_id]):
            raise InputError(
                f"{where}: option {option!r} does not begin with a token of the model; use other characters"
            )
        begin = tokenizer.decode(label[:1])
        if "\ufffd" in begin:
            raise InputError(f"{where}: option {option!r} begins with part of a character; use labels like A and B")
        if (other := firsts.setdefault(label[0], option)) != option:
            fix = "use labels like A and B" if begin.strip() else "end the prompt's text with a line feed"
            raise InputError(f"{where}: options {other!r} and {option!r} begin with the same token, {begin!r}; {fix}")
    return TokenizedPrompt(prompt, ids, tuple(firsts))


def _continuation(
    tokenizer: Any,  # noqa: ANN401
    text: str,
    more: str,
    ids: tuple[int, ...],
    adds_special_tokens: bool,
) -> list[int]:
    """Return the tokens by which a longer text continues the `ids` of a shorter one.

    Some SentencePiece tokenizers put a space before every text; ` A` alone then begins with the token of a space.
    """
    whole: list[int] = tokenizer(text + more, add_special_tokens=adds_special_tokens, verbose=False).input_ids
    if tuple(whole[: len(ids)]) == ids:
        return whole[len(ids) :]
    return list(tokenizer(more, add_special_tokens=False).input_ids)


def _has_template(tokenizer: Any) -> bool:  # noqa: ANN401
    return bool(getattr(tokenizer, "chat_template", None))


def _in_template(prompt: Prompt, study: Study, tokenizer: Any) -> tuple[str, bool, bool]:  # noqa: ANN401
    """Return a prompt's text in its template, whether to add special tokens, and whether it ends with a header.

    A chat template contains its special tokens. The tokenizer adds its own to a text without a template, and to the
    text of a Jinja file unless it already begins with the beginning-of-text token.
    """
    template = prompt.template or study.template or ("chat" if _has_template(tokenizer) else "plain")
    where = f"study {study.name}: {prompt.what}"
    if template == "plain":
        return "\n\n".join(message["content"] for message in prompt.messages), True, False
    if template == "chat":
        text = messages_in_chat_template(tokenizer, prompt.messages, add_generation_prompt=True)
        if prompt.system is not None and prompt.system.strip() not in text:
            raise InputError(
                f"{where}: the model's chat template leaves `system` out; put it into the text, or give a Jinja file"
            )
        return text, False, True
    try:
        text = messages_in_template(template, tokenizer, prompt.messages)
    except TemplateFailedError as error:
        raise InputError(f"{where}: its Jinja template fails ({error}); fix it") from error
    first = getattr(tokenizer, "bos_token", None)
    return text, not (first and text.startswith(first)), False


def find_answer(prompt: Prompt, text: str) -> str | None:
    """Return the first match of the prompt's answer pattern in a generated text; None if there is no pattern or match.

    A number that answers a maths prompt is returned in its shortest form, as the prompt's gold is: $1,000.0 is 1000.

    Raises:
        InputError: the pattern takes too long.
    """
    try:
        match = BoundedRe.compile(prompt.answer_pattern).search(text) if prompt.answer_pattern else None
    except SlowPatternError as error:
        raise InputError(f"{prompt.what}: `answer_pattern`: {error}") from None
    answer: str | None = match[1] if match else None
    return (number_text(answer) or answer) if answer is not None and prompt.kind == "maths" else answer
