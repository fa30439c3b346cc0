"""Rows of the table of healthy variants: the gated delta rule."""

from functools import partial

from tests.variants.delta_rule_call import Run
from tests.variants.inverses import by_blocks, by_rows
from tests.variants.recipes import Row, tensor_core, widened
from tests.variants.recurrent import make_recurrent, make_transition, make_transposed
from tests.variants.wy import make_wy

__all__ = ["CHUNKED", "RECURRENT", "ROWS"]

_NEWTON = partial(by_blocks, is_newton=True)

CHUNKED: dict[str, Run] = {
    "wy-8": make_wy(chunk=8),
    "wy-16": make_wy(chunk=16),
    "wy-24": make_wy(chunk=24),
    "wy-32": make_wy(chunk=32),
    "wy-64": make_wy(chunk=64),
    "wy-128": make_wy(chunk=128),
    "wy-16-reversed": make_wy(chunk=16, is_reversed=True),
    "wy-64-reversed": make_wy(chunk=64, is_reversed=True),
    "wy-32-rows": make_wy(chunk=32, invert=by_rows),
    "wy-64-blocks": make_wy(chunk=64, invert=by_blocks),
    "wy-16-newton": make_wy(chunk=16, invert=_NEWTON),
    "wy-64-newton": make_wy(chunk=64, invert=_NEWTON, is_reversed=True),
}

_WIDE: dict[str, Run] = {
    "wy-48-wide": make_wy(chunk=48, is_wide=True),
    "wy-16-wide-rows": make_wy(chunk=16, is_wide=True, invert=by_rows),
    "wy-64-wide-sides": make_wy(chunk=64, is_wide=True, decays_sides=True),
    "wy-16-wide-sides": make_wy(chunk=16, is_wide=True, decays_sides=True, is_reversed=True),
}

RECURRENT: dict[str, Run] = {
    "recurrent": make_recurrent(),
    "recurrent-reversed": make_recurrent(is_reversed=True),
    "recurrent-transition": make_transition(),
    "recurrent-reads-apart": make_transition(reads_apart=True),
    "recurrent-transposed": make_transposed(),
    "recurrent-decays-error": make_transposed(decays_error=True),
}

ROWS: tuple[Row, ...] = (
    *((name, "gated_delta_rule", call, tensor_core) for name, call in CHUNKED.items()),
    *((name, "gated_delta_rule", call, widened) for name, call in {**_WIDE, **RECURRENT}.items()),
)
