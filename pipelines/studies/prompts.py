"""Prompts of a study (a text, several turns or token ids, with the right answer) and sets of them. No torch here."""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, StrictInt, field_validator, model_validator

from prunescope.pipelines.core.frozen_model import NAME, FrozenModel
from prunescope.pipelines.corpora.hub_datasets import PREFIX, TEXT_SOURCE

Kind = Literal["maths", "open", "choice"]
KINDS: tuple[Kind, ...] = ("maths", "open", "choice")
BUILT_IN_TEMPLATES = ("chat", "plain")
# Most prompts of a study: each one costs a forward pass of every variant, and all are in memory.
MAX_PROMPTS = 10_000
FIELD = Annotated[str, Field(min_length=1, max_length=200)]
FIELDS = Annotated[tuple[FIELD, ...], BeforeValidator(lambda names: (names,) if isinstance(names, str) else names)]
_NUMBER = re.compile(r"([-−+]?) ?[$€£]? ?([0-9]+(?:(?:,[0-9]{2})*,[0-9]{3})*)?(?:\.([0-9]+))? ?%?\.?")
_LONGEST_NUMBER = 100


def number_text(text: str) -> str | None:
    """Return the shortest form of a number (1000 for `$1,000.0`), in which equal numbers are equal texts, or None."""
    text = text.strip()
    match = _NUMBER.fullmatch(text) if len(text) <= _LONGEST_NUMBER else None
    if match is None or not (match[2] or match[3]):
        return None
    whole, fraction = (match[2] or "").replace(",", "").lstrip("0") or "0", (match[3] or "").rstrip("0")
    number = f"{whole}.{fraction}" if fraction else whole
    return f"-{number}" if match[1] in {"-", "−"} and number != "0" else number


def _whole(text: str) -> str:
    """Return the text; ValueError if it holds half of a surrogate pair, which files and tokenizers refuse."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"character {error.start + 1} is half of a surrogate pair; write the whole character"
        ) from None
    return text


def _template(template: str) -> str:
    """Return `chat`, `plain` or the text of a Jinja template; ValueError for anything else."""
    if template not in BUILT_IN_TEMPLATES and "{{" not in template and "{%" not in template:
        shown = template if len(template) <= 80 else f"{template[:80]}…"
        raise ValueError(f"{shown!r} is not `chat`, `plain` or a Jinja file, which contains {{{{ text }}}}")
    return template


TEXT = Annotated[str, AfterValidator(_whole)]
TEMPLATE = Annotated[str, AfterValidator(_template)]


class Turn(FrozenModel):
    """One message of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: TEXT

    @field_validator("content")
    @classmethod
    def _not_empty(cls, content: str) -> str:
        if not content.strip():
            raise ValueError("the turn is empty; write its text, or leave the turn out")
        return content


class Prompt(FrozenModel):
    """One probe prompt.

    Attributes:
        id: name in every table; in a study's YAML made from the prompt's position by default.
        kind: maths, open or choice; follows from `options` and `gold` by default.
        text: the user's message, which is put into the template; with several turns, the last one.
        options: labels of a multiple choice.
        gold: right answer, compared with the match of `answer_pattern`; for maths, the number in its shortest form.
        answer_pattern: regular expression with one group that finds the answer in the generated text.
        system: the system's message before all turns.
        turns: alternating messages of user and assistant, instead of `text`; `messages` is another name for it.
        ids: token ids that are used unchanged, instead of `text`.
        template: `chat`, `plain` or the text of a Jinja template; None takes the study's. In a study's YAML, a Jinja
            template is given by the path of its file.
        origin: file and line of the prompt, for messages; not part of any hash.
    """

    id: NAME = Field(examples=["sky"])
    kind: Kind
    text: TEXT = Field(default="", examples=["Why is the sky blue?"])
    options: tuple[TEXT, ...] = Field(default=(), examples=[["A", "B"]])
    gold: TEXT | None = Field(default=None, examples=["A"])
    answer_pattern: str | None = None
    system: TEXT | None = None
    turns: tuple[Turn, ...] = ()
    ids: tuple[Annotated[StrictInt, Field(ge=0, lt=2**31)], ...] = Field(default=(), examples=[[1, 529, 25]])
    template: TEMPLATE | None = None
    origin: str = ""

    @model_validator(mode="before")
    @classmethod
    def _completed(cls, fields: Any) -> Any:  # noqa: ANN401 (any YAML)
        """Fill kind, text and system from the other fields."""
        if not isinstance(fields, dict):
            return fields
        fields = dict(fields)
        if "messages" in fields:
            if "turns" in fields:
                raise ValueError("`messages` is another name for `turns`; leave one of them out")
            fields["turns"] = fields.pop("messages")
        turns = fields.get("turns")
        if isinstance(turns, (list, tuple)) and turns and isinstance(turns[0], dict):
            if turns[0].get("role") == "system":
                if fields.get("system") is not None:
                    raise ValueError("the first of `turns` is the system's, and `system` is another one; leave one out")
                fields["system"], turns = turns[0].get("content"), turns[1:]
                fields["turns"] = turns
            if turns and isinstance(turns[-1], dict) and "text" not in fields:
                fields["text"] = turns[-1].get("content")
        if "kind" not in fields:
            gold = fields.get("gold")
            is_number = isinstance(gold, str) and number_text(gold) is not None
            fields["kind"] = "choice" if fields.get("options") else "maths" if is_number else "open"
        return fields

    @field_validator("answer_pattern")
    @classmethod
    def _one_group(cls, pattern: str | None) -> str | None:
        if pattern is not None:
            from prunescope.pipelines.core.bounded_regex import (
                BoundedPattern,
            )  # imported late, because few commands need it

            if BoundedPattern(pattern).groups != 1:
                raise ValueError("the pattern needs exactly one group: the answer")
        return pattern

    @field_validator("gold")
    @classmethod
    def _shortest_number(cls, gold: str | None, info: Any) -> str | None:  # noqa: ANN401 (pydantic's)
        return (number_text(gold) or gold) if gold is not None and info.data.get("kind") == "maths" else gold

    @model_validator(mode="after")
    def _is_one_input(self) -> Self:
        if self.ids:
            if others := [key for key in ("system", "turns", "template") if getattr(self, key)]:
                raise ValueError(f"`ids` are all tokens of the prompt; leave out `{others[0]}`")
        elif not self.text.strip():
            raise ValueError("the prompt is empty; write a question for the model")
        if self.system is not None and not self.system.strip():
            raise ValueError("`system` is empty; leave it out")
        if self.turns:
            roles = [turn.role for turn in self.turns]
            if roles[-1] != "user" or "system" in roles:
                raise ValueError("the last of `turns` must be the user's; only the first can be the system's")
            if self.text != self.turns[-1].content:
                raise ValueError("`text` differs from the last of `turns`; leave one of them out")
        return self

    @model_validator(mode="after")
    def _options_belong_to_a_choice(self) -> Self:
        if (self.kind == "choice") != bool(self.options):
            raise ValueError("a prompt of kind `choice` needs `options`, and other kinds have none")
        if len(self.options) == 1:
            raise ValueError(f"`options` holds {self.options[0]!r} alone; list two or more, or leave `options` out")
        if repeated := [option for option in self.options if self.options.count(option) > 1]:
            raise ValueError(f"option {repeated[0]!r} is listed twice; leave one of them out, or write another")
        if self.options and self.gold is not None and self.gold not in self.options:
            raise ValueError(f"`gold` {self.gold!r} is not among the options")
        return self

    @property
    def messages(self) -> list[dict[str, str]]:
        """Return all messages, the system's first, in the form that templates read."""
        system = [Turn(role="system", content=self.system)] if self.system is not None else []
        turns = self.turns or (Turn(role="user", content=self.text),)
        return [turn.model_dump() for turn in (*system, *turns)]

    @property
    def what(self) -> str:
        """Return the prompt's name for messages, with file and line if known."""
        return f"prompt {self.id!r}" + (f" ({self.origin})" if self.origin else "")

    def contents(self, template: str | None) -> dict[str, Any]:
        """Return the fields that change tokens or answers, by name, if they are set; `template` is the study's."""
        optional = {
            "system": self.system,
            "turns": [turn.model_dump() for turn in self.turns],
            "ids": list(self.ids),
            "template": None if self.ids else self.template or template,
        }
        always = self.model_dump(include={"id", "kind", "text", "options", "gold", "answer_pattern"})
        return always | {key: value for key, value in optional.items() if value}


class PromptSet(FrozenModel):
    """Prompts from a file, a shipped set or a data set.

    Attributes:
        source: `maths`, `open`, `choice`, `gsm8k` (the same as `maths`), `arc_challenge`, `openbookqa`, `boolq`, the
            path of a .jsonl, .json, .csv, .tsv, .parquet or .txt file, or `hf:NAME[:CONFIG]:SPLIT[:TEXT]` (its first
            10,000 rows).
        name: beginning of the ids that are made; by default the name of the shipped set or file.
        samples: prompts to draw without replacement; None takes all.
        seed: seed of the draw.
        kind: kind of all prompts; follows from options and gold by default.
        text: field with the user's message. This field and the next three are found by their usual names by default.
        id: field with the prompt's id; false makes all ids from the lines.
        gold: field with the right answer: a number, the text after `####`, or an option's index from 0, letter or text.
        options: field with the list of options (texts or letters), or one field per option.
        system: the system's message for prompts that have none.
        template: template of prompts that have none.
        answer_pattern: pattern of prompts that have none; by default the last number for maths, and the first letter
            that names an option for a choice.
    """

    source: TEXT_SOURCE = Field(examples=["maths"])
    name: NAME | None = Field(default=None, examples=["my-set"])
    samples: int | None = Field(default=None, ge=1, le=MAX_PROMPTS, examples=[30])
    seed: int = Field(default=0, ge=0, lt=2**63)
    kind: Kind | None = None
    text: FIELD | None = None
    id: Annotated[str, Field(max_length=200)] | None = None
    gold: FIELD | None = None
    options: FIELDS = ()
    system: str | None = None
    template: TEMPLATE | None = None
    answer_pattern: str | None = None

    @field_validator("id", mode="before")
    @classmethod
    def _may_be_false(cls, name: object) -> object:
        return "" if name is False else name

    @model_validator(mode="after")
    def _options_are_of_a_choice(self) -> "PromptSet":
        if self.options and self.kind not in {None, "choice"}:
            raise ValueError(f"`options` names a field, but `kind` is {self.kind}; leave one of them out")
        return self

    @property
    def text_field(self) -> str | None:
        """Return the field with the message, if the study names it."""
        parts = self.source.split(":")
        is_named = self.source.startswith(PREFIX) and len(parts) == 5
        return self.text or (parts[4] if is_named else None)
