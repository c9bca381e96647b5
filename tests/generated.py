"""Files that are derived from code: `make generated` writes them, and `test_generated.py` compares them."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from prunescope.assets.definitions import defs
from prunescope.pipelines.studies import schema
from prunescope.warehouse.catalogue.data_dictionary import DICTIONARY, dictionary
from tests.assets.defs import graph
from tests.warehouse.schema import table_versions

FILES: Mapping[Path, Callable[[], str]] = MappingProxyType(
    {
        DICTIONARY: dictionary,
        schema.FILE: schema.schema_text,
        graph.FILE: lambda: graph.described(defs),
        table_versions.FILE: table_versions.listed,
    }
)

if __name__ == "__main__":
    for path, text in FILES.items():
        path.write_text(text(), encoding="utf-8")
