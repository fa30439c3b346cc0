"""What the float64 recurrent reference of the gated delta rule costs, beside other people's recurrences in float32.

``python -m tests.benchmarks.reference_speed`` times forward and backward on the same values and threads, in paired and
reversed rounds: the reference in float64; the recurrence as in fla's ``naive_recurrent_gated_delta_rule``, written from
its formula; and transformers' fallback, where it is installed. Then it times the reference at growing lengths: the cost
of a token stays the same.
"""

import argparse
import sys
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from harness.bench.stopwatch import prepared, time_rounds
from harness.timing import compare, interval, noise_of
from reference import gated_delta_rule

__all__ = ["LENGTHS", "main", "timed_call"]

SHAPE = (1, 4, 64)
"""Batch, heads, width of keys and values."""

LENGTHS = (512, 1024, 2048, 4096)
COMPARED_TOKENS = 256

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


def fallback() -> Rule | None:
    """Returns transformers' recurrence; None where it is not installed."""
    try:
        from transformers.models.qwen3_next.modeling_qwen3_next import torch_recurrent_gated_delta_rule
    except ImportError:
        return None

    def call(query: Tensor, key: Tensor, value: Tensor, log_decay: Tensor, beta: Tensor, *, scale: float) -> Tensor:
        del scale  # it is the same: one over the root of the width
        found: Tensor = torch_recurrent_gated_delta_rule(
            query, key, value, g=log_decay, beta=beta, initial_state=None, output_final_state=False
        )[0]
        return found

    return call


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


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the tables; returns 1 when the reference is slower than another recurrence or not linear."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15, help="paired rounds (default 15)")
    repeats = parser.parse_args(arguments).repeats
    torch.set_num_threads(1)
    others = {"naive, as in fla, float32": naive, "transformers' fallback, float32": fallback()}
    slower = False
    for backward in (False, True):
        phase = "forward + backward" if backward else "forward"
        arms = {name: rule for name, rule in others.items() if rule is not None}
        calls = [timed_call(reference, torch.float64, COMPARED_TOKENS, backward=backward)]
        calls += [timed_call(rule, torch.float32, COMPARED_TOKENS, backward=backward) for rule in arms.values()]
        ours, *theirs, again = time_rounds([prepared([call], "cpu", graphs=False) for call in calls], rounds=repeats)
        sys.stdout.write(f"{phase}, {COMPARED_TOKENS} tokens: reference, float64 {1e3 * interval(ours)[0]:.1f} ms\n")
        for name, seconds in zip(arms, theirs, strict=True):
            pair = compare(ours, seconds, noise=noise_of(ours, again))
            ratio = f"{pair.ratio:.2f} ({pair.low:.2f} to {pair.high:.2f})"
            told = f"{1e3 * interval(seconds)[0]:8.1f} ms, reference / it {ratio}"
            sys.stdout.write(f"  {name:32} {told} {pair.verdict}\n")
            slower = slower or pair.verdict == "SLOWER"
    return int(slower) | _lengths(repeats=max(3, repeats // 5))


def _lengths(*, repeats: int) -> int:
    """Prints the cost of a token at growing lengths; returns 1 when the longest costs half as much again."""
    calls = [timed_call(reference, torch.float64, tokens, backward=True) for tokens in LENGTHS]
    seconds = time_rounds([prepared([call], "cpu", graphs=False) for call in calls], rounds=repeats)[:-1]
    each = [1e6 * interval(arm)[0] / tokens for arm, tokens in zip(seconds, LENGTHS, strict=True)]
    for tokens, cost in zip(LENGTHS, each, strict=True):
        sys.stdout.write(f"forward + backward, {tokens:5} tokens: {cost:7.1f} us a token\n")
    return int(each[-1] > 1.5 * each[0])


if __name__ == "__main__":
    raise SystemExit(main())
