"""Inputs for the gated delta rule, and healthy executions of it in low precision.

Letters: B batch, T tokens, G query/key heads, H value heads, D query/key width, V value width, C tokens of a chunk.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from harness.emulators.rounding import to_nearest
from optimized.chunked_delta_rule import chunked_delta_rule
from reference.gated_delta_rule import gated_delta_rule

__all__ = [
    "DIFFERENTIABLE",
    "REGIMES",
    "SHAPES",
    "Example",
    "Values",
    "format_of",
    "make_example",
    "recurrence",
    "residual_chunks",
    "wy_chunks",
]

DIFFERENTIABLE = ("query", "key", "value", "log_decay", "beta", "initial_state")
WIDE = ("log_decay", "initial_state", "final_state")
REGIMES = ("normal", "parallel", "strong", "zero", "slow", "binary_beta", "mixed", "one_hot")
SHAPES = ((2, 33, 1, 2, 8, 5), (1, 70, 2, 6, 16, 8), (1, 1, 1, 3, 4, 8), (2, 9, 2, 2, 24, 16))

Values = dict[str, Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    tensors: Values
    cotangents: Values
    scale: float
    normalize_qk: bool


def format_of(name: str, storage: str) -> str:
    return "float32" if name.removeprefix("d_") in WIDE and storage != "float64" else storage


def make_example(seed: int, storage: str) -> Example:
    B, T, G, H, D, V = SHAPES[seed % len(SHAPES)]
    regime = REGIMES[seed // len(SHAPES) % len(REGIMES)]
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, dtype=torch.float64)

    key, beta, gate = normal(B, T, G, D), uniform(B, T, H), uniform(B, T, H)
    if regime == "parallel":
        key, beta = normal(B, 1, G, D) + 0.05 * key, 1 - 0.05 * beta
    if regime == "one_hot":
        key, beta = (
            torch.eye(D, dtype=torch.float64)[torch.arange(T) % D].expand(B, G, T, D).mT.mT,
            torch.ones_like(beta),
        )
        key = key.transpose(1, 2)
    if regime == "binary_beta":
        beta = beta.round()
    log_decay = {
        "strong": -10 - 30 * gate,
        "zero": torch.zeros_like(gate),
        "slow": torch.full_like(gate, -1e-4),
        "mixed": torch.where(gate < 0.1, -30.0, -0.01).double(),
    }.get(regime, -0.3 * gate)
    tensors = {
        "query": normal(B, T, G, D),
        "key": key if regime == "one_hot" else 0.98 * functional.normalize(key, dim=-1),
        "value": normal(B, T, H, V),
        "log_decay": log_decay,
        "beta": beta,
        "initial_state": normal(B, H, D, V) * (seed % 3 > 0),
    }
    cotangents = {"out": normal(B, T, H, V), "final_state": normal(B, H, D, V)}
    return Example(
        tensors={name: to_nearest(x, format_of(name, storage)) for name, x in tensors.items()},
        cotangents={name: to_nearest(x, format_of(name, storage)) for name, x in cotangents.items()},
        scale=D**-0.5,
        normalize_qk=seed % 2 == 1,
    )


class RoundedProduct(torch.autograd.Function):
    """A product as a tensor core computes it: operands in their storage format, sums in float32."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, left: Tensor, right: Tensor, dtype: torch.dtype) -> Tensor:
        left, right = left.to(dtype).float(), right.to(dtype).float()
        ctx.save_for_backward(left, right)
        ctx.dtype = dtype  # type: ignore[attr-defined]  # contexts take any attribute
        return left @ right

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        left, right = ctx.saved_tensors  # type: ignore[attr-defined]  # torch's own attribute
        grad = grads[0].to(ctx.dtype).float()  # type: ignore[attr-defined]  # set in forward
        return grad @ right.mT, left.mT @ grad, None


def wy_chunks(x: Values, example: Example, chunk: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The WY form with separately rounded W and U, in float32 with rounded operands."""

    def product(left: Tensor, right: Tensor) -> Tensor:
        result: Tensor = RoundedProduct.apply(left, right, dtype)  # type: ignore[no-untyped-call]  # autograd.Function
        return result

    heads, tokens = x["value"].shape[2], x["value"].shape[1]
    query, key = x["query"].float(), x["key"].float()
    if example.normalize_qk:
        query, key = (y * torch.rsqrt(y.square().sum(-1, keepdim=True) + 1e-6) for y in (query, key))
    query, key = (y.repeat_interleave(heads // y.shape[2], 2) for y in (query, key))
    parts = (query, key, x["value"].float(), x["log_decay"].float()[..., None], x["beta"].float()[..., None])
    q, k, v, g, b = (
        torch.stack(
            torch.chunk(functional.pad(y.transpose(1, 2), (0, 0, 0, -tokens % chunk)), -(-tokens // chunk), 2), 2
        )
        for y in parts
    )
    g = g.cumsum(-2)
    between = (g - g.mT).tril().exp().tril()
    coupling = (product(k, k.mT) * between * b).tril(-1)
    identity = torch.eye(chunk)
    solved = torch.linalg.solve_triangular(identity + coupling, identity, upper=False, unitriangular=True)
    w, u = product(solved, k * b * g.exp()).to(dtype).float(), product(solved, v * b).to(dtype).float()
    scores, state, outs = product(q, k.mT) * between, x["initial_state"].float(), []
    for n in range(q.shape[2]):
        gate, last = g[:, :, n], g[:, :, n, -1:]
        residual = u[:, :, n] - product(w[:, :, n], state)
        outs.append(product(q[:, :, n], state) * gate.exp() + product(scores[:, :, n], residual))
        state = state * last.exp() + product(k[:, :, n].mT, residual * (last - gate).exp())
    return example.scale * torch.cat(outs, 2)[:, :, :tokens].transpose(1, 2), state


def recurrence(x: Values, example: Example) -> tuple[Tensor, Tensor]:
    """The reference's own recurrence, in float32."""
    return gated_delta_rule(
        *(x[name].float() for name in DIFFERENTIABLE[:5]),
        scale=example.scale,
        initial_state=x["initial_state"].float(),
        normalize_qk=example.normalize_qk,
    )


def residual_chunks(x: Values, example: Example, chunk: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The form that multiplies the residual by the inverse, ours."""
    return chunked_delta_rule(
        *(x[name].to(torch.float32 if name in WIDE else dtype) for name in DIFFERENTIABLE[:5]),
        scale=example.scale,
        initial_state=x["initial_state"].float(),
        normalize_qk=example.normalize_qk,
        chunk_size=chunk,
        round_operands=True,
    )
