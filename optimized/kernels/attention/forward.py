"""Launch of the forward kernel. Letters: B batch, T query tokens, H query heads, V value width."""

import torch

from optimized.kernels.attention.call import (
    AttentionCall,
    constants,
    has_extras,
    num_tiles,
    settings,
    shared_arguments,
)
from optimized.kernels.attention.forward_kernel import attention_forward_kernel
from optimized.kernels.attention.tiling import forward_tiles
from optimized.kernels.precision import allocate_output, finish_output, kernel_input, non_stop_arithmetic

__all__ = ["attention_forward"]


def attention_forward(call: AttentionCall) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns ``out (B, T, H, V)`` in the storage format and ``lse (B, H, T)`` in float32 of a checked call."""
    B, T, H, _ = call.query.shape
    dtype, device = call.query.dtype, call.query.device
    out = allocate_output((B, T, H, call.value.shape[3]), dtype=dtype, device=device)
    lse = torch.empty((B, H, T), dtype=torch.float32, device=device)
    tiles = forward_tiles(**settings(call), has_extras=has_extras(call))
    if lse.numel():
        arguments = shared_arguments(call, block=tiles.block_m, of_keys=False)
        count = num_tiles(call, arguments["schedule_pointer"], block=tiles.block_m, of_keys=False)
        with non_stop_arithmetic():
            attention_forward_kernel[(count * H,)](
                None if call.sinks is None else kernel_input(call.sinks).contiguous(),
                out,
                lse,
                HAS_SINKS=call.sinks is not None,
                **arguments,
                **constants(call, tiles),
            )
    return finish_output(out, dtype=dtype), lse
