"""Tables of figures as Markdown."""

from __future__ import annotations


def as_markdown(head: list[str], rows: list[list[str]]) -> list[str]:
    """The lines of a Markdown table whose columns are aligned."""
    widths = [max(len(row[number]) for row in [head, *rows]) for number in range(len(head))]
    ruler = ["-" * width for width in widths]
    return [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in (head, ruler, *rows)
    ]


def seconds(value: float) -> str:
    """Seconds with three decimals, or five below 0.1."""
    return f"{value:.3f}" if value >= 0.1 or not value else f"{value:.5f}"


def figure(value: float) -> str:
    """A number with about three significant digits."""
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"
