"""What the float64 recurrent reference of the gated delta rule costs, beside other people's recurrences in float32.

``python -m tests.benchmarks.reference_speed`` times forward and backward on the same values and threads, in paired and
reversed rounds and in processor time: the reference in float64; the recurrence as in fla's
``naive_recurrent_gated_delta_rule``, written from its formula; that function itself and transformers' fallback, where
they are installed. What a token costs at growing lengths is counted by ``tests.benchmarks.scaling``.
"""

import argparse
import inspect
import math
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from harness.bench.pinning import pinned
from harness.bench.stopwatch import Arm, time_rounds
from harness.timing import compare, interval, noise_of
from reference import gated_delta_rule

__all__ = ["main", "processor_seconds", "reference", "timed_call"]

SHAPE = (1, 4, 64)
"""Batch, heads, width of keys and values."""

COMPARED_TOKENS = 256

_CALLS_S = 0.2
"""The calls of an arm in a round last about so long together."""

Rule = Callable[..., Tensor]


def naive(query: Tensor, key: Tensor, value: Tensor, log_decay: Tensor, beta: Tensor, *, scale: float) -> Tensor:
    """Returns the output token by token, heads first and an output buffer written by index, as naive code does it."""
    query, key, value, log_decay, beta = (x.transpose(1, 2).float() for x in (query, key, value, log_decay, beta))
    outs = torch.zeros_like(value)
    state = value.new_zeros(*key.shape[:2], key.shape[-1], value.shape[-1])
    query = query * scale
    for t in range(key.shape[2]):
        q, k, v = query[:, :, t], key[:, :, t], value[:, :, t]
        state = state.clone() * log_decay[:, :, t].exp()[..., None, None]
        v = v - (state * k[..., None]).sum(-2)
        v = v * beta[:, :, t][..., None]
        state = state.clone() + k.unsqueeze(-1) * v.unsqueeze(-2)
        outs[:, :, t] = torch.einsum("bhd,bhdv->bhv", q, state)
    return outs.transpose(1, 2)


def reference(query: Tensor, key: Tensor, value: Tensor, log_decay: Tensor, beta: Tensor, *, scale: float) -> Tensor:
    """Returns the output of the reference."""
    return gated_delta_rule(query, key, value, log_decay, beta, scale=scale).out


def transformers_rule() -> Rule:
    """Returns transformers' recurrence in torch, which gives way to fla's kernel where fla is installed."""
    from transformers.models.qwen3_next.modeling_qwen3_next import torch_recurrent_gated_delta_rule

    recurrence = inspect.unwrap(torch_recurrent_gated_delta_rule)

    def call(query: Tensor, key: Tensor, value: Tensor, log_decay: Tensor, beta: Tensor, *, scale: float) -> Tensor:
        del scale  # it is the same: one over the root of the width
        found: Tensor = recurrence(
            query, key, value, g=log_decay, beta=beta, initial_state=None, output_final_state=False
        )[0]
        return found

    return call


def fla_rule() -> Rule:
    """Returns fla's naive recurrence."""
    from fla.ops.gated_delta_rule.naive import naive_recurrent_gated_delta_rule

    def call(query: Tensor, key: Tensor, value: Tensor, log_decay: Tensor, beta: Tensor, *, scale: float) -> Tensor:
        found: Tensor = naive_recurrent_gated_delta_rule(query, key, value, beta=beta, g=log_decay, scale=scale)[0]
        return found

    return call


OTHERS: Mapping[str, Callable[[], Rule]] = {
    "fla's formula, float32": lambda: naive,
    "fla's own code, float32": fla_rule,
    "transformers' fallback, float32": transformers_rule,
}
"""By name, what returns a rule; raises ImportError where its project is not installed."""


def installed() -> dict[str, Rule]:
    """Returns the rules that are there, and says which are not."""
    found = {}
    for name, load in OTHERS.items():
        try:
            found[name] = load()
        except ImportError as error:
            sys.stdout.write(f"{name}: not timed, {error}\n")
    return found


def timed_call(rule: Rule, dtype: torch.dtype, tokens: int, *, backward: bool) -> Callable[[], object]:
    """Returns a call of a rule on the values that every rule gets, in its dtype."""
    batch, heads, width = SHAPE
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(batch, tokens, heads, *shape, generator=generator, dtype=torch.float64)

    key = torch.nn.functional.normalize(normal(width), dim=-1)
    values = (normal(width), key, normal(width), -normal().abs(), torch.sigmoid(normal()))
    leaves = [value.to(dtype).requires_grad_(backward) for value in values]

    def call() -> object:
        out = rule(*leaves, scale=width**-0.5)
        return torch.autograd.grad(out.sum(), leaves) if backward else out

    return call


def processor_seconds(call: Callable[[], object], *, repeats: int) -> float:
    """Returns the least processor time of a call."""
    least = math.inf
    for _ in range(repeats):
        started = time.process_time()
        call()
        least = min(least, time.process_time() - started)
    return least


def by_processor(call: Callable[[], object]) -> Arm:
    """Returns an arm whose clock stands still while others have the core, which they have often in a call so long."""
    call()
    once = processor_seconds(call, repeats=3)
    calls = max(2, min(8, round(_CALLS_S / once)))
    return Arm(call, lambda count: processor_seconds(call, repeats=count), calls, "host", [call], once_s=once)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the tables; returns 1 when the reference is slower than another recurrence."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=21, help="paired rounds, up to eight times as many (default 21)")
    repeats = parser.parse_args(arguments).repeats
    arms = installed()
    slower = False
    for backward in (False, True):
        phase = "forward + backward" if backward else "forward"
        calls = [timed_call(reference, torch.float64, COMPARED_TOKENS, backward=backward)]
        calls += [timed_call(rule, torch.float32, COMPARED_TOKENS, backward=backward) for rule in arms.values()]
        with pinned(1):
            ours, *theirs, again = time_rounds(list(map(by_processor, calls)), rounds=repeats, most=8 * repeats)
        sys.stdout.write(f"{phase}, {COMPARED_TOKENS} tokens: reference, float64 {1e3 * interval(ours)[0]:.1f} ms\n")
        for name, seconds in zip(arms, theirs, strict=True):
            pair = compare(ours, seconds, noise=noise_of(ours, again))
            ratio = f"{pair.ratio:.2f} ({pair.low:.2f} to {pair.high:.2f}, noise {100 * pair.noise:.1f} %)"
            told = f"{1e3 * interval(seconds)[0]:8.1f} ms, reference / it {ratio}"
            sys.stdout.write(f"  {name:32} {told} {pair.verdict}\n")
            slower = slower or pair.verdict == "SLOWER"
    sys.stdout.write(f"load {os.getloadavg()[0]:.1f}\n")
    return int(slower)


if __name__ == "__main__":
    raise SystemExit(main())
