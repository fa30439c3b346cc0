"""The one table of operations."""

from collections.abc import Mapping

from harness.errors import UsageError, nearest
from harness.operations import (
    attention,
    flash_sdpa,
    gated_delta_net,
    gated_delta_rule,
    gated_rms_norm,
    grouped_query_attention,
    l2_norm,
    log_sigmoid_decay,
    low_rank_projection,
    mamba_decay,
    multi_head_latent_attention,
    rms_norm,
    rope,
    rope_tables,
    short_conv,
    silu_mul,
    varlen_attention,
)
from harness.operations.base import Operation

__all__ = ["OPS", "operation"]

OPS: Mapping[str, Operation] = {
    row.name: row
    for row in (
        rms_norm.OPERATION,
        gated_rms_norm.OPERATION,
        l2_norm.OPERATION,
        rope.OPERATION,
        rope_tables.OPERATION,
        short_conv.OPERATION,
        silu_mul.OPERATION,
        mamba_decay.OPERATION,
        log_sigmoid_decay.OPERATION,
        attention.OPERATION,
        varlen_attention.OPERATION,
        gated_delta_rule.OPERATION,
        low_rank_projection.OPERATION,
        flash_sdpa.OPERATION,
        grouped_query_attention.OPERATION,
        multi_head_latent_attention.OPERATION,
        gated_delta_net.OPERATION,
    )
}


def operation(name: str) -> Operation:
    """Returns the row of an operation.

    Raises:
        UsageError: there is no operation of this name.
    """
    if name not in OPS:
        raise UsageError(f"operation: got {name!r}, expected one of {', '.join(OPS)}{nearest(name, OPS)}")
    return OPS[name]
