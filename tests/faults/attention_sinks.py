"""Faults of attention sinks: the logit per head that enters the denominator and has no value."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from harness.power.fault import Fault
from tests.faults.flash import Flash, tensor_core
from tests.faults.flash_forward import Part, Problem, State
from tests.faults.flash_seeding import tiled
from tests.faults.seeding import seeded
from tests.variants.wrong_formulas import sink_scaled

__all__ = ["FAULTS"]


class _BareSink(Flash):
    """The sink itself is added to the denominator, not its exponential."""

    def with_sink(self, problem: Problem, state: State, sink: Tensor) -> State:
        del problem
        top, total, acc = state
        return top, total + sink, acc


class _UnshiftedSink(Flash):
    """The exponential of the sink is added to a denominator that is relative to the largest logit."""

    def with_sink(self, problem: Problem, state: State, sink: Tensor) -> State:
        del problem
        top, total, acc = state
        higher = torch.maximum(top, sink)
        factor = torch.exp(top - higher)
        return higher, total * factor + torch.exp(sink), acc * factor


class _SinkWithoutTop(Flash):
    """The largest logit is at hand for the sink only where an LSE is kept for a backward pass."""

    def with_sink(self, problem: Problem, state: State, sink: Tensor) -> State:
        if problem.wants_gradients:
            return super().with_sink(problem, state, sink)
        top, total, acc = state
        return top, total + torch.exp(sink), acc


class _SinkPerSplit(Flash):
    """Every split has the sink in its denominator."""

    def sink_parts(self, parts: Sequence[Part], sink: Tensor) -> list[Part]:
        return super().sink_parts(parts, sink) * len(parts)


class _SinkTwice(Flash):
    """The sink enters once more where the first split sees no key."""

    def sink_parts(self, parts: Sequence[Part], sink: Tensor) -> list[Part]:
        ((nothing, once),) = super().sink_parts(parts, sink)
        return [(nothing, once), (nothing, once.masked_fill(parts[0][1] > -torch.inf, -torch.inf))]


class _SinkNever(Flash):
    """The sink does not enter where no split sees a key."""

    def sink_parts(self, parts: Sequence[Part], sink: Tensor) -> list[Part]:
        ((nothing, once),) = super().sink_parts(parts, sink)
        is_seen = torch.stack([lse for _, lse in parts]).amax(0) > -torch.inf
        return [(nothing, once.masked_fill(~is_seen, -torch.inf))]


class _SinkByRow(Flash):
    """The head of a sink is the index of the row, modulo the number of heads."""

    def sink_rows(self, sinks: Tensor, tokens: int, groups: int) -> Tensor:
        rows = torch.arange(len(sinks) * tokens) % len(sinks)
        return sinks.float()[rows].reshape(1, groups, -1, tokens, 1)


class _NarrowTerms(Flash):
    """The terms of a sink's gradient are rounded to bfloat16 before they are summed."""

    def sink_terms(self, weights: Tensor, delta: Tensor, grad_lse: Tensor) -> Tensor:
        return super().sink_terms(weights, delta, grad_lse).bfloat16().float()


def _layer(flash: Flash) -> Callable[..., Tensor]:
    """Returns the layer ``flash_sdpa``, which returns no LSE, of an attention."""

    def flash_sdpa(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        parameters: Mapping[str, Tensor],
        *,
        is_causal: bool,
        scale: float,
        num_sinks: int | None = None,  # noqa: ARG001 - part of the layer's call
        window_size: int | None = None,
    ) -> Tensor:
        return flash.attention(
            query, key, value, scale=scale, window=(window_size, 0 if is_causal else None),
            sinks=parameters.get("sinks"), key_mask=attention_mask,
        )[0]  # fmt: skip

    return flash_sdpa


FAULTS: tuple[Fault, ...] = (
    tiled("B025a", "sink-not-exponentiated", _BareSink,
          what="The denominator gets the sink instead of its exponential.",
          source="flash-attention e81c237e", detectors=("VAL", "GRAD"), reach={"sinks": True}),
    tiled("B025b", "sink-not-shifted", _UnshiftedSink,
          what="The exponential of the sink is not shifted by the largest logit as all others are.",
          source="flash-attention e81c237e", detectors=("VAL", "GRAD"), reach={"sinks": True}),
    seeded("B026", "sink-without-lse", "flash_sdpa", lambda _: _layer(_SinkWithoutTop()),
           base=lambda: _layer(Flash()), recipe=tensor_core, differentiable=False,
           what="Without gradients no LSE is kept, and the sink is added without the largest logit.",
           source="flash-attention 2f78d484", detectors=("VAL",), reach={"sinks": True}),
    tiled("B028a", "sink-in-every-split", _SinkPerSplit, splits=2,
          what="Each split counts the sink, so that the merged denominator has it several times.",
          source="rocm-libraries #12227", detectors=("VAL", "META"), reach={"sinks": True}),
    tiled("B028b", "sink-twice-if-first-split-empty", _SinkTwice, splits=2,
          what="The sink counts once more where the first split has no visible key.",
          source="rocm-libraries #12227", detectors=("VAL", "META"),
          reach={"sinks": True, "query_tokens": 20, "key_tokens": 40, "window_left": 3, "bias": "none"}),
    tiled("B028c", "sink-never-if-keys-empty", _SinkNever, splits=2,
          what="The sink is left out where no split has a visible key, so that the LSE is -inf.",
          source="rocm-libraries #12229", detectors=("VAL", "GRAD"),
          reach={"sinks": True, "query_tokens": 24, "key_tokens": 7, "window_left": None, "window_right": 0}),
    seeded("B028d", "sink-scaled", "attention", sink_scaled,
           what="The sink is multiplied by the softmax scale as if it were a product of query and key.",
           source="rocm-libraries #12229", detectors=("VAL", "GRAD"), reach={"sinks": True, "scale": 0.25}),
    tiled("B029", "sink-of-row", _SinkByRow,
          what="The sink of a row is looked up by the row's index modulo the number of heads.",
          source="modular #6591", detectors=("VAL", "META"),
          reach={"sinks": True, "key_heads": 2, "group": 2, "query_tokens": 9}),
    tiled("B031", "sink-terms-in-bfloat16", _NarrowTerms,
          what="Terms of a sink's gradient are rounded to bfloat16 before a sum in which they cancel.",
          source="jax #40128", detectors=("GRAD",), phase="gradient", reach={"sinks": True, "query_tokens": 40}),
)  # fmt: skip
