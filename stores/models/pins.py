"""The definitions that models in use read; they must not change while a model needs them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from feast import FeatureView

from punctual.definitions import declared_now, identity_of, pinned_domain
from punctual.errors import BrokenModel, ChangeRefused
from punctual.home import Home
from punctual.loaded_domain import LoadedDomain
from punctual.model_card import CHAMPION, ModelCard, PinnedDefinition
from punctual.version import version_of
from punctual.windows import declaration_of
from stores.models.registry import aliases, read_card


def cards_in_use(home: Home, use_cases: Iterable[str]) -> list[ModelCard]:
    """The cards of all models that have an alias. Raises `BrokenModel`, `BrokenRegistry`."""
    return [
        read_card(home, use_case, version)
        for use_case in use_cases
        for version in sorted(set(aliases(home, use_case).values()))
    ]


def earlier_views(domain: LoadedDomain) -> list[FeatureView]:
    """Views as the models in use were trained with them, if the domain now computes other rows.

    Each view carries the declaration that computes its rows. A view whose events have changed is
    left out. Raises the errors of `cards_in_use`.
    """
    seen = {(declared.name, declared.fingerprint) for declared in domain.declarations}
    found: list[FeatureView] = []
    for card in cards_in_use(domain.home, domain.use_cases):
        for view in pinned_domain(domain, card.definitions).views.values():
            declared = declaration_of(view)
            if declared and (declared.name, declared.fingerprint) not in seen:
                seen.add((declared.name, declared.fingerprint))
                found.append(view)
    return found


def refuse_changes(home: Home, domains: Sequence[LoadedDomain]) -> None:
    """Raise `ChangeRefused` if a definition that a champion reads was changed.

    A changed view needs a higher version than the champion's, and a changed service a new name.
    """
    problems: dict[str, list[str]] = {}
    for domain in domains:
        for card in _champions(home, domain):
            for pinned in card.definitions:
                if problem := _problem(domain, pinned):
                    by = f"champion {card.version} of '{card.use_case}'"
                    problems.setdefault(problem, []).append(by)
    if problems:
        raise ChangeRefused(
            "definitions that a champion reads were changed:\n"
            + "\n".join(
                f"  - {problem.format(models=' and '.join(by))}" for problem, by in problems.items()
            )
        )


def _champions(home: Home, domain: LoadedDomain) -> Iterator[ModelCard]:
    for use_case in domain.use_cases:
        version = aliases(home, use_case).get(CHAMPION)
        if version is not None:
            try:
                yield read_card(home, use_case, version)
            except BrokenModel:
                # A model that cannot be loaded reads nothing.
                continue


def _problem(domain: LoadedDomain, pinned: PinnedDefinition) -> str | None:
    name = f"{pinned.kind} '{pinned.name}'"
    declared = declared_now(domain, pinned)
    if declared is None:
        return (
            f"{name} was removed, and is read by {{models}}; restore it until the champion is a "
            "model that does not read it."
        )
    if identity_of(declared, domain.all_views) == pinned.identity:
        return None
    if pinned.kind == "feature service":
        return (
            f"{name} is read by {{models}}; declare the changed service under another name "
            f"({_next_name(pinned.name)}) beside it, or revert the change."
        )
    if version_of(declared.tags) > pinned.version:
        return None
    return (
        f"{name} is read by {{models}}; declare version={pinned.version + 1} to make this a new "
        "version beside the old one, or revert the change."
    )


def _next_name(name: str) -> str:
    numbered = re.fullmatch(r"(.*_v)(\d+)", name)
    return f"{numbered[1]}{int(numbered[2]) + 1}" if numbered else f"{name}_v2"
