"""Self-checks of the judge: each returns complaints, none where the judge is in order.

They are what ``test_judge_of_judge.py`` plants faults of a testbench against.
"""

import dataclasses
import functools
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

import harness.verify
import harness.worker
from harness.budget import measure_budgets, second_formulation
from harness.cases import case_from_data
from harness.certify.case import Case as CertifiedCase
from harness.execute import Answer
from harness.ops import OPS
from harness.records import Verdict
from harness.strategies import draw_cases
from harness.truth import Truth, truth
from harness.verify import Settings, verify
from harness.worker import Call
from optimized.candidate import Recipe
from tests.harness.conftest import ODD
from tests.harness.emulation import EXACT
from tests.harness.judging import ATTENTION, NORM, RULE, Example
from tests.harness.test_verify import MEMORY, Scripted, answered, candidate, wrong

__all__ = [
    "can_certify",
    "every_tensor_is_judged",
    "inputs_and_cotangents_are_watched",
    "inputs_tell_dumb_outputs",
    "layouts_share_cotangents",
    "no_storage_is_shared",
    "one_element_is_enough",
    "one_key_is_judged_fairly",
    "one_row_is_seen",
    "regimes_show_their_fault",
    "the_candidate_runs_first",
    "the_reference_is_certified",
    "the_reference_is_written_twice",
    "unwritten_memory_is_seen",
]

SMALL = {**ATTENTION, "batch": 1, "query_tokens": 9, "key_tokens": 9, "key_mask": False}


def fresh(data: Mapping[str, Any], dtype: str) -> Example:
    """Returns an example that is made anew, so that whatever is planted takes part in it."""
    case = case_from_data({**data, "dtype": dtype})
    row = OPS[case.op]
    inputs = row.inputs(case)
    recipe = Recipe(storage=dtype, operand=dtype, accumulator="float32")
    expected = truth(row, inputs, [output.name for output in row.outputs], with_gradients=True)
    budgets = measure_budgets(row, case, inputs, recipe, expected)
    return Example(row=row, case=case, recipe=recipe, expected=expected, budgets=budgets)


kept = functools.cache(lambda op, dtype: fresh({"attention": SMALL, "rms_norm": NORM}[op], dtype))


def every_tensor_is_judged() -> list[str]:
    """B090: a fault in one output or gradient fires its own judgement and no other."""
    found = kept("attention", "bfloat16")
    healthy = found.healthy()
    complaints = []
    for name in healthy:
        record, _ = answered(found, {**healthy, name: wrong(healthy[name])})
        fired = {item.output for item in record.judgements if item.verdict is not Verdict.PASS}
        complaints += [] if fired == {name} else [f"a wrong {name} fires {sorted(fired)}"]
    return complaints


def one_element_is_enough() -> list[str]:
    """B091: one wrong element, one NaN, one infinity, or a NaN where the truth is one, are failures."""
    found = kept("rms_norm", "float32")
    budget, healthy = found.budgets["out"], found.healthy()["out"]
    place = (0, 4, 7)
    far = budget.expected[place].item() + 9 * budget.tolerance[place].item()
    complaints = []
    for element in (far, torch.nan, torch.inf):
        value = healthy.clone()
        value[place] = element
        complaints += [] if found.judge("out", value).verdict.is_failure else [f"one element {element} passes"]
    unknown = budget.expected.clone()
    unknown[place] = torch.nan
    blind = dataclasses.replace(found, budgets={"out": dataclasses.replace(budget, expected=unknown)})
    return complaints + ([] if blind.judge("out", healthy).verdict.is_failure else ["a truth of NaN excuses a number"])


def inputs_and_cotangents_are_watched() -> list[str]:
    """B092: a candidate whose backward writes into its cotangent changes what the worker calls changed."""
    case = case_from_data({**NORM, "dtype": "float32"})
    call = Call(OPS["rms_norm"], case, OPS["rms_norm"].inputs(case), "cpu", with_gradients=True)
    before = call.bits()
    next(iter(call.cotangents.values())).mul_(2)
    after = call.bits()
    return [] if [name for name in before if before[name] != after.get(name)] == ["out"] else ["a cotangent changed"]


def no_storage_is_shared() -> list[str]:
    """B092: what a candidate is called with lies in memory of its own, in no other tensor's and not in the truth's."""
    case = case_from_data({**ATTENTION, "dtype": "float32", "value_dim": 16})
    inputs = OPS["attention"].inputs(case)
    call = Call(OPS["attention"], case, inputs, "cpu", with_gradients=True)
    given = [*call.leaves.values(), *call.cotangents.values()]
    own = [item.untyped_storage().data_ptr() for item in (*inputs.tensors.values(), *inputs.cotangents.values())]
    shared = len(given) - len({item.untyped_storage().data_ptr() for item in given} - set(own))
    return [f"{shared} tensors share their memory"] if shared else []


def one_row_is_seen() -> list[str]:
    """B093: one row of one head that is 5 % off is a failure in a tensor that is right elsewhere."""
    found = kept("attention", "float32")
    complaints = []
    for factor in (1.05, 0.95):
        value = found.healthy()["out"].clone()
        value[0, 4, 1] *= factor
        complaints += [] if found.judge("out", value).verdict.is_failure else [f"a row times {factor} passes"]
    return complaints


def one_key_is_judged_fairly() -> list[str]:
    """B094: with one key the weights are 1 in every format: legal executions pass, doubled results do not."""
    one = {**ATTENTION, "key_tokens": 1, "window_right": None, "sinks": False, "key_mask": False}
    found = fresh(one, "bfloat16")
    complaints = []
    for name, budget in found.budgets.items():
        dtype = found.healthy()[name].dtype
        legal = (budget.expected + budget.samples[0]).to(dtype)
        complaints += [f"a legal {name} fails"] if found.judge(name, legal).verdict.is_failure else []
        if name in {"out", "grad:value"} and not found.judge(name, 2 * legal).verdict.is_failure:
            complaints.append(f"twice the {name} passes")
    return complaints


def inputs_tell_dumb_outputs() -> list[str]:
    """B095: zeros, the mean of the values, or keys in place of values are failures."""
    found = fresh({**ATTENTION, "value_dim": 16, "window_right": None, "key_mask": False, "sinks": False}, "bfloat16")
    inputs = found.row.inputs(found.case)
    query, key, value = (inputs.tensors[name].double() for name in found.row.positional)
    group = found.expected.expected["out"].shape[2] // value.shape[2]
    mean = value.mean(1, keepdim=True).repeat_interleave(group, 2).expand_as(found.expected.expected["out"])
    keys = found.row.named(found.row.reference(query, key, key, **inputs.options))["out"]
    dumb = {"zeros": torch.zeros_like(mean), "the mean of the values": mean, "keys for values": keys}
    judged = {name: found.judge("out", made.bfloat16()).verdict for name, made in dumb.items()}
    return [f"{name}: {verdict}" for name, verdict in judged.items() if not verdict.is_failure]


def regimes_show_their_fault() -> list[str]:
    """B096: an epsilon outside of the root, which bfloat16 hides at ordinary sizes, is a failure in some regime."""
    row = OPS["rms_norm"]
    for case in draw_cases(row, len(row.case.regimes), seed_value=2, dtypes=["bfloat16"], largest=9):
        found = fresh({**case.to_data(), "channels": 64, "batch": 1, "tokens": 3, "cotangent": "normal"}, "bfloat16")
        inputs = row.inputs(found.case)
        x, weight = (inputs.tensors[name].double() for name in row.positional)
        gain = weight + 1 if inputs.options["zero_centered"] else weight
        made = x / (x.square().mean(-1, keepdim=True).sqrt() + inputs.options["eps"]) * gain
        if found.judge("out", made.bfloat16()).verdict.is_failure:
            return []
    return ["no regime shows an epsilon outside of the root"]


def layouts_share_cotangents() -> list[str]:
    """B097: the layout of a case changes strides, never a value of input or cotangent."""
    complaints = []
    for layout in ("contiguous", "fused", "transposed"):
        case = case_from_data({**ATTENTION, "dtype": "float32", "layout": layout})
        inputs = OPS["attention"].inputs(case)
        call = Call(OPS["attention"], case, inputs, "cpu", with_gradients=True)
        pairs = [(name, item, inputs.cotangents[name]) for name, item in call.cotangents.items()]
        pairs += [(name, item, inputs.tensors[name]) for name, item in call.leaves.items()]
        complaints += [f"{layout}: another {name}" for name, got, meant in pairs if not torch.equal(got, meant)]
    return complaints


def the_reference_is_written_twice(op: str) -> list[str]:
    """B098: the reference and an emulator without rounding agree, forward and backward."""
    data = {"attention": ATTENTION, "gated_delta_rule": RULE}[op]
    case = case_from_data({**data, "dtype": "float64"})
    row = OPS[op]
    inputs = row.inputs(case)
    expected = truth(row, inputs, [output.name for output in row.outputs], with_gradients=True)
    found = second_formulation(row, inputs, EXACT, expected, tile=row.tiles[0])
    # The budget is measured around the emulator: around a wrong reference it would be wide enough for the difference.
    around = Truth(expected={name: value[0] for name, value in found.items()}, tangents={})
    complaints = []
    for name, budget in measure_budgets(row, case, inputs, EXACT, around).items():
        other = expected.expected[name]
        same = (other == budget.expected) | ((other - budget.expected).abs() <= budget.tolerance)
        complaints += [] if bool(same.all()) else [f"{op}: two formulations of {name}"]
    return complaints


@functools.cache
def _enclosures(op: str) -> list[tuple[CertifiedCase, dict[str, Any]]]:
    from harness.certify.cases import cases_of
    from harness.certify.certify import BITS
    from harness.certify.examine import enclose

    return [(case, enclose(case, bits=BITS)) for case in cases_of(op, series=1)[:2]]


def the_reference_is_certified(op: str) -> list[str]:
    """B098: the reference lies in its enclosure by ball arithmetic."""
    from harness.certify.certify import LIMIT
    from harness.certify.examine import distances, evaluate

    complaints = []
    for case, enclosed in _enclosures(op):
        actual = evaluate(case, OPS[op].reference)
        far = {name: float(distances(ball, actual[name]).max(initial=0.0)) for name, ball in enclosed.items()}
        complaints += [f"{op}: {name} is {value:.3g} off" for name, value in far.items() if not value <= LIMIT]
    return complaints


def can_certify() -> bool:
    """Returns whether ball arithmetic is installed."""
    return importlib.util.find_spec("flint") is not None


def unwritten_memory_is_seen() -> list[str]:
    """B099: a kernel that writes nothing returns NaN, though the right result has just been freed."""
    case = case_from_data({**NORM, "dtype": "float32", "layout": "contiguous"})
    right: Tensor | None = kept("rms_norm", "float32").healthy()["out"].clone()
    server = harness.worker.Server("cpu", 1)
    request = {"kind": "run", "case": case.to_data(), "candidate": "writes-nothing", "plugin": str(Path(ODD))}
    del right
    _, tensors = server.answer(request)
    return [] if bool(tensors["out"].isnan().all()) else ["memory that nobody wrote passes for a result"]


def the_candidate_runs_first() -> list[str]:
    """B099: no result of the reference exists when the candidate runs."""
    found = kept("rms_norm", "float32")
    order = []

    def answer(_: Mapping[str, Any]) -> Answer:
        order.append("candidate")
        return Answer("ok", MEMORY, found.healthy())

    def noted(*args: Any, **kwargs: Any) -> Any:
        order.append("reference")
        return truth(*args, **kwargs)

    with mock.patch("harness.verify.truth", noted):
        verify(found.case, [candidate(found)], Scripted(answer), Settings(relations="none"))
    return [] if order[0] == "candidate" else [f"the order is {', '.join(order)}"]
