"""Workers that fork off a nursery are as fresh, as separate and as mortal as processes that were started anew."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import nursery
from harness.cases import case_from_data
from harness.execute import Worker
from harness.nursery import Child

KERNELS = """
import os
import random
import subprocess

import numpy
import torch

from optimized.candidate import Candidate, Recipe

calls = []


def says(x, weight, *, eps, zero_centered=False):
    calls.append(None)
    place = os.getcwd(), os.environ.get("ATTEST_TEST_WORD"), os.getppid(), os.getpid(), len(calls)
    raise ValueError(repr((*place, random.random(), float(numpy.random.random()), torch.initial_seed())))


def leaves_a_child(x, weight, *, eps, zero_centered=False):
    raise ValueError(str(subprocess.Popen(["sleep", "600"]).pid))


def ends_by_a_signal(x, weight, *, eps, zero_centered=False):
    print("last words", flush=True)
    os.abort()


RECIPE = Recipe(storage="float32", operand="float32", accumulator="float32")
CANDIDATES = tuple(
    Candidate(name=function.__name__, op="rms_norm", load=lambda function=function: function, recipe=RECIPE)
    for function in (says, leaves_a_child, ends_by_a_signal)
)
"""


@pytest.fixture
def plugin(tmp_path: Path) -> str:
    path = tmp_path / "kernels.py"
    path.write_text(KERNELS, encoding="utf-8")
    return str(path)


@pytest.fixture
def worker() -> Iterator[Worker]:
    with Worker(limit_s=60.0) as each:
        yield each
        assert isinstance(each._process, Child | None)


def said(worker: Worker, name: str, plugin: str) -> str:
    case = case_from_data({"op": "rms_norm", "batch": 1, "tokens": 2, "channels": 4}).to_data()
    answer = worker.ask({"kind": "run", "case": case, "candidate": name, "plugin": plugin})
    return str(answer.header["sentence"]).removeprefix("ValueError: ")


def test_a_worker_has_folder_and_environment_of_its_owner_and_nothing_of_the_one_before(
    worker: Worker, plugin: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = eval(said(worker, "says", plugin))
    worker.close()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ATTEST_TEST_WORD", "word")
    second = eval(said(worker, "says", plugin))
    assert second[:2] == (str(tmp_path), "word")
    assert (first[2] == second[2], first[3] == second[3]) == (True, False), "one nursery, another process"
    assert (first[4], second[4]) == (1, 1)
    assert first[5] != second[5], "Python's random numbers repeat"
    assert first[6] != second[6], "numpy's random numbers repeat"
    assert first[7] == second[7], "torch starts with one seed in every process"


def test_what_a_candidate_started_ends_with_its_worker(worker: Worker, plugin: str) -> None:
    pid = int(said(worker, "leaves_a_child", plugin))
    os.kill(pid, 0)
    worker.close()
    ends = time.monotonic() + 60
    while Path(f"/proc/{pid}").exists() and "Z" not in state(pid) and time.monotonic() < ends:
        time.sleep(0.01)
    assert not Path(f"/proc/{pid}").exists() or "Z" in state(pid)


def state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").split()[2]
    except OSError:
        return "Z"


def test_a_signal_and_the_last_words_are_told(worker: Worker, plugin: str) -> None:
    assert said(worker, "ends_by_a_signal", plugin) == "the worker ended with signal SIGABRT: last words"


def test_a_nursery_that_died_is_replaced(worker: Worker, plugin: str) -> None:
    before = eval(said(worker, "says", plugin))
    worker.close()
    (gone,) = {id(item): item for item in nursery._nurseries.values() if item._process.pid == before[2]}.values()
    os.kill(gone._process.pid, signal.SIGKILL)
    gone._process.wait()
    assert eval(said(worker, "says", plugin))[4] == 1
    worker.close()
    assert eval(said(worker, "says", plugin))[2] != before[2]
