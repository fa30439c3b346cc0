"""The certificate holds for the reference, and a certificate that holds for a wrong one is worth nothing."""

import functools
import importlib.util
import io
import math
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

import reference
from harness.certify import balls
from harness.certify.__main__ import main
from harness.certify.case import Case
from harness.certify.cases import cases_of
from harness.certify.certify import BITS, LIMIT, OPERATIONS, certify, print_certificates
from harness.certify.examine import Enclosed, distances, enclose, evaluate
from harness.errors import UsageError
from harness.records import Certificate

Function = Callable[..., Any]


@functools.cache
def certificates_of(op: str) -> list[Certificate]:
    return certify([op])


@functools.cache
def enclosures_of(op: str) -> list[tuple[Case, dict[str, Enclosed]]]:
    """Returns one series of cases with their enclosures, for the many implementations that are measured on them."""
    return [(case, enclose(case, bits=BITS)) for case in cases_of(op, series=1)]


def distances_of(op: str, function: Function) -> dict[str, float]:
    """Returns the largest distance of an implementation by output and gradient."""
    found: dict[str, float] = {}
    for case, enclosed in enclosures_of(op):
        actual = evaluate(case, function)
        for name, expected in enclosed.items():
            found[name] = max(found.get(name, 0.0), float(distances(expected, actual[name]).max(initial=0.0)))
    return found


def mapped(result: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """Returns a tensor or NamedTuple of tensors with every tensor changed."""
    return change(result) if isinstance(result, torch.Tensor) else type(result)(*map(change, result))


@pytest.mark.parametrize("op", OPERATIONS)
def test_the_reference_is_within_eight_eps_times_condition(op: str) -> None:
    assert [item for item in certificates_of(op) if not item.distance <= LIMIT] == []


def test_attention_in_blocks_of_one_token_is_within_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Long sequences are made in blocks, which the small shapes of the certificates are not."""
    module = sys.modules["reference.attention"]  # and not the function of its name
    whole, lengths = module._of_rows, []

    def of_rows(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, rows: slice, **options: Any) -> Any:
        lengths.append((query.shape[1], rows.stop - rows.start))
        return whole(query, keys, values, rows, **options)

    monkeypatch.setattr(module, "_PAIRS", 1)
    monkeypatch.setattr(module, "_of_rows", of_rows)
    assert max(distances_of("attention", reference.attention).values()) <= LIMIT
    assert max(tokens for tokens, _ in lengths) > 1
    assert {length for _, length in lengths} <= {0, 1}


@pytest.mark.parametrize("op", OPERATIONS)
def test_the_enclosure_is_far_sharper_than_the_limit(op: str) -> None:
    assert all(item.radius * 2.0**60 < 1 for item in certificates_of(op))


@pytest.mark.parametrize("op", [op for op in OPERATIONS if op != "rope_tables"])
def test_every_input_has_a_certified_gradient(op: str) -> None:
    names = {f"grad:{name}" for case in cases_of(op) for name in case.inputs}
    assert names == {item.output for item in certificates_of(op) if item.output.startswith("grad:")}


@pytest.mark.parametrize("op", OPERATIONS)
def test_a_relative_error_of_1e_12_is_too_far_in_every_output_and_gradient(op: str) -> None:
    def gained(*arguments: Any, **options: Any) -> Any:
        return mapped(getattr(reference, op)(*arguments, **options), lambda x: x * (1 + 1e-12))

    assert [name for name, distance in distances_of(op, gained).items() if distance <= LIMIT] == []


@pytest.mark.parametrize("op", OPERATIONS)
def test_single_precision_is_too_far(op: str) -> None:
    def single(*arguments: Any, **options: Any) -> Any:
        return mapped(getattr(reference, op)(*arguments, **options), lambda x: x.float().double())

    assert max(distances_of(op, single).values()) > LIMIT


def eps_outside_the_root(x: torch.Tensor, weight: torch.Tensor, *, eps: float, zero_centered: bool) -> torch.Tensor:
    return x / (x.pow(2).mean(-1, keepdim=True).sqrt() + eps) * (weight + zero_centered)


def gate_before_the_norm(
    x: torch.Tensor, gate: torch.Tensor, weight: torch.Tensor, *, eps: float, zero_centered: bool
) -> torch.Tensor:
    return reference.rms_norm(reference.silu_mul(gate, x), weight, eps=eps, zero_centered=zero_centered)


def angle_rounded_to_float64(positions: torch.Tensor, *, rope_dim: int, base: float, style: Any, scaling: Any) -> Any:
    exact = reference.rope_tables(positions, rope_dim=rope_dim, base=base, style=style, scaling=scaling)
    if scaling is not None or style != "half":
        return exact
    frequencies = base ** (-torch.arange(0, rope_dim, 2, dtype=torch.float64) / rope_dim)
    angles = (positions[..., None] * frequencies).repeat(1, 1, 2)
    return reference.RopeTables(angles.cos(), angles.sin())


def softplus_without_log1p(x: torch.Tensor, a_log: torch.Tensor, dt_bias: torch.Tensor) -> torch.Tensor:
    return -a_log.exp() * torch.log(1 + (x + dt_bias).exp())


def without_mask(x: torch.Tensor, weight: torch.Tensor, **_: Any) -> torch.Tensor:
    return reference.short_conv(x, weight)


def changed(op: str, **changes: Callable[[Any], Any]) -> Function:
    """Returns the reference with some of its keyword arguments changed on the way in."""
    function = getattr(reference, op)

    def wrong(*arguments: Any, **options: Any) -> Any:
        altered = {name: change(options[name]) for name, change in changes.items() if options.get(name) is not None}
        return function(*arguments, **{**options, **altered})

    return wrong


def attention_without_lse_gradient(*arguments: Any, **options: Any) -> Any:
    out, lse = reference.attention(*arguments, **options)
    return reference.AttentionOutput(out, lse.detach())


def attention_with_interleaved_heads(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **options: Any
) -> Any:
    repeat = query.shape[2] // key.shape[2]
    return reference.attention(query, key.repeat(1, 1, repeat, 1), value.repeat(1, 1, repeat, 1), **options)


def attention_whose_hidden_rows_are_not_zero(*arguments: Any, **options: Any) -> Any:
    out, lse = reference.attention(*arguments, **options)
    hidden = lse.isinf().transpose(1, 2).unsqueeze(-1)
    return reference.AttentionOutput(torch.where(hidden, torch.full_like(out, 1e-30), out), lse)


def decay_after_the_write(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    log_decay: torch.Tensor | None,
    beta: torch.Tensor,
    **options: Any,
) -> Any:
    if log_decay is None or options.get("cu_seqlens") is not None:
        return reference.gated_delta_rule(query, key, value, log_decay, beta, **options)
    late = torch.nn.functional.pad(log_decay, (0, 0, 1, 0))
    out, state = reference.gated_delta_rule(query, key, value, late[:, :-1], beta, **options)
    return reference.GatedDeltaRuleOutput(out, state * late[:, -1].exp()[..., None, None])


def beta_without_gradient(*arguments: Any, **options: Any) -> Any:
    query, key, value, log_decay, beta = arguments
    return reference.gated_delta_rule(query, key, value, log_decay, beta.detach(), **options)


def other_style(style: str) -> str:
    return "half" if style == "interleaved" else "interleaved"


FAULTS: dict[str, tuple[str, Function]] = {
    "eps outside the root": ("rms_norm", eps_outside_the_root),
    "weight not zero-centred": ("rms_norm", changed("rms_norm", zero_centered=lambda _: False)),
    "gate before the norm": ("gated_rms_norm", gate_before_the_norm),
    "another eps": ("l2_norm", changed("l2_norm", eps=lambda eps: eps * 1.01)),
    "pairs of the other style": ("rope", changed("rope", style=other_style)),
    "angle rounded to float64": ("rope_tables", angle_rounded_to_float64),
    "mask ignored": ("short_conv", without_mask),
    "taps reversed": ("short_conv", lambda x, w, **k: reference.short_conv(x, w.flip(-1), **k)),
    "log(1 + exp)": ("mamba_decay", softplus_without_log1p),
    "sink scaled": ("attention", changed("attention", sinks=lambda sinks: sinks * 0.99)),
    "sink without gradient": ("attention", changed("attention", sinks=torch.Tensor.detach)),
    "bias without gradient": ("attention", changed("attention", bias=torch.Tensor.detach)),
    "lse without gradient": ("attention", attention_without_lse_gradient),
    "heads interleaved": ("attention", attention_with_interleaved_heads),
    "hidden rows of 1e-30": ("attention", attention_whose_hidden_rows_are_not_zero),
    "scale": ("varlen_attention", changed("varlen_attention", scale=lambda scale: scale * (1 + 1e-9))),
    "decay after the write": ("gated_delta_rule", decay_after_the_write),
    "beta without gradient": ("gated_delta_rule", beta_without_gradient),
    "state without gradient": ("gated_delta_rule", changed("gated_delta_rule", initial_state=torch.Tensor.detach)),
    "norm eps": ("low_rank_projection", changed("low_rank_projection", norm_eps=lambda eps: eps * 1.001)),
    "window of one token less": ("flash_sdpa", changed("flash_sdpa", window_size=lambda window: window - 1)),
    "not causal": ("grouped_query_attention", changed("grouped_query_attention", is_causal=lambda _: False)),
    "latent norm eps": (
        "multi_head_latent_attention",
        changed("multi_head_latent_attention", qk_down_norm_eps=lambda eps: eps * 1.001),
    ),
    "l2 norm left out": ("gated_delta_net", changed("gated_delta_net", use_qk_l2norm=lambda _: False)),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_too_far(name: str) -> None:
    assert max(distances_of(*FAULTS[name]).values()) > LIMIT


def enclosed_sum_of_squares() -> Enclosed:
    return enclose(Case(op="l2_norm", regime="", inputs={"x": np.ones((1, 2))}, arguments=("x",)), bits=BITS)["out"]


@pytest.mark.parametrize(
    "actual",
    [np.zeros((2, 1)), np.full((1, 2), np.nan), np.full((1, 2), np.inf), np.ones((1, 2), dtype=np.float32)],
    ids=["shape", "nan", "inf", "dtype"],
)
def test_what_cannot_be_compared_is_infinitely_far(actual: np.ndarray[Any, Any]) -> None:
    assert np.isinf(distances(enclosed_sum_of_squares(), actual)).all()


def test_a_structural_zero_has_to_be_matched_exactly() -> None:
    zero = Enclosed(balls=balls.filled((2,)), conditions=np.ones(2))
    assert distances(zero, np.array([0.0, 5e-324])).tolist() == [0.0, math.inf]


def test_minus_infinity_has_to_be_matched_exactly() -> None:
    hidden = Enclosed(balls=balls.filled((3,), -math.inf), conditions=np.ones(3))
    assert distances(hidden, np.array([-math.inf, math.inf, -1e308])).tolist() == [0.0, math.inf, math.inf]


def test_an_infinite_condition_excuses_nothing() -> None:
    one = Enclosed(balls=balls.filled((1,), 1.0), conditions=np.array([math.inf]))
    assert distances(one, np.array([1.0])).tolist() == [math.inf]


def test_a_distance_counts_units_of_eps_times_condition() -> None:
    one = Enclosed(balls=balls.filled((1,), 1.0), conditions=np.array([4.0]))
    assert distances(one, np.array([1.0 + 2.0**-50])).tolist() == [1.0]


def test_an_unknown_operation_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UsageError, match="did you mean 'rms_norm'"):
        certify(["rmsnorm"])


def test_without_python_flint_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UsageError, match=r"attest\[certify\]"):
        certify(["rope"])


def test_importing_the_command_loads_neither_flint_nor_torch() -> None:
    code = "import sys, harness.certify.__main__; print(sorted({'flint', 'torch'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def printed(certificates: Sequence[Certificate]) -> str:
    console = Console(width=100, file=io.StringIO(), record=True)
    print_certificates(certificates, console)
    return console.export_text()


def test_the_table_names_the_largest_distance() -> None:
    far = Certificate(op="rope", output="out", cases=1, elements=2, distance=9.5, limit=LIMIT, radius=1e-40, bits=BITS)
    assert "largest distance 9.5 (rope, out); limit 8" in printed([*certificates_of("rope"), far])


def test_a_certified_reference_exits_with_0(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--op", "rope"]) == 0
    assert "TOO FAR" not in capsys.readouterr().out


def test_a_wrong_reference_exits_with_1(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(reference, "rope", changed("rope", style=other_style))
    assert main(["--op", "rope"]) == 1
    assert "TOO FAR" in capsys.readouterr().out


def test_an_unknown_operation_exits_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--op", "nothing"]) == 2
    assert "expected one of" in capsys.readouterr().err
