"""Float64 in, float64 all the way: no float32 constant and no default dtype slips in."""

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import reference
from tests.reference.agree import assert_agree, gradients
from tests.reference.calls import CALLS


class OnlyFloat64(TorchDispatchMode):  # type: ignore[no-untyped-call] # torch leaves it without annotations
    """Fails on the first operator that makes a floating-point tensor of another dtype."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and leaf.is_floating_point():
                assert leaf.dtype == torch.float64, f"{func} made {leaf.dtype}"
        return result


@pytest.fixture(params=[torch.float32, torch.float64], ids=str)
def default_dtype(request: pytest.FixtureRequest) -> Iterator[torch.dtype]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(request.param)
    yield request.param
    torch.set_default_dtype(before)


def _results(name: str) -> list[Tensor]:
    outputs = CALLS[name].function(*CALLS[name].inputs)
    return [*outputs, *gradients(outputs, CALLS[name].inputs)]


@pytest.mark.parametrize("name", CALLS)
def test_every_tensor_on_the_way_is_float64(name: str) -> None:
    with OnlyFloat64():  # type: ignore[no-untyped-call] # torch leaves it without annotations
        _results(name)


@pytest.mark.parametrize("name", CALLS)
def test_default_dtype_changes_no_bit(name: str, default_dtype: torch.dtype) -> None:
    results = _results(name)
    torch.set_default_dtype(torch.float16)
    others = _results(name)
    torch.set_default_dtype(default_dtype)
    assert all(torch.equal(a, b) for a, b in zip(results, others, strict=True))


@pytest.mark.parametrize("name", CALLS)
def test_float32_in_gives_float32_out(name: str) -> None:
    inputs = tuple(x.detach().float() for x in CALLS[name].inputs)
    assert {x.dtype for x in CALLS[name].function(*inputs)} == {torch.float32}


@pytest.mark.parametrize("name", CALLS)
def test_inputs_are_left_as_they_were(name: str) -> None:
    before = [x.detach().clone() for x in CALLS[name].inputs]
    _results(name)
    assert all(torch.equal(a, b) for a, b in zip(before, CALLS[name].inputs, strict=True))


@pytest.mark.parametrize("name", CALLS)
def test_strided_inputs_give_the_same_results(name: str) -> None:
    strided = tuple(torch.stack((x, x), -1)[..., 0].detach() for x in CALLS[name].inputs)
    contiguous = CALLS[name].function(*CALLS[name].inputs)
    for a, b in zip(CALLS[name].function(*strided), contiguous, strict=True):
        assert_agree(a, b, operations=64, condition=1 + float(b.detach().abs().max()))


def test_rope_tables_are_float64_unless_asked(default_dtype: torch.dtype) -> None:
    assert default_dtype == torch.get_default_dtype()
    with OnlyFloat64():  # type: ignore[no-untyped-call] # torch leaves it without annotations
        tables = reference.rope_tables(torch.arange(3), rope_dim=4, base=1e4, style="half")
    assert {table.dtype for table in tables} == {torch.float64}
