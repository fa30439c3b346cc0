"""torch's FlexAttention, compiled, as ``attention``: forward only, as that is what its CPU kernel has.

Every shape is compiled as a program of its own (about 5 s of one core), so that a result never depends on the shapes
that ran before; with ``dynamic=True``, torch 2.13 compiled nearly as many programs, some of which the C++ compiler
refused. The window and the key mask enter a program as tensors and share it.

Letters: B batch, T query tokens, S key tokens, H query heads, G key/value heads, D query/key head width, V value head
width.
"""

import warnings
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask
from torch.nn.attention.flex_attention import flex_attention as torch_flex_attention

from optimized.eager.checks import Window, check_attention

__all__ = ["FlexOutput", "flex_attention", "supports"]

_UNBOUNDED = 2**30
"""A window side that reaches beyond every key."""

_PROGRAMS = 256
"""Programs that may be compiled in one process; torch stops at 8 unless told otherwise."""


class FlexOutput(NamedTuple):
    """Result (B, T, H, V); the compiled CPU kernel does not return the log of the denominator."""

    out: Tensor
    lse: None = None


def supports(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    scale: float,
    window: Window = (None, None),
    sinks: Tensor | None = None,
    key_mask: Tensor | None = None,
    bias: Tensor | None = None,
) -> str | None:
    """Returns None, or a sentence that says why ``flex_attention`` refuses these arguments of ``attention``."""
    del scale, window, key_mask
    if query.device.type != "cpu":
        return f"device: got {query.device.type}, expected cpu"
    if query.dtype not in (torch.float32, torch.bfloat16):
        return f"query: got {query.dtype}, expected float32 or bfloat16"
    if 0 in (*query.shape, *key.shape, *value.shape):
        return f"query, key: got shapes {tuple(query.shape)} and {tuple(key.shape)}, expected no empty axis"
    if sinks is not None:
        return "sinks: got a tensor, expected None, the compiled CPU kernel returns no lse to add them to"
    if bias is not None:
        return "bias: got a tensor, expected None, it would be one more program to compile"
    return None


def flex_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    scale: float,
    window: Window = (None, None),
    sinks: Tensor | None = None,
    key_mask: Tensor | None = None,
    bias: Tensor | None = None,
) -> FlexOutput:
    """Computes ``attention`` by compiled FlexAttention, without gradients.

    Args:
        query: shape (B, T, H, D), float32 or bfloat16, on a CPU.
        key: shape (B, S, G, D).
        value: shape (B, S, G, V).
        scale: factor of the logits.
        window: as in ``attention``.
        sinks: must be None.
        key_mask: shape (B, S), boolean.
        bias: must be None.

    Returns:
        ``out`` (B, T, H, V), and None in place of the log of the denominator.

    Raises:
        TypeError: the key mask is not boolean.
        ValueError: a shape disagrees, or ``supports`` says no.

    Source: Dong et al., "Flex Attention"; torch.nn.attention.flex_attention.
    """
    refusal = supports(query, key, value, scale=scale, window=window, sinks=sinks, key_mask=key_mask, bias=bias)
    if refusal is not None:
        raise ValueError(refusal)
    check_attention(query, key, value, window=window, sinks=sinks, key_mask=key_mask, bias=bias)
    (B, T), S = query.shape[:2], key.shape[1]
    left, right = (torch.tensor(_UNBOUNDED if side is None else side) for side in window)
    shift = torch.tensor(S - T)
    seen = torch.ones(B, S, dtype=torch.bool) if key_mask is None else key_mask

    def is_visible(batch: Tensor, _head: Tensor, token: Tensor, position: Tensor) -> Tensor:
        distance = position - token - shift
        return (distance >= -left) & (distance <= right) & seen[batch, position]

    mask = create_block_mask(is_visible, B, None, T, S, device="cpu")
    heads_first = [part.detach().transpose(1, 2).contiguous() for part in (query, key, value)]
    with torch.no_grad(), torch._dynamo.config.patch(recompile_limit=_PROGRAMS), warnings.catch_warnings():
        # torch's compiler uses parts of torch that torch has deprecated.
        warnings.simplefilter("ignore", DeprecationWarning)
        out = _program()(*heads_first, mask, scale)
    return FlexOutput(out=out.transpose(1, 2))


@cache
def _program() -> Callable[..., Tensor]:
    """Returns the compiled program; ``fullgraph`` makes it raise where it would fall back to the uncompiled one."""
    return torch.compile(_attend, dynamic=False, fullgraph=True)


def _attend(query: Tensor, key: Tensor, value: Tensor, mask: BlockMask, scale: float) -> Tensor:
    out = torch_flex_attention(query, key, value, block_mask=mask, scale=scale, enable_gqa=True)
    assert isinstance(out, Tensor)
    return out
