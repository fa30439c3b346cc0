"""Other people's kernels under the call of an operation, for timing beside ours; each is optional.

A peer that is not installed, or that refuses a shape, raises when it is made or called; the benchmark says so in its
row. Layout is ours, so that what a peer needs otherwise costs it a view, never a copy.
"""

import importlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["PEERS", "Peer", "prepare_compiler"]

Call = Callable[..., Any]
Window = tuple[int | None, int | None]
Result = tuple[Tensor, Tensor | None]
Peer = Callable[[], Call]


def prepare_compiler() -> None:
    """Sets up ``torch.compile`` for timing: what it makes is compiled at every shape, and an error where it is not.

    After eight compilations it runs a function as plain torch, in silence: at the fifth shape of a benchmark on an
    H100, flex_attention took seventy times as long as our Triton kernel. And the buffers of a backward pass stay: it is
    timed again and again on one graph.
    """
    functions: Any = importlib.import_module("torch._functorch.config")
    functions.donated_buffer = False
    graphs: Any = importlib.import_module("torch._dynamo.config")
    graphs.recompile_limit = graphs.accumulated_recompile_limit
    graphs.fail_on_recompile_limit_hit = True


def _sdpa() -> Call:
    """The fused attention of torch, whichever backend it takes; no window but causal, no sinks."""

    def call(
        query: Tensor, key: Tensor, value: Tensor, *, scale: float, window: Window, sinks: Tensor | None = None
    ) -> Result:
        if sinks is not None or window not in ((None, None), (None, 0)):
            raise ValueError("scaled_dot_product_attention has neither windows nor sinks")
        out = functional.scaled_dot_product_attention(
            query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), is_causal=window == (None, 0),
            scale=scale, enable_gqa=query.shape[2] != key.shape[2],
        )  # fmt: skip
        return out.transpose(1, 2), None

    return call


def _flash4() -> Call:
    """FlashAttention 4 as its own users call it."""
    function: Call = importlib.import_module("flash_attn.cute").flash_attn_func

    def call(
        query: Tensor, key: Tensor, value: Tensor, *, scale: float, window: Window, sinks: Tensor | None = None
    ) -> Result:
        is_causal = window == (None, 0)
        found = function(
            query, key, value, softmax_scale=scale, causal=is_causal, learnable_sink=sinks,
            window_size=(None, None) if is_causal else window,
        )  # fmt: skip
        return (found[0] if isinstance(found, tuple) else found), None

    return call


def _flex() -> Call:
    """The flex_attention of torch, compiled, with a block mask for the window; no sinks."""
    prepare_compiler()
    flex: Any = importlib.import_module("torch.nn.attention.flex_attention")
    # For every shape by itself: torch 2.11 does not compile it for sizes that are not known.
    compiled: Call = torch.compile(flex.flex_attention, dynamic=False)
    make_mask: Call = flex.create_block_mask
    masks: dict[tuple[Any, int, int], Any] = {}

    def call(
        query: Tensor, key: Tensor, value: Tensor, *, scale: float, window: Window, sinks: Tensor | None = None
    ) -> Result:
        if sinks is not None:
            raise ValueError("flex_attention has no sinks")
        T, S = query.shape[1], key.shape[1]
        if (window, T, S) not in masks:
            left, right = window

            def seen(_batch: Tensor, _head: Tensor, token: Tensor, place: Tensor) -> Tensor:
                distance = place - (token + S - T)
                low = distance >= -S if left is None else distance >= -left
                return low & (distance <= (S if right is None else right))

            is_all = window == (None, None)
            masks[window, T, S] = None if is_all else make_mask(
                seen, None, None, T, S, device=query.device.type
            )  # fmt: skip
        out = compiled(
            query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), block_mask=masks[window, T, S],
            scale=scale, enable_gqa=query.shape[2] != key.shape[2],
        )  # fmt: skip
        return out.transpose(1, 2), None

    return call


def _fla_rule() -> Call:
    """The chunked gated delta rule of fla."""
    function: Call = importlib.import_module("fla.ops.gated_delta_rule").chunk_gated_delta_rule

    def call(query: Tensor, key: Tensor, value: Tensor, log_decay: Tensor, beta: Tensor, *, scale: float) -> Result:
        out, state = function(query, key, value, log_decay, beta, scale=scale, output_final_state=True)
        return out, state

    return call


def _fla_short_conv() -> Call:
    function: Call = importlib.import_module("fla.modules.causal_conv1d").causal_conv1d
    return lambda x, weight: function(x, weight, activation="silu")[0]


def _fla_l2_norm() -> Call:
    function: Call = importlib.import_module("fla.modules.norm.l2norm").l2norm
    return lambda x, *, eps: function(x, eps)


def _liger_rms_norm() -> Call:
    function = importlib.import_module("liger_kernel.ops.rms_norm").LigerRMSNormFunction
    in_place = False  # else it overwrites the cotangent, which the next repetition needs again
    return lambda x, weight, *, eps: function.apply(x, weight, eps, 0.0, "llama", in_place)


def _liger_silu_mul() -> Call:
    """The gated product of Liger; its backward writes the gradients over its inputs, so that repetitions see others."""
    function = importlib.import_module("liger_kernel.ops.swiglu").LigerSiLUMulFunction
    call: Call = function.apply
    return call


def _torch_rms_norm() -> Call:
    return lambda x, weight, *, eps: functional.rms_norm(x, x.shape[-1:], weight, eps)


PEERS: Mapping[str, Mapping[str, Peer]] = {
    "attention": {"torch-sdpa": _sdpa, "flash4-direct": _flash4, "torch-flex": _flex},
    "gated_delta_rule": {"fla": _fla_rule},
    "l2_norm": {"fla": _fla_l2_norm},
    "rms_norm": {"liger": _liger_rms_norm, "torch-fused": _torch_rms_norm},
    "short_conv": {"fla": _fla_short_conv},
    "silu_mul": {"liger": _liger_silu_mul},
}
"""By operation and name, what makes the callable; it has the operation's call."""
