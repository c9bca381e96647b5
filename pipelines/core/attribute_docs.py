"""The meanings of a class's attributes, from the section `Attributes` of its docstring."""

import inspect
import re

_ATTRIBUTE = re.compile(r"^    (\w+): (.*(?:\n {8}.*)*)", re.MULTILINE)


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
