"""Tests that the tokens of a prompt are those of its template, turns or ids, and that a model refuses other ones."""

from typing import Any

import pytest

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.evaluation.tokenization.prompts import TokenizedPrompt, tokenize_prompts
from tests.pipelines.tiny_study import study_of
from tests.tiny_models import tiny_tokenizer

TURNS = [
    {"role": "user", "content": "Hi."},
    {"role": "assistant", "content": "Yes?"},
    {"role": "user", "content": "Why?"},
]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return tiny_tokenizer()


@pytest.fixture(scope="module")
def base() -> Any:
    """Return the tokenizer of a model without a chat template, which puts a token before every text."""
    from tokenizers.processors import TemplateProcessing

    found = tiny_tokenizer()
    found.chat_template = None
    found.add_special_tokens({"bos_token": "<|start|>"})
    found.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|start|> $A", special_tokens=[("<|start|>", found.convert_tokens_to_ids("<|start|>"))]
    )
    return found


def tokenized(tokenizer: Any, template: str | None = None, own: str | None = None, **keys: Any) -> TokenizedPrompt:
    prompt = {"id": "a", "origin": "p.jsonl, line 7", "template": own, **keys}
    study = study_of(template=template, prompts=[prompt], generation={"new_tokens": 2})
    return tokenize_prompts(study, tokenizer, 128)[0]


def test_chat_is_what_transformers_writes_of_all_turns(tokenizer: Any) -> None:
    messages = [{"role": "system", "content": "Be brief."}, *TURNS]
    expected = tokenizer.apply_chat_template(messages, tokenize=True, add_generation_prompt=True, return_dict=False)
    for template in (None, "chat"):
        found = tokenized(tokenizer, template, system="Be brief.", turns=TURNS)
        assert list(found.ids) == expected
        assert found.prompt.text == "Why?"


def test_plain_is_the_default_of_a_model_without_a_template_and_gets_its_first_token(tokenizer: Any, base: Any) -> None:
    for found in (tokenized(base, text="Why?"), tokenized(base, "plain", text="Why?")):
        assert list(found.ids) == [1, *base("Why?", add_special_tokens=False).input_ids]
    assert list(tokenized(tokenizer, "plain", text="Why?").ids) == tokenizer("Why?").input_ids
    several = tokenized(tokenizer, "plain", system="Be brief.", turns=TURNS)
    assert tokenizer.decode(several.ids) == "Be brief.\n\nHi.\n\nYes?\n\nWhy?"


def test_the_template_of_a_prompt_counts_before_that_of_the_study(tokenizer: Any) -> None:
    plain = tokenized(tokenizer, "plain", text="Why?")
    assert tokenized(tokenizer, "chat", text="Why?", own="plain").ids == plain.ids


def test_a_jinja_file_reads_text_system_messages_and_special_tokens(base: Any) -> None:
    template = "{{ system }}|{% for m in messages %}{{ m.role[0] }}:{{ m.content }};{% endfor %}\nQ: {{ text }}\nA:\n"
    # A template's block takes the line feed behind it along, as in transformers.
    expected = "Be brief.|s:Be brief.;u:Hi.;a:Yes?;u:Why?;Q: Why?\nA:"
    found = tokenized(base, template, system="Be brief.", turns=TURNS)
    assert list(found.ids) == [1, *base(expected, add_special_tokens=False).input_ids]
    # The first token is not put before the template's own.
    own = tokenized(base, "{{ bos_token }}Q: {{ text }}", text="Why?")
    assert list(own.ids) == [1, *base("Q: Why?", add_special_tokens=False).input_ids]


def test_token_ids_are_read_as_they_are(tokenizer: Any) -> None:
    ids = tokenizer("Why <|end|>").input_ids
    found = tokenized(tokenizer, "chat", ids=ids)
    assert list(found.ids) == ids
    assert found.prompt.text == "Why <|end|>"
    assert tokenized(tokenizer, ids=ids, text="mine").prompt.text == "mine"


@pytest.mark.parametrize(
    ("template", "text", "before"),
    [("chat", "Which?", ""), ("plain", "Which?", " "), ("plain", "Which?\n", ""), ("{{ text }}\nAnswer:", "?", " ")],
)
def test_an_options_label_follows_a_header_directly_and_words_after_a_space(
    tokenizer: Any, template: str, text: str, before: str
) -> None:
    found = tokenized(tokenizer, template, text=text, options=["the", "is"])
    assert found.option_ids == tuple(tokenizer(before + option).input_ids[0] for option in ("the", "is"))


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("?", ["B", "A1", "A2"], "options 'A1' and 'A2' begin with the same token, 'A'; use labels like A and B"),
        # In this tokenizer, a space before a capital letter is a token of its own.
        ("? ", ["A", "Ä"], "option 'Ä' begins with part of a character; use labels like A and B"),
        ("?", ["ሀ", "ቀ"], "option 'ሀ' begins with part of a character; use labels like A and B"),
    ],
)
def test_options_whose_first_tokens_do_not_tell_them_apart_are_named(
    tokenizer: Any, text: str, options: list[str], message: str
) -> None:
    with pytest.raises(InputError) as refusal:
        tokenized(tokenizer, text=text, options=options)
    assert str(refusal.value).startswith(f"study s: prompt 'a' (p.jsonl, line 7): {message}")
    with pytest.raises(
        InputError, match="'A' and 'B' begin with the same token, ' '; end the prompt's text with a lin"
    ):
        tokenized(tokenizer, "plain", text="Which?", options=["A", "B"])
    assert tokenized(tokenizer, "plain", text="Which?\n", options=["A", "B"]).option_ids


@pytest.mark.parametrize(
    ("template", "keys", "message"),
    [
        (None, {"text": "word " * 200}, "prompt 'a' (p.jsonl, line 7) has "),
        (None, {"ids": [1] * 127}, "prompt 'a' (p.jsonl, line 7) has 127 tokens; with 2 new ones it is over"),
        (
            None,
            {"ids": [1, 300]},
            "prompt 'a' (p.jsonl, line 7): `ids` holds 300, but the model has 300 tokens, from 0",
        ),
        ("{{ question }}", {"text": "Why?"}, "`template`: the Jinja file leaves the prompt out; write {{ text }}"),
        ("{{ text ", {"text": "Why?"}, "`template`: the Jinja file fails (unexpected end of template"),
        (
            "{% if text == 'Why?' %}{{ raise_exception('no') }}{% endif %}{{ text }}",
            {"text": "Why?"},
            "prompt 'a' (p.jsonl, line 7): its Jinja template fails (no); fix it",
        ),
    ],
)
def test_a_prompt_that_the_model_cannot_read_is_named_with_its_line(
    tokenizer: Any, template: str | None, keys: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError) as refusal:
        tokenized(tokenizer, template, **keys)
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("option", ["Zürich", "ß"])
def test_an_option_that_begins_with_no_token_of_the_vocabulary_is_refused_by_its_name(option: str) -> None:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.WordLevel({"?": 0, "Pick": 1, "Rome": 2, "Paris": 3}, "?"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.normalizer = normalizers.Replace("ß", "")  # leaves no token at all
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="?")
    assert tokenizer(option).input_ids in ([0], [])
    for text in ("Pick", "Pick\n"):
        assert tokenized(tokenizer, text=text, options=["Rome", "Paris"]).option_ids == (2, 3)
        with pytest.raises(InputError) as refusal:
            tokenized(tokenizer, text=text, options=["Rome", option])
        assert str(refusal.value) == (
            f"study s: prompt 'a' (p.jsonl, line 7): option {option!r} does not begin with a token of the model; "
            "use other characters"
        )


def test_chat_needs_a_chat_template_and_one_that_keeps_the_system(base: Any) -> None:
    with pytest.raises(InputError, match="`template: chat`, but the model has no chat template; write `plain` or"):
        tokenized(base, "chat", text="Why?")
    deaf = tiny_tokenizer()
    deaf.chat_template = "{{ messages[-1].content }}"
    with pytest.raises(InputError, match="chat template leaves `system` out; put it into the text"):
        tokenized(deaf, "chat", text="Why?", system="Be brief.")


def test_a_space_that_a_tokenizer_puts_before_every_text_is_no_part_of_a_label() -> None:
    """As the legacy tokenizers of Llama 2 do."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.WordLevel({"?": 0, "\u2581": 1, "\u2581Pick": 2, "\u2581A": 3, "\u2581B": 4}, "?"))
    inner.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    inner.pre_tokenizer = pre_tokenizers.Split(Regex("\u2581"), "merged_with_next")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="?")
    assert tokenizer(" A").input_ids == [1, 3]
    found = tokenized(tokenizer, "plain", text="Pick", kind="choice", options=["A", "B"])
    assert (found.ids, found.option_ids) == ((2,), (3, 4))
