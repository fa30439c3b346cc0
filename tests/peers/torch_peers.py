"""Plug-in of torch's own functions: ``attest fuzz --op attention --plugin tests/peers/torch_peers.py``.

On a GPU the same candidates take torch's GPU kernels; a backend that a device does not have is declined by name.
"""

import functools
import math
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from optimized.candidate import Candidate, Recipe
from tests.peers.peer import ALL, HALF, LAYERED, Refusal, each, fused, only, stored, widened
from tests.peers.visibility import Window, is_causal, visible

__all__ = ["CANDIDATES"]

HAS_GPU = torch.cuda.is_available()
"""Whether ``flex_attention`` has gradients: on a CPU it has none."""

Result = tuple[Tensor, None]
"""Heads after tokens, and no log of the denominator, which these functions do not return."""


def sdpa(backend: SDPBackend | None) -> Callable[..., Result]:
    """Returns ``scaled_dot_product_attention`` with one backend, or with the one that torch takes."""
    attend: Callable[..., Tensor] = functional.scaled_dot_product_attention

    def attention(
        query: Tensor, key: Tensor, value: Tensor, *, scale: float, window: Window = (None, None),
        key_mask: Tensor | None = None, bias: Tensor | None = None, sinks: Tensor | None = None,
    ) -> Result:  # fmt: skip
        del sinks  # declined
        causal = is_causal(query, key, window) and key_mask is None and bias is None
        mask = None if causal else visible(query, key, window, key_mask)
        if bias is not None:
            mask = bias if mask is None else torch.where(mask, bias, -math.inf)
        heads_first = [item.transpose(1, 2) for item in (query, key, value)]
        options: dict[str, Any] = {"attn_mask": mask, "is_causal": causal, "scale": scale}
        options["enable_gqa"] = query.shape[2] != key.shape[2]
        with nullcontext() if backend is None else sdpa_kernel(backend):
            return attend(*heads_first, **options).transpose(1, 2), None

    return attention


def flex(*, is_compiled: bool) -> Callable[..., Result]:
    """Returns ``flex_attention`` with a block mask for window and key mask, compiled or as plain torch code."""

    def attention(
        query: Tensor, key: Tensor, value: Tensor, *, scale: float, window: Window = (None, None),
        key_mask: Tensor | None = None, bias: Tensor | None = None, sinks: Tensor | None = None,
    ) -> Result:  # fmt: skip
        from torch.nn.attention.flex_attention import create_block_mask, flex_attention

        del sinks, bias  # declined
        B, T = query.shape[:2]
        S = key.shape[1]
        seen = visible(query, key, window, key_mask)
        mask = None
        if seen is not None:
            whole = seen.expand(B, 1, T, S)
            mask = create_block_mask(
                lambda batch, _head, token, place: whole[batch, 0, token, place],
                B,
                None,
                T,
                S,
                device=str(query.device),
            )
        heads_first = [item.transpose(1, 2).contiguous() for item in (query, key, value)]
        function: Any = _compiled_flex() if is_compiled else flex_attention
        with warnings.catch_warnings():
            # One says that the uncompiled form is slow; the compiler uses parts of torch that torch has deprecated.
            warnings.simplefilter("ignore")
            out = function(*heads_first, block_mask=mask, scale=scale, enable_gqa=True)
        return out.transpose(1, 2), None

    return attention


@functools.cache
def _compiled_flex() -> Callable[..., Any]:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=False)


def varlen(
    query: Tensor, key: Tensor, value: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor, *, scale: float,
    window: Window = (None, None), sinks: Tensor | None = None,
) -> Result:  # fmt: skip
    """``torch.nn.attention.varlen.varlen_attn``, whose window is ``(left, right)`` with -1 for unbounded."""
    from torch.nn.attention.varlen import varlen_attn

    del sinks  # declined
    longest = [int(offsets.diff().max()) for offsets in (cu_seqlens_q, cu_seqlens_k)]
    left, right = (-1 if side is None else side for side in window)
    attend: Any = varlen_attn
    out = attend(query, key, value, cu_seqlens_q, cu_seqlens_k, *longest, scale=scale, window_size=(left, right))
    return out, None


def rms_norm(x: Tensor, weight: Tensor, *, eps: float, zero_centered: bool = False) -> Tensor:
    """``torch.nn.functional.rms_norm``."""
    del zero_centered  # declined
    return functional.rms_norm(x, weight.shape, weight, eps)


def normalize(x: Tensor, *, eps: float = 1e-6) -> Tensor:
    """``torch.nn.functional.normalize``, which divides by ``max(|x|, eps)``: another place for eps."""
    return functional.normalize(x, dim=-1, eps=eps)


def silu_mul(gate: Tensor, x: Tensor) -> Tensor:
    """``silu(gate) * x`` as every model writes it."""
    return functional.silu(gate) * x


def short_conv(x: Tensor, weight: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """``conv1d`` with one filter per channel, padded on the left, then ``silu``; the mask multiplies x before."""
    channels, taps = weight.shape
    masked = x if mask is None else x * mask[..., None].to(x.dtype)
    padded = functional.pad(masked.transpose(1, 2), (taps - 1, 0))
    return functional.silu(functional.conv1d(padded, weight[:, None], groups=channels)).transpose(1, 2)


def mamba_decay(x: Tensor, a_log: Tensor, dt_bias: Tensor) -> Tensor:
    """The log decay by ``softplus``, in float32, as Qwen3-Next's code writes it."""
    return -a_log.float().exp() * functional.softplus(x.float() + dt_bias.float())


def log_sigmoid_decay(x: Tensor, *, normalizer: float) -> Tensor:
    """The log decay by ``logsigmoid``, in float32."""
    return functional.logsigmoid(x.float()) / normalizer


def on(device: str, kernel: str) -> Refusal:
    """Returns a refusal of the other device: there torch has no such kernel."""

    def supports(*tensors: Any, **_: Any) -> str | None:
        got = tensors[0].device.type
        return None if got == device else f"device: got {got}, expected {device}: torch has {kernel} there alone"

    return supports


def one_width(query: Tensor, _key: Tensor, value: Tensor, *_: Any, **__: Any) -> str | None:
    """Refuses values of another width than queries and keys."""
    if query.shape[-1] == value.shape[-1]:
        return None
    return f"value width: got {value.shape[-1]}, expected {query.shape[-1]}, the width of queries and keys"


def constant_bias(*_: Any, bias: Tensor | None = None, **__: Any) -> str | None:
    """Refuses a bias that asks for a gradient."""
    return None if bias is None else "bias: got a tensor that asks for a gradient, expected None: the kernel has none"


def no_empty_sequence(*tensors: Any, **_: Any) -> str | None:
    """Refuses sequences without a token."""
    return None if min(int(item.diff().min()) for item in tensors[3:5]) else "cu_seqlens: got an empty sequence"


def exp_u20(storage: str) -> Recipe:
    """Returns the recipe of torch's CPU kernel, whose exponential is accurate to 20 bits."""
    return Recipe(storage=storage, operand=storage, accumulator="float32", exp_error=2.0**-21)


_attention = functools.partial(each, op="attention", needs=("torch",))
_NO_SINKS = only(sinks=None)
_FLASH = (_NO_SINKS, one_width, constant_bias)

# fmt: off
CANDIDATES: tuple[Candidate, ...] = (
    *_attention("torch-sdpa-math", call=sdpa(SDPBackend.MATH), recipe=widened, formats=ALL, refusals=(_NO_SINKS,)),
    *_attention("torch-sdpa-flash", call=sdpa(SDPBackend.FLASH_ATTENTION), recipe=exp_u20,
                refusals=(*_FLASH, on("cpu", "a flash kernel that takes masks"))),
    *_attention("torch-sdpa-flash-gpu", call=sdpa(SDPBackend.FLASH_ATTENTION), recipe=fused, formats=HALF,
                refusals=(*_FLASH, only(key_mask=None, window=((None, None), (None, 0))),
                          on("cuda", "FlashAttention 2"))),
    *_attention("torch-sdpa-efficient", call=sdpa(SDPBackend.EFFICIENT_ATTENTION), recipe=fused,
                refusals=(_NO_SINKS, on("cuda", "the memory-efficient kernel"))),
    *_attention("torch-sdpa-cudnn", call=sdpa(SDPBackend.CUDNN_ATTENTION), recipe=fused, formats=HALF,
                refusals=(*_FLASH, on("cuda", "cuDNN's kernel"))),
    *_attention("torch-sdpa", call=sdpa(None), recipe=exp_u20, refusals=(_NO_SINKS,)),
    *_attention("torch-flex", call=flex(is_compiled=False), recipe=widened, formats=LAYERED,
                refusals=(_NO_SINKS, only(bias=None)), differentiable=HAS_GPU),
    *_attention("torch-flex-compiled", call=flex(is_compiled=True), recipe=exp_u20, formats=LAYERED,
                refusals=(_NO_SINKS, only(bias=None)), differentiable=HAS_GPU),
    *each("torch-varlen", "varlen_attention", varlen, fused, needs=("torch",), formats=HALF,
          refusals=(_NO_SINKS, one_width, on("cuda", "a kernel for packed sequences"), no_empty_sequence)),
    *each("torch-rms-norm", "rms_norm", rms_norm, widened, needs=("torch",), refusals=(only(zero_centered=False),)),
    *each("torch-normalize", "l2_norm", normalize, stored, needs=("torch",), formats=LAYERED),
    *each("torch-silu-mul", "silu_mul", silu_mul, stored, needs=("torch",)),
    *each("torch-conv1d", "short_conv", short_conv, stored, needs=("torch",)),
    *each("torch-softplus-decay", "mamba_decay", mamba_decay, widened, needs=("torch",), formats=LAYERED),
    *each("torch-logsigmoid-decay", "log_sigmoid_decay", log_sigmoid_decay, widened, needs=("torch",),
          formats=LAYERED),
)
# fmt: on
"""torch's functions as candidates."""
