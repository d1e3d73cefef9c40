"""Feast's type checks, left out in the platform's own processes.

typeguard rewrites Feast's classes when they are imported, which takes 2.8 of the 4 CPU seconds of
`import feast`. The checks find a wrongly typed argument of a definition; `apply` keeps them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType
from typing import Any


def skip_type_checks() -> None:
    """Import Feast without its type checks, when this process imports it for the first time.

    For a process that is the platform's own. Without effect where Feast is already imported.
    """
    if _FINDER not in sys.meta_path:
        sys.meta_path.insert(0, _FINDER)


def keep_type_checks() -> None:
    """Withdraw `skip_type_checks`; without effect where Feast is already imported."""
    if _FINDER in sys.meta_path:
        sys.meta_path.remove(_FINDER)


def type_checks_skipped() -> bool:
    """Whether this process has imported Feast without its type checks."""
    return isinstance(getattr(sys.modules.get("feast"), "__loader__", None), _UncheckedLoader)


class _FeastFinder(MetaPathFinder):
    def find_spec(self, name: str, *_arguments: Any) -> ModuleSpec | None:
        if name != "feast":
            return None
        keep_type_checks()
        spec = PathFinder.find_spec(name)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _UncheckedLoader(name, spec.loader.path)
        return spec


class _UncheckedLoader(SourceFileLoader):
    """Runs a module, and what it imports, with a `typeguard.typechecked` that does nothing."""

    def exec_module(self, module: ModuleType) -> None:
        # typeguard takes 80 ms of CPU: it is imported only where Feast is.
        import typeguard

        typechecked = typeguard.typechecked
        typeguard.typechecked = _unchanged  # type: ignore[assignment]
        try:
            super().exec_module(module)
        finally:
            typeguard.typechecked = typechecked


def _unchanged(target: Callable[..., Any] | None = None, **_options: Any) -> Callable[..., Any]:
    return _unchanged if target is None else target


_FINDER = _FeastFinder()
