"""A model's chat template writes what transformers writes, and a wrong one ends in one line that names the model."""

import pytest
from pydantic import JsonValue

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.models.chat_template import messages_in_chat_template, set_template_arguments
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


@pytest.mark.parametrize(
    "template", ["\n  {% if flag %}\n yes\n{% endif %}", "{%- if flag -%} x {%- endif %}", "{{ flag }}"]
)
@pytest.mark.parametrize(
    "value",
    [True, False, None, 3, -0.5, 1e30, "low", "a\"'\\ é\n{{ x }}{% %} 🙂", [], [None, [True]], {"a": {"b": [1]}}],
)
def test_template_arguments_do_what_keywords_of_transformers_do(template: str, value: JsonValue) -> None:
    template += "{% for m in messages %}{{ m.content }}{{ flag if flag is not false else '' }}{% endfor %}"
    plain, given = tiny_tokenizer(), tiny_tokenizer()
    plain.chat_template = given.chat_template = template
    set_template_arguments(given, {"flag": value})
    messages = [{"role": "user", "content": "Why?"}]
    expected = plain.apply_chat_template(messages, tokenize=False, flag=value)
    assert messages_in_chat_template(given, messages, add_generation_prompt=False) == expected


def test_a_model_without_template_arguments_keeps_its_template() -> None:
    tokenizer = tiny_tokenizer()
    set_template_arguments(tokenizer, {})
    set_template_arguments(None, {"flag": True})  # a plan without the model's tokenizer
    assert tokenizer.chat_template == TEMPLATE


@pytest.mark.parametrize(
    ("template", "name", "problem"),
    [
        (TEMPLATE, "messag", "the model's chat template does not read 'messag'; correct the name, or leave it out"),
        ("{{ message }}", "messag", "the model's chat template does not read 'messag'; correct the name, or leave"),
        (None, "flag", "the model has no chat template; leave them out"),
        (TEMPLATE, "messages", "'messages' has its value from transformers or Jinja; leave it out"),
        (TEMPLATE, "tools", "'tools' has its value from transformers or Jinja; leave it out"),
        (TEMPLATE, "add_generation_prompt", "'add_generation_prompt' has its value from transformers or Jinja; leave"),
        ("{{ eos_token }}", "eos_token", "'eos_token' has its value from transformers or Jinja; leave it out"),
        ("{% if true %}{% endif %}", "true", "'true' has its value from transformers or Jinja; leave it out"),
        ("{% if not x %}{% endif %}", "not", "'not' has its value from transformers or Jinja; leave it out"),
    ],
)
def test_an_argument_that_cannot_be_set_is_refused(template: object, name: str, problem: str) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template, tokenizer.name_or_path = template, "my-model"
    with pytest.raises(InputError, match=rf"^my-model: `template_arguments`: {problem}[^\n]*$"):
        set_template_arguments(tokenizer, {name: True})
    assert tokenizer.chat_template == template
