"""Tables and cases as compact JSON for the page: texts are told once and then by their number."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from harness.codec import to_json
from harness.records import Record
from reports.text import plain

__all__ = ["Texts", "case_lines", "packed", "page_json"]

DIGITS = 5
"""Significant digits of a number on the page; the CSV files hold all of them."""

VALUE = 200
"""Longest text of one case field; a case with a longer one is shown cut and cannot be run again from the page."""


class Texts:
    """Distinct texts in the order in which they came."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def number(self, text: str) -> int:
        """Returns the number of a text, a new one for a new text."""
        return self._numbers.setdefault(text, len(self._numbers))

    @property
    def all(self) -> list[str]:
        """The texts by number."""
        return list(self._numbers)


def packed(values: Sequence[Any]) -> dict[str, Any] | list[Any]:
    """Returns a column: numbers and pairs as they are with few digits, texts as a list of them and their numbers.

    None stands for an empty cell, and the strings ``"inf"``, ``"-inf"`` and ``"nan"`` for numbers that JSON lacks.
    """
    if any(isinstance(value, str) for value in values):
        texts = Texts()
        return {"i": [-1 if value is None else texts.number(str(value)) for value in values], "d": texts.all}
    return [_short(value) for value in values]


def _short(value: object) -> object:
    if isinstance(value, tuple | list):
        return [_short(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else str(value)
    return value


def case_lines(records: Sequence[Record]) -> dict[str, Any]:
    """Returns the cases of records: layouts (lists of field names), the JSON text of every value, a case per record.

    A case is the number of its layout followed by the numbers of its values; cases that several candidates were judged
    on stand there once.
    """
    layouts, values, cases = Texts(), Texts(), Texts()
    lines: list[list[int]] = []
    indices = []
    for record in records:
        data = to_json(record.case)
        layout = layouts.number("\x1f".join(plain(name, limit=VALUE) for name in data))
        line = [layout, *(values.number(_value(value)) for value in data.values())]
        index = cases.number(repr(line))
        if index == len(lines):
            lines.append(line)
        indices.append(index)
    return {
        "layouts": [layout.split("\x1f") for layout in layouts.all],
        "values": values.all,
        "cases": lines,
        "case": indices,
    }


def _value(value: object) -> str:
    text = json.dumps(value, allow_nan=False)
    return text if len(text) <= VALUE else json.dumps(plain(text, limit=VALUE))


def page_json(data: Mapping[str, Any]) -> str:
    """Returns JSON that cannot end the element that holds it: every sign of markup is an escape."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text
