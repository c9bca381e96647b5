"""Calibration unless a study or an option says otherwise. Nothing is imported here: the command line shows it as help.

`recipes.calibration` explains the values.
"""

from typing import Literal

SOURCE = "embedded"
SEQUENCES, LENGTH, SEED = 16, 256, 0
DOCUMENTS: Literal["joined", "single"] = "joined"
TEMPLATE = False
DTYPE: Literal["model", "float32", "bfloat16"] = "model"
