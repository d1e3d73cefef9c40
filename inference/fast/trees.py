"""Bit-identical predictions of an XGBoost booster for a few rows, in a fraction of its time.

XGBoost walks tree by tree and has a fixed cost for each call; NumPy takes one step in all trees at
a time. The sum has XGBoost's order and precision: the base score, then the leaves in the order of
the trees, in float32. The exponential is that of the same C library. A booster that cannot be
reproduced this way is not supported.
"""

from __future__ import annotations

import ctypes
import json
from collections.abc import Callable
from typing import Any

import numpy as np

_INFINITE = np.float32(np.inf)
_ONE = np.float32(1)
# XGBoost limits the exponent to this, so that its denominator stays finite.
_LARGEST_EXPONENT = 88.7
_PROBED_ROWS = 64

_Link = Callable[[np.ndarray], np.ndarray]


class Trees:
    """All trees in arrays, level by level; siblings are adjacent. Thread-safe."""

    def __init__(
        self, trees: list[dict[str, Any]], features: int, base: np.float32, link: _Link
    ) -> None:
        offsets = np.cumsum([0, *(len(tree["left_children"]) for tree in trees)])
        left, right, column, goes_left, condition = (
            np.concatenate([np.asarray(tree[name]) for tree in trees])
            for name in (
                "left_children",
                "right_children",
                "split_indices",
                "default_left",
                "split_conditions",
            )
        )
        first = np.repeat(offsets[:-1], np.diff(offsets))
        left, right = np.where(left < 0, -1, left + first), right + first
        levels = [offsets[:-1]]
        while len(splits := levels[-1][left[levels[-1]] >= 0]):
            levels.append(np.column_stack((left[splits], right[splits])).ravel())
        order = np.concatenate(levels)
        new_index = np.zeros(len(left), np.intp)
        new_index[order] = np.arange(len(order))
        left, column, goes_left, condition = (
            left[order],
            column[order],
            goes_left[order] == 1,
            condition[order].astype(np.float32),
        )
        leaf = left < 0
        self.features = features
        self._base, self._link, self._depth = base, link, len(levels) - 1
        self._roots = np.arange(len(trees), dtype=np.intp)
        # A leaf is its own child: no value is at or above its threshold NaN.
        self._left = np.where(leaf, np.arange(len(order)), new_index[left]).astype(np.intp)
        self._threshold = np.where(leaf, np.float32(np.nan), condition)
        self._value = np.where(leaf, condition, np.float32(0))
        # Each row is stored twice: with +inf for missing values, which goes right at every split,
        # and with -inf, which goes left.
        self._column = np.where(leaf, 0, column + features * goes_left).astype(np.intp)

    @classmethod
    def of(cls, booster: Any, rounds: int) -> Trees | None:
        """The first `rounds` rounds of a booster.

        None if the predictions cannot be reproduced bit for bit on this machine.
        """
        model = json.loads(booster.save_raw("json"))["learner"]
        shape, trees = (
            model["learner_model_param"],
            model["gradient_booster"]["model"]["trees"][:rounds],
        )
        link = _link(
            model["objective"]["name"], np.float32(shape["base_score"].strip("[]").split(",")[0])
        )
        if (
            link is None
            or not _is_supported(model)
            or not trees
            or any(map(_has_unsupported_splits, trees))
        ):
            return None
        found = cls(trees, int(shape["num_feature"]), *link)
        probe = found._probe()
        repeated = np.array_equal(
            found.predict(probe), booster.inplace_predict(probe, iteration_range=(0, rounds))
        )
        return found if repeated else None

    def predict(self, matrix: np.ndarray) -> np.ndarray:
        """The booster's float32 predictions for a float32 matrix.

        The matrix is rows x features, with NaN for missing values.
        """
        rows = len(matrix)
        missing = np.isnan(matrix)
        seen = np.concatenate(
            (np.where(missing, _INFINITE, matrix), np.where(missing, -_INFINITE, matrix)), axis=1
        ).ravel()
        at = self._roots
        if rows > 1:
            at = np.tile(self._roots, rows)
            begins = np.repeat(np.arange(0, seen.size, 2 * self.features), len(self._roots))
        for _ in range(self._depth):
            column = self._column[at]
            if rows > 1:
                column += begins
            at = self._left[at] + (seen[column] >= self._threshold[at])
        terms = np.empty((rows, len(self._roots) + 1), np.float32)
        terms[:, 0] = self._base
        terms[:, 1:] = self._value[at].reshape(rows, -1)
        # Not sum(), which adds in a different order.
        return self._link(np.add.accumulate(terms, axis=1)[:, -1])

    def _probe(self) -> np.ndarray:
        """Rows of missing values and of values at, just below and just above the thresholds."""
        random = np.random.default_rng(0)
        probe = np.full((_PROBED_ROWS, self.features), np.nan, np.float32)
        split = ~np.isnan(self._threshold)
        column, threshold = self._column[split] % self.features, self._threshold[split]
        for feature in np.unique(column):
            chosen = random.choice(threshold[column == feature], _PROBED_ROWS)
            chosen = np.nextafter(
                chosen, random.choice(np.array([-np.inf, np.inf, 0], np.float32), _PROBED_ROWS)
            )
            probe[:, feature] = np.where(
                random.random(_PROBED_ROWS) < 0.2, np.float32(np.nan), chosen
            )
        return probe


def _is_supported(model: dict[str, Any]) -> bool:
    """Whether the learner is gradient-boosted trees with one tree per round and one output."""
    booster, shape = model["gradient_booster"], model["learner_model_param"]
    single = int(shape["num_class"]) <= 1 and int(shape["num_target"]) == 1
    return (
        booster["name"] == "gbtree"
        and single
        and booster["model"]["gbtree_model_param"]["num_parallel_tree"] == "1"
    )


def _has_unsupported_splits(tree: dict[str, Any]) -> bool:
    """Whether a tree has categorical splits, vector leaves, or thresholds that are not finite."""
    return (
        any(tree["split_type"])
        or int(tree["tree_param"]["size_leaf_vector"]) > 1
        or not np.isfinite(tree["split_conditions"]).all()
    )


def _link(objective: str, base: np.float32) -> tuple[np.float32, _Link] | None:
    """The initial sum for a base score, and the function from sums to predictions.

    None for an unsupported objective.
    """
    if objective == "reg:squarederror":
        return base, np.asarray
    exponential, logarithm = _c_function("expf"), _c_function("logf")
    if objective != "binary:logistic" or exponential is None or logarithm is None:
        return None

    def probability(margins: np.ndarray) -> np.ndarray:
        # NumPy's exponential differs in the last bit from the C library's, which XGBoost calls.
        powers = [exponential(min(-margin, _LARGEST_EXPONENT)) for margin in margins.tolist()]
        return _ONE / (np.array(powers, np.float32) + _ONE)

    return np.float32(-logarithm(float(_ONE / base - _ONE))), probability


def _c_function(name: str) -> Callable[[float], float] | None:
    """A function from float to float of this process's C library, None if not found."""
    try:
        function = getattr(ctypes.PyDLL(None), name)
    except (AttributeError, OSError, TypeError):  # not on every system, for example Windows
        return None
    function.restype, function.argtypes = ctypes.c_float, [ctypes.c_float]
    return function
