import sys
from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from torch import Tensor

from harness.poison import poisoned

MAKERS = {
    "empty": lambda like: torch.empty(like.shape, dtype=like.dtype),
    "empty-by-sizes": lambda like: torch.empty(*like.shape, dtype=like.dtype),
    "empty-like": lambda like: torch.empty_like(like),  # noqa: PLW0108 - looked up when it is called
    "empty-strided": lambda like: torch.empty_strided(like.shape, like.stride(), dtype=like.dtype),
    "new-empty": lambda like: like.new_empty(like.shape),
}
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_memory_that_nobody_wrote_is_not_a_number(make: Callable[[Tensor], Tensor], dtype: torch.dtype) -> None:
    like = torch.zeros(3, 5, dtype=dtype)
    with poisoned():
        made = make(like)
    assert bool(made.isnan().all())
    assert (made.shape, made.dtype) == (like.shape, dtype)


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_what_a_kernel_writes_stays(make: Callable[[Tensor], Tensor]) -> None:
    like = torch.arange(15.0).view(3, 5)
    with poisoned() as canaries:
        made = make(like).copy_(like)
    assert torch.equal(made, like)
    assert canaries.killed() == 0


@pytest.mark.parametrize("offset", [-4096, -1, 15, 15 + 4095], ids=["far before", "before", "behind", "far behind"])
@pytest.mark.parametrize("make", [MAKERS["empty"], MAKERS["new-empty"]], ids=["empty", "new-empty"])
def test_a_write_out_of_bounds_kills_a_canary(make: Callable[[Tensor], Tensor], offset: int) -> None:
    with poisoned() as canaries:
        made = make(torch.zeros(3, 5))
        made.as_strided((1,), (1,), made.storage_offset() + offset).fill_(1.0)
    assert canaries.killed() == 1


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8, torch.int8], ids=str)
def test_integer_buffers_are_guarded_too(dtype: torch.dtype) -> None:
    with poisoned() as canaries:
        made = torch.empty(4, dtype=dtype)
        made.as_strided((1,), (1,), made.storage_offset() + 4).fill_(0)
    assert canaries.killed() == 1


@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (2, 3)], ids=str)
def test_any_shape_can_be_asked_for(shape: tuple[int, ...]) -> None:
    with poisoned():
        assert torch.empty(shape).shape == shape


def test_the_options_of_an_allocation_are_kept() -> None:
    with poisoned():
        assert torch.empty(2, requires_grad=True).requires_grad
        assert torch.empty(2, device="meta").is_meta
        assert torch.empty(2, dtype=torch.bool).dtype is torch.bool
        assert torch.zeros(2).new_empty(3, dtype=torch.float64).dtype is torch.float64
        assert torch.zeros(2, dtype=torch.float64).new_empty(3, dtype=None).dtype is torch.float64


def test_a_given_buffer_is_not_replaced() -> None:
    out = torch.zeros(4)
    with poisoned():
        assert torch.empty(4, out=out) is out


def test_names_that_a_module_bound_before_are_poisoned_and_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("attest_plugin_bound")
    vars(module).update(empty=torch.empty, like=torch.empty_like, strided=torch.empty_strided, new=Tensor.new_empty)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    before, like = dict(vars(module)), torch.zeros(2, 3)
    with poisoned() as canaries:
        made = [module.empty(2, 3), module.like(like), module.strided((2, 3), (3, 1)), module.new(like, (2, 3))]
        made[1].as_strided((1,), (1,), made[1].storage_offset() + 6).fill_(0.0)
    assert all(bool(each.isnan().all()) for each in made)
    assert canaries.killed() == 1
    assert vars(module) == before


def test_the_allocators_come_back() -> None:
    before = (torch.empty, torch.empty_like, torch.empty_strided, Tensor.new_empty)
    with pytest.raises(ZeroDivisionError), poisoned():
        raise ZeroDivisionError
    assert (torch.empty, torch.empty_like, torch.empty_strided, Tensor.new_empty) == before
