"""Request-time features: Feast's on-demand views in Python mode, with the descriptions that Feast
0.67 loses.

The text of the function is a part of the view's identity, and runs wherever the view is read:
beside a model it is kept as text. So it may use nothing but its arguments, Python's built-in names
and what it imports itself.
"""

from __future__ import annotations

import ast
import builtins
import inspect
import symtable
import textwrap
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

from feast import FeatureView, Field, OnDemandFeatureView, RequestSource
from feast.on_demand_feature_view import on_demand_feature_view
from feast.protos.feast.core.Feature_pb2 import FeatureSpecV2
from feast.types import FeastType

from punctual.errors import InvalidDeclaration
from punctual.version import tagged

_BUILT_IN = frozenset(dir(builtins))


class RequestFeature(Field):
    """A field of an on-demand view, with its description.

    Feast looks for it among fields inferred from sample values, and for a service's fields among
    those read back from the registry. Neither have descriptions, and a field with another
    description is not the same to Feast. So this one equals any field of its name and type, and is
    registered without its description, which the view's tags hold instead.
    """

    def __init__(self, name: str, dtype: FeastType, description: str) -> None:
        super().__init__(name=name, dtype=dtype, description=description)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Field) and (self.name, self.dtype) == (other.name, other.dtype)

    def __hash__(self) -> int:
        return hash((self.name, str(self.dtype)))

    def to_proto(self) -> FeatureSpecV2:
        """As Feast writes it, but for the description."""
        proto = super().to_proto()
        proto.description = ""
        return proto


def request_feature_view(
    *,
    sources: Sequence[FeatureView | RequestSource],
    features: Sequence[RequestFeature],
    description: str,
    version: int = 1,
) -> Callable[[Callable[[dict[str, Any]], dict[str, Any]]], OnDemandFeatureView]:
    """Make an on-demand feature view of a function from lists of inputs to lists of features.

    Whatever the function needs is imported inside it (see the module). A higher `version` makes a
    changed view a new one beside the view that a champion reads.
    Raises `InvalidDeclaration` where a view is read under another name or by other join keys.
    """
    make = on_demand_feature_view(
        sources=list(sources),
        schema=list(features),
        mode="python",
        description=description,
        tags=tagged({feature.name: feature.description for feature in features}, version),
    )

    def decorated(function: Callable[[dict[str, Any]], dict[str, Any]]) -> OnDemandFeatureView:
        text = function_text(inspect.getsource(function))
        if renamed := [each.name for each in sources if _is_renamed(each)]:
            raise InvalidDeclaration(
                f"request-time view '{function.__name__}'",
                [
                    f"it reads view '{name}' under another name or by other join keys, which Feast "
                    "does not do behind a request-time view: read it as it is declared."
                    for name in renamed
                ],
            )
        view = make(function)
        view.udf_string = view.feature_transformation.udf_string = text
        return view

    return decorated


def _is_renamed(source: FeatureView | RequestSource) -> bool:
    read = getattr(source, "projection", None)
    return read is not None and bool(read.name_alias or read.join_key_map)


def function_text(source: str) -> str:
    """A function's source without what changes none of its values.

    Comments, layout, docstrings, annotations and the function's decorators are left out.
    """
    tree = ast.parse(textwrap.dedent(source))
    tree.body[0].decorator_list = []  # type: ignore[attr-defined]
    return ast.unparse(ast.fix_missing_locations(_Bare().visit(tree)))


class _Bare(ast.NodeTransformer):
    """Removes annotations, docstrings and other statements that are only a text."""

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        if node.value is None:
            return ast.Pass()
        return ast.Assign([node.target], self.visit(node.value))

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        text = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return ast.Pass() if text else self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        return self.generic_visit(node)


def function_problems(text: str, own_modules: Collection[str]) -> list[str]:
    """What keeps a function from running anywhere but in its module; `own_modules` are the
    domain's.
    """
    names = sorted(set(_outside_names(symtable.symtable(text, "<function>", "exec"))))
    problems = [
        f"uses '{name}', which its text does not define: import or define it inside the function."
        for name in names
    ]
    for node in ast.walk(ast.parse(text)):
        imported = (
            [each.name for each in node.names]
            if isinstance(node, ast.Import)
            else ["." * node.level + (node.module or "")]
            if isinstance(node, ast.ImportFrom)
            else []
        )
        problems += [
            f"imports '{name}', whose text is not a part of the view: define inside the function "
            "what it needs of that."
            for name in imported
            if name.startswith(".") or name.split(".")[0] in own_modules
        ]
    return problems


def _outside_names(table: symtable.SymbolTable) -> Iterator[str]:
    """The names that are looked up in the function's module and that Python itself does not have."""
    at_top = table.get_type() == "module"
    for symbol in table.get_symbols():
        is_outside = symbol.is_referenced() if at_top else symbol.is_global()
        if is_outside and symbol.get_name() not in _BUILT_IN:
            yield symbol.get_name()
    for inner in table.get_children():
        yield from _outside_names(inner)
