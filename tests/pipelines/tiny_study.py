"""A study of one model that no test loads by its name."""

from typing import Any

from prunescope.pipelines.studies import Study


def study_of(**keys: Any) -> Study:
    """Return a study of the dense model with one prompt; `keys` are written as in YAML and replace these."""
    prompts = [{"id": "a", "kind": "open", "text": "Why is the sky blue?"}]
    usual = {"name": "s", "models": [{"name": "tiny", "source": "x"}], "recipes": ["dense"], "prompts": prompts}
    return Study(**usual | keys)
