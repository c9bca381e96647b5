"""Definitions of all tables, one module per table; `TABLES` has them in the order of the data flow."""

from importlib import import_module
from inspect import cleandoc

from prunescope.warehouse.schema.table import Table

_NAMES = (
    *("models", "activation_stats", "block_influence", "variants", "mask_samples"),
    *("layer_transitions", "decoding_steps", "top_tokens", "option_subspace", "generations", "text_tokens"),
    *("hidden_states", "sampled_generations", "sampled_steps", "search_effects", "search_trials"),
    *("task_scores", "task_samples", "retrieval_scores", "retrieval_queries", "retrieval_embeddings"),
    *("speed", "paper_reference", "imported_scores"),
)
_MODULES = [import_module(f"{__name__}.{name}") for name in _NAMES]
TABLES: dict[str, Table] = {module.TABLE.name: module.TABLE for module in _MODULES}
# Purpose of each table: the docstring of its module.
ABOUT: dict[str, str] = {module.TABLE.name: cleandoc(module.__doc__ or "") for module in _MODULES}
