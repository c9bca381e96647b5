"""What pydantic found wrong, in words for the person who wrote it. No torch here.

What is valid is told by the models themselves.
"""

from collections.abc import Sequence
from difflib import get_close_matches

from pydantic import ValidationError


def first_problem(error: ValidationError, known: Sequence[str] = ()) -> tuple[tuple[str | int, ...], str]:
    """Where the first problem is, and what it is.

    Args:
        error: of one or more problems.
        known: keys that there are, for a hint at what a wrong one was meant to be.
    """
    first = error.errors()[0]
    place, context = first["loc"], first.get("ctx", {})
    match first["type"]:
        case "missing":
            message = "is missing"
        case "extra_forbidden":
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
