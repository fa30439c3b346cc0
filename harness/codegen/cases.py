"""The cases that kernels are compiled for: few tokens, since nothing runs, but as many heads as fill a GPU.

Launch settings and the code of a kernel depend on widths, format, options and the number of heads, hardly on tokens.
Of every operation there is the case with the most code in it (window, sinks, masks, groups, states) at each width of
interest, and a plain one; ``--quick`` keeps those at the widths 64 and 128 in bfloat16 and one in float32.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from harness.codegen.offline import GATED_ARCH
from harness.operations.base import Operation
from harness.operations.case import Case

__all__ = ["codegen_cases", "probe_of"]

_ALL_WIDTHS = (40, 64, 72, 96, 104, 128, 192, 256)
_HOPPER_PROGRAMS = 132
_TOKENS = ("tokens", "query_tokens", "key_tokens")
_TOKENS_OF_A_PROBE = 4

Fields = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """Which cases are wanted.

    Attributes:
        dtype: format of the tensors.
        quick: whether it is the subset for every day.
        gated: whether it is for the architecture that the limits are for, which is examined more closely.
    """

    dtype: str
    quick: bool
    gated: bool

    @property
    def formats(self) -> tuple[str, ...]:
        """Formats that have cases."""
        if not self.quick:
            return ("float32", "bfloat16", "float16")
        return ("float32", "bfloat16") if self.gated else ("bfloat16",)

    @property
    def widths(self) -> tuple[int, ...]:
        """Head widths of the case with the most code."""
        if self.quick:
            return ((64, 128) if self.dtype == "bfloat16" else (64,)) if self.gated else (128,)
        if self.dtype == "float16":
            return (64, 128)
        return _ALL_WIDTHS if self.dtype == "bfloat16" and self.gated else (64, 128, 256)

    @property
    def few(self) -> bool:
        """Whether one case is enough where formats differ by a conversion only: float16 has bfloat16's settings."""
        return self.quick or self.dtype == "float16"

    @property
    def variants(self) -> bool:
        """Whether other options are wanted beside the case with the most code."""
        return self.dtype == "bfloat16" and not self.quick


def codegen_cases(row: Operation, dtype: str, *, arch: str = GATED_ARCH, quick: bool = False) -> list[Case]:
    """Returns the cases of an operation in a format; float64 has none, since no kernel here computes in it.

    Widths between powers of two cost a mask and no setting of their own: only the architecture of the gate has them.
    The quick cases are in bfloat16, and in float32 there too.
    """
    scope = Scope(dtype=dtype, quick=quick, gated=arch == GATED_ARCH)
    if dtype not in scope.formats:
        return []
    return [row.case.from_data({"dtype": dtype, **fields}) for fields in _SUITES[row.name](scope)]


def probe_of(case: Case) -> Case:
    """Returns the case with next to no tokens, for a call that is left at its first launch."""
    changes: dict[str, Any] = {name: _TOKENS_OF_A_PROBE for name in _TOKENS if hasattr(case, name)}
    if hasattr(case, "sequence_lengths"):
        changes["sequence_lengths"] = ()
    return case.replaced(**changes)


def _attention(scope: Scope) -> list[Fields]:
    shape = {"batch": 1, "query_tokens": 256, "key_tokens": 256, "key_heads": 8, "group": 4}
    most = {"window_left": 128, "window_right": 0, "sinks": True, "key_mask": True}
    cases: list[Fields] = [{**shape, **_square(width), **most} for width in scope.widths]
    if not scope.variants:
        return cases
    causal = [{**shape, **_square(width), "group": 1, "window_right": 0} for width in (64, 128)]
    bias = {**shape, **_square(128), "bias": "head", "layout": "fused"}
    cases += [{**shape, **_square(width), **most, "bias": "full"} for width in (64, 128, 256)]
    uneven = {**shape, "head_dim": 192, "value_dim": 128, "window_right": 0, "layout": "transposed"}
    decode = {**shape, **_square(128), "query_tokens": 1, "key_tokens": 1000}
    return [*cases, *causal, bias, uneven, decode]


def _varlen_attention(scope: Scope) -> list[Fields]:
    lengths = (100, 0, 57, 99)
    shape = {"query_lengths": lengths, "key_lengths": lengths, "key_heads": 8, "group": 4}
    most = {"window_left": 64, "window_right": 0, "sinks": True}
    cases: list[Fields] = [{**shape, **_square(width), **most} for width in scope.widths]
    if not scope.variants:
        return cases
    return [*cases, {**shape, "head_dim": 192, "value_dim": 128, "window_right": 0}]


def _gated_delta_rule(scope: Scope) -> list[Fields]:
    shape = {"batch": 1, "tokens": 128, "key_heads": _HOPPER_PROGRAMS // 2, "group": 2}
    most = {"normalize_qk": True, "initial_state": True}
    cases: list[Fields] = [{**shape, "key_dim": width, "value_dim": width, **most} for width in scope.widths]
    if not scope.variants:
        return cases
    wide = {"key_dim": 128, "value_dim": 128}
    packed = {**shape, **wide, **most, "sequence_lengths": (64, 1, 63)}
    few = {**shape, **wide, "key_heads": 4, "group": 1}
    plain = {**shape, **wide, "key_heads": _HOPPER_PROGRAMS, "group": 1, "log_decay": False}
    uneven = {**shape, "key_dim": 64, "value_dim": 128}
    return [*cases, packed, few, plain, uneven]


def _rms_norm(scope: Scope) -> list[Fields]:
    return [
        {"batch": 2, "tokens": 64, "channels": channels, "zero_centered": zero_centered}
        for channels in ((4096,) if scope.few else (40, 64, 128, 1024, 4096, 8192, 16384))
        for zero_centered in ((True,) if scope.few or channels != 128 else (False, True))
    ]


def _gated_rms_norm(scope: Scope) -> list[Fields]:
    return [
        {"batch": 2, "tokens": 64, "heads": 16, "channels": channels}
        for channels in ((128,) if scope.few else (40, 64, 128, 256, 4096, 8192))
    ]


def _l2_norm(scope: Scope) -> list[Fields]:
    return [
        {"batch": 2, "tokens": 64, "heads": heads, "width": width}
        for heads, width in (
            ((16, 128),) if scope.few else (*((16, width) for width in (40, 64, 72, 96, 128, 256)), (1, 16384))
        )
    ]


def _rope(scope: Scope) -> list[Fields]:
    return [
        {"batch": 2, "tokens": 64, "heads": 16, "width": width, "style": style}
        for width in ((128,) if scope.few else (40, 64, 128, 256))
        for style in ("half", "interleaved")
    ]


def _rope_tables(scope: Scope) -> list[Fields]:
    return [
        {"batch": 2, "tokens": 256, "rope_dim": width, "style": style}
        for width in ((128,) if scope.few else (64, 128))
        for style in ("half", "interleaved")
    ]


def _short_conv(scope: Scope) -> list[Fields]:
    return [
        {"batch": 2, "tokens": 256, "channels": channels, "taps": taps, "mask": True}
        for channels, taps in (((1024, 4),) if scope.few else ((1024, 4), (1000, 3), (96, 2), (1024, 8)))
    ]


def _silu_mul(scope: Scope) -> list[Fields]:
    return [
        {"batch": 2, "tokens": 64, "channels": channels, "layout": layout}
        for channels, layout in (
            ((4096, "contiguous"),) if scope.few else ((4096, "contiguous"), (1000, "fused"), (40, "transposed"))
        )
    ]


def _decay(scope: Scope) -> list[Fields]:
    return [{"batch": 2, "tokens": 512, "heads": heads} for heads in ((32,) if scope.few else (32, 5))]


def _low_rank_projection(scope: Scope) -> list[Fields]:
    del scope
    return [{"batch": 1, "tokens": 64, "in_features": 256, "bottleneck": 128, "out_features": 256}]


def _flash_sdpa(scope: Scope) -> list[Fields]:
    shape = {"batch": 1, "query_tokens": 256, "key_tokens": 256, "key_heads": 8, "group": 4}
    most = {"window_size": 128, "sinks": True, "key_mask": True}
    return [{**shape, **_square(width), **most} for width in ((64, 128) if scope.variants else (128,))]


def _grouped_query_attention(scope: Scope) -> list[Fields]:
    shape = {"batch": 1, "tokens": 256, "hidden_size": 256, "key_heads": 4, "group": 4}
    most = {"key_mask": True, "enable_output_gate": True, "qk_norm_zero_centered": True}
    cases: list[Fields] = [{**shape, "head_dim": 128, "rope_dim": 64, **most}]
    if not scope.variants:
        return cases
    return [*cases, {**shape, "head_dim": 64, "rope_style": "interleaved"}]


def _multi_head_latent_attention(scope: Scope) -> list[Fields]:
    del scope
    return [{
        "batch": 1, "tokens": 256, "hidden_size": 256, "heads": 8, "nope_dim": 128, "rope_dim": 64, "value_dim": 128,
        "kv_lora_rank": 128, "q_lora_rank": 64, "rope_style": "interleaved", "key_mask": True,
    }]  # fmt: skip


def _gated_delta_net(scope: Scope) -> list[Fields]:
    shape = {"batch": 1, "tokens": 128, "hidden_size": 256, "key_heads": 16, "group": 2, "key_dim": 128,
             "value_dim": 128, "mask": True}  # fmt: skip
    return [{**shape, "gate": gate} for gate in (("mamba",) if scope.few else ("mamba", "logsigmoid"))]


def _square(width: int) -> Fields:
    return {"head_dim": width, "value_dim": width}


_SUITES = {
    "rms_norm": _rms_norm,
    "gated_rms_norm": _gated_rms_norm,
    "l2_norm": _l2_norm,
    "rope": _rope,
    "rope_tables": _rope_tables,
    "short_conv": _short_conv,
    "silu_mul": _silu_mul,
    "mamba_decay": _decay,
    "log_sigmoid_decay": _decay,
    "attention": _attention,
    "varlen_attention": _varlen_attention,
    "gated_delta_rule": _gated_delta_rule,
    "low_rank_projection": _low_rank_projection,
    "flash_sdpa": _flash_sdpa,
    "grouped_query_attention": _grouped_query_attention,
    "multi_head_latent_attention": _multi_head_latent_attention,
    "gated_delta_net": _gated_delta_net,
}
