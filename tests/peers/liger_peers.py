"""Plug-in of Liger Kernel: ``attest fuzz --op rms_norm --plugin tests/peers/liger_peers.py``.

Its RMSNorm has three ways to convert: Llama's rounds before the weight, Gemma's after, with the weight around zero. Its
rotation wants heads before tokens and changes queries and keys in place, so it is given copies.
"""

import functools
from collections.abc import Callable

from torch import Tensor

from optimized.candidate import Candidate
from tests.peers.interpreter import imported
from tests.peers.peer import each, interpreted, only, stored, widened

__all__ = ["CANDIDATES"]


def norm(mode: str) -> Callable[..., Tensor]:
    """Returns the RMSNorm with Llama's or Gemma's conversions."""

    def rms_norm(x: Tensor, weight: Tensor, *, eps: float, zero_centered: bool = False) -> Tensor:
        function = imported("liger_kernel.ops").LigerRMSNormFunction
        options = {"offset": 1.0 if zero_centered else 0.0, "casting_mode": mode, "in_place": False}
        out: Tensor = function.apply(x, weight, eps, *options.values())
        return out

    return rms_norm


def rope(x: Tensor, cos: Tensor, sin: Tensor, *, style: str) -> Tensor:
    """The rotation of halves."""
    del style  # declined
    heads_first = x.transpose(1, 2)
    function = imported("liger_kernel.ops").LigerRopeFunction
    out: Tensor = function.apply(heads_first.clone(), heads_first.clone(), cos, sin)[0]
    return out.transpose(1, 2)


def silu_mul(gate: Tensor, x: Tensor) -> Tensor:
    """SwiGLU, whose backward pass writes into what the forward pass kept: it is given copies."""
    out: Tensor = imported("liger_kernel.ops").LigerSiLUMulFunction.apply(gate.clone(), x.clone())
    return out


_each = functools.partial(each, needs=("liger_kernel", "triton"))

CANDIDATES: tuple[Candidate, ...] = (
    *_each("liger-rms-norm-llama", "rms_norm", norm("llama"), stored,
           refusals=(interpreted, only(zero_centered=False))),
    *_each("liger-rms-norm-gemma", "rms_norm", norm("gemma"), widened, refusals=(interpreted,)),
    *_each("liger-rope", "rope", rope, stored, refusals=(interpreted, only(style="half"))),
    *_each("liger-swiglu", "silu_mul", silu_mul, stored, refusals=(interpreted,)),
)  # fmt: skip
"""Liger's kernels as candidates."""
