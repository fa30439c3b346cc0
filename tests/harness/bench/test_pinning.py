"""While something is timed its process stays where it is; afterwards it may go where it could before."""

import os
from collections.abc import Iterator

import pytest
import torch

from harness.bench import pinning


def test_a_block_has_as_many_cores_and_threads_as_it_asks_for_and_gives_them_back() -> None:
    before, threads = os.sched_getaffinity(0), torch.get_num_threads()
    with pinning.pinned(1):
        assert len(os.sched_getaffinity(0)) == 1
        assert torch.get_num_threads() == 1
    assert (os.sched_getaffinity(0), torch.get_num_threads()) == (before, threads)


def test_cores_are_given_back_after_an_error() -> None:
    before = os.sched_getaffinity(0)
    with pytest.raises(ValueError, match="of its own"), pinning.pinned(1):
        raise ValueError("an error of its own")
    assert os.sched_getaffinity(0) == before


def test_the_quietest_of_the_allowed_cores_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: Iterator[dict[int, int]] = iter([{0: 10, 1: 10, 2: 10, 3: 10}, {0: 30, 1: 12, 2: 11, 3: 10}])
    monkeypatch.setattr(pinning, "_busy", lambda: next(looks))
    assert pinning.quietest({0, 1, 2}, 2) == {1, 2}
