"""Where a study computes and how much of each device its layers may fill, as people write it. No torch here."""

import re
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field

DEVICE = r"^(auto|cpu|cuda(:\d+)?)$"
_PLACE = re.compile(r"cpu|cuda:\d+")
_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([KMGT]i?)?B?", re.IGNORECASE)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


def parse_size(size: object) -> object:
    """Bytes of a size such as `20GiB`, `1.5 GB` or `0`; what is no text is left to pydantic.

    Raises:
        ValueError: it is no size.
    """
    if not isinstance(size, str):
        return size
    found = _SIZE.fullmatch(size.strip())
    if found is None:
        raise ValueError(f"{size!r} is no size; write bytes, or 500MB, or 20GiB")
    unit = (found[2] or "").lower()
    base = 1024 if unit.endswith("i") else 1000
    return round(float(found[1]) * base ** _POWERS[unit.removesuffix("i")])


def _place(name: str) -> str:
    if _PLACE.fullmatch(name) is None:
        raise ValueError(f"{name!r} is no device that holds layers; name cpu, or cuda:0 and so on")
    return name


Size = Annotated[int, Field(ge=0), BeforeValidator(parse_size)]
Place = Annotated[str, AfterValidator(_place)]


def parse_limits(arguments: list[str]) -> dict[str, int] | None:
    """The limits of a command line, `cpu=8GiB` each; None where there are none.

    Raises:
        ValueError: one is not of that form; names it.
    """
    found: dict[str, int] = {}
    for argument in arguments:
        place, separator, size = argument.partition("=")
        if not separator:
            raise ValueError(f"{argument!r}: write a device and a size, such as cpu=8GiB or cuda:0=20GiB")
        found[_place(place)] = int(str(parse_size(size)))
    return found or None
