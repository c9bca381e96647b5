"""All tables of the warehouse, one module each; `TABLES` lists them in the order of the data flow."""

from warehouse.schema import Table
from warehouse.tables import (
    activation_stats,
    block_influence,
    decoding_steps,
    generations,
    layer_transitions,
    models,
    option_subspace,
    text_tokens,
    top_tokens,
    variants,
)

TABLES: dict[str, Table] = {
    module.TABLE.name: module.TABLE
    for module in (
        models,
        activation_stats,
        block_influence,
        variants,
        layer_transitions,
        decoding_steps,
        top_tokens,
        option_subspace,
        generations,
        text_tokens,
    )
}
