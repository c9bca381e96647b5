"""The model card of an exported variant: what it was, what was done to it, how far it moved.

What stands in it is given; nothing is measured here.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.core.safe_yaml import parse_yaml
from prunescope.pipelines.corpora.hub_datasets import PREFIX
from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.pruning.checkpoints.result import CheckpointResult
from prunescope.pipelines.pruning.variant import Variant

# The embedded model, as its publisher names it.
_EMBEDDED = {
    "embedded": ("HuggingFaceTB/SmolLM2-135M-Instruct", "apache-2.0"),
    "embedded-encoder": ("sentence-transformers/all-MiniLM-L6-v2", "apache-2.0"),
}
# What other models say of themselves and still holds of this one.
_KEPT = ("license", "license_name", "license_link", "language")


@dataclass(frozen=True)
class About:
    """What is known of a variant.

    Attributes:
        model: the dense model's name.
        source: where it came from, as the user named it.
        weight_hash: of its files.
        recipe: the recipe's name, `method` and `parameters_json`.
        calibration: what it was calibrated on, by name; empty where the recipe needs no calibration.
        scores: measured against the dense model, by what was measured.
    """

    model: str
    source: str
    weight_hash: str
    recipe: str
    method: str
    parameters_json: str
    calibration: Mapping[str, object] = field(default_factory=dict)
    scores: Sequence[tuple[str, str]] = ()


def card(about: About, exported: CheckpointResult, decoder: Decoder, variant: Variant) -> str:
    """The README.md of the folder."""
    base, front = _front(about, decoder)
    opener = "AutoModel" if decoder.output is None else "AutoModelForCausalLM"
    masked = sum(int(change.mask.logical_not().sum()) for change in _masked(variant))
    prunable = sum(matrix.size for matrix in decoder.matrices.values())
    dense = sum(parameter.numel() for parameter in decoder.model.parameters())
    facts = [
        ("Dense model", f"{base} (SHA-256 of its files {about.weight_hash[:16]}…)"),
        ("Recipe", f"`{about.recipe}` ({about.method})"),
        ("Weights set to zero", f"{masked:,} of {prunable:,} in the layers' matrices ({masked / prunable:.2%})"),
        ("Sublayers dropped", ", ".join(variant.dropped) or "none"),
        ("Parameters", f"{exported.parameters:,} of the dense model's {dense:,}"),
        *((f"Calibration: {name}", str(value)) for name, value in about.calibration.items()),
    ]
    lines = [
        f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---\n",
        f"# {about.model}, {about.recipe}\n",
        f"{base}, changed by the recipe `{about.recipe}` of Prunescope. `{opener}.from_pretrained` opens it "
        "without further code.\n",
        *_table(("", ""), facts),
        *(f"- {note}" for note in exported.notes),
        "\n## Recipe\n",
        f"```json\n{json.dumps(_without_places(json.loads(about.parameters_json)), indent=2)}\n```\n",
        "## Measured against the dense model\n",
    ]
    if about.scores:
        lines += _table(("measure", "value"), list(about.scores))
    else:
        lines.append("Nothing was measured.")
    lines.append(f"\nWhen this folder was written, {exported.proof}.")
    if about.scores and exported.rounded:
        lines.append("The measures above are the unrounded variant's.")
    return "\n".join(lines) + "\n"


def public_source(source: str) -> str:
    """A source as a card may tell it: whole where it is one for everybody, the last part of a path of this machine."""
    if source.startswith(PREFIX):  # a data set, by its hub id or its folder
        name, colon, rest = source.removeprefix(PREFIX).partition(":")
        return f"{PREFIX}{public_source(name)}{colon}{rest}"
    return source if _is_hub_id(source) else Path(source).name


def _is_hub_id(source: str) -> bool:
    """Whether it names a repository; what exists here under that name is a path, as when a model is looked for."""
    has_its_form = source.count("/") == 1 and not source.startswith((".", "/", "~"))
    return has_its_form and not Path(source).exists()


def _without_places(parameters: Any) -> Any:  # noqa: ANN401 (JSON)
    """Parameters of a recipe, or of those that it consists of, without paths of this machine."""
    if isinstance(parameters, list):
        return [_without_places(each) for each in parameters]
    if not isinstance(parameters, dict):
        return parameters
    return {
        # Of a checkpoint, or of a calibration.
        key: public_source(value) if key == "source" else _without_places(value)
        for key, value in parameters.items()
    }


def _masked(variant: Variant) -> list[Any]:
    return [variant.changes[name] for name in variant.masks]


def _table(head: tuple[str, str], rows: Sequence[tuple[str, str]]) -> list[str]:
    return [f"| {head[0]} | {head[1]} |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows), ""]


def _front(about: About, decoder: Decoder) -> tuple[str, dict[str, object]]:
    """The base model's name and the card's front matter; a path of this machine stands in neither."""
    use = "feature-extraction" if decoder.output is None else "text-generation"
    front: dict[str, object] = {"library_name": "transformers", "pipeline_tag": use, "tags": ["pruned"]}
    theirs = _front_of(decoder)
    kept = {key: theirs[key] for key in _KEPT if key in theirs}
    if about.source in _EMBEDDED:
        base, licence = _EMBEDDED[about.source]
        return base, front | {"base_model": base, "license": licence} | kept
    if _is_hub_id(about.source):
        base = about.source.partition("@")[0]
        return about.source, front | {"base_model": base} | kept
    named = theirs.get("base_model")
    return about.model, front | ({"base_model": named} if isinstance(named, (str, list)) else {}) | kept


def _front_of(decoder: Decoder) -> dict[str, Any]:
    """The front matter of the dense model's own card; empty where it has none that can be read."""
    file = decoder.folder / "README.md"
    text = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
    if not text.startswith("---\n"):
        return {}
    try:
        found = parse_yaml(text[4:].partition("\n---")[0], str(file))
    except InputError:
        return {}
    return found if isinstance(found, dict) else {}
