"""Rows of the table of healthy variants: the layers, each made of stages that differ from stack to stack."""

from tests.variants import layers
from tests.variants.attentions import EXECUTIONS
from tests.variants.convolutions import make_short_conv
from tests.variants.delta_rules import CHUNKED, RECURRENT
from tests.variants.elementwise import NORMS
from tests.variants.flash import make_attention
from tests.variants.gates import make_log_sigmoid_decay, make_mamba_decay, make_silu_mul
from tests.variants.layers import Stack
from tests.variants.norms import make_gated_rms_norm, make_rms_norm
from tests.variants.recipes import Row, layered, tensor_core
from tests.variants.rotations import by_complex_numbers, by_matrices, make_rope
from tests.variants.whole_softmax import make_whole_attention

__all__ = ["ROWS"]

_LANES, _REVERSED, _KAHAN = (make_rms_norm(NORMS[name]) for name in ("lanes", "reversed", "kahan"))

_STACKS = {
    "reversed": (
        Stack(
            linear="reversed",
            norm=_LANES,
            gated_norm=make_gated_rms_norm(_LANES, make_silu_mul("halves")),
            rope=make_rope("first", "second", "first"),
            attention=make_attention(EXECUTIONS["split-2"]),
            conv=make_short_conv("reversed", "halves"),
            rule=CHUNKED["wy-16"],
            mamba=make_mamba_decay("logaddexp"),
            log_sigmoid=make_log_sigmoid_decay("logaddexp"),
        ),
        tensor_core,
    ),
    "split": (
        Stack(
            linear="split",
            norm=_REVERSED,
            gated_norm=make_gated_rms_norm(_REVERSED, make_silu_mul("torch", order="s last")),
            rope=by_complex_numbers,
            attention=make_attention(EXECUTIONS["lagging-base-two"]),
            conv=make_short_conv("grouped", "silu"),
            rule=CHUNKED["wy-64-blocks"],
            mamba=make_mamba_decay("log1p"),
            log_sigmoid=make_log_sigmoid_decay("atanh", divides=True),
        ),
        tensor_core,
    ),
    "wide": (
        Stack(
            linear="even and odd",
            norm=_KAHAN,
            gated_norm=make_gated_rms_norm(_KAHAN, make_silu_mul("float64")),
            rope=by_matrices,
            attention=make_whole_attention(normalises_last=True),
            conv=make_short_conv("fused", "halves"),
            rule=RECURRENT["recurrent-transposed"],
            mamba=make_mamba_decay("float64"),
            log_sigmoid=make_log_sigmoid_decay("float64"),
        ),
        layered,
    ),
}

ROWS: tuple[Row, ...] = tuple(
    (f"{op.replace('_', '-')}-{name}", op, make(stack), recipe)
    for op, make in {
        "low_rank_projection": layers.make_low_rank,
        "grouped_query_attention": layers.make_grouped_query_attention,
        "multi_head_latent_attention": layers.make_latent_attention,
        "gated_delta_net": layers.make_gated_delta_net,
    }.items()
    for name, (stack, recipe) in _STACKS.items()
)
