"""Listings of the recipes for users, from the classes and their docstrings, which a study's schema quotes too.

No torch here.
"""

import inspect
import re
from typing import get_args

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.core.suggestions import did_you_mean
from prunescope.pipelines.recipes import KINDS, parse_recipe, steps
from prunescope.pipelines.recipes.base import BaseRecipe

_ARXIV = re.compile(r"\d{4}\.\d{5}")
_AUTHORS = re.compile(r"\(([^()]+ et al\.,[^()]+)\)")
_ATTRIBUTE = re.compile(r"^    (\w+): (.*(?:\n {8}.*)*)", re.MULTILINE)


def recipe_forms() -> list[dict[str, str]]:
    """Return one row per example of a name: its meaning, the paper, the method."""
    papers = {kind: dict.fromkeys(_ARXIV.findall(kind.__doc__ or "")) for kind in KINDS}
    return [
        {
            "form": form,
            "what it does": meaning,
            "source": ", ".join(
                [f"arXiv {number}" for number in papers[kind]] or _AUTHORS.findall(kind.__doc__ or "")[:1]
            ),
            "method": _methods(kind)[0] if len(_methods(kind)) == 1 else steps(parse_recipe(form))[-1].method,
        }
        for kind in KINDS
        for form, meaning in (kind.EXAMPLES or (("as a mapping only", kind.MAPPING_MEANING),))
    ]


def recipe_parameters(method: str) -> list[dict[str, str]]:
    """Return one row per parameter of a method, with its default and its meaning; InputError for an unknown method."""
    kind = _kind(method)
    meanings = attribute_docs(kind)
    return [
        {
            "parameter": key,
            "default": "needed" if field.is_required() else str(field.default),
            "meaning": meanings.get(key, ""),
        }
        for key, field in kind.model_fields.items()
        if key not in {"name", "method"}
    ]


def recipe_text(method: str) -> str:
    """Return the description of a method; InputError for an unknown method."""
    return description(_kind(method))


def _kind(method: str) -> type[BaseRecipe]:
    for kind in KINDS:
        if method in _methods(kind):
            return kind
    known = [name for kind in KINDS for name in _methods(kind)]
    raise InputError(f"no method {method!r}; {did_you_mean(method, known)}there are {', '.join(known)}")


def _methods(kind: type[BaseRecipe]) -> tuple[str, ...]:
    return get_args(kind.model_fields["method"].annotation)


def attribute_docs(kind: type) -> dict[str, str]:
    """Return each attribute's text in the docstrings of a class and its bases, as one line."""
    return {
        key: " ".join(text.split())
        for base in reversed(kind.__mro__)
        for key, text in _ATTRIBUTE.findall(inspect.cleandoc(base.__doc__ or ""))
    }


def description(kind: type) -> str:
    """Return the docstring of a class up to its attributes, one line for each paragraph."""
    text = inspect.cleandoc(kind.__doc__ or "").partition("\nAttributes:")[0]
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in text.strip().split("\n\n"))
