"""The result of an export, and its model card."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.core.regular_files import open_regular
from prunescope.pipelines.core.safe_yaml import MAX_BYTES, parse_yaml
from prunescope.pipelines.corpora.hub_datasets import PREFIX
from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.models.embedded import embedded_model
from prunescope.pipelines.models.sources import is_hub_id
from prunescope.pipelines.pruning.variant import Variant

# Keys of the dense model's card that also hold for the variant.
_INHERITED = ("license", "license_name", "license_link", "language")


@dataclass(frozen=True)
class CheckpointResult:
    """A written checkpoint and its verification.

    Attributes:
        folder: the checkpoint's folder.
        bytes: size of the weights.
        parameters: number of values in them, tied ones once.
        distance: relative distance of its logits from those of the variant with values rounded to the stored dtype.
        notes: sentences on what was removed, filled with zeros or rounded.
        rounded: the dtype that new values were rounded to, and the relative distance of its logits from those of the
            unrounded variant; None if nothing was rounded.
    """

    folder: Path
    bytes: int
    parameters: int
    distance: float
    notes: tuple[str, ...]
    rounded: tuple[str, float] | None = None

    @property
    def proof(self) -> str:
        """A sentence, without full stop, on how close its logits are to the variant's."""
        if self.rounded is None:
            return f"plain transformers gives the same logits (to {self.distance:.1e} of their length)"
        dtype, distance = self.rounded
        return (
            f"new values are rounded to {dtype}, as the dense model is stored, which moves the logits by "
            f"{distance:.1e} of their length away from the unrounded variant's; plain transformers gives the same "
            f"logits as the rounded variant (to {self.distance:.1e})"
        )


@dataclass(frozen=True)
class About:
    """Contents of the card.

    Attributes:
        source: the model's source, as the user named it.
        weight_hash: hash of its files.
        calibration: settings of the calibration, by name; empty if the recipe needs none.
        scores: measures against the dense model and their values.
        variant_hash: hash of the variant in a warehouse; empty if it is in none.
    """

    model: str
    source: str
    weight_hash: str
    recipe: str
    method: str
    parameters_json: str
    calibration: Mapping[str, object] = field(default_factory=dict)
    scores: Sequence[tuple[str, str]] = ()
    variant_hash: str = ""


def card(about: About, exported: CheckpointResult, decoder: Decoder, variant: Variant) -> str:
    """Return the README.md of the folder."""
    base, front = _front(about, decoder)
    opener = "AutoModel" if decoder.output is None else "AutoModelForCausalLM"
    masked = sum(change.shape[0] * change.shape[1] - change.kept for change in variant.changes.values())
    prunable = sum(matrix.size for matrix in decoder.matrices.values())
    dense = sum(parameter.numel() for parameter in decoder.model.parameters())
    zeros = f"{masked:,} of {prunable:,} in the layers' matrices ({masked / prunable:.2%})"
    if masked:
        zeros += "; they take as much space and time as others"
    facts = [
        ("Dense model", f"{base} (SHA-256 of its files {about.weight_hash[:16]}…)"),
        ("Recipe", f"`{about.recipe}` ({about.method})"),
        *_treatments(about),
        ("Weights set to zero", zeros),
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
        f"```json\n{json.dumps(_without_paths(json.loads(about.parameters_json)), indent=2)}\n```\n",
        "## Measured against the dense model\n",
    ]
    if about.scores:
        lines += _table(("measure", "value"), list(about.scores))
    else:
        lines.append("Nothing was measured.")
    lines.append(f"\nChecked when this folder was written: {exported.proof}.")
    if about.scores and exported.rounded:
        lines.append("The measures above are the unrounded variant's.")
    return "\n".join(lines) + "\n"


def _treatments(about: About) -> Iterator[tuple[str, str]]:
    """Yield the treatments of a mixed recipe, each with its sublayers and matrices."""
    treatments = json.loads(about.parameters_json).get("treatments", {})
    labels: dict[str, list[str]] = {}
    for label in sorted(treatments, key=lambda label: (int(label.split(".")[1]), label)):
        treatment = treatments[label]
        labels.setdefault(treatment if isinstance(treatment, str) else treatment["method"], []).append(label)
    if labels:
        others = "matrices" if any(label.count(".") == 2 for label in treatments) else "sublayers"
        listed = (f"{treatment} of {', '.join(each)}" for treatment, each in labels.items())
        yield "Treatments", f"{'; '.join(listed)}; the other {others} are dense"


def public_source(source: str) -> str:
    """Return a source without local directories: a hub id unchanged, or the last part of a path."""
    if source.startswith(PREFIX):  # a data set, by its hub id or its folder
        name, colon, rest = source.removeprefix(PREFIX).partition(":")
        return f"{PREFIX}{public_source(name)}{colon}{rest}"
    return source if is_hub_id(source) and not Path(source).exists() else Path(source).name


def _without_paths(parameters: Any) -> Any:  # noqa: ANN401 (JSON)
    """Return a recipe's parameters without local directories in the sources of checkpoints and calibrations."""
    if isinstance(parameters, list):
        return [_without_paths(item) for item in parameters]
    if not isinstance(parameters, dict):
        return parameters
    return {
        key: public_source(value) if key == "source" else _without_paths(value) for key, value in parameters.items()
    }


def _table(head: tuple[str, str], rows: Sequence[tuple[str, str]]) -> list[str]:
    return [f"| {head[0]} | {head[1]} |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows), ""]


def _front(about: About, decoder: Decoder) -> tuple[str, dict[str, object]]:
    """Return the base model's name and the card's front matter, both without local paths."""
    use = "feature-extraction" if decoder.output is None else "text-generation"
    front: dict[str, object] = {"library_name": "transformers", "pipeline_tag": use, "tags": ["pruned"]}
    dense = _front_of(decoder)
    inherited = {key: dense[key] for key in _INHERITED if key in dense}
    if (embedded := embedded_model(about.source)) is not None:
        base = embedded.publisher
        return base, front | {"base_model": base, "license": embedded.licence} | inherited
    if is_hub_id(about.source) and not Path(about.source).exists():
        return about.source, front | {"base_model": about.source.partition("@")[0]} | inherited
    named = dense.get("base_model")
    return about.model, front | ({"base_model": named} if isinstance(named, (str, list)) else {}) | inherited


def _front_of(decoder: Decoder) -> dict[str, Any]:
    """Return the front matter of the dense model's own card, or an empty one if it cannot be read."""
    file = decoder.folder / "README.md"
    if not file.is_file():
        return {}
    with open_regular(file) as stream:
        text = stream.read(MAX_BYTES).decode("utf-8", "replace")
    if not text.startswith("---\n"):
        return {}
    try:
        front = parse_yaml(text[4:].partition("\n---")[0], str(file), unique=False)
    except InputError:
        return {}
    return front if isinstance(front, dict) else {}
