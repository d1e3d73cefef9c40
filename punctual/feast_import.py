"""Imports Feast without its run-time type checks, in the platform's own processes.

typeguard rewrites Feast's classes at import, which takes 2.8 of the 4 CPU seconds of `import
feast`. The checks find arguments of the wrong type in definitions; `apply` keeps them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType
from typing import Any


def skip_type_checks() -> None:
    """Make the first import of Feast in this process skip its type checks.

    Only for a process of the platform. It has no effect if Feast is already imported.
    """
    if _FINDER not in sys.meta_path:
        sys.meta_path.insert(0, _FINDER)


def keep_type_checks() -> None:
    """Undo `skip_type_checks`; no effect if Feast is already imported."""
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
    """Runs a module, and the modules it imports, with a `typechecked` that does nothing."""

    def exec_module(self, module: ModuleType) -> None:
        # The import of typeguard takes 80 ms of CPU, so it happens only together with Feast's.
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
