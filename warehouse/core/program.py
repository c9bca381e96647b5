"""The installed program, for processes that it starts."""

import sys
from pathlib import Path

# The folder of the package `prunescope` that this process runs; to import it by name here would be a circle.
PACKAGE = Path(str(sys.modules["prunescope"].__file__)).parent
