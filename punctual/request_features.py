"""Request-time features: Feast's on-demand views in Python mode, with feature descriptions.

The source of the function is a part of the view's identity. Registry and model cards store the
source, and every process that reads the view runs it. So the function may use only its arguments,
Python's built-in names, and what it imports or defines itself.
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
from punctual.version import with_version

_BUILT_IN = frozenset(dir(builtins))


class RequestFeature(Field):
    """A feature of an on-demand view: name (unique in the view), Feast type and description.

    Feast 0.67 compares a view's fields, descriptions included, with fields that it infers from
    sample values and with fields from the registry, which have no descriptions. So a
    RequestFeature equals any field with the same name and type. Its description is registered as a
    tag of the view instead of as a part of the field.
    """

    def __init__(self, name: str, dtype: FeastType, description: str) -> None:
        super().__init__(name=name, dtype=dtype, description=description)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Field) and (self.name, self.dtype) == (other.name, other.dtype)

    def __hash__(self) -> int:
        return hash((self.name, str(self.dtype)))

    def to_proto(self) -> FeatureSpecV2:
        """The field as Feast registers it, without the description."""
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
    """A decorator that makes an on-demand feature view of a function; the view has its name.

    The function takes one dict, from the name of each input to a list with one value per row, and
    returns a dict from the name of each feature to a list of the same length. Missing inputs are
    None. The function may use only its argument, Python's built-in names, and what it imports or
    defines inside; it may not import modules of the domain.

    - `sources`: the views and Feast `RequestSource`s whose columns are the inputs; no two inputs
      have the same name. The request column `at`, of type UnixTimestamp, is the prediction moment,
      which the platform fills in.
    - `features`: the outputs.
    - `description`: what the view contains; Feast registers it.
    - `version`: 1 or more, default 1. A change of a view that a champion reads needs a higher
      version: it makes a new view, and the champion keeps reading the previous one.

    Raises `InvalidDeclaration` if a source view has another name or other join keys than declared
    (`with_name`, `with_join_key_map`), which Feast does not support in an on-demand view.
    """
    make = on_demand_feature_view(
        sources=list(sources),
        schema=list(features),
        mode="python",
        description=description,
        tags=with_version({feature.name: feature.description for feature in features}, version),
    )

    def decorated(function: Callable[[dict[str, Any]], dict[str, Any]]) -> OnDemandFeatureView:
        source = canonical_source(inspect.getsource(function))
        if renamed := [each.name for each in sources if _is_renamed(each)]:
            raise InvalidDeclaration(
                f"request-time view '{function.__name__}'",
                [
                    f"it reads view '{name}' under another name or by other join keys, which Feast"
                    " does not support in a request-time view: read the view as it is declared."
                    for name in renamed
                ],
            )
        view = make(function)
        view.udf_string = view.feature_transformation.udf_string = source
        return view

    return decorated


def _is_renamed(source: FeatureView | RequestSource) -> bool:
    read = getattr(source, "projection", None)
    return read is not None and bool(read.name_alias or read.join_key_map)


def canonical_source(source: str) -> str:
    """A function's source in a canonical form, which changes only if its results may change.

    Comments, layout, docstrings, annotations and decorators are removed.
    """
    tree = ast.parse(textwrap.dedent(source))
    tree.body[0].decorator_list = []  # type: ignore[attr-defined]
    return ast.unparse(ast.fix_missing_locations(_Canonical().visit(tree)))


class _Canonical(ast.NodeTransformer):
    """Removes annotations, docstrings and other statements that are only a string."""

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
    """What the source of a function uses that only its module has, a sentence each.

    `own_modules` are the top-level modules of the domain.
    """
    names = sorted(set(_global_names(symtable.symtable(text, "<function>", "exec"))))
    problems = [
        f"uses '{name}', which its source does not define: import or define it inside the function."
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
            f"imports '{name}', whose source is not a part of the view: define what it needs"
            " inside the function."
            for name in imported
            if name.startswith(".") or name.split(".")[0] in own_modules
        ]
    return problems


def _global_names(table: symtable.SymbolTable) -> Iterator[str]:
    """The global names that a function reads, without Python's built-in names."""
    at_top = table.get_type() == "module"
    for symbol in table.get_symbols():
        is_global = symbol.is_referenced() if at_top else symbol.is_global()
        if is_global and symbol.get_name() not in _BUILT_IN:
            yield symbol.get_name()
    for inner in table.get_children():
        yield from _global_names(inner)
