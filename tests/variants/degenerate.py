"""Directed cases: those in which many values are equal, or next to nothing is left to compute.

Equal values round alike, so that errors add up that are independent elsewhere; with one key or one token the exact
gradients are 0, and what a legal kernel returns is its rounding errors alone. Where weights and cotangents are equal,
sums have equal terms, which err by the same amount at each addition. Each kind changes fields of a drawn case.
"""

import zlib
from collections.abc import Callable, Mapping
from typing import Any

from harness.operations.case import Case

__all__ = ["KINDS", "directed", "kind_of"]

Change = Callable[[Any], dict[str, Any]]


def _fields(**changes: Any) -> Change:
    return lambda case: changes  # noqa: ARG005 - one signature


def _regime(name: str) -> Change:
    return _fields(regime=name)


_NO_WINDOW = {"window_left": None, "window_right": None}
_OWN_KEY = {"window_left": 0, "window_right": 0}

_ATTENTION: dict[str, Change] = {
    "two_valued": _regime("two_valued"),
    "equal": _regime("equal"),
    "equal_terms": _fields(regime="equal", cotangent="expanded", **_NO_WINDOW),
    "zero_rows": _fields(regime="zero_rows", cotangent="expanded", **_NO_WINDOW),
    "one_key": _fields(key_tokens=1, **_NO_WINDOW),
    "one_key_rows": lambda case: {"key_tokens": case.query_tokens, **_OWN_KEY},
    "one_token": _fields(query_tokens=1, key_tokens=1, **_NO_WINDOW),
    "hidden_rows": lambda case: {
        "query_tokens": case.key_tokens + 1 + case.seed % 7, "window_left": None, "window_right": 0,
    },
}  # fmt: skip

_VARLEN: dict[str, Change] = {
    "two_valued": _regime("two_valued"),
    "equal": _regime("equal"),
    "one_key": lambda case: {"key_lengths": (1,) * len(case.key_lengths), **_NO_WINDOW},
    "one_key_rows": lambda case: {"key_lengths": case.query_lengths, **_OWN_KEY},
    "one_token": _fields(query_lengths=(1, 1), key_lengths=(1, 1), **_NO_WINDOW),
    "hidden_rows": lambda case: {
        "query_lengths": (*case.query_lengths, 5), "key_lengths": (*case.key_lengths, 0),
    },
}  # fmt: skip

_SDPA: dict[str, Change] = {
    "two_valued": _regime("two_valued"),
    "equal": _regime("equal"),
    "one_key": _fields(key_tokens=1, is_causal=False, window_size=None),
    "one_key_rows": lambda case: {"key_tokens": case.query_tokens, "is_causal": True, "window_size": 0},
    "one_token": _fields(query_tokens=1, key_tokens=1),
    "hidden_rows": lambda case: {"query_tokens": case.key_tokens + 1 + case.seed % 7, "is_causal": True},
}

_DELTA_RULE: dict[str, Change] = {
    "two_valued": _regime("two_valued"),
    "equal": _regime("parallel_keys"),
    "beta_one": _regime("beta_one"),
    "beta_zero": _regime("beta_zero"),
    "one_token": _fields(tokens=1, sequence_lengths=()),
    "empty_sequences": lambda case: {"batch": 1, "sequence_lengths": (0, case.tokens, 0)},
}

_NORM: dict[str, Change] = {"two_valued": _regime("two_valued"), "zero_rows": _regime("zero_rows")}
_ZEROS: dict[str, Change] = {"zero_rows": _regime("zero_rows"), "one_token": _fields(tokens=1)}

KINDS: Mapping[str, Mapping[str, Change]] = {
    "attention": _ATTENTION,
    "varlen_attention": _VARLEN,
    "flash_sdpa": _SDPA,
    "gated_delta_rule": _DELTA_RULE,
    "rms_norm": {**_NORM, "one_channel": _fields(channels=1), "one_token": _fields(tokens=1)},
    "gated_rms_norm": {**_NORM, "one_channel": _fields(channels=1), "one_token": _fields(tokens=1)},
    "l2_norm": {**_NORM, "one_channel": _fields(width=1), "one_token": _fields(tokens=1)},
    "rope": {"two_valued": _regime("two_valued"), "one_pair": _fields(width=2), "one_token": _fields(tokens=1)},
    "short_conv": {**_ZEROS, "one_tap": _fields(taps=1), "one_channel": _fields(channels=1)},
    "silu_mul": _ZEROS,
    "mamba_decay": _ZEROS,
    "log_sigmoid_decay": _ZEROS,
    "low_rank_projection": {**_ZEROS, "one_channel": _fields(bottleneck=1)},
    "grouped_query_attention": _ZEROS,
    "multi_head_latent_attention": _ZEROS,
    "gated_delta_net": _ZEROS,
}
"""Kinds of each operation that has healthy variants."""


def directed(case: Case, number: int) -> Case:
    """Returns the drawn case as one of its operation's degenerate kinds, those taken in turn by ``number``."""
    kinds = KINDS[case.op]
    kind = list(kinds)[number % len(kinds)]
    seed = zlib.crc32(f"{case.case_id}:{kind}".encode()) >> 1
    return case.replaced(**kinds[kind](case), seed=seed)


def kind_of(number: int, op: str) -> str:
    """Returns the name of the kind that ``directed`` makes."""
    return list(KINDS[op])[number % len(KINDS[op])]
