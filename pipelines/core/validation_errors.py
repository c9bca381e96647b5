"""Messages for users from pydantic's validation errors: what was found, what is allowed, and an example.

No torch here. Files and lines belong to `safe_yaml`.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from prunescope.pipelines.core.errors import masked
from prunescope.pipelines.core.suggestions import did_you_mean

Location = tuple[str | int, ...]
# What a value must be, by the type of pydantic's error or by the first word of it.
_ALLOWED = {
    "greater_than": "above {gt:,.10g}",
    "greater_than_equal": "{ge:,.10g} or more",
    "less_than": "below {lt:,.10g}",
    "less_than_equal": "{le:,.10g} or less",
    "too_short": "a list of {min_length:,} or more",
    "too_long": "a list of {max_length:,} or fewer",
    "string_too_short": "a text that is not empty",
    "string_too_long": "a text of at most {max_length:,} characters",
    "int": "a whole number",
    "float": "a number",
    "finite": "a number that is neither infinite nor NaN",
    "bool": "true or false",
    "string": "a text",
    "tuple": "a list",
    "list": "a list",
    "dict": "keys with values",
    "model": "keys with values",
    "invalid-json-value": "a text (a date in quotes is one), a number, true, false, a list or keys with values",
    "literal": "{expected}",
    "none": "left out",
}
_LONGEST = 60


def first_problem(error: ValidationError, *about: object) -> str:
    """Return the message of the first of `problems_of`, after its key if it has one."""
    location, message = problems_of(error, *about)[0]
    return f"`{'.'.join(map(str, location))}`: {message}" if location else message


def problems_of(error: ValidationError, model: object = None, data: object = None) -> list[tuple[Location, str]]:
    """Return the location of each problem and a message; unknown keys come first.

    Args:
        error: one or more problems. A missing key next to an unknown one is left out: it may be misspelt.
        model: the validated model, for the keys that are allowed in place of an unknown one, and for examples.
        data: what was validated; labels that are not in it, such as those of a union's members, leave the location.
    """
    left = [(_cleaned(problem["loc"], problem["type"], data), problem) for problem in error.errors()]
    left.sort(key=lambda problem: problem[1]["type"] != "extra_forbidden")
    unknown = {location[:-1] for location, problem in left if problem["type"] == "extra_forbidden"}
    left = [(at, problem) for at, problem in left if problem["type"] != "missing" or at[:-1] not in unknown]
    found = []
    while left:
        above, _ = left[0]
        # Every member of a union has a problem of its own with one value; the one that fits best has it the deepest.
        location = max((other for other, _ in left if other[: len(above)] == above), key=len)
        found.append((location, _worded([problem for other, problem in left if other == location], model)))
        left = [(at, problem) for at, problem in left if location[: len(at)] != at]
    return found


def _worded(members: Sequence[ErrorDetails], model: object) -> str:
    """Return the message about the problems of one value."""
    first = members[0]
    context, found = first.get("ctx", {}), _shown(first["input"])
    name, field, owners = _find(model, first["loc"])
    match first["type"]:
        case "extra_forbidden":
            fields = owners[0].model_fields if len(owners) == 1 else {}
            known = [key for key, each in fields.items() if not each.exclude]
            hint = did_you_mean(str(first["loc"][-1]), known, form="`{}`").strip()
            hint = hint or (f"there are {', '.join(known)}" if known else "")
            return f"is not a key here; {hint}" if hint else "is not a key here"
        case "value_error" | "assertion_error":
            return first["msg"].split(", ", maxsplit=1)[1]
        case "union_tag_not_found":
            return "`method` is missing; for example `method: wanda`"
        case "union_tag_invalid":
            key, tags = context["discriminator"].strip("'"), context["expected_tags"]
            return f"`{key}` {context['tag']!r} is none of {tags}{_nearest(str(context['tag']), tags)}"
        case "string_type" if isinstance(first["input"], int | float):
            key = next((part for part in reversed(first["loc"]) if isinstance(part, str)), "")
            return f'must be a text; put it into quotes: `{key}: "{found}"`'
        case "missing":
            message = "is missing"
        case "string_pattern_mismatch" if "auto" in context["pattern"]:
            message = f"{found} is none of auto, cpu, cuda and cuda:N"
        case "string_pattern_mismatch" if "task:" in context["pattern"]:
            message = f"{found} is neither kl nor task:NAME, NAME being one of the study's tasks"
        case "string_pattern_mismatch":
            message = f"{found} is not a valid name: letters, digits and . _ + -, the first a letter or a digit"
        case "literal_error" if len(members) == 1:
            message = f"{found} is none of {context['expected']}{_nearest(str(first['input']), context['expected'])}"
        case _:
            message = f"must be {' or '.join(dict.fromkeys(map(_allowed, members)))}; found {found}"
    needs_example = "`" not in message and not message.endswith("?")
    return f"{message}{_example(name, field)}" if field and needs_example else message


def _allowed(problem: ErrorDetails) -> str:
    kind = problem["type"]
    pattern = _ALLOWED.get(kind) or _ALLOWED.get(kind.partition("_")[0], "another value")
    return pattern.format(**problem.get("ctx", {}))


def _nearest(name: str, expected: str) -> str:
    hint = did_you_mean(name, re.findall(r"'([^']+)'", expected), form="{!r}").strip()
    return f"; {hint}" if hint else ""


def _shown(value: object) -> str:
    """Return what was found, as short as a message can hold."""
    match value:
        case None:
            return "no value"
        case bool() | int() | float():
            return str(value).lower()
        case str():
            text = masked(value)  # before it is cut
            return repr(text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…")
        case list() | tuple():
            return "an empty list" if not value else f"a list of {len(value)}"
        case dict():
            return f"the keys {', '.join(map(str, list(value)[:5]))}" if value else "no keys"
    return repr(str(value))


def _example(key: str, field: FieldInfo) -> str:
    """Return an example of a key with the first of its examples, else with its default."""
    value = field.examples[0] if field.examples else field.default
    if value in (None, "", (), []) or not isinstance(value, str | int | float | list | dict | tuple):
        return ""
    plain = [*value] if isinstance(value, tuple) else value
    text = yaml.safe_dump({key: plain}, default_flow_style=True, width=1000, sort_keys=False, allow_unicode=True)
    return f"; for example `{text.strip()[1:-1]}`"


def _cleaned(location: Location, kind: str, data: Any) -> Location:  # noqa: ANN401 - any YAML
    """Return the parts of a location that are keys and positions of the data, and a missing key at its end."""
    if data is None:
        return location
    kept: list[str | int] = []
    for part in location:
        try:
            data = data[part]
        except (KeyError, IndexError, TypeError):  # the label of a union's member
            if kind != "missing" or part is not location[-1]:
                continue
        kept.append(part)
    return tuple(kept)


def _find(annotation: object, location: Location) -> tuple[str, FieldInfo | None, list[type[BaseModel]]]:
    """Return the last field of a location with its name, and the models that may hold the last key."""
    name, field, owners = "", None, list(models_in(annotation))
    inside = owners
    for part in location:
        methods = ((model, model.model_fields["method"]) for model in inside if "method" in model.model_fields)
        if tagged := [model for model, method in methods if part in get_args(method.annotation)]:
            inside = owners = tagged
            continue
        if isinstance(part, int):
            continue
        owners = inside
        if found := next((model.model_fields[part] for model in inside if part in model.model_fields), None):
            name, field, inside = str(part), found, list(models_in(found.annotation))
    return name, field, owners


def models_in(annotation: object) -> Iterator[type[BaseModel]]:
    """Yield the models in an annotation, such as those of a union or of a list."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from models_in(part)
