"""Messages in a chat template, the model's own or another, rendered in transformers' sandbox. No torch here."""

from collections.abc import Sequence
from typing import Any

from prunescope.pipelines.core.errors import InputError


class TemplateFailedError(Exception):
    """A template that cannot be rendered, such as one with an undefined function; the message is one line."""


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
    where = str(getattr(tokenizer, "name_or_path", "") or "model")
    try:
        return _rendered(str(tokenizer.get_chat_template()), tokenizer, messages, add_generation_prompt)
    except (TemplateFailedError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"{where}: the model's chat template fails ({reason}); fix or remove it") from error


def check_chat_template(tokenizer: Any) -> None:  # noqa: ANN401
    """Raise an InputError if a tokenizer's chat template is wrong or leaves the message out."""
    if not getattr(tokenizer, "chat_template", None):
        return
    message = "Why?"
    text = messages_in_chat_template(tokenizer, [{"role": "user", "content": message}], add_generation_prompt=True)
    if message not in text:
        where = str(getattr(tokenizer, "name_or_path", "") or "model")
        raise InputError(f"{where}: the model's chat template leaves the message out; fix or remove it")


def messages_in_template(template: str, tokenizer: Any, messages: Sequence[dict[str, str]]) -> str:  # noqa: ANN401
    """Return messages in a Jinja template; a system message comes first.

    Like a chat template, it reads `messages`, `add_generation_prompt` (here true) and the tokenizer's special tokens,
    such as `bos_token`. It also reads `text`, the last message, and `system`, empty if there is none.

    Raises:
        TemplateFailedError: the template is wrong.
    """
    system = messages[0]["content"] if messages[0]["role"] == "system" else ""
    return _rendered(template, tokenizer, messages, True, text=messages[-1]["content"], system=system)


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
