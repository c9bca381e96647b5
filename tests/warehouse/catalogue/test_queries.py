"""Variants by their names."""

import pytest

from prunescope.warehouse.catalogue.queries import find_variant
from prunescope.warehouse.core.errors import WarehouseError


def test_a_variant_is_found_by_an_unambiguous_recipe() -> None:
    pairs = [("tiny", "wanda-50"), ("other", "wanda-50"), ("tiny", "only")]
    assert find_variant("only", pairs) == find_variant("tiny@only", pairs) == ("tiny", "only")
    assert find_variant("other@wanda-50", pairs) == ("other", "wanda-50")
    with pytest.raises(WarehouseError, match="'wanda-50' is a recipe of tiny, other; write MODEL@RECIPE"):
        find_variant("wanda-50", pairs)
    with pytest.raises(WarehouseError, match="did you mean 'other@wanda-50'"):
        find_variant("other@wanda-51", pairs)
    with pytest.raises(WarehouseError, match="the warehouse is empty"):
        find_variant("dense", [])
