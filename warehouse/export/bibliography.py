"""Citation keys of recipes, models and corpora. Their entries are in `references.bib`.

The line `% Method: NAME, …` above an entry names the methods of recipes that its paper introduced.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from importlib import resources
from typing import Any

from prunescope.warehouse.core.latex import latex_escaped

PAPER = "he2026demystifying"
# Values of parameters that a paper introduced.
_IDEAS = {
    ("ratios", "owl"): "yin2024owl",
    ("by", "greedy"): "song2024sleb",
    ("by", "consecutive"): "gromov2024unreasonable",
    ("score", "flap"): "an2024flap",
    ("score", "wanda"): "sun2024wanda",
}
# Published ideas behind the rows of a table: the table, a condition on its rows, the sentence, and its citations.
PRIOR_ART: tuple[tuple[str, str, str, tuple[str, ...]], ...] = (
    (
        *("layer_transitions", "true", "Reading hidden states through the LM head is the logit lens {}."),
        ("nostalgebraist2020logit",),
    ),
    (
        *("generations", "first_flip_step >= 0", "The first token that differs is the first divergent token {}."),
        ("deiseroth2023divergent",),
    ),
    (
        *("decoding_steps", "true", "One minus the total variation is the expected acceptance rate {}{}."),
        ("leviathan2023fast", "chen2023accelerating"),
    ),
    (
        "decoding_steps",
        "trajectory = 'own_text'",
        "Both models also read the variant's own text, as in on-policy distillation {}; a larger distance there than "
        "on the dense model's text is exposure bias {}{}.",
        ("agarwal2023onpolicy", "ranzato2016sequence", "arora2022exposure"),
    ),
    ("task_samples", "recipe <> 'dense'", "Answers that change are flips {}.", ("dutta2024accuracy",)),
    (
        *("search_trials", "true", "Allocations are searched by the KL at the output, as EvoPress {} does."),
        ("sieberling2025evopress",),
    ),
)
# The first pattern that matches a model's name or source decides.
_MODELS = (
    (r"^embedded$|smollm2", "allal2025smollm2"),
    (r"gemma-?3", "gemma2025gemma3"),
    (r"qwen2\.5-coder", "hui2024qwen25coder"),
    (r"qwen2\.5", "qwen2024qwen25"),
    (r"qwen3", "yang2025qwen3"),
    (r"llama-?2", "touvron2023llama2"),
    (r"llama-?3", "grattafiori2024llama3"),
    (r"e5-mistral", "wang2024e5mistral"),
    (r"mistral-7b", "jiang2023mistral"),
)
# Printed name and key.
CORPORA = {"c4": ("C4", "raffel2020t5"), "wikitext2": ("WikiText-2", "merity2017pointer")}
_ENTRY = re.compile(
    r"^(?:% Method: (?P<methods>.+?)\n)?(?P<entry>@\w+\{(?P<key>[^,]+),\n.*?^\}\n)", re.MULTILINE | re.DOTALL
)


def entries() -> dict[str, str]:
    """Return the entries of `references.bib` by key."""
    return {match["key"]: match["entry"] for match in _entries()}


def of_recipe(method: str, parameters_json: str) -> tuple[str, ...]:
    """Return the keys for a recipe: the papers that introduced its method and the values of its parameters."""
    methods = {name: each["key"] for each in _entries() if each["methods"] for name in each["methods"].split(", ")}
    keys = []
    for step in ({"method": method}, *_objects(json.loads(parameters_json))):
        keys += [methods.get(str(step.get("method")))]
        keys += [key for (name, value), key in _IDEAS.items() if step.get(name) == value]
    return tuple(dict.fromkeys(filter(None, keys)))


def of_model(model: str, source: str) -> str | None:
    """Return the key for a model that its name or source identifies; None for other models."""
    for pattern, key in _MODELS:
        if any(re.search(pattern, text.lower()) for text in (source, model)):
            return key
    return None


def misc(name: str, source: str, note: str) -> tuple[str, str]:
    """Return key and entry, without authors, for a source without a known paper."""
    key = f"{re.sub('[^a-z0-9]+', '', name.lower())[:30]}-{hashlib.sha256(source.encode()).hexdigest()[:6]}"
    fields = {"title": f"{{{latex_escaped(name)}}}", "howpublished": latex_escaped(source), "note": latex_escaped(note)}
    lines = "".join(f"  {field} = {{{text}}},\n" for field, text in fields.items())
    return key, f"@misc{{{key},\n{lines}}}\n"


def bibtex(keys: Iterable[str], others: dict[str, str]) -> str:
    """Return the entries of these keys, sorted."""
    known = entries() | others
    return "\n".join(known[key] for key in sorted(set(keys)))


def _entries() -> Iterator[re.Match[str]]:
    return _ENTRY.finditer(
        (resources.files("prunescope.warehouse.export") / "references.bib").read_text(encoding="utf-8")
    )


def _objects(tree: Any) -> Iterator[dict[str, Any]]:  # noqa: ANN401 - any JSON
    if isinstance(tree, dict):
        yield tree
        tree = list(tree.values())
    if isinstance(tree, list):
        for item in tree:
            yield from _objects(item)
