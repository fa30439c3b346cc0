"""Plug-in of flash-linear-attention: ``attest fuzz --op gated_delta_rule --plugin tests/peers/fla_peers.py``.

Where the meaning differs: the naive recurrence takes ``beta`` before ``g``, the chunked form after, so all is passed by
keyword; heads of queries and keys are repeated for the naive forms, in
float32, in which they compute; without decay a decay of 0 is given. Kernels run in
Triton's interpreter where there is no GPU, in float32 and float16.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from optimized.candidate import Candidate
from tests.peers.interpreter import imported
from tests.peers.peer import LAYERED, each, fused, interpreted, only, widened

__all__ = ["CANDIDATES"]

Rule = Callable[..., tuple[Tensor, Tensor]]


def naive_rule(kind: str) -> Rule:
    """Returns the delta rule in plain torch, ``recurrent`` or ``chunk``."""

    def rule(
        query: Tensor, key: Tensor, value: Tensor, log_decay: Tensor | None, beta: Tensor, *, scale: float,
        initial_state: Tensor | None = None, normalize_qk: bool = False, cu_seqlens: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        del normalize_qk, cu_seqlens  # declined
        function = getattr(imported("fla.ops.gated_delta_rule.naive"), f"naive_{kind}_gated_delta_rule")
        groups = value.shape[2] // query.shape[2]
        q, k = (item.float().repeat_interleave(groups, 2) for item in (query, key))
        decay = torch.zeros_like(beta) if log_decay is None else log_decay
        out, state = function(
            q=q, k=k, v=value, g=decay, beta=beta, scale=scale, initial_state=initial_state, output_final_state=True
        )
        return out.to(value.dtype), state

    return rule


def kernel_rule(name: str) -> Rule:
    """Returns the delta rule in Triton, ``chunk`` or ``fused_recurrent``, which repeats no heads."""

    def rule(
        query: Tensor, key: Tensor, value: Tensor, log_decay: Tensor | None, beta: Tensor, *, scale: float,
        initial_state: Tensor | None = None, normalize_qk: bool = False, cu_seqlens: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        function = getattr(imported("fla.ops.gated_delta_rule"), f"{name}_gated_delta_rule")
        decay = torch.zeros_like(beta) if log_decay is None else log_decay
        out, state = function(
            q=query, k=key, v=value, g=decay, beta=beta, scale=scale, initial_state=initial_state,
            output_final_state=True, use_qk_l2norm_in_kernel=normalize_qk, cu_seqlens=cu_seqlens,
        )  # fmt: skip
        return out, state

    return rule


def short_conv(x: Tensor, weight: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """``causal_conv1d`` with SiLU, as its layers call it; the mask multiplies x before."""
    masked = x if mask is None else x * mask[..., None].to(x.dtype)
    function = imported("fla.modules.causal_conv1d").causal_conv1d
    out: Tensor = function(x=masked, weight=weight, bias=None, activation="silu", backend="triton")[0]
    return out


def kda_gate(x: Tensor, a_log: Tensor, dt_bias: Tensor) -> Tensor:
    """``fused_kda_gate`` with one channel per head, as d9d calls it."""
    out: Tensor = imported("fla.ops.kda.gate").fused_kda_gate(x[..., None], A_log=a_log, dt_bias=dt_bias)
    return out[..., 0]


def gdn_gate(x: Tensor, a_log: Tensor, dt_bias: Tensor) -> Tensor:
    """``fused_gdn_gate``."""
    out: Tensor = imported("fla.ops.gated_delta_rule.gate").fused_gdn_gate(x, a_log, dt_bias)
    return out


def log_sigmoid(x: Tensor, *, normalizer: float) -> Tensor:
    """``logsigmoid`` with a temperature, which keeps the dtype of x: it is given float32."""
    out: Tensor = imported("fla.modules.activations").logsigmoid(x.float(), normalizer)
    return out


def l2_norm(x: Tensor, *, eps: float = 1e-6) -> Tensor:
    """``l2norm``."""
    out: Tensor = imported("fla.modules.norm.l2norm").l2norm(x, eps=eps)
    return out


def rms_norm(x: Tensor, weight: Tensor, *, eps: float, zero_centered: bool = False) -> Tensor:
    """``rms_norm``."""
    del zero_centered  # declined
    out: Tensor = imported("fla.modules.norm.layernorm").rms_norm(x, weight, None, eps=eps)
    return out


def gated_rms_norm(x: Tensor, gate: Tensor, weight: Tensor, *, eps: float, zero_centered: bool = False) -> Tensor:
    """``rms_norm_gated`` with swish."""
    del zero_centered  # declined
    function = imported("fla.modules.norm.fused_norm_gate").rms_norm_gated
    out: Tensor = function(x, gate, weight, None, activation="swish", eps=eps)
    return out


def rope(x: Tensor, cos: Tensor, sin: Tensor, *, style: str) -> Tensor:
    """``rotary_embedding``, whose tables hold every angle once and serve the whole batch: rows are rotated by turns."""
    is_interleaved = style == "interleaved"
    pairs = cos.shape[-1] // 2
    once = [table[..., ::2] if is_interleaved else table[..., :pairs] for table in (cos, sin)]
    function = imported("fla.modules.rotary").rotary_embedding
    rows = [
        function(x[row : row + 1], once[0][row].contiguous(), once[1][row].contiguous(), interleaved=is_interleaved)
        for row in range(x.shape[0])
    ]
    return torch.cat(rows)


def silu_mul(gate: Tensor, x: Tensor) -> Tensor:
    """``swiglu``."""
    out: Tensor = imported("fla.modules.activations").swiglu(gate, x)
    return out


def narrow_taps(*tensors: Any, **_: Any) -> str | None:
    """Refuses widths of the convolution that its kernels are not written for."""
    taps = tensors[1].shape[-1]
    return None if taps in (2, 3, 4) else f"taps: got {taps}, expected 2, 3 or 4"


_each = functools.partial(each, needs=("fla", "triton"))
_NAIVE = functools.partial(each, needs=("fla", "einops"), formats=LAYERED,
                           refusals=(only(cu_seqlens=None, normalize_qk=False),))  # fmt: skip
_RULE, _NORM = "gated_delta_rule", (interpreted, only(zero_centered=False))

# fmt: off
CANDIDATES: tuple[Candidate, ...] = (
    *_NAIVE("fla-naive-recurrent", _RULE, naive_rule("recurrent"), widened),
    *_NAIVE("fla-naive-chunk", _RULE, naive_rule("chunk"), widened),
    *_each("fla-chunk-delta-rule", _RULE, kernel_rule("chunk"), fused, refusals=(interpreted,)),
    *_each("fla-recurrent-delta-rule", _RULE, kernel_rule("fused_recurrent"), widened, refusals=(interpreted,),
           differentiable=False),
    *_each("fla-short-conv", "short_conv", short_conv, widened, refusals=(interpreted, narrow_taps)),
    *_each("fla-kda-gate", "mamba_decay", kda_gate, widened, refusals=(interpreted,)),
    *_each("fla-gdn-gate", "mamba_decay", gdn_gate, widened, refusals=(interpreted,)),
    *_each("fla-logsigmoid", "log_sigmoid_decay", log_sigmoid, widened, refusals=(interpreted,)),
    *_each("fla-l2norm", "l2_norm", l2_norm, widened, refusals=(interpreted,)),
    *_each("fla-rms-norm", "rms_norm", rms_norm, widened, refusals=_NORM),
    *_each("fla-rms-norm-gated", "gated_rms_norm", gated_rms_norm, widened, refusals=_NORM),
    *_each("fla-rotary", "rope", rope, widened, refusals=(interpreted,)),
    *_each("fla-swiglu", "silu_mul", silu_mul, widened, refusals=(interpreted,)),
)
# fmt: on
"""fla's naive forms and kernels as candidates."""
