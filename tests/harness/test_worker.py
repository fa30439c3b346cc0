import itertools
import json
import os
import pickle
import socket
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.cases import case_from_data
from harness.errors import TestbenchError
from harness.execute import Answer, Worker
from harness.layouts import lay_out
from harness.operations.case import COTANGENTS, LAYOUTS, Case
from harness.ops import OPS
from harness.records import Verdict
from harness.strategies import draw_cases
from harness.verify import Settings, verify
from harness.wire import raw_bytes, receive, send
from harness.worker import Call
from tests.harness.odd_candidates import CANDIDATES

CASE: dict[str, Any] = {"op": "rms_norm", "batch": 2, "tokens": 5, "channels": 24, "seed": 12}
BY_NAME = {item.name: item for item in CANDIDATES}


@pytest.fixture
def ask(worker: Worker, odd_plugin: str) -> Callable[..., Answer]:
    """Returns a function that runs one of the odd candidates on a case."""

    def asked(name: str, **fields: Any) -> Answer:
        data = case_from_data({**CASE, **fields}).to_data()
        return worker.ask({"kind": "run", "case": data, "candidate": name, "plugin": odd_plugin})

    return asked


# -- a worker --------


def test_a_healthy_candidate_gives_outputs_and_gradients(ask: Callable[..., Answer]) -> None:
    answer = ask("right")
    assert (answer.status, set(answer.tensors)) == ("ok", {"out", "grad:x", "grad:weight"})


def test_a_healthy_candidate_leaves_memory_alone(ask: Callable[..., Answer]) -> None:
    header = ask("right").header
    assert (header["changed"], header["killed_canaries"], header["missing"]) == ([], 0, [])


def test_what_a_candidate_leaves_in_torch_does_not_meet_the_next_one(ask: Callable[..., Answer]) -> None:
    before = ask("right").tensors
    ask("leaves-a-mess")
    after = ask("right").tensors
    assert set(after) == set(before)
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_a_candidate_that_stops_python_is_an_error(ask: Callable[..., Answer]) -> None:
    assert ask("stops-python").status == "error"


def test_the_same_request_gives_the_same_bits(ask: Callable[..., Answer]) -> None:
    first, second = ask("right").tensors, ask("right").tensors
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(("layout", "cotangent"), [*itertools.product(LAYOUTS, COTANGENTS)])
def test_layouts_change_no_value(ask: Callable[..., Answer], layout: str, cotangent: str) -> None:
    plain, other = ask("right", cotangent=cotangent), ask("right", cotangent=cotangent, layout=layout)
    expected, found = plain.tensors["grad:x"].double(), other.tensors["grad:x"].double()
    # Other strides may give another order of summation over a row of 24: a few roundings of the largest element.
    assert (found - expected).abs().max().item() <= 24 * 2**-24 * expected.abs().max().item()


def test_a_changed_input_is_named(ask: Callable[..., Answer]) -> None:
    assert ask("changes-its-input").header["changed"] == ["x"]


@pytest.mark.parametrize(("layout", "changed"), [("contiguous", []), ("fused", ["x"])])
def test_a_write_into_the_other_half_of_a_fused_projection_is_named(
    ask: Callable[..., Answer], layout: str, changed: list[str]
) -> None:
    assert ask("writes-beside-its-input", layout=layout).header["changed"] == changed


def test_a_write_out_of_bounds_is_counted(ask: Callable[..., Answer]) -> None:
    assert ask("writes-past-its-end").header["killed_canaries"] == 1


def test_a_buffer_that_nobody_wrote_is_not_a_number(ask: Callable[..., Answer]) -> None:
    assert bool(ask("writes-nothing").tensors["out"].isnan().all())


def test_memory_that_was_asked_for_by_a_name_bound_before_is_not_a_number(ask: Callable[..., Answer]) -> None:
    assert bool(ask("binds-its-allocator").tensors["out"].isnan().all())


def test_a_missing_gradient_is_named(ask: Callable[..., Answer]) -> None:
    assert ask("without-weight").header["missing"] == ["weight"]


def test_a_refusal_carries_its_sentence(ask: Callable[..., Answer]) -> None:
    answer = ask("refuses")
    assert (answer.status, answer.header["sentence"]) == ("unsupported", "x: got a Monday, expected another day")


def test_an_exception_carries_its_sentence_and_its_traceback(ask: Callable[..., Answer]) -> None:
    answer = ask("raises")
    assert (answer.status, answer.header["sentence"]) == ("error", "ValueError: x: got a bad day, expected a good one")
    assert "odd_candidates.py" in answer.header["traceback"]


@pytest.mark.parametrize("name", ["gives-no-tensor", "gives-two", "gives-none", "nobody"])
def test_what_is_no_result_is_an_error(ask: Callable[..., Answer], name: str) -> None:
    assert ask(name).status == "error"


def test_a_worker_that_ends_is_replaced(ask: Callable[..., Answer]) -> None:
    ended = ask("ends")
    assert (ended.status, ended.header["sentence"]) == ("crash", "the worker ended with exit code 7")
    assert ask("right").status == "ok"


def test_a_worker_that_hangs_is_replaced(odd_plugin: str) -> None:
    request = {"kind": "run", "case": case_from_data(CASE).to_data(), "plugin": odd_plugin}
    with Worker(limit_s=15.0) as short:
        # The first call imports; only then is the limit that of the call alone.
        assert short.ask({**request, "candidate": "right"}).status == "ok"
        short._limit_s = 2.0
        hung = short.ask({**request, "candidate": "hangs"})
        short._limit_s = 60.0
        assert (hung.status, hung.header["sentence"]) == ("timeout", "no answer within 2 s")
        assert short.ask({**request, "candidate": "right"}).status == "ok"


def test_a_killed_worker_is_replaced(ask: Callable[..., Answer], worker: Worker) -> None:
    ask("right")
    worker.kill()
    assert {ask("right").status, ask("right").status} <= {"crash", "ok"}
    assert ask("right").status == "ok"


def test_a_worker_that_cannot_start_is_an_error_of_the_testbench(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.execute.sys.executable", "/bin/false")
    with Worker() as broken, pytest.raises(TestbenchError, match="cannot be started"):
        broken.ask({})


# -- verdicts of what a worker saw --------


@pytest.mark.parametrize(
    ("name", "verdict"),
    [
        ("right", "PASS"),
        ("forward-only", "PASS"),
        ("one-percent-more", "FAIL_NUMERIC"),
        ("writes-nothing", "FAIL_NONFINITE"),
        ("binds-its-allocator", "FAIL_NONFINITE"),
        ("narrow", "FAIL_DTYPE"),
        ("flat", "FAIL_SHAPE"),
        ("without-weight", "FAIL_SHAPE"),
        ("changes-its-input", "FAIL_RELATION"),
        ("writes-past-its-end", "FAIL_RELATION"),
        ("refuses", "UNSUPPORTED"),
        ("raises", "ERROR"),
        ("gives-none", "ERROR"),
        ("ends", "ERROR"),
    ],
)
def test_each_misbehaviour_has_its_verdict(worker: Worker, odd_plugin: str, name: str, verdict: str) -> None:
    settings = Settings(plugin=odd_plugin)
    record = verify(case_from_data(CASE), [BY_NAME[name]], worker, settings)[0]
    assert record.verdict is Verdict(verdict)


# -- what a candidate is called with --------


def calls(op: str, **fields: Any) -> Iterator[Call]:
    for case in draw_cases(OPS[op], 3, seed_value=41, largest=9):
        changed = case.replaced(**fields)
        yield Call(OPS[op], changed, OPS[op].inputs(changed), "cpu", with_gradients=True)


@pytest.mark.parametrize("op", OPS)
def test_expanded_cotangents_have_stride_zero(op: str) -> None:
    for call in calls(op, cotangent="expanded"):
        for cotangent in call.cotangents.values():
            if cotangent.dim() > 1:
                assert cotangent.stride(1) == 0 or cotangent.shape[1] < 2


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_inputs_and_cotangents_share_no_memory(op: str, layout: str) -> None:
    for call in calls(op, layout=layout):
        tensors = [*call.leaves.values(), *call.cotangents.values()]
        places = [item.untyped_storage().data_ptr() for item in tensors if item.numel()]
        assert len(set(places)) == len(places)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.bool, torch.int32], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(3,), (3, 4), (2, 3, 4), (2, 3, 4, 5), (1, 1, 1, 1), (2, 0, 3)], ids=str)
def test_a_layout_keeps_values(shape: tuple[int, ...], layout: str, dtype: torch.dtype) -> None:
    value = torch.randint(0, 2, shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert torch.equal(lay_out(value, layout), value)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_of_an_axis_with_one_element_is_a_copy_too(layout: str) -> None:
    value = torch.zeros(2, 1, 3)
    lay_out(value, layout).fill_(1.0)
    assert not value.any()


def test_a_fused_layout_is_a_view_surrounded_by_what_is_not_a_number() -> None:
    value = torch.ones(2, 3, 4, 5)
    found = lay_out(value, "fused")
    assert not found.is_contiguous()
    whole = torch.as_strided(found, (found.untyped_storage().nbytes() // 4,), (1,), 0)
    assert int(whole.isnan().sum()) == value.numel()


def test_a_transposed_layout_has_heads_before_tokens() -> None:
    assert lay_out(torch.ones(2, 3, 4, 5), "transposed").stride() == (60, 5, 15, 1)


# -- the wire --------


@pytest.fixture
def ends() -> Iterator[tuple[Connection, Connection]]:
    one, other = socket.socketpair()
    with Connection(one.detach()) as first, Connection(other.detach()) as second:
        yield first, second


TENSORS = {
    "bfloat16": torch.randn(3, 4, generator=torch.Generator().manual_seed(0)).bfloat16(),
    "transposed": torch.arange(12.0).view(3, 4).T,
    "expanded": torch.ones(1, 1).expand(3, 4),
    "negative stride of a length-1 axis": torch.arange(4.0).as_strided((1, 4), (7, 1)),
    "empty": torch.empty(0, 3),
    "scalar": torch.tensor(2.5),
    "not finite": torch.tensor([torch.nan, torch.inf, -torch.inf, -0.0]),
    "bool": torch.tensor([True, False]),
    "needs a gradient": torch.ones(2, requires_grad=True),
}


@pytest.mark.parametrize("value", TENSORS.values(), ids=TENSORS)
def test_a_tensor_arrives_bit_by_bit(ends: tuple[Connection, Connection], value: Tensor) -> None:
    send(ends[0], {"status": "ok"}, {"x": value})
    header, tensors = receive(ends[1])
    assert header == {"status": "ok"}
    assert (tensors["x"].shape, tensors["x"].dtype) == (value.shape, value.dtype)
    assert raw_bytes(tensors["x"]) == raw_bytes(value)


class Malicious:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, (str(self.folder),)


def test_nothing_is_unpickled(ends: tuple[Connection, Connection], tmp_path: Path) -> None:
    ends[0].send_bytes(pickle.dumps(Malicious(tmp_path / "made")))
    with pytest.raises((UnicodeDecodeError, json.JSONDecodeError)):
        receive(ends[1])
    assert not (tmp_path / "made").exists()


def test_the_other_side_gone_is_the_end_of_the_file(ends: tuple[Connection, Connection]) -> None:
    ends[0].close()
    with pytest.raises(EOFError):
        receive(ends[1])


def test_cases_travel_as_json() -> None:
    case = case_from_data(CASE)
    assert isinstance(case, Case)
    assert json.loads(json.dumps(case.to_data())) == case.to_data()
