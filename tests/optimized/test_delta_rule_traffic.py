"""The bytes that the delta rule's traffic model counts are those of the tensors that its launches allocate.

Letters: ``B`` batch, ``T`` tokens, ``G`` query/key heads, ``H`` value heads, ``D`` query/key width, ``V`` value width.
"""

from collections.abc import Iterable

import pytest
import torch

from optimized.kernels.delta_rule.chunks import chunk_table
from optimized.kernels.delta_rule.launch import Settings, as_inputs, carry_state, carry_state_for_backward, prepare
from optimized.kernels.delta_rule.launch_backward import (
    Recomputed,
    carry_cotangent,
    key_gradients,
    pair_gradients,
    query_gradient,
)
from optimized.kernels.delta_rule.tiling import choose_tiling
from optimized.kernels.delta_rule.traffic import (
    FLA_FORWARD_BYTES,
    TrafficShape,
    backward_traffic,
    floor_bytes,
    forward_traffic,
    main,
)
from optimized.kernels.target import INTERPRETER
from tests.optimized.delta_bounds import draw_inputs

B, T, G, H, D, V, CHUNK = 1, 32, 1, 2, 16, 32, 16
SHAPE = TrafficShape(
    head_width=D, value_width=V, chunk_size=CHUNK, heads_per_key=H // G, storage_bytes=4, gate_bytes=4,
)  # fmt: skip
TRAINED = TrafficShape(head_width=128, value_width=128, chunk_size=64)


def bytes_per_token(tensors: Iterable[torch.Tensor | None]) -> float:
    """Returns the bytes of tensors per token and value head."""
    return sum(x.numel() * x.element_size() for x in tensors if x is not None) / (B * T * H)


@pytest.fixture(scope="module")
def allocated() -> dict[str, float]:
    """Runs every launch in float32 and returns the bytes of what each one allocates, states of sequences left out."""
    drawn = draw_inputs((B, T, G, H, D, V)).to(torch.float32)
    inputs = as_inputs(drawn.query, drawn.key, drawn.value, drawn.log_decay, drawn.beta, None)
    tiling = choose_tiling(
        chunk_size=CHUNK, head_width=D, value_width=V, num_states=H, num_multiprocessors=1, dtype=torch.float32,
        arch=INTERPRETER,
    )  # fmt: skip
    settings = Settings(torch.float32, 0.5, 1e-6, tiling)
    table = chunk_table(batch=B, tokens=T, cu_seqlens=None, chunk_size=CHUNK)
    prepared = prepare(inputs, table, settings)
    out, _ = carry_state(inputs, prepared, table, settings)
    recomputed = Recomputed(*carry_state_for_backward(inputs, prepared, table, settings))
    cotangent = drawn.out_gradient
    cotangents = carry_cotangent(inputs, prepared, table, cotangent, drawn.state_gradient, None, settings)
    pairs = pair_gradients(inputs, prepared, table, recomputed, cotangents, cotangent, settings)
    queries = query_gradient(inputs, prepared, table, recomputed, pairs, cotangent, settings)
    dtypes = (torch.float32, torch.float32)
    keys = key_gradients(inputs, prepared, table, recomputed, cotangents, pairs, queries[1], dtypes, settings)
    backward = {"carry_state again": recomputed, "carry_cotangent": cotangents, "pairs": pairs}
    scores = (prepared.attention, prepared.query_norms)
    solve = [x for x in prepared if all(x is not other for other in scores)]
    forward = {"solve": solve, "scores": scores, "carry_state": (out,)}
    results = {**forward, **backward, "query_gradient": queries, "key_gradient": keys}
    return {name: bytes_per_token(tensors) for name, tensors in results.items()}


def test_the_forward_writes_are_the_tensors_that_its_launches_allocate(allocated: dict[str, float]) -> None:
    names = ("solve", "scores", "carry_state")
    assert {x.kernel: x.writes for x in forward_traffic(SHAPE)} == {name: allocated[name] for name in names}


def test_the_backward_writes_are_the_tensors_that_its_launches_allocate(allocated: dict[str, float]) -> None:
    again, *others = backward_traffic(SHAPE)
    assert again.writes == allocated["carry_state again"]
    assert {x.kernel: x.writes for x in others} == {x.kernel: allocated[x.kernel] for x in others}


def test_forward_and_backward_have_three_and_five_kernels() -> None:
    assert (len(forward_traffic(TRAINED)), len(backward_traffic(TRAINED))) == (3, 5)


def test_the_forward_pass_moves_at_most_half_of_what_fla_moves() -> None:
    assert sum(x.total for x in forward_traffic(TRAINED)) <= FLA_FORWARD_BYTES / 2


def test_the_floor_reads_inputs_and_writes_the_output_once() -> None:
    assert floor_bytes(TRAINED) == 4 * 128 * 2 + 2 * 4


def test_column_blocks_repeat_the_shared_reads_only() -> None:
    *_, carry = forward_traffic(TRAINED)
    assert carry.as_launched(3) - carry.as_launched(1) == 2 * carry.shared_reads
    assert carry.as_launched(1) == carry.total


def test_the_table_names_every_kernel_and_both_neighbours(capsys: pytest.CaptureFixture[str]) -> None:
    main()
    text = capsys.readouterr().out
    names = {x.kernel for x in (*forward_traffic(TRAINED), *backward_traffic(TRAINED))} | {"4,756", "1,032"}
    assert all(name in text for name in names)
