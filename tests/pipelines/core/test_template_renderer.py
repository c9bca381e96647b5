"""Tests that templates end within limits of time, memory and length, with a message of one line."""

import os
from collections.abc import Iterator

import pytest

from prunescope.pipelines.core import template_renderer
from prunescope.pipelines.core.template_renderer import TemplateFailedError, render

CHAT = {"conversations": [[{"role": "user", "content": "Why?"}]], "add_generation_prompt": True}
NESTED_LOOPS = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"


@pytest.fixture
def _hurried(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Workers of this test that stop after a second."""
    monkeypatch.setattr(template_renderer, "SECONDS", 1)
    template_renderer._worker.cache_clear()
    yield
    for kind in ("chat", "task"):
        template_renderer._worker(kind, os.getpid())._stop()
    template_renderer._worker.cache_clear()


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{% include 'a' %}", "no loader"),
        ("{% for i in range(10**9) %}{% endfor %}", "Range too big"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "calls itself without end"),
        ("{{ 'a' * 10**9 }}", "too much memory"),
        ("{{ '%1000000000d' % 1 }}", "too much memory"),
        ("{{ '{:1000000000}'.format(1) }}", "too much memory"),
        ("{{ 'a'.ljust(10**9) }}", "too much memory"),
        ("{% set n = namespace(x='a') %}{% for i in range(40) %}{% set n.x = n.x ~ n.x %}{% endfor %}", "memory"),
        ("{{ 'a' * 10000001 }}", "writes over 10,000,000 characters"),
        ("{{ messages.append(1) }}", "unsafe"),
        ("{{ raise_exception('no\nway') }}", "^no$"),
        ("{% if", "unexpected 'end of template'"),
        ("{{ '\\ud800' }}", "surrogates not allowed"),
    ],
)
def test_a_template_that_asks_for_too_much_fails_with_its_reason(template: str, reason: str) -> None:
    with pytest.raises(TemplateFailedError, match=reason):
        render("chat", template, CHAT)
    assert render("chat", "{{ messages[0].content }}!", CHAT) == "Why?!", "the next template is rendered again"


@pytest.mark.usefixtures("_hurried")
@pytest.mark.parametrize(
    ("kind", "template"), [("chat", NESTED_LOOPS), ("task", NESTED_LOOPS), ("task", "{{ 9 ** (9 ** 9) }}")]
)
def test_a_template_that_takes_too_long_is_stopped(kind: template_renderer.Kind, template: str) -> None:
    variables = CHAT if kind == "chat" else {"n": 99999}
    with pytest.raises(TemplateFailedError, match="over 1 seconds or 512 MiB"):
        render(kind, template, variables)
    assert render(kind, "{{ 1 + 1 }}", variables) == "2"


def test_a_template_of_a_task_knows_lm_evals_filter_and_refuses_unknown_names() -> None:
    assert render("task", "{{ q | regex_replace('b+', 'x') }}\n", {"q": "abbc é"}) == "axc é\n"
    for template, reason in (("{{ other }}", "'other' is undefined"), ("{{ q.__class__ }}", "unsafe")):
        with pytest.raises(TemplateFailedError, match=reason):
            render("task", template, {"q": ""})


def test_a_process_that_dies_is_replaced_and_knows_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    worker = template_renderer._Worker("task")
    worker.ask('["", {}]')
    assert worker._process is not None
    with open(f"/proc/{worker._process.pid}/environ", "rb") as environment:  # noqa: PTH123 - no size
        assert b"secret" not in environment.read()
    worker._process.kill()
    worker._process.wait()
    assert worker.ask('["{{ 1 }}", {}]') == {"text": "1"}
    worker._stop()
