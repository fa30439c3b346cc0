"""Cases of the five layers with every parameter random; every function draws them from the number of their series.

Letters: B batch, T tokens, H heads, G key/value (or query/key) heads, D query/key width, V value width.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from harness.certify.case import Argument, Case, Draw, Numbers

__all__ = ["CASES"]

Shapes = Mapping[str, tuple[int, ...]]

_WIDTH = 4
_MASK = np.array([[True, True, False, True], [False, True, True, True]])
_NO_MASK = None


def _case(
    op: str,
    draw: Draw,
    *,
    shapes: Shapes,
    options: Mapping[str, Any],
    batch: int = 1,
    forward: tuple[Argument, ...] = (),
    mask: Numbers | None = _NO_MASK,
    rope_dim: int | None = None,
    saturated: str | None = None,
) -> Case:
    """Returns a case with 4 tokens of width 4 and random parameters of the given shapes.

    The parameter named ``saturated`` is 20 times as large, so that the gate behind it is 0 or 1 to many digits.
    """
    inputs = {"hidden_states": draw.normal(batch, 4, _WIDTH)}
    if rope_dim is not None:
        inputs |= {"cos": draw.normal(batch, 4, rope_dim), "sin": draw.normal(batch, 4, rope_dim)}
    inputs |= {name: draw.normal(*shape, scale=shape[-1] ** -0.5) for name, shape in shapes.items()}
    if saturated is not None:
        inputs[saturated] = inputs[saturated] * 20.0
    return Case(
        op=op,
        regime=f"saturated={saturated}, mask={mask is not None}, {dict(options)}",
        inputs=inputs,
        constants={} if mask is None else {"attention_mask": mask[:batch]},
        arguments=("hidden_states", *forward, {name: name for name in shapes}),
        options=options,
        seed=(len(inputs), batch),
    )


def _low_rank_projection(series: int) -> list[Case]:
    shapes = {"down_proj.weight": (3, _WIDTH), "norm.weight": (3,), "up_proj.weight": (5, 3)}
    options = {"in_features": _WIDTH, "bottleneck": 3, "out_features": 5, "norm_eps": 1e-6}
    return [_case("low_rank_projection", Draw(series, 40), shapes=shapes, options=options, batch=2)]


def _flash_sdpa(series: int) -> list[Case]:
    draw = Draw(series, 41)
    return [
        _sdpa_case(draw, mask=None, sinks=True, is_causal=True, window_size=1),
        _sdpa_case(draw, mask=_MASK, sinks=False, is_causal=False, window_size=None),
        _sdpa_case(draw, mask=_MASK, sinks=True, is_causal=True, window_size=None),
    ]


def _sdpa_case(draw: Draw, *, mask: Numbers | None, sinks: bool, is_causal: bool, window_size: int | None) -> Case:
    inputs = {
        "query_states": draw.normal(2, 4, 4, 2),
        "key_states": draw.normal(2, 4, 2, 2),
        "value_states": draw.normal(2, 4, 2, 3),
    }
    states = tuple(inputs)
    if sinks:
        inputs["sinks"] = draw.normal(4)
    return Case(
        op="flash_sdpa",
        regime=f"is_causal={is_causal}, window_size={window_size}, mask={mask is not None}",
        inputs=inputs,
        constants={} if mask is None else {"attention_mask": mask},
        arguments=(*states, None if mask is None else "attention_mask", {"sinks": "sinks"} if sinks else {}),
        options={
            "is_causal": is_causal,
            "scale": 0.7,
            "num_sinks": 4 if sinks else None,
            "window_size": window_size,
        },
        seed=(len(inputs),),
    )


def _forward(mask: Numbers | None) -> tuple[Argument, ...]:
    return (None if mask is None else "attention_mask", ("cos", "sin"))


def _grouped_query_attention(series: int) -> list[Case]:
    draw = Draw(series, 42)
    gated = {"qk_norm_eps": 1e-6, "rope_dim": 2, "enable_output_gate": True, "is_causal": True}
    return [
        _gqa_case(draw, heads=4, groups=2, rope_style="half", mask=_NO_MASK, options=gated),
        _gqa_case(draw, heads=2, groups=1, rope_style="half", mask=_NO_MASK, options=gated, saturated=True),
        _gqa_case(
            draw,
            heads=2,
            groups=1,
            rope_style="interleaved",
            mask=_MASK,
            options={"qk_norm_eps": None, "is_causal": False},
        ),
        _gqa_case(
            draw,
            heads=2,
            groups=2,
            rope_style="half",
            mask=_MASK,
            options={"qk_norm_eps": 1e-5, "qk_norm_zero_centered": True, "is_causal": True},
        ),
    ]


def _gqa_case(
    draw: Draw,
    *,
    heads: int,
    groups: int,
    rope_style: str,
    mask: Numbers | None,
    options: Mapping[str, Any],
    saturated: bool = False,
) -> Case:
    D = 4
    shapes: dict[str, tuple[int, ...]] = {
        "q_proj.weight": (heads * D, _WIDTH),
        "k_proj.weight": (groups * D, _WIDTH),
        "v_proj.weight": (groups * D, _WIDTH),
        "o_proj.weight": (_WIDTH, heads * D),
    }
    if "enable_output_gate" in options:
        shapes["gate_proj.weight"] = (heads * D, _WIDTH)
    if options["qk_norm_eps"] is not None:
        shapes |= {"q_norm.weight": (D,), "k_norm.weight": (D,)}
    sizes = {"hidden_size": _WIDTH, "num_attention_heads": heads, "num_key_value_heads": groups, "head_dim": D}
    return _case(
        "grouped_query_attention",
        draw,
        shapes=shapes,
        options={**sizes, "rope_style": rope_style, **options},
        forward=_forward(mask),
        mask=mask,
        batch=1 if mask is None else 2,
        rope_dim=options.get("rope_dim", D),
        saturated="gate_proj.weight" if saturated else None,
    )


def _multi_head_latent_attention(series: int) -> list[Case]:
    draw = Draw(series, 43)
    return [
        _mla_case(draw, q_lora_rank=None, V=3, rope_style="interleaved", is_causal=True, mask=_NO_MASK),
        _mla_case(draw, q_lora_rank=3, V=5, rope_style="half", is_causal=False, mask=_MASK),
    ]


def _mla_case(
    draw: Draw, *, q_lora_rank: int | None, V: int, rope_style: str, is_causal: bool, mask: Numbers | None
) -> Case:
    H, nope, rotated, rank = 2, 2, 2, 3
    shapes: dict[str, tuple[int, ...]] = {
        "kv_down_proj.weight": (rank + rotated, _WIDTH),
        "kv_down_norm.weight": (rank,),
        "kv_up_proj.weight": (H * (nope + V), rank),
        "o_proj.weight": (_WIDTH, H * V),
    }
    if q_lora_rank is None:
        shapes["q_proj.weight"] = (H * (nope + rotated), _WIDTH)
    else:
        shapes["q_proj.down_proj.weight"] = (q_lora_rank, _WIDTH)
        shapes["q_proj.norm.weight"] = (q_lora_rank,)
        shapes["q_proj.up_proj.weight"] = (H * (nope + rotated), q_lora_rank)
    options = {
        "hidden_size": _WIDTH,
        "num_attention_heads": H,
        "qk_nope_head_dim": nope,
        "qk_rope_head_dim": rotated,
        "v_head_dim": V,
        "kv_lora_rank": rank,
        "q_lora_rank": q_lora_rank,
        "qk_down_norm_eps": 1e-6,
        "is_causal": is_causal,
        "rope_style": rope_style,
    }
    return _case(
        "multi_head_latent_attention",
        draw,
        shapes=shapes,
        options=options,
        forward=_forward(mask),
        mask=mask,
        batch=1 if mask is None else 2,
        rope_dim=rotated,
    )


_MAMBA = {"type": "mamba", "normalizer": 16.0, "dt_min": 1e-3, "dt_max": 0.1, "dt_init_floor": 1e-4}
_LOG_SIGMOID = {"type": "logsigmoid", "normalizer": 16.0}


def _gated_delta_net(series: int) -> list[Case]:
    draw = Draw(series, 44)
    return [
        _gdn_case(draw, decay_gate=_MAMBA, use_qk_l2norm=True, mask=_NO_MASK),
        _gdn_case(draw, decay_gate=_LOG_SIGMOID, use_qk_l2norm=False, mask=_NO_MASK),
        _gdn_case(draw, decay_gate=_MAMBA, use_qk_l2norm=True, mask=_MASK),
        _gdn_case(draw, decay_gate=_MAMBA, use_qk_l2norm=True, mask=_MASK, saturated="b_proj.weight"),
        _gdn_case(draw, decay_gate=_LOG_SIGMOID, use_qk_l2norm=True, mask=_NO_MASK, saturated="g_proj.weight"),
    ]


def _gdn_case(
    draw: Draw,
    *,
    decay_gate: Mapping[str, Any],
    use_qk_l2norm: bool,
    mask: Numbers | None,
    saturated: str | None = None,
) -> Case:
    G, H, D, V, K = 1, 2, 2, 3, 3
    channels = 2 * G * D + H * V
    shapes: dict[str, tuple[int, ...]] = {
        "qkv_proj.weight": (channels, _WIDTH),
        "qkv_conv1d.weight": (channels, K),
        "b_proj.weight": (H, _WIDTH),
        "g_proj.weight": (H * V, _WIDTH),
        "decay_gate.proj.weight": (H, _WIDTH),
        "out_norm.weight": (V,),
        "o_proj.weight": (_WIDTH, H * V),
    }
    if decay_gate["type"] == "mamba":
        shapes |= {"decay_gate.A_log": (H,), "decay_gate.dt_bias": (H,)}
    options = {
        "hidden_size": _WIDTH,
        "num_query_key_heads": G,
        "num_value_heads": H,
        "head_qk_dim": D,
        "head_v_dim": V,
        "norm_eps": 1e-6,
        "conv_size": K,
        "decay_gate": decay_gate,
        "use_qk_l2norm": use_qk_l2norm,
    }
    return _case(
        "gated_delta_net",
        draw,
        shapes=shapes,
        options=options,
        forward=(None if mask is None else "attention_mask",),
        mask=mask,
        batch=1 if mask is None else 2,
        saturated=saturated,
    )


CASES: dict[str, Callable[[int], list[Case]]] = {
    "low_rank_projection": _low_rank_projection,
    "flash_sdpa": _flash_sdpa,
    "grouped_query_attention": _grouped_query_attention,
    "multi_head_latent_attention": _multi_head_latent_attention,
    "gated_delta_net": _gated_delta_net,
}
