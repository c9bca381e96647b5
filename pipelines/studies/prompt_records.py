"""Prompts from records of a set: fields are found by their usual names, missing kinds and ids are made. No torch."""

import json
import re
from collections.abc import Mapping, Sequence
from string import ascii_uppercase
from types import MappingProxyType
from typing import Any, cast

from pydantic import ValidationError

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.core.validation_errors import problems_of
from prunescope.pipelines.corpora.records import Record
from prunescope.pipelines.studies.prompts import KINDS, Kind, Prompt, PromptSet, number_text

# Usual names of fields, in any case; the first one present counts.
_USUAL = {
    "text": ("question", "prompt", "instruction", "text", "query", "input", "question_stem", "problem", "ctx"),
    "id": ("id", "prompt_id", "question_id", "task_id"),
    "gold": ("gold", "answer", "label", "target", "solution", "answerkey", "answer_key"),
    "options": ("choices", "options", "endings"),
    "system": ("system", "system_prompt"),
    "turns": ("turns", "messages"),
    "ids": ("ids", "input_ids", "token_ids", "prompt_token_ids"),
}
# The last number of a text. A minus after a digit is an operator. A comma groups thousands, or hundreds of thousands as
# in India; any other comma separates numbers.
LAST_NUMBER = (
    r"(?s)\A.*((?:(?<![0-9.,])[-−][$€£]?|(?<![-−])[$€£]|(?<![0-9.,$€£−-])|(?<=[0-9][-−])[$€£]?|(?<=[^0-9],)"
    r"|(?<=,)(?!(?:[0-9]{2},)*[0-9]{3}(?![0-9])))"
    r"[0-9]+(?:(?:,[0-9]{2})*,[0-9]{3}(?![0-9]))*(?:\.[0-9]+)?"
    r"|(?:(?<![0-9.,])[-−][$€£]?|(?<![\w.,)\]])(?<![-−]))\.[0-9]+)"
)


def prompt_of(record: Record, spec: PromptSet, name: str) -> Prompt:
    """Return the prompt of a record in the set `spec`; if the record has no id, one is made from `name`.

    Raises:
        InputError: a field is missing or wrong; names file, line, field and fix.
    """
    reader = _FieldReader(record, spec)
    kind, options, gold = _question(reader, spec)
    fields: dict[str, Any] = {"origin": record.place}
    fields["id"] = _id(reader, f"{name}-{record.number}", spec.id == "")
    turns, ids = None if spec.text_field else reader.value("turns"), reader.value("ids")
    text = None if turns is not None else reader.value("text")
    if isinstance(text, list) and text and all(isinstance(turn, dict) for turn in text):
        turns, text = text, None
    if turns is not None:
        fields["turns"] = _turns(turns, record)
    elif text is None and ids is not None:
        fields["ids"] = ids
    else:
        fields["text"] = _message(text, reader)
    if "ids" not in fields:
        has_system = "turns" in fields and fields["turns"][0].get("role") == "system"
        system = reader.value("system")
        fields["system"] = spec.system if system is None and not has_system else system
        fields["template"] = spec.template
    pattern = record.fields.get("answer_pattern") or spec.answer_pattern
    if kind == "choice":
        letters = tuple(ascii_uppercase[: len(options)])
        _show_options(fields, letters, options)
        fields |= {"options": letters, "gold": gold}
        pattern = pattern or rf"\b([{''.join(letters)}])\b"
    elif kind == "maths":
        if gold is not None and number_text(gold) is None and pattern is None:
            raise reader.error("gold", f"{gold[:80]!r} is not a number; set `answer_pattern`, or `kind: open`")
        fields["gold"], pattern = gold, pattern or (LAST_NUMBER if gold is not None else None)
    else:
        # Without a pattern the answer cannot be found in a generated text.
        fields["gold"] = gold if pattern else None
    fields |= {"kind": kind, "answer_pattern": pattern}
    try:
        return Prompt.model_validate(fields)
    except ValidationError as error:
        location, message = problems_of(error, Prompt)[0]
        raise reader.error(str(location[0]) if location else "text", message) from error


def question_of(record: Record, spec: PromptSet) -> tuple[str, tuple[str, ...], str | None]:
    """Return the question of a record, its options, and the right answer: an option's letter, or a text.

    Fields that `spec` does not name are found by their usual names.

    Raises:
        InputError: as in `prompt_of`.
    """
    reader = _FieldReader(record, spec, {"text": "question", "gold": "answer"}, "task")
    _, options, gold = _question(reader, spec)
    return _message(reader.value("text"), reader), options, gold


class _FieldReader:
    """Reader of a record's fields by their meaning.

    `spec` may name fields. `keys` maps meanings to the keys of a study that are named otherwise than in a prompt set.
    `owner` is the part of the study that names fields, for messages.
    """

    def __init__(
        self, record: Record, spec: PromptSet, keys: Mapping[str, str] = MappingProxyType({}), owner: str = "set"
    ) -> None:
        self.record, self._keys, self._owner = record, keys, owner
        named = {"text": spec.text_field, "id": spec.id, "gold": spec.gold}
        self._named = {key: name for key, name in named.items() if name}
        if len(spec.options) == 1:
            self._named["options"] = spec.options[0]
        self.option_fields = spec.options if len(spec.options) > 1 else ()
        self._folded = {name.lower(): name for name in reversed(list(record.fields))}

    def name(self, key: str) -> str | None:
        """Return the name of the field with this meaning, or None if the record has none."""
        if key in self._named:
            return self._named[key]
        names = (self._folded.get(usual) for usual in _USUAL.get(key, ()))
        return next((name for name in names if name is not None and self.record.fields[name] is not None), None)

    def value(self, key: str) -> Any:  # noqa: ANN401 (any JSON)
        """Return the value of the field, or None if the record has none; InputError if the study names the field."""
        name = self.name(key)
        if name is None:
            return None
        if self.record.fields.get(name) is None:
            raise self.missing(key, f"{name!r} is missing or empty")
        return self.record.fields[name]

    def missing(self, key: str, reason: str) -> InputError:
        """Return the error for a missing field, which lists the fields that exist."""
        known = ", ".join(map(str, list(self.record.fields)[:20])) or "none"
        shown = self._keys.get(key, key)
        return InputError(
            f"{self.record.place}: {reason} for `{shown}`; there are {known[:400]}: name one of them by `{shown}:` in "
            f"the {self._owner}, or add it to the file"
        )

    def error(self, key: str, message: str) -> InputError:
        """Return the error for a wrong value of a field."""
        return InputError(f"{self.record.place}: `{self.name(key) or key}`: {message}")


def _id(reader: _FieldReader, default: str, uses_default: bool) -> str:
    value = None if uses_default else reader.value("id")
    if value is None or isinstance(value, (bool, dict, list)):
        return default
    name = re.sub(r"[^A-Za-z0-9._+-]+", "-", str(value)).strip("-._+")[:100]
    if not name:
        raise reader.error("id", f"{str(value)[:80]!r} has no letter and no digit; rename it, or leave the field out")
    return name


def _turns(turns: object, record: Record) -> list[dict[str, Any]]:
    """Return the turns of a record, without a final turn of the assistant, which the model must write."""
    if not isinstance(turns, list) or not turns or not all(isinstance(turn, dict) for turn in turns):
        raise InputError(f"{record.place}: turns must be a list of {{role, content}}")
    turns = [{key: turn[key] for key in ("role", "content") if key in turn} for turn in turns]
    return turns[:-1] if len(turns) > 1 and turns[-1].get("role") == "assistant" else turns


def _message(text: object, reader: _FieldReader) -> str:
    if text is None:
        raise reader.missing("text", f"none of the usual fields ({', '.join(_USUAL['text'])})")
    if not isinstance(text, str):
        raise reader.error("text", "not a text; name the field of the message by `text:`")
    if not text.strip():
        raise reader.error("text", "empty; write a question, or delete the record")
    # Alpaca's records have an instruction and its input.
    extra = reader.record.fields.get("input")
    if reader.name("text") == "instruction" and isinstance(extra, str) and extra.strip():
        return f"{text}\n\n{extra}"
    return text


def _question(reader: _FieldReader, spec: PromptSet) -> tuple[Kind, tuple[str, ...], str | None]:
    """Return kind, options and gold of a record; the gold of a choice is a letter."""
    stated = reader.record.fields.get("kind")
    kind = spec.kind or (cast(Kind, stated) if stated in KINDS else None)
    options, labels = _options(reader) if kind in {None, "choice"} else ((), ())
    gold = reader.value("gold")
    if options:
        if gold is None:
            raise reader.error("options", "options without a right answer; add a field `gold`, or set `kind: open`")
        return "choice", options, ascii_uppercase[_gold_index(gold, options, labels, reader)]
    if kind == "choice":
        raise reader.missing("options", f"none of the usual fields ({', '.join(_USUAL['options'])})")
    if isinstance(gold, (dict, list)) or gold is None or gold == "":
        return kind or "open", (), None
    _, worked, final = str(gold).rpartition("####")  # GSM8K's answers end with `#### n`
    answer = final.strip() if worked else str(gold)
    number = number_text(answer)
    return kind or ("open" if number is None else "maths"), (), number or answer


def _options(reader: _FieldReader) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the options of a record, and the record's own labels for them if it has any."""
    labels: object = ()
    if reader.option_fields:
        for name in reader.option_fields:
            if reader.record.fields.get(name) is None:
                raise reader.missing("options", f"{name!r} is missing or empty")
        values: object = [reader.record.fields[name] for name in reader.option_fields]
    else:
        values = reader.value("options")
    if isinstance(values, str):  # a cell of a table
        try:
            values = json.loads(values)
        except (ValueError, RecursionError) as error:
            raise reader.error(
                "options", 'not a list; write ["first", "second"], or name a field per option'
            ) from error
    if isinstance(values, dict):  # the form of ARC on the hub
        labels, values = values.get("label"), values.get("text")
    if values is None:
        return (), ()
    if not isinstance(values, list) or not all(isinstance(value, (str, int, float)) for value in values):
        raise reader.error("options", "not a list of texts; write one text for each option")
    options = tuple(str(value).strip() for value in values)
    if not 2 <= len(options) <= len(ascii_uppercase):
        raise reader.error("options", f"holds {len(options)}; a choice has 2 to {len(ascii_uppercase)} options")
    if not all(options):
        raise reader.error("options", "one of them is empty; write its text")
    given = tuple(map(str, labels)) if isinstance(labels, list) and len(labels) == len(options) else ()
    return options, given


def _gold_index(gold: object, options: tuple[str, ...], labels: tuple[str, ...], reader: _FieldReader) -> int:
    """Return the index of the right option, given as a label of the record, an index from 0, a letter or its text."""
    letters = tuple(ascii_uppercase[: len(options)])
    if isinstance(gold, float) and gold.is_integer():  # pandas writes a column with gaps as floats
        gold = int(gold)
    if not isinstance(gold, bool) and str(gold).strip() in labels:
        return labels.index(str(gold).strip())
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
    raise reader.error(
        "gold",
        f"{str(gold)[:80]!r} is not one of the {len(options)} options; give an index from 0 to {len(options) - 1}, a "
        f"letter from A to {letters[-1]}, or an option's text",
    )


def _show_options(fields: dict[str, Any], letters: Sequence[str], options: Sequence[str]) -> None:
    """Add the options and the request for a letter to the user's last message, unless it already shows the letters."""
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
