"""Cost models are those that counting gives: products by torch's counter, visible pairs by loops, bytes by tensors."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from harness.bench.calls import PHASES
from harness.bench.costs import Ceilings, Cost, cost, floor_us
from harness.cases import case_from_data
from harness.operations.base import Inputs, output_dtype
from harness.operations.case import Case
from harness.ops import OPS, operation
from harness.profiles import TIMED_SMALL
from harness.truth import promote

HEADS = {"batch": 2, "key_heads": 2, "group": 3, "head_dim": 8, "value_dim": 5}
SAME_LENGTH = {"query_tokens": 7, "key_tokens": 7}
PACKED = {
    "query_lengths": (3, 0, 5),
    "key_lengths": (4, 2, 5),
    "key_heads": 1,
    "group": 2,
    "head_dim": 8,
    "value_dim": 8,
}
ATTENTIONS: dict[str, dict[str, Any]] = {
    "all": {"op": "attention", **HEADS, **SAME_LENGTH},
    "causal": {"op": "attention", **HEADS, **SAME_LENGTH, "window_right": 0},
    "causal, fewer queries": {"op": "attention", **HEADS, "query_tokens": 3, "key_tokens": 9, "window_right": 0},
    "causal, fewer keys": {"op": "attention", **HEADS, "query_tokens": 9, "key_tokens": 4, "window_right": 0},
    "window": {"op": "attention", **HEADS, **SAME_LENGTH, "window_left": 2, "window_right": 0, "sinks": True},
    "window of few queries": {
        "op": "attention", **HEADS, "query_tokens": 2, "key_tokens": 9, "window_left": 2, "window_right": 1,
    },
    "two-sided window": {"op": "attention", **HEADS, **SAME_LENGTH, "window_left": 1, "window_right": 2},
    "key mask": {"op": "attention", **HEADS, **SAME_LENGTH, "window_right": 0, "key_mask": True},
    "packed": {"op": "varlen_attention", **PACKED},
    "packed, causal": {"op": "varlen_attention", **PACKED, "window_right": 0},
    "packed, window": {"op": "varlen_attention", **PACKED, "window_left": 1, "window_right": 0},
    "sdpa": {"op": "flash_sdpa", **HEADS, **SAME_LENGTH},
    "sdpa, all": {"op": "flash_sdpa", **HEADS, **SAME_LENGTH, "is_causal": False},
    "sdpa, window": {"op": "flash_sdpa", **HEADS, **SAME_LENGTH, "window_size": 3, "key_mask": True},
}  # fmt: skip


def made(fields: dict[str, Any]) -> tuple[Case, Inputs]:
    case = case_from_data({"dtype": "bfloat16", **fields})
    return case, operation(case.op).inputs(case)


def window_of(case: Any) -> tuple[int | None, int | None]:
    if hasattr(case, "is_causal"):
        return (getattr(case, "window_size", None), 0) if case.is_causal else (None, None)
    return case.window_left, case.window_right


def visible(case: Any, inputs: Inputs) -> Iterator[Tensor]:
    """Yields, for every sequence, which key a query sees: pair by pair, as the definition says it."""
    left, right = window_of(case)
    mask = inputs.tensors.get("key_mask", inputs.tensors.get("attention_mask"))
    if case.op == "varlen_attention":
        lengths = list(zip(case.query_lengths, case.key_lengths, strict=True))
    elif case.op in LAYERS:
        lengths = [(case.tokens, case.tokens)] * case.batch
    else:
        lengths = [(case.query_tokens, case.key_tokens)] * case.batch
    for row, (T, S) in enumerate(lengths):
        seen = torch.zeros(T, S, dtype=torch.bool)
        for query in range(T):
            for key in range(S):
                distance = key - (query + S - T)
                is_near = (left is None or distance >= -left) and (right is None or distance <= right)
                seen[query, key] = is_near and (mask is None or bool(mask[row, key]))
        yield seen


def counted_attention(case: Any, inputs: Inputs, *, backward: bool) -> int:
    """Returns what torch counts of the products of every query with the keys that it sees, and of their gradients."""
    total = 0
    for seen in visible(case, inputs):
        for row in seen:
            keys = int(row.sum())
            if not keys:
                continue
            query, key = (torch.randn(count, case.head_dim, requires_grad=True) for count in (1, keys))
            value = torch.randn(keys, case.value_dim, requires_grad=True)
            with FlopCounterMode(display=False) as counter:
                out = torch.softmax(query @ key.mT, -1) @ value
            if backward:
                with FlopCounterMode(display=False) as counter:
                    _ = query @ key.mT  # the scores, which nobody stores
                    torch.autograd.grad(out.sum(), [query, key, value])
            total += counter.get_total_flops()
    return total * int(case.key_heads * case.group)


@pytest.mark.parametrize("fields", ATTENTIONS.values(), ids=ATTENTIONS)
@pytest.mark.parametrize("phase", ["forward", "backward"])
def test_attention_costs_the_products_of_visible_pairs(fields: dict[str, Any], phase: str) -> None:
    case, inputs = made(fields)
    assert cost(case, inputs, phase).flops == counted_attention(case, inputs, backward=phase == "backward")


@pytest.mark.parametrize("fields", ATTENTIONS.values(), ids=ATTENTIONS)
def test_attention_reads_the_keys_that_a_window_reaches(fields: dict[str, Any]) -> None:
    case, inputs = made({**fields, "key_mask": False} if "key_mask" in fields else fields)
    unseen = sum(int((~seen.any(0)).sum()) for seen in visible(case, inputs))
    widths = case.key_heads * (case.head_dim + case.value_dim)  # type: ignore[attr-defined]
    expected = sizes(inputs) - 2 * unseen * widths
    assert cost(case, inputs, "forward").bytes == expected


def sizes(inputs: Inputs) -> int:
    return sum(item.nbytes for item in (*inputs.tensors.values(), *inputs.cotangents.values()))


@pytest.mark.parametrize("lengths", [(), (4, 0, 7)], ids=["plain", "packed"])
def test_the_delta_rule_costs_its_three_products_per_token(lengths: tuple[int, ...]) -> None:
    fields = {"batch": 1, "tokens": 11, "key_heads": 2, "group": 2, "key_dim": 8, "value_dim": 5}
    case, inputs = made({"op": "gated_delta_rule", **fields, "sequence_lengths": lengths})
    state = torch.zeros(2 * 2, 8, 5)
    with FlopCounterMode(display=False) as counter:
        for _ in range(11):
            key, query, value = torch.randn(4, 8, 1), torch.randn(4, 8, 1), torch.randn(4, 1, 5)
            state = state + key @ (value - key.mT @ state)
            _ = query.mT @ state
    assert cost(case, inputs, "forward").flops == counter.get_total_flops()
    assert cost(case, inputs, "backward").flops == 2 * counter.get_total_flops()


LAYERS = ("low_rank_projection", "grouped_query_attention", "multi_head_latent_attention", "gated_delta_net")
GROUPED = {
    "op": "grouped_query_attention", "batch": 2, "tokens": 7, "hidden_size": 12, "key_heads": 2, "group": 3,
    "head_dim": 8,
}  # fmt: skip
LATENT = {
    "op": "multi_head_latent_attention", "batch": 2, "tokens": 7, "hidden_size": 12, "heads": 3, "nope_dim": 8,
    "rope_dim": 4, "value_dim": 5, "kv_lora_rank": 6,
}  # fmt: skip
DELTA_NET = {
    "op": "gated_delta_net", "batch": 2, "tokens": 7, "hidden_size": 12, "key_heads": 2, "group": 2, "key_dim": 8,
    "value_dim": 5,
}  # fmt: skip
WITH_PROJECTIONS: dict[str, dict[str, Any]] = {
    "low rank": {
        "op": "low_rank_projection", "batch": 2, "tokens": 7, "in_features": 12, "bottleneck": 3, "out_features": 10,
    },
    "grouped": GROUPED,
    "grouped, all": {**GROUPED, "is_causal": False},
    "grouped, key mask": {**GROUPED, "key_mask": True},
    "grouped, output gate": {**GROUPED, "enable_output_gate": True},
    "latent": LATENT,
    "latent, all": {**LATENT, "is_causal": False},
    "latent, key mask": {**LATENT, "key_mask": True},
    "latent queries": {**LATENT, "q_lora_rank": 4},
    "delta net": DELTA_NET,
    "delta net, mask": {**DELTA_NET, "mask": True},
}  # fmt: skip


def counted_reference(case: Case, inputs: Inputs) -> int:
    """Returns what torch counts of the plain reference, which multiplies all pairs of queries and keys."""
    row = operation(case.op)
    args, kwargs = row.arrange(promote(inputs.tensors), inputs.options)
    with FlopCounterMode(display=False) as counter:
        row.reference(*args, **kwargs)
    return int(counter.get_total_flops())


def widths_of(case: Any) -> tuple[int, int, int]:
    """Returns the heads of a layer's attention, and the widths of keys and values; none for one without attention."""
    match case.op:
        case "grouped_query_attention":
            return case.key_heads * case.group, case.head_dim, case.head_dim
        case "multi_head_latent_attention":
            return case.heads, case.nope_dim + case.rope_dim, case.value_dim
    return 0, 0, 0


@pytest.mark.parametrize("fields", WITH_PROJECTIONS.values(), ids=WITH_PROJECTIONS)
def test_a_layer_costs_its_projections_beside_the_visible_pairs(fields: dict[str, Any]) -> None:
    """Backward a projection has two products for its one; attention multiplies its scores again, and four gradients."""
    case, inputs = made(fields)
    heads, width, value_width = widths_of(case)
    seen = sum(int(each.sum()) for each in visible(case, inputs)) if heads else 0
    everything = counted_reference(case, inputs)
    others = everything - 2 * case.batch * case.tokens**2 * heads * (width + value_width)  # type: ignore[attr-defined]
    assert cost(case, inputs, "forward").flops == others + 2 * seen * heads * (width + value_width)
    assert cost(case, inputs, "backward").flops == 2 * others + 2 * seen * heads * (3 * width + 2 * value_width)


WITHOUT_PRODUCTS = sorted(
    OPS.keys() - {*LAYERS, "attention", "varlen_attention", "flash_sdpa", "gated_delta_rule", "short_conv"}
)


@pytest.mark.parametrize("op", WITHOUT_PRODUCTS)
def test_what_has_no_matrix_product_costs_none(op: str) -> None:
    case, inputs = made({"op": op, **TIMED_SMALL[op]})
    assert [cost(case, inputs, phase).flops for phase in PHASES] == [counted_reference(case, inputs)] * 3 == [0] * 3


def test_a_short_convolution_is_no_matrix_product() -> None:
    case, inputs = made({"op": "short_conv", **TIMED_SMALL["short_conv"]})
    assert [cost(case, inputs, phase).flops for phase in PHASES] == [0] * 3


@pytest.mark.parametrize("op", sorted(TIMED_SMALL))
def test_bytes_are_those_of_what_goes_in_and_comes_out(op: str) -> None:
    case, inputs = made({"op": op, **TIMED_SMALL[op]})
    row = operation(op)
    args, kwargs = row.arrange(promote(inputs.tensors), inputs.options)
    outputs = row.named(row.reference(*args, **kwargs))
    out = sum(outputs[each.name].numel() * output_dtype(each, case.dtype).itemsize for each in row.outputs)
    read = sum(item.nbytes for item in inputs.tensors.values())
    gradients = sum(inputs.tensors[name].nbytes for name in row.differentiable(inputs.tensors))
    assert cost(case, inputs, "forward").bytes == read + out
    # The gradient of a rotation is the cotangent rotated back: angles are read, the input is not.
    unread = inputs.tensors["x"].nbytes if op == "rope" else 0
    assert cost(case, inputs, "backward").bytes == read + out + gradients - unread
    assert cost(case, inputs, "forward+backward").bytes == 2 * (read + out) + gradients - unread


def test_every_operation_has_a_timed_shape_and_so_a_tested_model() -> None:
    assert TIMED_SMALL.keys() == OPS.keys()


@pytest.mark.parametrize(
    ("least", "expected"), [(Cost(bytes=3e9, flops=1e12), 3e6 / 2), (Cost(bytes=1e3, flops=8e12), 8e6 / 4)]
)
def test_a_floor_is_that_of_the_slower_ceiling(least: Cost, expected: float) -> None:
    assert floor_us(least, Ceilings(copy_gb_s=2.0, matmul_tflop_s=4.0)) == pytest.approx(expected)


def test_there_is_no_floor_without_ceilings() -> None:
    assert floor_us(Cost(bytes=1.0, flops=1.0), Ceilings(copy_gb_s=None, matmul_tflop_s=None)) is None
