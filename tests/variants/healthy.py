"""Plug-in of legal executions, each unlike the project's own candidates: every one must pass, always.

``attest fuzz --op attention --plugin tests/variants/healthy.py``, from the root of the checkout.
"""

from collections.abc import Callable
from typing import Any

from optimized.candidate import Candidate, Recipe
from tests.variants import flash, flash_calls, rowwise, wy
from tests.variants.flash import Execution

__all__ = ["CANDIDATES"]

FORMATS = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}

_BASE_TWO_EXP_ERROR = 2.0**-16
"""A power of two takes ``x log2(e)``, whose rounding is half a unit of up to 128: ``2^6 2^-24 ln 2``, and then some."""


def _widened(storage: str) -> Recipe:
    return Recipe(storage=storage, operand="float32", accumulator="float32")


def _base_two(storage: str) -> Recipe:
    return Recipe(storage=storage, operand="float32", accumulator="float32", exp_error=_BASE_TWO_EXP_ERROR)


def _tensor_core(storage: str) -> Recipe:
    return Recipe(storage=storage, operand=storage, accumulator="float32")


EXECUTIONS = {
    "tile-16": Execution(tile=16),
    "tile-64": Execution(tile=64),
    "reversed": Execution(tile=32, is_reversed=True),
    "split-2": Execution(splits=2),
    "split-3-reversed": Execution(tile=16, splits=3, is_reversed=True),
    "base-two": Execution(tile=32, is_base_two=True),
    "lagging": Execution(tile=16, lag=4.0),
    "lagging-base-two": Execution(tile=16, lag=8.0, is_base_two=True, starts_at_sink=True),
    "sink-first": Execution(tile=64, starts_at_sink=True, is_reversed=True),
}  # fmt: skip

_CALLS: tuple[tuple[str, str, Callable[..., Any], Callable[[str], Recipe]], ...] = (
    *((f"flash-{name}", "attention", flash.make_attention(way), _tensor_core) for name, way in EXECUTIONS.items()),
    *((f"flash-varlen-{name}", "varlen_attention", flash_calls.make_varlen_attention(EXECUTIONS[name]), _tensor_core)
      for name in ("split-2", "base-two")),
    ("flash-sdpa-lagging", "flash_sdpa", flash_calls.make_flash_sdpa(EXECUTIONS["lagging"]), _tensor_core),
    *((f"wy-{chunk}", "gated_delta_rule", wy.make_wy(chunk=chunk), _tensor_core) for chunk in (8, 16, 32, 64)),
    ("wy-16-reversed", "gated_delta_rule", wy.make_wy(chunk=16, is_reversed=True), _tensor_core),
    ("wy-64-reversed", "gated_delta_rule", wy.make_wy(chunk=64, is_reversed=True), _tensor_core),
    ("recurrent-reversed", "gated_delta_rule", wy.make_recurrent(is_reversed=True), _widened),
    ("rms-norm-reversed", "rms_norm", rowwise.make_rms_norm(rowwise.reversed_terms), _widened),
    ("rms-norm-pairwise", "rms_norm", rowwise.make_rms_norm(rowwise.pairwise, divides=True), _widened),
    ("rms-norm-lanes", "rms_norm", rowwise.make_rms_norm(rowwise.in_lanes), _widened),
    ("gated-rms-norm-lanes", "gated_rms_norm",
     rowwise.make_gated_rms_norm(rowwise.make_rms_norm(rowwise.in_lanes), rowwise.silu_mul_by_halves), _widened),
    ("gated-rms-norm-base-two", "gated_rms_norm",
     rowwise.make_gated_rms_norm(rowwise.make_rms_norm(rowwise.pairwise, divides=True), rowwise.silu_mul_base_two),
     _base_two),
    ("l2-norm-reversed", "l2_norm", rowwise.make_l2_norm(rowwise.reversed_terms), _widened),
    ("l2-norm-lanes", "l2_norm", rowwise.make_l2_norm(rowwise.in_lanes), _widened),
    ("rope-by-pairs", "rope", rowwise.rope_by_pairs, _widened),
    ("short-conv-reversed", "short_conv", rowwise.short_conv_reversed, _widened),
    ("short-conv-unfolded", "short_conv", rowwise.short_conv_unfolded, _widened),
    ("silu-mul-by-halves", "silu_mul", rowwise.silu_mul_by_halves, _widened),
    ("silu-mul-base-two", "silu_mul", rowwise.silu_mul_base_two, _base_two),
    ("mamba-decay-logaddexp", "mamba_decay", rowwise.decay_by_logaddexp, _widened),
    ("log-sigmoid-logaddexp", "log_sigmoid_decay", rowwise.log_sigmoid_by_logaddexp, _widened),
)  # fmt: skip


def _candidate(name: str, op: str, call: Callable[..., Any], recipe: Recipe) -> Candidate:
    return Candidate(name=name, op=op, load=lambda: call, recipe=recipe, devices=("cpu",))


CANDIDATES: tuple[Candidate, ...] = tuple(
    _candidate(f"{name}-{suffix}", op, call, recipe(storage))
    for name, op, call, recipe in _CALLS
    for suffix, storage in FORMATS.items()
)
"""One candidate per execution and storage format."""
