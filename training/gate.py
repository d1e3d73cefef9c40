"""Whether a challenger may become champion, judged on rows later than both their training."""

from __future__ import annotations

from dataclasses import dataclass

from punctual.use_case import UseCase


@dataclass(frozen=True)
class Verdict:
    """What the gate found; `message` says it in a sentence."""

    passed: bool
    message: str
    metric: str
    challenger: float
    baselines: dict[str, float]
    champion: float | None
    rows: int


def judge(
    use_case: UseCase,
    challenger: float,
    baselines: dict[str, float],
    *,
    rows: int,
    champion: float | None = None,
    champion_version: str | None = None,
) -> Verdict:
    """Judge scores of the use case's metric, all on the same rows; every reason for a refusal is named."""
    gate = use_case.gate
    problems: list[str] = []
    if rows < gate.minimum_rows:
        problems.append(
            f"only {rows} rows are later than both models' training, the gate asks for {gate.minimum_rows}"
        )
    for name, score in baselines.items():
        # Written so that a score that is no number is beaten by nothing and beats nothing.
        if not use_case.better_by(challenger, score) >= gate.beats_baseline_by:
            problems.append(
                f"baseline {name} scored {score:.4f}, to be beaten by {gate.beats_baseline_by:g}"
            )
    if (
        champion is not None
        and not use_case.better_by(challenger, champion) >= gate.beats_champion_by
    ):
        problems.append(
            f"champion {champion_version} scored {champion:.4f}, to be beaten by {gate.beats_champion_by:g}"
        )
    said = f"scored {challenger:.4f} {use_case.metric} on {rows:,} rows"
    message = f"{said}; {'; '.join(problems)}" if problems else said
    return Verdict(not problems, message, use_case.metric, challenger, baselines, champion, rows)
