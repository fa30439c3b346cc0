"""The stopwatch: what a captured graph reads stays where it was."""

import gc
import weakref
from types import SimpleNamespace

import pytest
import torch

from harness.gpu import stopwatch


def test_an_arm_keeps_the_inputs_that_its_graph_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CUDA graph replays addresses and holds no tensor: freed inputs are an illegal access on some later replay."""
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(stopwatch, "device_seconds", lambda _: 1.0)
    monkeypatch.setattr(stopwatch, "_captured", lambda _: SimpleNamespace(replay=lambda: None))
    values = torch.ones(4)
    reads = weakref.ref(values)
    arm = stopwatch.prepared([lambda values=values: values.sum()], "cuda", graphs=True)
    del values
    gc.collect()
    assert arm.how == "graph"
    assert reads() is not None
