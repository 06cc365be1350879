"""Texts in CSV files."""

from __future__ import annotations

__all__ = ["csv_text"]


def csv_text(text: str) -> str:
    """A text for a CSV field: a spreadsheet would run what starts like a formula, so an apostrophe goes before it."""
    if not text.startswith(("=", "+", "-", "@", "\t", "\r")):
        return text
    try:
        float(text)
    except ValueError:
        return f"'{text}"
    return text
