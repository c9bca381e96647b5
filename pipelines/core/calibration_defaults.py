"""Default calibration settings, without heavy imports, because the command line's help shows them."""

from typing import Literal

SOURCE = "c4"
SEQUENCES, LENGTH, SEED = 16, 256, 0
DOCUMENTS: Literal["joined", "single"] = "joined"
TEMPLATE = False
DTYPE: Literal["model", "float32", "bfloat16"] = "model"
