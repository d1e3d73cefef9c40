"""Lazy exports: a package imports a module only when one of the module's names is used.

So a command loads only what it uses: `from stores.tables import Manifest` imports sqlite3, but
neither DuckDB nor Arrow.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
from collections.abc import Callable
from typing import Any


def exports_of(package: str) -> Callable[[str], Any]:
    """The `__getattr__` (PEP 562) of a package that lists its exports under `if TYPE_CHECKING:`.

    Type checkers read that list as ordinary imports; at run time each name is imported at its first
    use.
    """
    spec = importlib.util.find_spec(package)
    source = spec.loader.get_source(package) if spec and spec.loader else None  # type: ignore[attr-defined]
    module_of: dict[str, str] = {}
    for block in ast.parse(source or "").body:
        for statement in block.body if isinstance(block, ast.If) else []:
            if isinstance(statement, ast.ImportFrom) and statement.module:
                module_of.update({alias.name: statement.module for alias in statement.names})

    def __getattr__(name: str) -> Any:
        if name not in module_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(module_of[name]), name)
        vars(importlib.import_module(package))[name] = value
        return value

    return __getattr__
