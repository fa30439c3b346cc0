"""Which settings the delta rule's kernels get on Hopper, where the memory layout of a call decides."""

import pytest
import torch

from optimized.kernels.delta_rule.launch import rows_are_aligned
from optimized.kernels.delta_rule.tiling import DeltaRuleTiling, choose_tiling


def tiling(width: int, *, num_states: int = 32, is_aligned: bool = True) -> DeltaRuleTiling:
    return choose_tiling(
        chunk_size=64, head_width=width, value_width=width, num_states=num_states, num_multiprocessors=132,
        dtype=torch.bfloat16, arch="sm_90", is_aligned=is_aligned,
    )  # fmt: skip


@pytest.mark.parametrize("width", [64, 128])
def test_a_chain_of_chunks_has_four_warps_where_rows_are_copied_by_16_bytes(width: int) -> None:
    chosen = tiling(width)
    assert {x.num_warps for x in (chosen.carry, chosen.carry_again, chosen.carry_cotangent)} == {4}


@pytest.mark.parametrize(("width", "is_aligned"), [(40, True), (40, False), (72, True), (128, False)])
def test_other_rows_keep_eight_warps(*, width: int, is_aligned: bool) -> None:
    chosen = tiling(width, is_aligned=is_aligned)
    assert {x.num_warps for x in (chosen.carry, chosen.carry_again, chosen.carry_cotangent)} == {8}


@pytest.mark.parametrize("width", [16, 40, 64, 128, 256])
@pytest.mark.parametrize("num_states", [1, 64, 1000])
def test_a_16_bit_state_has_at_least_32_columns(width: int, num_states: int) -> None:
    chosen = tiling(width, num_states=num_states)
    assert min(x.block_v for x in (chosen.carry, chosen.carry_again, chosen.carry_cotangent)) >= 32


@pytest.mark.parametrize(("num_states", "stages"), [(32, 3), (64, 2), (96, 3)])
def test_two_programs_share_a_multiprocessor_where_all_run_at_once_so(num_states: int, stages: int) -> None:
    assert tiling(128, num_states=num_states).carry.num_stages == stages


def test_rows_are_aligned_if_every_address_of_a_row_is_known_to_be_a_multiple() -> None:
    rows = torch.zeros(2, 6, 3, 64, dtype=torch.bfloat16)
    assert rows_are_aligned(rows, rows[:, 1:], rows.expand(2, 6, 3, 64))
    assert not rows_are_aligned(rows, torch.zeros(2, 6, 3, 40, dtype=torch.bfloat16))
    assert not rows_are_aligned(rows[..., 1:])
    assert not rows_are_aligned(rows.transpose(2, 3))
