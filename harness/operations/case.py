"""The noun that everything follows from: a Case is one line of JSON."""

import dataclasses
import hashlib
import json
import math
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from harness.errors import UsageError, nearest
from optimized.candidate import STORAGE_FORMATS

__all__ = ["CASE_SCHEMA", "COTANGENTS", "LARGEST_SEED", "LAYOUTS", "Case"]

CASE_SCHEMA = 1
LAYOUTS: tuple[str, ...] = ("contiguous", "fused", "transposed")
COTANGENTS: tuple[str, ...] = ("normal", "one_hot", "power_of_two", "expanded")
LARGEST_SEED = 2**32 - 1
"""torch's CPU generator heeds no more than 32 bits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What every case has; operations add their shape and options.

    Attributes:
        dtype: storage dtype of the floating-point tensors.
        layout: memory layout of the inputs: contiguous; ``fused``, views into one wider projection; ``transposed``,
            heads before tokens in memory.
        regime: value regime, one of the operation's.
        cotangent: kind of the random cotangents: normal; one entry per output; powers of two; constant along the
            tokens with stride 0.
        seed: seed of every value.
    """

    op: ClassVar[str]
    regimes: ClassVar[tuple[str, ...]]

    dtype: str = "float32"
    layout: str = "contiguous"
    regime: str = "normal"
    cotangent: str = "normal"
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuses a case that cannot be run.

        Raises:
            UsageError: a field has a value of the wrong type or outside its range.
        """
        self._check_types()
        self.one_of("dtype", STORAGE_FORMATS)
        self.one_of("layout", LAYOUTS)
        self.one_of("regime", type(self).regimes)
        self.one_of("cotangent", COTANGENTS)
        self.at_least("seed", 0)
        if self.seed > LARGEST_SEED:
            raise UsageError(f"{self.op} case, seed: got {self.seed}, expected at most {LARGEST_SEED}")
        self.check()

    def check(self) -> None:
        """Refuses what only this operation can know to be impossible."""

    def one_of(self, field: str, allowed: Sequence[str]) -> None:
        """Refuses a value that is not in the list, and names the nearest one that is."""
        value = getattr(self, field)
        if value not in allowed:
            hint = nearest(str(value), allowed)
            raise UsageError(f"{self.op} case, {field}: got {value!r}, expected one of {', '.join(allowed)}{hint}")

    def at_least(self, field: str, low: int) -> None:
        """Refuses a number that is too small."""
        value = getattr(self, field)
        if value is not None and value < low:
            raise UsageError(f"{self.op} case, {field}: got {value}, expected at least {low}")

    def positive(self, field: str) -> None:
        """Refuses a number that is not above zero and finite."""
        value = getattr(self, field)
        if not 0 < value < math.inf:
            raise UsageError(f"{self.op} case, {field}: got {value}, expected a positive number")

    def even(self, field: str) -> None:
        """Refuses an odd number and one below 2."""
        value = getattr(self, field)
        if value < 2 or value % 2:
            raise UsageError(f"{self.op} case, {field}: got {value}, expected an even number of at least 2")

    def paired(self, first: str, second: str) -> None:
        """Refuses lengths of sequences that do not pair or hold no token."""
        one, other = getattr(self, first), getattr(self, second)
        if len(one) != len(other) or min((*one, *other), default=-1) < 0 or sum(one) < 1 or sum(other) < 1:
            raise UsageError(
                f"{self.op} case, {first} and {second}: got {one} and {other}, "
                "expected as many lengths of at least 0 in both, not all 0"
            )

    def packed(self, sequences: str, tokens: str) -> None:
        """Refuses packed sequences that do not add up to the tokens of one batch row."""
        each, total = getattr(self, sequences), getattr(self, tokens)
        if each and (sum(each) != total or min(each) < 0 or getattr(self, "batch", 1) != 1):
            raise UsageError(
                f"{self.op} case, {sequences}: got {each}, expected lengths of at least 0 that add up to "
                f"{tokens} = {total}, with batch 1"
            )

    def _check_types(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not _accepts(field.type, value):
                expected = getattr(field.type, "__name__", None) if isinstance(field.type, type) else field.type
                raise UsageError(f"{self.op} case, {field.name}: got {value!r}, expected {expected}")
            if isinstance(value, float) and not math.isfinite(value):
                raise UsageError(f"{self.op} case, {field.name}: got {value}, expected a finite number")

    def to_data(self) -> dict[str, Any]:
        """Returns the case as JSON data, with its operation and schema version first."""
        data: dict[str, Any] = {"schema": CASE_SCHEMA, "op": self.op}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            data[field.name] = list(value) if isinstance(value, tuple) else value
        return data

    def to_line(self) -> str:
        """Returns the case as one line of canonical JSON."""
        return json.dumps(self.to_data(), separators=(",", ":"))

    @property
    def case_id(self) -> str:
        """The first 12 hexadecimal digits of the SHA-256 of the canonical JSON."""
        return hashlib.sha256(self.to_line().encode()).hexdigest()[:12]

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Self:
        """Returns the case that JSON data describes; absent fields take their defaults.

        Raises:
            UsageError: another schema version, an unknown or missing field, a value out of range.
        """
        values = dict(data)
        schema = values.pop("schema", CASE_SCHEMA)
        if schema != CASE_SCHEMA:
            raise UsageError(f"case: got schema {schema!r}, expected {CASE_SCHEMA}")
        values.pop("op", None)
        fields = {field.name: field for field in dataclasses.fields(cls)}
        if "group" in fields:
            _grouped(cls.op, values)
        for name in values:
            if name not in fields:
                raise UsageError(
                    f"{cls.op} case: got field {name!r}, expected {', '.join(fields)}{nearest(name, fields)}"
                )
        missing = [
            name for name, field in fields.items() if name not in values and field.default is dataclasses.MISSING
        ]
        if missing:
            raise UsageError(f"{cls.op} case: got no {', '.join(missing)}, expected a value for each")
        fitting: dict[str, Any] = {
            name: tuple(item) if isinstance(item, list) else item for name, item in values.items()
        }
        return cls(**fitting)

    def replaced(self, **changes: Any) -> Self:  # noqa: ANN401 - a field's own type
        """Returns the case with other values of some fields."""
        return dataclasses.replace(self, **changes)


def _grouped(op: str, values: dict[str, Any]) -> None:
    """Turns a number of query (or value) heads into the group size, as people think of it.

    Raises:
        UsageError: the heads do not divide into groups.
    """
    for name in ("query_heads", "value_heads"):
        if name not in values or "group" in values:
            continue
        heads, keys = values.pop(name), values.get("key_heads")
        if type(heads) is not int or type(keys) is not int or heads < 1 or keys < 1 or heads % keys:
            raise UsageError(f"{op} case, {name}: got {heads!r}, expected a multiple of key_heads = {keys!r}")
        values["group"] = heads // keys


def _accepts(annotation: object, value: object) -> bool:
    """Returns whether a JSON value fits a field's annotation: int, float, bool, str, None, unions, tuples of int."""
    if annotation is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if isinstance(annotation, types.UnionType):
        return any(_accepts(member, value) for member in typing.get_args(annotation))
    if typing.get_origin(annotation) is tuple:
        return isinstance(value, tuple) and all(_accepts(int, item) for item in value)
    return type(value) is annotation
