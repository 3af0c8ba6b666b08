"""Rows of words as tables."""

from collections.abc import Sequence


def markdown(rows: Sequence[Sequence[str]], *, words: int = 1) -> str:
    """The first row is the head; columns after the first few, which hold words, hold numbers."""
    ruled = [rows[0], ["---"] * words + ["---:"] * (len(rows[0]) - words), *rows[1:]]
    return "\n".join("| " + " | ".join(row) + " |" for row in ruled)


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines in which the cells of a column begin below each other."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
