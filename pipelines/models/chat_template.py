"""Texts as a user's message in a model's own chat template, which is rendered with limits. No torch here."""

from typing import Any

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.core.template_renderer import TemplateFailedError, render


def in_chat_template(tokenizer: Any, text: str, *, add_generation_prompt: bool) -> str:  # noqa: ANN401
    """Return a text as a user's message in the chat template of a tokenizer that has one.

    Args:
        tokenizer: any tokenizer.
        text: the message.
        add_generation_prompt: whether the beginning of the answer follows.

    Raises:
        InputError: the template is wrong, or exceeds a limit of time, memory or length.
    """
    where = str(getattr(tokenizer, "name_or_path", "") or "model")
    try:
        variables = {
            **tokenizer.special_tokens_map,
            "conversations": [[{"role": "user", "content": text}]],
            "add_generation_prompt": add_generation_prompt,
        }
        return render("chat", str(tokenizer.get_chat_template()), variables)
    except (TemplateFailedError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"{where}: the model's chat template fails ({reason}); fix or remove it") from error
