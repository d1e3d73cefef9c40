"""Packages whose names are imported from their modules only when they are asked for.

A command then loads what it uses and nothing else: `from stores.tables import Manifest` reads
SQLite, and neither DuckDB nor Arrow.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
from collections.abc import Callable
from typing import Any


def exports_of(package: str) -> Callable[[str], Any]:
    """The `__getattr__` (PEP 562) of a package that lists its exports under `if TYPE_CHECKING:`.

    Type checkers and readers see that list as ordinary imports; at run time each name is imported
    at its first use.
    """
    spec = importlib.util.find_spec(package)
    source = spec.loader.get_source(package) if spec and spec.loader else None  # type: ignore[attr-defined]
    origin: dict[str, str] = {}
    for block in ast.parse(source or "").body:
        for line in block.body if isinstance(block, ast.If) else []:
            if isinstance(line, ast.ImportFrom) and line.module:
                origin.update({alias.name: line.module for alias in line.names})

    def __getattr__(name: str) -> Any:
        if name not in origin:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(origin[name]), name)
        vars(importlib.import_module(package))[name] = value
        return value

    return __getattr__
