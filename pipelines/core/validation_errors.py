"""What pydantic found wrong, in words for the person who wrote it. No torch here.

What is valid is told by the models themselves.
"""

from collections.abc import Sequence
from difflib import get_close_matches
from typing import get_args

from pydantic import BaseModel, ValidationError


def first_problem(error: ValidationError, model: type[BaseModel] | None = None) -> tuple[tuple[str | int, ...], str]:
    """Where the first problem is, and what it is; a key that does not exist comes before what is missing for it.

    Args:
        error: of one or more problems.
        model: what was read, for a hint at what a wrong key was meant to be.
    """
    first = min(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")
    place, context = first["loc"], first.get("ctx", {})
    match first["type"]:
        case "missing":
            message = "is missing"
        case "extra_forbidden":
            known = _keys(model, place[:-1])
            like = get_close_matches(str(place[-1]), known, n=1)
            hint = f"; did you mean `{like[0]}`?" if like else f"; there are {', '.join(known)}" if known else ""
            message = f"is no key here{hint}"
        case "union_tag_invalid":
            message = (
                f"`{context['discriminator'].strip(chr(39))}` {context['tag']!r} is none of {context['expected_tags']}"
            )
        case "greater_than":
            message = f"must be above {context['gt']:g}"
        case "greater_than_equal":
            message = f"must be {context['ge']:g} or more"
        case "less_than":
            message = f"must be below {context['lt']:g}"
        case "less_than_equal":
            message = f"must be {context['le']:g} or less"
        case "string_pattern_mismatch" if "auto" in context["pattern"]:
            message = f"{first['input']!r} is none of auto, cpu, cuda and cuda:N"
        case "string_pattern_mismatch":
            message = f"{first['input']!r} is no name: letters, digits and . _ + -, the first a letter or a digit"
        case "literal_error":
            message = f"{first['input']!r} is none of {context['expected']}"
        case _:
            message = first["msg"].removeprefix("Value error, ")
    return place, message


def _keys(model: type[BaseModel] | None, place: Sequence[str | int]) -> list[str]:
    """The keys that a user may write at a place; none where the place alone does not tell, as among several kinds.

    Parts of the place that are no keys (of a list, or the tag of a union) are passed over.
    """
    for part in place:
        if model is not None and part in model.model_fields:
            annotation = model.model_fields[str(part)].annotation
            kinds = [kind for kind in (annotation, *get_args(annotation)) if _is_model(kind)]
            model = kinds[0] if len(kinds) == 1 else None
    return [] if model is None else [name for name, field in model.model_fields.items() if not field.exclude]


def _is_model(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)
