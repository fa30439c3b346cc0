"""Records as JSON and back. Standard library only, like the records themselves.

Numbers that are not finite are written as the strings ``"nan"``, ``"inf"`` and ``"-inf"``, because JSON has no such
numbers. Records are data: nothing in them is ever executed or unpickled.
"""

import dataclasses
import json
import math
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from harness.errors import UsageError
from harness.records import SCHEMA_VERSION, Aggregate, Comparison, Judgement, Phases, Record, Relation, Timing, Verdict

__all__ = ["UnknownSchemaError", "decode_number", "from_json", "to_json"]


class UnknownSchemaError(UsageError):
    """A record of another version of this format: refused by name, never guessed at."""


def to_json(value: Any) -> Any:  # noqa: ANN401 - JSON data has no narrower type
    """Returns dataclasses, enums, sequences and mappings as plain JSON data; non-finite numbers become strings."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: to_json(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    if isinstance(value, StrEnum):
        return value.value
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)
    return value


def decode_number(value: object) -> float | None:
    """Returns a number that ``to_json`` wrote, ``"nan"`` and ``"inf"`` included; None stays None.

    Raises:
        UsageError: the value is no number.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not (isinstance(value, int | float) or value in ("nan", "inf", "-inf")):
        raise UsageError(f"record: got {value!r} where a number is expected")
    return float(value)


def from_json(line: str) -> Record:
    """Returns the Record of one line of JSON.

    Raises:
        UnknownSchemaError: its schema version is not the one that this code reads.
        UsageError: the line is not a record.
    """
    try:
        data = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"record: got a line that is not JSON ({error})") from error
    if not isinstance(data, dict):
        raise UsageError(f"record: got JSON {type(data).__name__}, expected an object")
    schema = data.get("schema")
    if type(schema) is not int:
        raise UsageError(f"record: got schema {schema!r}, expected {SCHEMA_VERSION}")
    if schema != SCHEMA_VERSION:
        raise UnknownSchemaError(f"record: got schema {schema!r}, expected {SCHEMA_VERSION}")
    try:
        return _record(data)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(f"record: got an incomplete record ({type(error).__name__}: {error})") from error


_KINDS = {
    "case": dict, "case_id": str, "candidate": str, "recipe": dict, "environment": dict, "seed": int, "started": str,
    "reason": str, "traceback": str,
}  # fmt: skip


def _record(data: dict[str, Any]) -> Record:
    data["verdict"] = Verdict(data["verdict"])
    if not isinstance(data["case"]["op"], str):
        raise TypeError("its case names no operation")
    for name, kind in _KINDS.items():
        if not isinstance(data.get(name), kind):
            raise TypeError(f"its {name} is {type(data.get(name)).__name__}, not {kind.__name__}")
    data["judgements"] = tuple(_judgement(item) for item in data["judgements"])
    data["relations"] = tuple(Relation(**{**item, "verdict": Verdict(item["verdict"])}) for item in data["relations"])
    data["timings"] = tuple(_timing(item) for item in data["timings"])
    data["phases"] = Phases(**data["phases"])
    data["unchecked"] = tuple(data["unchecked"])
    data["retests"] = tuple(data["retests"])
    return Record(**data)


def _judgement(item: dict[str, Any]) -> Judgement:
    numbers = ("max_ratio", "max_error", "actual", "expected", "bound", "rms_ratio", "smallest_gain",
               "smallest_element", "nearest_ratio")  # fmt: skip
    item |= {name: decode_number(item[name]) for name in numbers}
    item["verdict"] = Verdict(item["verdict"])
    item["aggregates"] = tuple(
        Aggregate(name=each["name"], **{key: _finite(number) for key, number in each.items() if key != "name"})
        for each in item["aggregates"]
    )
    return Judgement(**item)


def _timing(item: dict[str, Any]) -> Timing:
    pair = item["comparison"]
    if pair is not None:
        numbers = {name: _finite(pair[name]) for name in ("ratio", "low", "high")}
        item["comparison"] = Comparison(**pair | numbers | {"noise": decode_number(pair.get("noise"))})
    item["floor_us"] = decode_number(item.get("floor_us"))
    return Timing(**item | {name: _finite(item[name]) for name in ("median_us", "low_us", "high_us")})


def _finite(value: object) -> float:
    number = decode_number(value)
    return math.nan if number is None else number
