"""Which implementation computes the operations of a module: an explicit choice of one of four backends.

========== ==================================== ======================================= ==========================
backend    softmax attention                    gated delta rule                        everything else
========== ==================================== ======================================= ==========================
``flash4`` FlashAttention 4                     Triton, as ``triton``                   Triton, as ``triton``
``triton`` Triton                               Triton                                  Triton
``torch``  torch's ``scaled_dot_product_        in chunks, plain torch                  plain torch
           attention``, see ``sink_attention``
``eager``  the formula, all logits in memory    the recurrence, one token at a time     plain torch
========== ==================================== ======================================= ==========================

``torch`` and ``eager`` run on every device and dtype; ``eager`` follows the definitions most closely, in float64 to the
last digits. Nothing is ever chosen by what is installed: a backend whose package is missing says so, and one that
cannot compute a call raises the sentence of its ``supports``. Kernels of Triton and of FlashAttention 4 are imported by
the first call; under ``torch.compile`` they run as they are, between two graphs.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Final

import torch
from torch import Tensor

from optimized.chunked_delta_rule import chunked_delta_rule
from optimized.eager.attention import attention
from optimized.eager.gated_delta_rule import gated_delta_rule
from optimized.eager.gated_rms_norm import gated_rms_norm
from optimized.eager.log_sigmoid_decay import log_sigmoid_decay
from optimized.eager.mamba_decay import mamba_decay
from optimized.eager.rms_norm import rms_norm
from optimized.eager.rope import rope
from optimized.eager.short_conv import short_conv
from optimized.sink_attention import sink_attention

__all__ = ["BACKENDS", "Operations", "check_backend", "choose_backend", "is_autocast", "operations", "without_autocast"]

BACKENDS: Final = ("flash4", "triton", "torch", "eager")
"""Names of the backends."""

_FLASH4_DTYPES = (torch.bfloat16, torch.float16)
_FLASH4_CAPABILITIES = (9, 10)
"""Major compute capabilities, Hopper and the Blackwell of data centres, that FlashAttention 4 is chosen for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Operations:
    """The operations that modules are made of; calls, shapes and results are those of ``optimized.eager``.

    Attributes:
        attention: softmax attention, a pair whose first part is the result.
        gated_delta_rule: the delta rule, a pair whose first part is the result.
        rms_norm: RMSNorm over the last axis.
        gated_rms_norm: ``(x, gate, weight, *, eps)``, ``silu(gate) * rms_norm(x)``.
        rope_partial: rotary embedding of the first channels; as many as the tables have, the rest passes through.
        short_conv: causal depthwise convolution with SiLU.
        mamba_decay: Mamba's log decay.
        log_sigmoid_decay: the log-sigmoid log decay.
    """

    attention: Callable[..., Any]
    gated_delta_rule: Callable[..., Any]
    rms_norm: Callable[..., Tensor]
    gated_rms_norm: Callable[..., Tensor]
    rope_partial: Callable[..., Tensor]
    short_conv: Callable[..., Tensor]
    mamba_decay: Callable[..., Tensor]
    log_sigmoid_decay: Callable[..., Tensor]


def choose_backend(device: torch.device, dtype: torch.dtype) -> str:
    """Returns the backend of a module whose ``backend`` is None, from where and as what its tensors are stored.

    ======================================== ================== ==========
    device                                   dtype              backend
    ======================================== ================== ==========
    any                                      float64            ``eager``
    cuda of compute capability 9 or 10       bfloat16, float16  ``flash4``
    cuda                                     any other          ``triton``
    any other                                any other          ``torch``
    ======================================== ================== ==========

    Args:
        device: where the tensors are.
        dtype: what they are stored as when the operation begins, under autocast the narrower format.
    """
    if dtype == torch.float64:
        return "eager"
    if device.type != "cuda":
        return "torch"
    if dtype in _FLASH4_DTYPES and torch.cuda.get_device_capability(device)[0] in _FLASH4_CAPABILITIES:
        return "flash4"
    return "triton"


def check_backend(backend: str | None) -> str | None:
    """Returns the name of a backend, or None for the rule of ``choose_backend``.

    Raises:
        ValueError: there is no such backend.
    """
    if backend is not None and backend not in BACKENDS:
        raise ValueError(f"backend: got {backend!r}, expected None or one of {', '.join(BACKENDS)}")
    return backend


def operations(backend: str | None, tensor: Tensor) -> Operations:
    """Returns the operations of a backend; None chooses by the device and dtype of ``tensor``."""
    return _OPERATIONS[choose_backend(tensor.device, tensor.dtype) if backend is None else backend]


def is_autocast(device: torch.device) -> bool:
    """Returns whether autocast is on for a device."""
    return torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type)


def without_autocast(tensor: Tensor) -> AbstractContextManager[Any]:
    """Returns a context in which operations keep the dtype of their tensors, on the device of ``tensor``.

    Autocast is for the projections. An operation widens its 16-bit inputs itself, and a matrix product inside it that
    autocast narrowed again would round a state that has to stay float32.
    """
    return torch.autocast(tensor.device.type, enabled=False) if is_autocast(tensor.device) else nullcontext()


def _rope_partial(x: Tensor, cos: Tensor, sin: Tensor, *, style: str) -> Tensor:
    rotated = cos.shape[-1]
    if rotated == x.shape[-1]:
        return rope(x, cos, sin, style=style)
    return torch.cat((rope(x[..., :rotated], cos, sin, style=style), x[..., rotated:]), dim=-1)


def _imported_by_call(module: str, name: str, *, backend: str, package: str, others: str) -> Callable[..., Any]:
    """Returns a function that imports ``name`` from ``module`` when it is called; ``package`` is what that needs."""

    def call(*tensors: Tensor | None, **options: object) -> object:
        if find_spec(package) is None:
            raise ImportError(f"backend: got {backend}, which needs {package}, not installed here, expected {others}")
        return getattr(import_module(module), name)(*tensors, **options)

    return torch.compiler.disable(call, reason=f"{module} launches kernels of its own")  # type: ignore[no-any-return,no-untyped-call]  # torch


def _triton(module: str, name: str | None = None) -> Callable[..., Any]:
    return _imported_by_call(
        f"optimized.{module}", name or module, backend="triton", package="triton", others="torch or eager"
    )


def _flash4_attention() -> Callable[..., Any]:
    others = "triton, torch or eager"
    return _imported_by_call("optimized.flash4", "attention", backend="flash4", package="flash_attn", others=others)


def _kernel_operations(attention: Callable[..., Any]) -> Operations:
    return Operations(
        attention=attention,
        gated_delta_rule=_triton("gated_delta_rule"),
        rms_norm=_triton("rms_norm"),
        gated_rms_norm=_triton("gated_rms_norm"),
        rope_partial=_triton("rope", "rope_partial"),
        short_conv=_triton("short_conv"),
        mamba_decay=_triton("mamba_decay"),
        log_sigmoid_decay=_triton("log_sigmoid_decay"),
    )


def _torch_operations(attention: Callable[..., Any], gated_delta_rule: Callable[..., Any]) -> Operations:
    return Operations(
        attention=attention,
        gated_delta_rule=gated_delta_rule,
        rms_norm=rms_norm,
        gated_rms_norm=gated_rms_norm,
        rope_partial=_rope_partial,
        short_conv=short_conv,
        mamba_decay=mamba_decay,
        log_sigmoid_decay=log_sigmoid_decay,
    )


_OPERATIONS: Final[dict[str, Operations]] = {
    "flash4": _kernel_operations(_flash4_attention()),
    "triton": _kernel_operations(_triton("attention")),
    "torch": _torch_operations(sink_attention, chunked_delta_rule),
    "eager": _torch_operations(attention, gated_delta_rule),
}
