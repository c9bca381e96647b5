"""Verdicts and predicted losses of the recipes of one model, for `prunescope advise`."""

from collections.abc import Sequence

import pyarrow as pa

from prunescope.warehouse.catalogue.database import SQL, connected
from prunescope.warehouse.storage.location import Place

_VERDICTS = SQL / "comparisons" / "advise.sql"


def advised_verdicts(root: Place, model: str, recipes: Sequence[str], tolerance: float) -> pa.Table:
    """Return a row of `sql/comparisons/advise.sql` for each recipe, best first."""
    with connected(root) as connection:
        return connection.sql(_VERDICTS.read_text("utf-8"), params=[model, list(recipes), tolerance]).to_arrow_table()


def predicted_losses(root: Place, model: str) -> pa.Table:
    """Return the model's rows of `loss_predictions`."""
    with connected(root) as connection:
        return connection.sql("from loss_predictions where model = ?", params=[model]).to_arrow_table()
