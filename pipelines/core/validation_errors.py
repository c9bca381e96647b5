"""Messages for users from pydantic's validation errors. No torch here."""

from collections.abc import Sequence
from difflib import get_close_matches
from typing import get_args

from pydantic import BaseModel, ValidationError

_BOUNDS = {
    "greater_than": "must be above {gt}",
    "greater_than_equal": "must be {ge} or more",
    "less_than": "must be below {lt}",
    "less_than_equal": "must be {le} or less",
}


def first_problem(error: ValidationError, model: type[BaseModel] | None = None) -> tuple[tuple[str | int, ...], str]:
    """Return the location of the first problem and a message; unknown keys come before missing ones.

    Args:
        error: one or more problems.
        model: the validated model, for a hint at the right key in place of an unknown one.
    """
    first = min(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")
    location, context = first["loc"], first.get("ctx", {})
    match first["type"]:
        case "missing":
            message = "is missing"
        case "extra_forbidden":
            known = _keys(model, location[:-1])
            like = get_close_matches(str(location[-1]), known, n=1)
            hint = f"; did you mean `{like[0]}`?" if like else f"; there are {', '.join(known)}" if known else ""
            message = f"is no key here{hint}"
        case "union_tag_invalid":
            message = (
                f"`{context['discriminator'].strip(chr(39))}` {context['tag']!r} is none of {context['expected_tags']}"
            )
        case kind if kind in _BOUNDS:
            message = _BOUNDS[kind].format(**{key: _number(bound) for key, bound in context.items()})
        case "string_pattern_mismatch" if "auto" in context["pattern"]:
            message = f"{first['input']!r} is none of auto, cpu, cuda and cuda:N"
        case "string_pattern_mismatch":
            message = (
                f"{first['input']!r} is not a valid name: letters, digits and . _ + -, the first a letter or a digit"
            )
        case "tuple_type":
            message = "must be a list"
        case "string_type":
            message = "must be a text; put it into quotes"
        case "model_type":
            message = "must be keys with values; write `key: value`"
        case "literal_error":
            message = f"{first['input']!r} is none of {context['expected']}"
        case _:
            message = first["msg"].removeprefix("Value error, ")
    return location, message


def _number(bound: object) -> str:
    return f"{bound:,}" if isinstance(bound, int) else f"{bound:g}" if isinstance(bound, float) else str(bound)


def _keys(model: type[BaseModel] | None, location: Sequence[str | int]) -> list[str]:
    """Return the keys allowed at a location; none where several models are possible there.

    Parts of the location that are no keys (indices of a list, tags of a union) are skipped.
    """
    for part in location:
        if model is not None and part in model.model_fields:
            annotation = model.model_fields[str(part)].annotation
            models = [
                kind
                for kind in (annotation, *get_args(annotation))
                if isinstance(kind, type) and issubclass(kind, BaseModel)
            ]
            model = models[0] if len(models) == 1 else None
    return [] if model is None else [name for name, field in model.model_fields.items() if not field.exclude]
