"""Rows of the table of healthy variants: softmax attention, packed attention, and its layer."""

from tests.variants.flash import Execution, make_attention
from tests.variants.flash_calls import make_flash_sdpa, make_varlen_attention
from tests.variants.recipes import Row, kept_weights, tensor_core, widened
from tests.variants.whole_softmax import make_whole_attention

__all__ = ["EXECUTIONS", "ROWS"]

EXECUTIONS = {
    "tile-16": Execution(tile=16),
    "tile-64": Execution(tile=64),
    "reversed": Execution(tile=32, is_reversed=True),
    "split-2": Execution(splits=2),
    "split-3-reversed": Execution(tile=16, splits=3, is_reversed=True),
    "split-5": Execution(tile=8, splits=5, starts_at_sink=True),
    "base-two": Execution(tile=32, is_base_two=True),
    "split-2-base-two": Execution(tile=48, splits=2, is_base_two=True),
    "lagging": Execution(tile=16, lag=4.0),
    "lagging-base-two": Execution(tile=16, lag=8.0, is_base_two=True, starts_at_sink=True),
    "sink-first": Execution(tile=64, starts_at_sink=True, is_reversed=True),
    "two-pass": Execution(tile=32, is_two_pass=True),
    "two-pass-base-two": Execution(tile=16, is_two_pass=True, is_base_two=True, is_reversed=True),
    "query-tiles": Execution(tile=32, query_tile=16),
    "gradients-reversed": Execution(tile=16, query_tile=48, reverses_gradients=True),
    "summed-delta": Execution(tile=40, sums_delta=True),
    "lse-again": Execution(tile=64, recomputes_lse=True, query_tile=64),
    "turned": Execution(tile=32, turns_channels=True, is_base_two=True),
    "flushed": Execution(tile=64, is_base_two=True, flushes=True),
}  # fmt: skip

_KEPT = {
    "kept-tile-32": Execution(tile=32, keeps_weights=True),
    "kept-split-3": Execution(tile=24, splits=3, keeps_weights=True, reverses_gradients=True),
    "kept-two-pass": Execution(tile=64, is_two_pass=True, keeps_weights=True, sums_delta=True),
}

_WIDE = {
    "wide-tile-48": Execution(tile=48, is_wide=True),
    "wide-scaled-query": Execution(tile=32, is_wide=True, scales_query=True),
    "wide-split-2-base-two": Execution(tile=16, splits=2, is_wide=True, is_base_two=True, starts_at_sink=True),
    "wide-lagging": Execution(tile=8, lag=2.0, is_wide=True, sums_delta=True, query_tile=32),
}

_WHOLE = {
    "whole": make_whole_attention(),
    "whole-normalised-last": make_whole_attention(normalises_last=True),
    "whole-by-head": make_whole_attention(is_by_head=True, scales_query=True),
    "whole-by-lse": make_whole_attention(shift="lse", is_by_head=True),
}

ROWS: tuple[Row, ...] = (
    *((f"flash-{name}", "attention", make_attention(way), tensor_core) for name, way in EXECUTIONS.items()),
    *((f"flash-{name}", "attention", make_attention(way), kept_weights) for name, way in _KEPT.items()),
    *((f"flash-{name}", "attention", make_attention(way), widened) for name, way in _WIDE.items()),
    *((f"{name}-softmax", "attention", call, widened) for name, call in _WHOLE.items()),
    *((f"flash-varlen-{name}", "varlen_attention", make_varlen_attention(make_attention(EXECUTIONS[name])), tensor_core)
      for name in ("split-2", "base-two", "lagging-base-two", "query-tiles", "two-pass", "summed-delta")),
    *((f"{name}-softmax-varlen", "varlen_attention", make_varlen_attention(_WHOLE[name]), widened)
      for name in ("whole", "whole-by-head")),
    *((f"flash-sdpa-{name}", "flash_sdpa", make_flash_sdpa(make_attention(EXECUTIONS[name])), tensor_core)
      for name in ("lagging", "split-3-reversed", "two-pass-base-two", "flushed")),
    ("whole-softmax-sdpa", "flash_sdpa", make_flash_sdpa(_WHOLE["whole-normalised-last"]), widened),
)  # fmt: skip
"""Those that keep weights or operands in float32 promise no less where the storage is float32 already."""
