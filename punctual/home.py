"""The data folder: where everything is written."""

from __future__ import annotations

import os
from pathlib import Path

HOME_VARIABLE = "PUNCTUAL_HOME"


def data_path(*parts: str) -> str:
    """An absolute path in the data folder: `PUNCTUAL_HOME`, or `data` in the current folder."""
    return str(Path(os.environ.get(HOME_VARIABLE) or "data").absolute().joinpath(*parts))
