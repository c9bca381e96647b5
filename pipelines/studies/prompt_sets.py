"""Prompt sets of a study: records of a file, a shipped set or a data set become prompts. No torch here."""

import json
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import islice
from typing import Annotated, Any, cast

from pydantic import Field, ValidationError, field_validator, model_validator

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.core.frozen_model import NAME, SOURCE, FrozenModel
from prunescope.pipelines.core.regular_files import local_path, read_regular
from prunescope.pipelines.core.validation_errors import first_problem
from prunescope.pipelines.corpora.hub_datasets import PREFIX, split_source
from prunescope.pipelines.corpora.records import (
    SHIPPED,
    Record,
    draw,
    read_records,
    require_unambiguous,
    set_name,
    source_state,
)
from prunescope.pipelines.studies.prompts import BUILT_IN_TEMPLATES, KINDS, Kind, Prompt, number_text, require_template

# Of a study: every one of them costs a forward pass of every variant, and all are in memory.
MAX_PROMPTS = 10_000
MAX_TEMPLATE_BYTES = 1_000_000
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
# Usual names of fields, the first one present counts; capitals do not matter.
_USUAL = {
    "text": ("question", "prompt", "text", "query", "instruction", "input", "question_stem", "problem", "ctx"),
    "id": ("id", "prompt_id", "question_id", "task_id"),
    "gold": ("gold", "answer", "label", "target", "solution", "answerkey", "answer_key"),
    "options": ("choices", "options", "endings"),
    "system": ("system", "system_prompt"),
    "turns": ("turns", "messages"),
    "ids": ("ids", "input_ids", "token_ids", "prompt_token_ids"),
}
# The last number of a text; a minus behind a digit is an operator.
LAST_NUMBER = r"(?s)\A.*((?:(?<![0-9.,])-|(?<![0-9.,-])|(?<=[0-9]-))[0-9][0-9,]*(?:\.[0-9]+)?)"

FIELD = Annotated[str, Field(min_length=1, max_length=200)]


class PromptSet(FrozenModel):
    """Prompts from a file, a shipped set or a data set.

    Attributes:
        source: `maths`, `open`, `choice`, `gsm8k` (the same as `maths`), `arc_challenge`, `openbookqa`, `boolq`, the
            path of a .jsonl, .json, .csv, .tsv, .parquet or .txt file, or `hf:NAME[:CONFIG]:SPLIT[:TEXT]` (the first
            10,000 rows of it).
        name: beginning of the ids that are made; the name of the shipped set or the file by default.
        samples: prompts to draw without replacement; None takes all.
        seed: of the draw.
        kind: of all prompts; made from options and gold by default.
        text: field with the user's message; found by its usual names by default, and so are the next three.
        id: field with the prompt's name; false makes all of them from the line.
        gold: field with the right answer: a number, the text after `####`, or an option's index from 0, letter or text.
        options: field with the list of options (texts or letters), or one field for each option.
        system: message of the system for prompts that have none of their own.
        template: of prompts that have none of their own.
        answer_pattern: of prompts that have none of their own; for maths the last number by default, for a choice the
            first letter of an option.
    """

    source: SOURCE
    name: NAME | None = None
    samples: int | None = Field(default=None, ge=1, le=MAX_PROMPTS)
    seed: int = Field(default=0, ge=0, lt=2**63)
    kind: Kind | None = None
    text: FIELD | None = None
    id: Annotated[str, Field(max_length=200)] | None = None
    gold: FIELD | None = None
    options: tuple[FIELD, ...] = ()
    system: str | None = None
    template: str | None = None
    answer_pattern: str | None = None

    _template = field_validator("template")(require_template)

    @field_validator("id", mode="before")
    @classmethod
    def _may_be_false(cls, name: object) -> object:
        return "" if name is False else name

    @field_validator("options", mode="before")
    @classmethod
    def _may_be_one(cls, names: object) -> object:
        return (names,) if isinstance(names, str) else names

    @field_validator("source")
    @classmethod
    def _has_a_form(cls, source: str) -> str:
        if source.startswith(PREFIX):
            split_source(source)
        return source

    @model_validator(mode="after")
    def _options_are_of_a_choice(self) -> "PromptSet":
        if self.options and self.kind not in {None, "choice"}:
            raise ValueError(f"`options` names a field, but `kind` is {self.kind}; leave one of them out")
        return self

    @property
    def text_field(self) -> str | None:
        """Return the field with the message that the study names."""
        parts = self.source.split(":")
        is_named = self.source.startswith(PREFIX) and len(parts) == 5
        return self.text or (parts[4] if is_named else None)


def resolve_prompts(entries: object, where: str, *, is_shipped: bool = False) -> object:
    """Return the prompts of a study's `prompts`, with those of every set in place of the set.

    Args:
        entries: what the YAML holds: a list of prompts, sets and names of sets, or one set.
        where: the study's file, for messages.
        is_shipped: whether the study is the package's: its sets are then those of the package, whatever files are here.

    Raises:
        InputError: an entry, a file or a record is wrong; names file, line, field and fix.
    """
    if entries is None:
        return ()
    if isinstance(entries, (str, dict)):
        entries = [entries]
    if not isinstance(entries, list):
        raise InputError(f"{where}: `prompts`: not a list of prompts and sets; begin each entry with `- `")
    prompts: list[Prompt] = []
    for index, entry in enumerate(entries):
        key = f"{where}: `prompts.{index}"
        fields = {"source": entry} if isinstance(entry, str) else entry
        if isinstance(fields, dict) and fields.get("template") is not None:
            fields = fields | {"template": read_template(fields["template"], f"{key}.template`")}
        try:
            if isinstance(fields, dict) and "source" in fields:
                prompts += _set_prompts(PromptSet.model_validate(fields), f"{key}`", is_shipped)
            else:
                prompts.append(Prompt.model_validate(fields))
        except ValidationError as error:
            model = PromptSet if isinstance(fields, dict) and "source" in fields else Prompt
            location, message = first_problem(error, model)
            raise InputError(f"{'.'.join([key, *map(str, location)])}`: {message}") from error
        if len(prompts) > MAX_PROMPTS:
            raise InputError(f"{key}`: over {MAX_PROMPTS:,} prompts in the study; lower `samples`")
    _require_unique(prompts, where)
    return prompts


def read_template(template: object, key: str) -> object:
    """Return `chat`, `plain`, or the text of the Jinja file that a key names.

    Raises:
        InputError: the file cannot be read or holds no template.
    """
    if not isinstance(template, str) or template in BUILT_IN_TEMPLATES:
        return template
    try:
        path = local_path(template, "template")
        text = read_regular(path, MAX_TEMPLATE_BYTES, "a template").removeprefix("\ufeff")
    except InputError as error:
        raise InputError(f"{key}: {error}") from error
    except OSError as error:
        raise InputError(
            f"{key}: {path}: {error.strerror}; give `chat`, `plain` or the path of a Jinja file"
        ) from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise InputError(f"{key}: {path}, line {line}: not UTF-8 text; save it as UTF-8") from error
    if "{{" not in text and "{%" not in text:
        raise InputError(f"{key}: {path}: no Jinja template; write {{{{ text }}}} where the prompt's text belongs")
    return text


def _set_prompts(spec: PromptSet, key: str, is_shipped: bool) -> Sequence[Prompt]:
    try:
        if not is_shipped:
            require_unambiguous(spec.source)
        return _cached_prompts(spec, source_state(spec.source))
    except InputError as error:
        raise InputError(f"{key}: {error}") from error


@lru_cache(maxsize=64)  # commands read a study several times
def _cached_prompts(spec: PromptSet, state: object) -> tuple[Prompt, ...]:  # noqa: ARG001 (key of the cache)
    records = list(_chosen(spec))
    name = spec.name or re.sub(r"[^A-Za-z0-9._+-]+", "-", set_name(spec.source)).strip("-._+")[:80] or "prompts"
    return tuple(_prompt(record, spec, name) for record in records)


def _chosen(spec: PromptSet) -> Iterator[Record]:
    records = read_records(spec.source)
    if spec.samples is None:
        yield from islice(records, MAX_PROMPTS)
        if (excess := next(records, None)) is not None:
            raise InputError(f"{excess.place}: over {MAX_PROMPTS:,} prompts; set `samples` to draw some of them")
        return
    drawn = draw(records, spec.samples, spec.seed)
    if len(drawn) < spec.samples:
        what = f"the set {spec.source}" if spec.source in SHIPPED else spec.source
        raise InputError(f"`samples` is {spec.samples}, but {what} has {len(drawn)} prompts; lower it")
    yield from drawn


def _prompt(record: Record, spec: PromptSet, name: str) -> Prompt:
    found = _Fields(record, spec)
    kind, options, gold = _question(found, spec)
    fields: dict[str, Any] = {"origin": record.place}
    fields["id"] = _id(found, f"{name}-{record.number}", spec.id == "")
    turns, ids = found.value("turns"), found.value("ids")
    text = None if turns is not None else found.value("text")
    if isinstance(text, list) and text and all(isinstance(turn, dict) for turn in text):
        turns, text = text, None
    if turns is not None:
        fields["turns"] = _turns(turns, record)
    elif text is None and ids is not None:
        fields["ids"] = ids
    else:
        fields["text"] = _message(text, found)
    if "ids" not in fields:
        is_own = "turns" in fields and fields["turns"][0].get("role") == "system"
        system = found.value("system")
        fields["system"] = spec.system if system is None and not is_own else system
        fields["template"] = spec.template
    pattern = record.fields.get("answer_pattern") or spec.answer_pattern
    if kind == "choice":
        letters = tuple(_LETTERS[: len(options)])
        _show_options(fields, letters, options)
        fields |= {"options": letters, "gold": gold}
        pattern = pattern or rf"\b([{''.join(letters)}])\b"
    elif kind == "maths":
        if gold is not None and number_text(gold) is None and pattern is None:
            raise found.error("gold", f"{gold[:80]!r} is no number; set `answer_pattern`, or `kind: open`")
        fields["gold"], pattern = gold, pattern or (LAST_NUMBER if gold is not None else None)
    else:
        # Without a pattern nothing says where a generated text has its answer.
        fields["gold"] = gold if pattern else None
    fields |= {"kind": kind, "answer_pattern": pattern}
    try:
        return Prompt.model_validate(fields)
    except ValidationError as error:
        location, message = first_problem(error, Prompt)
        raise found.error(str(location[0]) if location else "text", message) from error


class _Fields:
    """The fields of a record by their meaning.

    Args:
        record: the record.
        spec: the set, which may name fields.
    """

    def __init__(self, record: Record, spec: PromptSet) -> None:
        self.record = record
        named = {"text": spec.text_field, "id": spec.id, "gold": spec.gold}
        self._named = {key: name for key, name in named.items() if name}
        if len(spec.options) == 1:
            self._named["options"] = spec.options[0]
        self.option_fields = spec.options if len(spec.options) > 1 else ()
        self._folded = {name.lower(): name for name in reversed(list(record.fields))}

    def name(self, key: str) -> str | None:
        """Return the name of the field with such a meaning; None where the record has none."""
        if key in self._named:
            return self._named[key]
        names = (self._folded.get(usual) for usual in _USUAL.get(key, ()))
        return next((name for name in names if name is not None and self.record.fields[name] is not None), None)

    def value(self, key: str) -> Any:  # noqa: ANN401 (any JSON)
        """Return the value of the field; None where the record has none.

        Raises:
            InputError: the study names a field that the record does not have.
        """
        name = self.name(key)
        if name is None:
            return None
        if self.record.fields.get(name) is None:
            raise self.missing(key, f"{name!r} is missing or empty")
        return self.record.fields[name]

    def missing(self, key: str, reason: str) -> InputError:
        """Return the error for a missing field, with those that exist."""
        known = ", ".join(map(str, list(self.record.fields)[:20])) or "none"
        return InputError(
            f"{self.record.place}: {reason} for `{key}`; there are {known[:400]}: name one of them by `{key}:` in the "
            "set, or add it to the file"
        )

    def error(self, key: str, message: str) -> InputError:
        """Return the error for a wrong value of a field."""
        return InputError(f"{self.record.place}: `{self.name(key) or key}`: {message}")


def _id(found: _Fields, made: str, is_made: bool) -> str:
    value = None if is_made else found.value("id")
    if value is None or isinstance(value, (bool, dict, list)):
        return made
    name = re.sub(r"[^A-Za-z0-9._+-]+", "-", str(value)).strip("-._+")[:100]
    if not name:
        raise found.error("id", f"{str(value)[:80]!r} has no letter and no digit; rename it, or leave the field out")
    return name


def _turns(turns: object, record: Record) -> list[dict[str, Any]]:
    """Return the turns of a record without an answer at their end, which is what the prompt asks for."""
    if not isinstance(turns, list) or not turns or not all(isinstance(turn, dict) for turn in turns):
        raise InputError(f"{record.place}: turns are a list of {{role, content}}; write them like that")
    turns = [{key: turn[key] for key in ("role", "content") if key in turn} for turn in turns]
    return turns[:-1] if len(turns) > 1 and turns[-1].get("role") == "assistant" else turns


def _message(text: object, found: _Fields) -> str:
    if text is None:
        raise found.missing("text", f"none of the usual fields ({', '.join(_USUAL['text'])})")
    if not isinstance(text, str):
        raise found.error("text", "not a text; name the field of the message by `text:`")
    if not text.strip():
        raise found.error("text", "empty; write a question, or delete the record")
    # Alpaca's records have an instruction and its input.
    extra = found.record.fields.get("input")
    if found.name("text") == "instruction" and isinstance(extra, str) and extra.strip():
        return f"{text}\n\n{extra}"
    return text


def _question(found: _Fields, spec: PromptSet) -> tuple[Kind, tuple[str, ...], str | None]:
    """Return kind, options and gold of a record; the gold of a choice is a letter."""
    own = found.record.fields.get("kind")
    kind = spec.kind or (cast(Kind, own) if own in KINDS else None)
    options, labels = _options(found) if kind in {None, "choice"} else ((), ())
    gold = found.value("gold")
    if options:
        if gold is None:
            raise found.error("options", "options without a right answer; add a field `gold`, or set `kind: open`")
        return "choice", options, _LETTERS[_gold_index(gold, options, labels, found)]
    if kind == "choice":
        raise found.missing("options", f"none of the usual fields ({', '.join(_USUAL['options'])})")
    if isinstance(gold, (dict, list)) or gold is None or gold == "":
        return kind or "open", (), None
    _, worked, final = str(gold).rpartition("####")  # GSM8K's answers end with `#### n`
    answer = final.strip() if worked else str(gold)
    number = number_text(answer)
    return kind or ("open" if number is None else "maths"), (), number or answer


def _options(found: _Fields) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the options of a record and the labels that it has for them, if any."""
    labels: object = ()
    if found.option_fields:
        for name in found.option_fields:
            if found.record.fields.get(name) is None:
                raise found.missing("options", f"{name!r} is missing or empty")
        values: object = [found.record.fields[name] for name in found.option_fields]
    else:
        values = found.value("options")
    if isinstance(values, str):  # a cell of a table
        try:
            values = json.loads(values)
        except (ValueError, RecursionError) as error:
            raise found.error("options", 'not a list; write ["first", "second"], or name a field each') from error
    if isinstance(values, dict):  # the form of ARC on the hub
        labels, values = values.get("label"), values.get("text")
    if values is None:
        return (), ()
    if not isinstance(values, list) or not all(isinstance(value, (str, int, float)) for value in values):
        raise found.error("options", "not a list of texts; write one text for each option")
    options = tuple(str(value).strip() for value in values)
    if not 2 <= len(options) <= len(_LETTERS):
        raise found.error("options", f"{len(options)} of them; a choice has 2 to {len(_LETTERS)}")
    if not all(options):
        raise found.error("options", "one of them is empty; write its text")
    own = tuple(map(str, labels)) if isinstance(labels, list) and len(labels) == len(options) else ()
    return options, own


def _gold_index(gold: object, options: tuple[str, ...], labels: tuple[str, ...], found: _Fields) -> int:
    """Return the index of the right option, which may be given as an index from 0, a letter or its text."""
    letters = tuple(_LETTERS[: len(options)])
    if isinstance(gold, float) and gold.is_integer():  # a column with gaps, as pandas writes it
        gold = int(gold)
    if isinstance(gold, int) and not isinstance(gold, bool):
        if 0 <= gold < len(options):
            return gold
    elif isinstance(gold, str):
        text = gold.strip()
        if options.count(text) == 1:
            return options.index(text)
        for names in (labels, letters, tuple(map(str, range(len(options))))):
            if text.upper() in names:
                return names.index(text.upper())
    raise found.error(
        "gold",
        f"{str(gold)[:80]!r} is none of the {len(options)} options; give an index from 0 to {len(options) - 1}, a "
        f"letter from A to {letters[-1]}, or an option's text",
    )


def _show_options(fields: dict[str, Any], letters: Sequence[str], options: Sequence[str]) -> None:
    """Add the options and the request for a letter to the user's last message, unless it shows the letters itself."""
    if "ids" in fields:
        return
    last = fields["turns"][-1] if "turns" in fields else {"content": fields["text"]}
    text = last.get("content")
    if not isinstance(text, str) or all(
        re.search(rf"^[ \t]*\(?{letter}[.):]", text, re.MULTILINE) for letter in letters
    ):
        return
    shown = [] if tuple(options) == tuple(letters) else [f"{a}. {b}" for a, b in zip(letters, options, strict=True)]
    request = f"Answer with one letter: {', '.join(letters[:-1])} or {letters[-1]}."
    text = "\n".join([text.rstrip(), *shown, request])
    if "turns" in fields:
        fields["turns"] = [*fields["turns"][:-1], last | {"content": text}]
    else:
        fields["text"] = text


def _require_unique(prompts: Sequence[Prompt], where: str) -> None:
    first: dict[str, Prompt] = {}
    for prompt in prompts:
        if (other := first.setdefault(prompt.id, prompt)) is not prompt:
            places = " and ".join(dict.fromkeys(one.origin or "the study" for one in (other, prompt)))
            fix = "rename one of them, set `id: false` to make ids from the lines, or give one of the sets a `name`"
            raise InputError(
                f"{where}: `prompts`: the id {prompt.id!r} is listed twice"
                + (f" ({places}); {fix}" if prompt.origin else "; rename one of them")
            )
