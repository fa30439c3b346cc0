"""The standard shapes: what is timed on a GPU and on a CPU, as cases, and the small ones of a rehearsal.

Attention has 2048 channels of queries at 16,384 tokens in all; the delta rule's shapes are those of fla's own
benchmark; operations that only move memory have more than 100 MB of it.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from harness.cases import case_from_data
from harness.operations.case import Case

__all__ = ["ON_CPU", "REHEARSED", "TIMED", "standard_cases"]

Fields = Mapping[str, Any]

_CHANNELS, _TOKENS = 2048, 16384


def _attention(
    width: int, tokens: int, *, group: int = 1, window: tuple[int | None, int | None] = (None, 0), sinks: bool = False
) -> Fields:
    heads = _CHANNELS // width
    return {
        "batch": max(1, _TOKENS // tokens), "query_tokens": tokens, "key_tokens": tokens,
        "key_heads": heads // group, "group": group, "head_dim": width, "value_dim": width,
        "window_left": window[0], "window_right": window[1], "sinks": sinks,
    }  # fmt: skip


def _rule(batch: int, tokens: int, heads: int, width: int) -> Fields:
    return {
        "batch": batch, "tokens": tokens, "key_heads": heads, "group": 1, "key_dim": width, "value_dim": width,
    }  # fmt: skip


TIMED: Mapping[str, tuple[Fields, ...]] = {
    "attention": (
        _attention(128, 8192),
        *(_attention(width, tokens) for width in (64, 128, 256) for tokens in (2048, 16384)),
        _attention(128, 32768),
        _attention(128, 16384, window=(None, None)),
        _attention(128, 8192, group=4),
        *(_attention(width, 8192, window=(1024, 0), sinks=True) for width in (64, 128)),
    ),
    "gated_delta_rule": (
        _rule(1, 8192, 96, 128), _rule(2, 16384, 16, 128), _rule(4, 2048, 16, 128), _rule(4, 4096, 64, 128),
        _rule(8, 2048, 32, 256), _rule(8, 1024, 8, 64),
    ),
    "rms_norm": (
        {"batch": 4, "tokens": 4096, "channels": 4096}, {"batch": 4, "tokens": 4096, "channels": 8192},
    ),
    "gated_rms_norm": ({"batch": 4, "tokens": 4096, "heads": 32, "channels": 128},),
    "l2_norm": ({"batch": 4, "tokens": 4096, "heads": 32, "width": 128},),
    "rope": ({"batch": 4, "tokens": 4096, "heads": 32, "width": 128},),
    "short_conv": ({"batch": 4, "tokens": 4096, "channels": 4096},),
    "silu_mul": ({"batch": 4, "tokens": 4096, "channels": 8192},),
    "mamba_decay": ({"batch": 16, "tokens": 65536, "heads": 64},),
}  # fmt: skip
"""By operation, the fields of the cases beside their dtype, the most important first."""

REHEARSED: Mapping[str, tuple[Fields, ...]] = {
    "attention": ({**_attention(1024, 32), "batch": 1}, {**_attention(1024, 32, sinks=True), "batch": 1}),
    "gated_delta_rule": (_rule(1, 32, 2, 16),),
    "rms_norm": ({"batch": 1, "tokens": 32, "channels": 64},),
    "gated_rms_norm": ({"batch": 1, "tokens": 32, "heads": 2, "channels": 16},),
    "l2_norm": ({"batch": 1, "tokens": 32, "heads": 2, "width": 16},),
    "rope": ({"batch": 1, "tokens": 32, "heads": 2, "width": 16},),
    "short_conv": ({"batch": 1, "tokens": 128, "channels": 16},),
    "silu_mul": ({"batch": 1, "tokens": 32, "channels": 64},),
    "mamba_decay": ({"batch": 1, "tokens": 32, "heads": 4},),
}
"""The same operations, small enough for a CPU."""


_HEADS = {"batch": 1, "query_tokens": 256, "key_tokens": 256, "head_dim": 64, "value_dim": 64, "window_right": 0}
_LAYER = {"batch": 1, "tokens": 128, "hidden_size": 512}

ON_CPU: Mapping[str, tuple[Fields, ...]] = {
    "rms_norm": ({"batch": 1, "tokens": 1024, "channels": 1024},),
    "gated_rms_norm": ({"batch": 1, "tokens": 1024, "heads": 8, "channels": 128},),
    "l2_norm": ({"batch": 1, "tokens": 1024, "heads": 8, "width": 128},),
    "rope": ({"batch": 1, "tokens": 1024, "heads": 8, "width": 128},),
    "rope_tables": ({"batch": 1, "tokens": 4096, "rope_dim": 128},),
    "short_conv": ({"batch": 1, "tokens": 1024, "channels": 1024},),
    "silu_mul": ({"batch": 1, "tokens": 1024, "channels": 1024},),
    "mamba_decay": ({"batch": 1, "tokens": 8192, "heads": 64},),
    "log_sigmoid_decay": ({"batch": 1, "tokens": 8192, "heads": 64},),
    "attention": (
        {**_HEADS, "key_heads": 8, "group": 1},
        {**_HEADS, "key_heads": 2, "group": 4},
        {**_HEADS, "key_heads": 8, "group": 1, "window_left": 64, "sinks": True},
    ),
    "varlen_attention": (
        {
            "query_lengths": (64, 256, 192), "key_lengths": (64, 256, 192), "key_heads": 8, "group": 1, "head_dim": 64,
            "value_dim": 64, "window_right": 0,
        },
    ),
    "flash_sdpa": (
        {
            "batch": 1, "query_tokens": 256, "key_tokens": 256, "key_heads": 2, "group": 4, "head_dim": 64,
            "value_dim": 64,
        },
    ),
    "gated_delta_rule": (_rule(1, 128, 2, 128), _rule(1, 128, 4, 64)),
    "low_rank_projection": (
        {"batch": 1, "tokens": 512, "in_features": 512, "bottleneck": 128, "out_features": 512},
    ),
    "grouped_query_attention": ({**_LAYER, "key_heads": 2, "group": 4, "head_dim": 64},),
    "multi_head_latent_attention": (
        {**_LAYER, "heads": 8, "nope_dim": 64, "rope_dim": 32, "value_dim": 64, "kv_lora_rank": 128},
    ),
    "gated_delta_net": ({**_LAYER, "key_heads": 2, "group": 2, "key_dim": 64, "value_dim": 64},),
}  # fmt: skip
"""By operation, what one thread of a CPU is timed on.

The whole call is judged, by the random executions of a budget, and the float64 reference is timed beside it: it takes
at most about a tenth of a second forward and backward at these sizes, so that all of them end within ten minutes.
"""


def standard_cases(op: str, *, dtype: str, is_rehearsal: bool) -> Iterator[Case]:
    """Yields the cases of an operation, the most important first."""
    for fields in (REHEARSED if is_rehearsal else TIMED)[op]:
        yield case_from_data({"op": op, "dtype": dtype, **fields})
