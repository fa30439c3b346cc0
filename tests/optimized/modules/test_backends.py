"""Which backend a module takes, and that it takes no other."""

import re
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

import pytest
import torch
from torch import nn

from optimized.backends import choose_backend
from optimized.modules import FlashSdpa, RMSNorm

X = torch.ones(1, 3, 2, 8)


@pytest.mark.parametrize(
    ("device", "capability", "dtype", "backend"),
    [
        ("cpu", None, torch.float32, "torch"),
        ("cpu", None, torch.bfloat16, "torch"),
        ("cpu", None, torch.float16, "torch"),
        ("cpu", None, torch.float64, "eager"),
        ("meta", None, torch.float32, "torch"),
        ("cuda", (9, 0), torch.float64, "eager"),
        ("cuda", (9, 0), torch.float32, "triton"),
        ("cuda", (9, 0), torch.bfloat16, "flash4"),
        ("cuda", (10, 0), torch.float16, "flash4"),
        ("cuda", (8, 0), torch.bfloat16, "triton"),
        ("cuda", (12, 0), torch.bfloat16, "triton"),
    ],
)
def test_device_and_dtype_choose_the_backend(
    monkeypatch: pytest.MonkeyPatch,
    device: str,
    capability: tuple[int, int] | None,
    dtype: torch.dtype,
    backend: str,
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert choose_backend(torch.device(device), dtype) == backend


@pytest.mark.parametrize(
    ("module", "package", "sentence"),
    [
        (
            RMSNorm(8, backend="triton"), "triton",
            "backend: got triton, which needs triton, not installed here, expected torch or eager",
        ),
        (
            FlashSdpa(backend="flash4"), "flash_attn",
            "backend: got flash4, which needs flash_attn, not installed here, expected triton, torch or eager",
        ),
    ],
    ids=["triton", "flash4"],
)  # fmt: skip
def test_a_missing_package_is_said_with_the_alternatives(
    monkeypatch: pytest.MonkeyPatch, module: nn.Module, package: str, sentence: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    arguments = (X,) if package == "triton" else (X, X, X, None, True, 1.0)
    with pytest.raises(ImportError, match=f"^{re.escape(sentence)}$"):
        module(*arguments)


def test_triton_says_what_it_cannot_do() -> None:
    sentence = "dtype: got torch.float64, expected float32, bfloat16 or float16"
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        RMSNorm(8, backend="triton")(X.double())


def test_flash4_says_what_it_cannot_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "flash_attn", ModuleType("flash_attn"))
    sys.modules["flash_attn"].__spec__ = ModuleSpec("flash_attn", None)
    sentence = "device: got cpu, expected cuda: FlashAttention 4 runs on GPUs only"
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        FlashSdpa(backend="flash4")(X.bfloat16(), X.bfloat16(), X.bfloat16(), None, True, 1.0)  # noqa: FBT003 - d9d's


def test_norms_of_flash4_are_those_of_triton() -> None:
    flash4, triton = RMSNorm(8, backend="flash4"), RMSNorm(8, backend="triton")
    assert torch.equal(flash4(X), triton(X))


@pytest.mark.parametrize("backend", ["triton", "torch", "eager"])
def test_a_hidden_key_has_no_influence(backend: str) -> None:
    mask = torch.tensor([[True, True, False]])
    poisoned = X.clone()
    poisoned[:, 2] = torch.nan
    module = FlashSdpa(2, backend=backend)
    assert torch.equal(
        module(X, poisoned, poisoned, mask, False, 1.0),  # noqa: FBT003 - the signature of d9d
        module(X, X, X, mask, False, 1.0),  # noqa: FBT003 - the signature of d9d
    )
