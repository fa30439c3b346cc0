"""Kernels for Hopper are assembled by a ptxas that is right, whatever Triton would take."""

import os
from types import SimpleNamespace
from typing import Any

import pytest
import triton
from triton.backends.nvidia import compiler

from optimized.kernels.assembler import choose_assembler


class Knobs:
    """Stands in for Triton's settings; what is set is seen."""

    def __init__(self, newer: str | None) -> None:
        self.ptxas = "as it was"
        if newer is not None:
            self.ptxas_blackwell = SimpleNamespace(version=newer, path="/newer")


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Returns what is chosen where Triton would take ``version`` and brings ``newer`` beside it."""
    monkeypatch.delenv("TRITON_PTXAS_PATH", raising=False)

    def choose(version: str, newer: str | None, arch: str = "sm_90") -> tuple[str | None, str]:
        knobs = Knobs(newer)
        monkeypatch.setattr(triton, "knobs", SimpleNamespace(nvidia=knobs))
        monkeypatch.setattr(compiler, "get_ptxas", lambda _: SimpleNamespace(version=version, path="/taken"))
        choose_assembler.cache_clear()
        sentence = choose_assembler(arch)
        choose_assembler.cache_clear()
        return sentence, knobs.ptxas

    return choose


def test_ptxas_12_8_is_replaced_by_the_newer_one_beside_it(chosen: Any) -> None:
    assert chosen("12.8", "12.9") == (None, "/newer")


@pytest.mark.parametrize("version", ["12.9", "13.0", "13.4"])
def test_a_newer_one_stays(chosen: Any, version: str) -> None:
    assert chosen(version, "14.0") == (None, "as it was")


@pytest.mark.parametrize("arch", ["sm_80", "sm_100", "interpreter"])
def test_so_does_that_of_other_architectures(chosen: Any, arch: str) -> None:
    assert chosen("12.8", "12.9", arch) == (None, "as it was")


@pytest.mark.parametrize("newer", [None, "12.8"])
def test_without_a_newer_one_kernels_are_refused(chosen: Any, newer: str | None) -> None:
    sentence, ptxas = chosen("12.8", newer)
    assert sentence.startswith("ptxas: got 12.8 for sm_90, which miscompiles, expected 12.9 or later")
    assert ptxas == "as it was"


def test_so_are_they_where_the_user_asked_for_12_8(chosen: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "TRITON_PTXAS_PATH", "/old")
    assert chosen("12.8", "12.9")[0] is not None
