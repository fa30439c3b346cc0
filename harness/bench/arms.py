"""An arm over several sets of inputs, and the judgement of what it computed while it was timed."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from harness.bench.calls import PHASES, timed_call
from harness.bench.parts import PartJudge
from harness.bench.stopwatch import prepared
from harness.operations.base import Inputs, Operation
from harness.records import Verdict
from optimized.candidate import Recipe

__all__ = ["SetArm"]


class SetArm:
    """A phase of one function on sets of inputs that are taken in turn.

    Args:
        row: the operation.
        function: of the operation's call.
        sets: inputs; the arm has copies, because some functions write their gradients over what they read.
        phase: one of ``PHASES``.
        device: ``cpu`` or ``cuda``.
        graphs: whether a CUDA graph is tried.

    Attributes:
        arm: what is timed.
    """

    def __init__(
        self, row: Operation, function: Callable[..., Any], sets: Sequence[Inputs], phase: str, device: str, *,
        graphs: bool,
    ) -> None:  # fmt: skip
        names = row.differentiable(sets[0].tensors) if phase != PHASES[0] else ()
        self._phase, self._sets = phase, sets
        self._leaves = [
            {name: item.detach().clone().requires_grad_(name in names) for name, item in inputs.tensors.items()}
            for inputs in sets
        ]
        calls = [
            timed_call(row, function, leaves, inputs.options, {"out": inputs.cotangents["out"]}, phase)
            for leaves, inputs in zip(self._leaves, sets, strict=True)
        ]
        self.arm = prepared(calls, device, graphs=graphs)

    def judged(self, judge: PartJudge, recipe: Recipe) -> tuple[Verdict, str]:
        """Returns the verdict on the arm's outputs for the last set, the one that the judge is of.

        Outputs of a forward are those that were timed. Gradients can be judged from the judge's own cotangent alone: it
        is put in the place of the timed one, and the very arm is launched once more, over results that are no numbers.
        """
        if self._phase == PHASES[0]:
            return judge.judged_values(self.arm.results[-1], recipe)
        if self.arm.how == "graph":
            self._spoil()
        cotangent = self._sets[-1].cotangents["out"]
        timed = cotangent.clone()
        for leaves, inputs in zip(self._leaves, self._sets, strict=True):
            for name, item in inputs.tensors.items():
                leaves[name].data.copy_(item)
        cotangent.data.copy_(judge.cotangent)
        try:
            self.arm.launch()
            return judge.judged_values(self.arm.results[-1], recipe)
        finally:
            cotangent.data.copy_(timed)

    def _spoil(self) -> None:
        """Fills what a replay has to write again; what shares memory with an input is left alone."""
        kept = (*self._leaves[-1].values(), *self._sets[-1].cotangents.values())
        inputs = {item.untyped_storage().data_ptr() for item in kept}
        for item in self.arm.results[-1].values():
            if isinstance(item, Tensor) and item.untyped_storage().data_ptr() not in inputs:
                item.data.fill_(torch.nan)
