"""The explorer's documents of a study, over a connection that sees this study alone; free of Dagster.

What the documents say is the business of `pipelines.explorer`.
"""

import json
from typing import Any

from assets.fingerprints import CODE_VERSIONS
from pipelines.charts.text import prose
from pipelines.explorer.documents import Documents
from pipelines.explorer.frames import Ask
from pipelines.explorer.shapes import Fact
from pipelines.studies import Study
from warehouse.catalogue import LAYERS, SQL


def documents(study: Study | str, ask: Ask, *, is_live: bool = False) -> Documents:
    """The documents of a study.

    Args:
        study: which; its name where no file of it is at hand.
        ask: the rows of one of our own queries, as if the warehouse held this study's models and recipes alone.
        is_live: whether they are built one by one, from what the warehouse has at that time.
    """
    views = {
        path.stem: path.read_text(encoding="utf-8") for layer in LAYERS for path in sorted((SQL / layer).glob("*.sql"))
    }
    name, title = (study, "") if isinstance(study, str) else (study.name, study.title)
    return Documents(ask, name, title, _facts(study, ask), views, is_live=is_live)


def _facts(study: Study | str, ask: Ask) -> list[Fact]:
    """What the reader needs to repeat the study."""
    made = ask("SELECT DISTINCT device, dtype, libraries_json FROM provenance ORDER BY ALL").to_dicts()
    facts: dict[str, Any] = {
        "models": ask("SELECT model, source, revision, weight_hash FROM models ORDER BY model").to_dicts(),
        "code versions": CODE_VERSIONS,
        "computed with": [row | {"libraries_json": json.loads(row["libraries_json"] or "{}")} for row in made],
    }
    if not isinstance(study, str):
        told = {"study": study.model_dump(mode="json", exclude={"prompts"})}
        facts = told | facts | {"hashes": {"prompts": study.prompts_hash, "settings": study.settings_hash}}
    return [
        {"name": name, "text": prose(json.dumps(value, ensure_ascii=False, indent=2, default=str), 20_000)}
        for name, value in facts.items()
    ]
