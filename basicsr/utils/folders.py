"""Where weights are looked for and put."""

from __future__ import annotations

import os
from pathlib import Path

WEIGHTS_VARIABLE = 'CODEFORMER_WEIGHTS'
REPOSITORY_WEIGHTS = Path(__file__).resolve().parents[2] / 'weights'


def weights_folder() -> Path:
    """The folder that the environment variable CODEFORMER_WEIGHTS names, else the repository's."""
    named = os.environ.get(WEIGHTS_VARIABLE)
    return Path(named).expanduser() if named else REPOSITORY_WEIGHTS
