"""The JSON schema of a study's YAML, for editors; `prunescope schema` prints it. No torch here.

`make generated` writes the file that studies name in their first line.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from prunescope.pipelines.core.validation_errors import models_in
from prunescope.pipelines.recipes import KINDS
from prunescope.pipelines.recipes.listing import attribute_docs, description
from prunescope.pipelines.studies import FOLDER, Study
from prunescope.pipelines.studies.prompts import PromptSet

FILE = FOLDER / "schema.json"
_TEXT = {"type": "string"}
# Keys that a YAML may omit, because they follow from others.
_DERIVED = {"name", "id", "kind"}
# Fields of the models that are not keys of a YAML.
_INTERNAL = {"origin"}
_HEADER = "# yaml-language-server: $schema="


def study_schema() -> dict[str, Any]:
    """Return the schema of a YAML, in which a name may stand for a mapping and derived keys may be omitted."""
    schema = Study.model_json_schema()
    definitions = schema["$defs"]
    prompt_set = PromptSet.model_json_schema()
    definitions |= prompt_set.pop("$defs", {}) | {"PromptSet": prompt_set}
    kinds = {kind.__name__: kind for kind in _kinds(Study)} | {"PromptSet": PromptSet}
    for name, kind in kinds.items():
        _complete(schema if kind is Study else definitions[name], kind)
    for name in [*(kind.__name__ for kind in KINDS), "ComposedRecipe"]:
        definitions[name]["required"] = ["method", *definitions[name].get("required", ())]
    definitions["Prompt"]["properties"]["messages"] = definitions["Prompt"]["properties"]["turns"]
    prompt_set["properties"]["options"] = {"anyOf": [_TEXT, prompt_set["properties"]["options"]]}
    prompt_set["properties"]["id"]["anyOf"].append({"const": False})
    keys = schema["properties"]
    for key in ("models", "texts", "tasks", "retrieval"):
        keys[key]["items"] = _or_text(keys[key]["items"])
    entry = {"anyOf": [_TEXT, {"$ref": "#/$defs/Prompt"}, {"$ref": "#/$defs/PromptSet"}]}
    keys["prompts"]["anyOf"] = [*entry["anyOf"], {"type": "array", "items": entry}]
    del keys["prompts"]["items"], keys["prompts"]["type"]
    parts = definitions["ComposedRecipe"]["properties"]["parts"]
    parts["items"] = _or_text(parts["items"])
    return {"$schema": "http://json-schema.org/draft-07/schema#", **schema}


def schema_text() -> str:
    """Return the schema as the content of the shipped file."""
    return json.dumps(study_schema(), indent=1, ensure_ascii=False) + "\n"


def header(study: Path) -> str:
    """Return the first line of a study's file, in which editors find the relative path of the schema."""
    return f"{_HEADER}{Path(os.path.relpath(FILE, study.absolute().parent)).as_posix()}"


def _or_text(schema: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [_TEXT, schema]}


def _kinds(kind: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """Yield a model and the models in its fields, at any depth."""
    yield kind
    for field in kind.model_fields.values():
        for other in models_in(field.annotation):
            yield from _kinds(other)


def _complete(schema: dict[str, Any], kind: type[BaseModel]) -> None:
    """Add the texts of the docstrings to the schema of a model, and remove what is not a key of a YAML."""
    schema["description"] = description(kind)
    schema.pop("title", None)
    meanings = attribute_docs(kind)
    internal = _INTERNAL | {name for name, field in kind.model_fields.items() if field.exclude}
    schema["properties"] = {
        key: {name: value for name, value in part.items() if name != "title"}
        | ({"description": meanings[key]} if key in meanings else {})
        for key, part in schema["properties"].items()
        if key not in internal
    }
    if needed := [key for key in schema.pop("required", ()) if key not in _DERIVED]:
        schema["required"] = needed
