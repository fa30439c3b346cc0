"""The door by which cases come in: JSON data, one line of text, or a file."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.errors import UsageError
from harness.operations.case import Case
from harness.ops import operation

__all__ = ["case_and_candidate", "case_from_data", "case_from_text"]


def case_from_data(data: Mapping[str, Any]) -> Case:
    """Returns the case that JSON data describes.

    Raises:
        UsageError: no or an unknown operation, another schema version, an unknown field, a value out of range.
    """
    if "op" not in data:
        raise UsageError(f"case: got fields {', '.join(data) or 'none'}, expected an 'op' among them")
    return operation(str(data["op"])).case.from_data(data)


def case_from_text(text: str) -> Case:
    """Returns the case of a JSON text, or of the file that the text names; a Record's JSON gives the case in it.

    Raises:
        UsageError: neither JSON nor a file, or not a case.
    """
    return case_and_candidate(text)[0]


def case_and_candidate(text: str) -> tuple[Case, list[str] | None]:
    """Returns a case as ``case_from_text`` does, and the name of the candidate if the text is a Record.

    Raises:
        UsageError: neither JSON nor a file, or not a case.
    """
    source = text.strip()
    if not source.startswith("{"):
        source = _content(source)
    try:
        data = json.loads(source)
    except ValueError as error:
        raise UsageError(f"case: got text that is not JSON ({error}), expected one JSON object") from error
    names = None
    if isinstance(data, dict) and isinstance(data.get("case"), dict):
        names = [data["candidate"]] if isinstance(data.get("candidate"), str) else None
        data = data["case"]
    if not isinstance(data, dict):
        raise UsageError(f"case: got JSON {type(data).__name__}, expected an object")
    return case_from_data(data), names


def _content(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"case: got {path!r}, which is no text ({error.reason}), expected a file of JSON") from error
    except (OSError, ValueError) as error:  # no such file, a folder, a name that cannot be one
        raise UsageError(f"case: got {path!r}, expected a line of JSON or the path of a file that holds one") from error
