"""Messages in a chat template, the model's own or another, rendered in transformers' sandbox. No torch here."""

import keyword
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import JsonValue

from prunescope.pipelines.core.errors import InputError

# What transformers passes to every chat template, and Jinja's words; a tokenizer adds its special tokens.
_GIVEN = {"messages", "tools", "documents", "add_generation_prompt", "raise_exception", "strftime_now"}
_GIVEN |= {"true", "false", "none", *keyword.kwlist}


class TemplateFailedError(Exception):
    """A template that cannot be rendered, such as one with an undefined function; the message is one line."""


def set_template_arguments(tokenizer: Any, arguments: Mapping[str, JsonValue]) -> None:  # noqa: ANN401
    """Set variables at the beginning of a tokenizer's chat template, so that every rendering has them.

    Raises:
        InputError: the template does not read one of the variables, gets it from transformers, or does not exist.
    """
    if tokenizer is None or not arguments:
        return
    template = tokenizer.get_chat_template() if getattr(tokenizer, "chat_template", None) else ""
    for name in arguments:
        if not template:
            problem = "the model has no chat template; leave them out"
        elif name in _GIVEN or name in tokenizer.special_tokens_map:
            problem = f"{name!r} has its value from transformers or Jinja; leave it out"
        elif not re.search(rf"\b{name}\b", template):
            problem = f"the model's chat template does not read {name!r}; correct the name, or leave it out"
        else:
            continue
        raise InputError(f"{_place(tokenizer)}: `template_arguments`: {problem}")
    # A block and its line feed leave nothing in the text. Jinja reads JSON's values as Python writes them.
    lines = [f"{{% set {name} = {value!r} %}}\n" for name, value in arguments.items()]
    tokenizer.chat_template = "".join([*lines, template])


def messages_in_chat_template(
    tokenizer: Any,  # noqa: ANN401
    messages: Sequence[dict[str, str]],
    *,
    add_generation_prompt: bool,
) -> str:
    """Return messages in the chat template of a tokenizer that has one; a system message comes first.

    `add_generation_prompt` appends the beginning of the answer.

    Raises:
        InputError: the template is wrong.
    """
    try:
        return _rendered(str(tokenizer.get_chat_template()), tokenizer, messages, add_generation_prompt)
    except (TemplateFailedError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(
            f"{_place(tokenizer)}: the model's chat template fails ({reason}); fix or remove it"
        ) from error


def check_chat_template(tokenizer: Any) -> None:  # noqa: ANN401
    """Raise an InputError if a tokenizer's chat template is wrong or leaves the message out."""
    if not getattr(tokenizer, "chat_template", None):
        return
    message = "Why?"
    text = messages_in_chat_template(tokenizer, [{"role": "user", "content": message}], add_generation_prompt=True)
    if message not in text:
        raise InputError(f"{_place(tokenizer)}: the model's chat template leaves the message out; fix or remove it")


def messages_in_template(template: str, tokenizer: Any, messages: Sequence[dict[str, str]]) -> str:  # noqa: ANN401
    """Return messages in a Jinja template; a system message comes first.

    Like a chat template, it reads `messages`, `add_generation_prompt` (here true) and the tokenizer's special tokens,
    such as `bos_token`. It also reads `text`, the last message, and `system`, empty if there is none.

    Raises:
        TemplateFailedError: the template is wrong.
    """
    system = messages[0]["content"] if messages[0]["role"] == "system" else ""
    return _rendered(template, tokenizer, messages, True, text=messages[-1]["content"], system=system)


def _place(tokenizer: Any) -> str:  # noqa: ANN401
    return str(getattr(tokenizer, "name_or_path", "") or "model")


def _rendered(
    template: str,
    tokenizer: Any,  # noqa: ANN401
    messages: Sequence[dict[str, str]],
    add_generation_prompt: bool,
    **variables: str,
) -> str:
    arguments = {
        **tokenizer.special_tokens_map,
        "conversations": [list(messages)],
        "add_generation_prompt": add_generation_prompt,
        **variables,
    }
    try:
        from transformers.utils.chat_template_utils import render_jinja_template

        text = str(render_jinja_template(chat_template=template, **arguments)[0][0])
        text.encode()  # fails for half a surrogate pair
    except RecursionError as error:
        raise TemplateFailedError("it calls itself without end, or is nested too deep") from error
    except Exception as error:  # a template may raise anything
        raise TemplateFailedError((str(error).strip() or type(error).__name__).splitlines()[0][:300]) from error
    return text
