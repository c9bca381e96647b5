"""A model's chat template writes what transformers writes, and a wrong one ends in one line that names the model."""

import pytest

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.models.chat_template import messages_in_chat_template
from tests.tiny_models import TEMPLATE, tiny_tokenizer

# What published templates use: special tokens, namespaces, loop controls, JSON, today's year.
RICH = (
    "{%- set ns = namespace(n=0) -%}{{ bos_token }}{% for m in messages %}{% if loop.index > 9 %}{% break %}{% endif %}"
    "{% set ns.n = ns.n + 1 %}{{ eos_token ~ m.role | upper }}: {{ m | tojson }}{% generation %}x{% endgeneration %}"
    "{{ strftime_now('%Y') }}{{ ns.n }}{% endfor %}\n"
)


@pytest.mark.parametrize("template", [TEMPLATE, RICH])
@pytest.mark.parametrize("add", [True, False])
def test_the_text_is_that_of_transformers(template: str, add: bool) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    for text in ("Why? é \"'<|end|>", "two\nlines "):
        messages = [{"role": "user", "content": text}]
        expected = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=add)
        assert messages_in_chat_template(tokenizer, messages, add_generation_prompt=add) == expected


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "it calls itself without end"),
        ("{% for i in range(10**9) %}{% endfor %}", "Range too big"),
        ("{{ messages.append(1) }}", "unsafe"),
        ("{{ messages.__class__.__mro__ }}", "unsafe"),
        ("{% include 'a' %}", "no loader"),
        ("{{ raise_exception('no\nway') }}", r"\(no\)"),
        ("{% if", "unexpected 'end of template'"),
        ("{{ '\\ud800' }}", "surrogates not allowed"),
        ({"other": "x"}, "no default was found|default"),
    ],
)
def test_a_template_that_fails_is_told_in_one_line(template: object, reason: str) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    with pytest.raises(InputError, match=rf"the model's chat template fails .*({reason}).*; fix or") as caught:
        messages_in_chat_template(tokenizer, [{"role": "user", "content": "Why?"}], add_generation_prompt=True)
    assert "\n" not in str(caught.value)
