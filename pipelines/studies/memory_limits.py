"""The device of a study and the memory limits of its layers, as users write them. No torch here."""

import re
from collections.abc import Sequence
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field

DEVICE = r"^(auto|cpu|cuda(:\d+)?)$"
_LAYER_DEVICE = re.compile(r"cpu|cuda:\d+")
_SIZE = re.compile(r"(\d{1,18}(?:\.\d{1,18})?) ?([KMGT]i?)?B?", re.IGNORECASE)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


def parse_size(size: object) -> object:
    """Return the bytes of a size such as `20GiB` or `1.5 GB`, and other types unchanged; ValueError for other texts."""
    if not isinstance(size, str):
        return size
    match = _SIZE.fullmatch(size.strip())
    if match is None:
        raise ValueError(f"{size[:40]!r} is not a size; write bytes, or 500MB, or 20GiB")
    unit = (match[2] or "").lower()
    base = 1024 if unit.endswith("i") else 1000
    return round(float(match[1]) * base ** _POWERS[unit.removesuffix("i")])


def _layer_device(name: str) -> str:
    if _LAYER_DEVICE.fullmatch(name) is None:
        raise ValueError(f"{name!r} cannot hold layers; name cpu, or cuda:0 and so on")
    return name


Size = Annotated[int, Field(ge=0), BeforeValidator(parse_size, json_schema_input_type=int | str)]
LayerDevice = Annotated[str, AfterValidator(_layer_device)]


def parse_limits(arguments: Sequence[str]) -> dict[str, int] | None:
    """Return limits written as `cpu=8GiB`, or None without any; raise ValueError for others."""
    limits: dict[str, int] = {}
    for argument in arguments:
        device, separator, size = argument.partition("=")
        if not separator:
            raise ValueError(f"{argument!r}: write a device and a size, such as cpu=8GiB or cuda:0=20GiB")
        limits[_layer_device(device)] = int(str(parse_size(size)))
    return limits or None
