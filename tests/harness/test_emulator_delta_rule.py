"""The emulator of the gated delta rule: exact without rounding, as wide as healthy kernels err, narrower than faults.

Letters: B batch, T tokens, G query/key heads, H value heads, D query/key width, V value width, C tokens of a chunk.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from harness.emulators.arithmetic import Arithmetic
from harness.emulators.gated_delta_rule import emulate
from harness.emulators.rounding import Identity, Nearest, Random, half_ulp, to_nearest, unit
from optimized.candidate import Recipe
from optimized.chunked_delta_rule import chunked_delta_rule
from reference.gated_delta_rule import gated_delta_rule

TILES = (8, 16, 32, 64)
LAMBDA = 7.0
DIFFERENTIABLE = ("query", "key", "value", "log_decay", "beta", "initial_state")
OUTPUTS = ("out", "final_state")
WIDE = ("log_decay", "initial_state", "final_state")
REGIMES = ("normal", "parallel", "strong", "zero", "slow", "binary_beta", "mixed", "one_hot")
SHAPES = ((2, 33, 1, 2, 8, 5), (1, 70, 2, 6, 16, 8), (1, 1, 1, 3, 4, 8), (2, 9, 2, 2, 24, 16))

Values = dict[str, Tensor]
Rule = Callable[[Values], tuple[Tensor, Tensor]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    tensors: Values
    cotangents: Values
    scale: float
    normalize_qk: bool


def recipe_of(storage: str) -> Recipe:
    return Recipe(storage=storage, operand=storage, accumulator="float64" if storage == "float64" else "float32")


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


def results(rule: Rule, tensors: Mapping[str, Tensor], cotangents: Mapping[str, Tensor]) -> Values:
    """Returns outputs and gradients (``d_query`` and so on) in float64."""
    leaves = {name: x.detach().requires_grad_(x.is_floating_point()) for name, x in tensors.items()}
    outs = dict(zip(OUTPUTS, rule(leaves), strict=True))
    wanted = [name for name in DIFFERENTIABLE if name in leaves]
    pulled = [cotangents[name].to(x.dtype).expand_as(x) for name, x in outs.items()]
    grads = torch.autograd.grad(list(outs.values()), [leaves[name] for name in wanted], pulled)
    found = outs | {f"d_{name}": grad for name, grad in zip(wanted, grads, strict=True)}
    return {name: x.detach().double() for name, x in found.items()}


def expected_of(example: Example, **changes: float) -> Values:
    """Returns what the reference gives; ``changes`` are factors of arguments, for a fault."""

    def rule(x: Values) -> tuple[Tensor, Tensor]:
        changed = {name: changes.get(name, 1.0) * x[name] for name in DIFFERENTIABLE if name in x}
        return gated_delta_rule(
            changed["query"],
            changed["key"],
            changed["value"],
            changed.get("log_decay"),
            changed["beta"],
            scale=example.scale * changes.get("scale", 1.0),
            initial_state=changed.get("initial_state"),
            normalize_qk=example.normalize_qk,
            cu_seqlens=x.get("cu_seqlens"),
        )

    return results(rule, example.tensors, example.cotangents)


def emulated(example: Example, arithmetic: Arithmetic) -> Values:
    def rule(x: Values) -> tuple[Tensor, Tensor]:
        outs = emulate(arithmetic, x, {"scale": example.scale, "normalize_qk": example.normalize_qk})
        return outs["out"], outs["final_state"]

    spread = {
        name: x.expand(arithmetic.samples, *x.shape) if x.is_floating_point() else x
        for name, x in example.tensors.items()
    }
    return results(rule, spread, example.cotangents)


def sampled(example: Example, storage: str, seed: int) -> Values:
    """Returns 8 samples of every tile."""
    runs = [
        emulated(example, Arithmetic(recipe_of(storage), Random(8, seed * len(TILES) + tile), tile=tile))
        for tile in TILES
    ]
    return {name: torch.cat([run[name] for run in runs]) for name in runs[0]}


def tolerances(expected: Values, samples: Values, storage: str) -> Values:
    """Returns ``LAMBDA sigma`` plus half an ulp: ``sigma^2`` is half an element's and half its row's mean square."""
    found = {}
    for name, x in expected.items():
        square = (samples[name] - x).square().mean(0)
        sigma = (0.5 * square + 0.5 * square.mean(-1, keepdim=True)).sqrt()
        found[name] = LAMBDA * sigma + half_ulp(x, format_of(name, storage)) + 2.0**-126
    return found


def worst_ratio(actual: Values, expected: Values, tolerance: Values, storage: str) -> dict[str, float]:
    return {
        name: float(((to_nearest(actual[name], format_of(name, storage)) - x).abs() / tolerance[name]).max())
        for name, x in expected.items()
    }


def relative_error_of_float64(tokens: int, log_decay: Tensor | None) -> float:
    """Returns what two float64 formulations may differ by, relative to the largest element.

    Every token rounds some ten times, and an exponential turns a rounding of a summed gate into a relative error of
    the gate's size. Keys no longer than 1 and ``beta`` in [0, 1] amplify nothing.
    """
    gate = 0.0 if log_decay is None else float(log_decay.abs().sum(1).max())
    return unit("float64") * (10 * tokens + 10 * gate + 100)


def assert_equal_up_to_float64(actual: Values, expected: Values, bound: float) -> None:
    for name, x in expected.items():
        scale = max(float(x.abs().max()), 1.0)
        assert float((actual[name][0] - x).abs().max()) <= bound * scale, name


@pytest.mark.parametrize("tile", [1, 8, 64, 256])
@pytest.mark.parametrize("seed", range(len(REGIMES) * len(SHAPES)))
def test_without_rounding_the_emulator_is_the_recurrence(seed: int, tile: int) -> None:
    example = make_example(seed, "float64")
    actual = emulated(example, Arithmetic(recipe_of("bfloat16"), Identity(), tile=tile))
    bound = relative_error_of_float64(example.tensors["value"].shape[1], example.tensors["log_decay"])
    assert_equal_up_to_float64(actual, expected_of(example), bound)


def test_packed_sequences_each_start_from_their_own_state_and_may_be_empty() -> None:
    example = make_example(1, "float64")
    tokens, heads = example.tensors["value"].shape[1:3]
    starts = torch.tensor([0, 5, 5, 41, tokens], dtype=torch.int32)
    state = torch.randn(4, heads, 16, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    packed = Example(
        tensors=example.tensors | {"initial_state": state, "cu_seqlens": starts},
        cotangents=example.cotangents | {"final_state": state.flip(0)},
        scale=example.scale,
        normalize_qk=True,
    )
    actual = emulated(packed, Arithmetic(recipe_of("bfloat16"), Identity(), tile=8))
    bound = relative_error_of_float64(tokens, example.tensors["log_decay"])
    assert_equal_up_to_float64(actual, expected_of(packed), bound)


def test_gate_and_initial_state_may_be_left_out() -> None:
    example = make_example(1, "float64")
    few = {name: x for name, x in example.tensors.items() if name not in ("log_decay", "initial_state")}
    plain = Example(tensors=few, cotangents=example.cotangents, scale=0.3, normalize_qk=False)
    actual = emulated(plain, Arithmetic(recipe_of("bfloat16"), Identity(), tile=16))
    assert_equal_up_to_float64(actual, expected_of(plain), relative_error_of_float64(70, None))


def test_a_decay_to_nothing_is_finite() -> None:
    example = make_example(0, "float64")
    example.tensors["log_decay"][:, 10] = -torch.inf
    actual = emulated(example, Arithmetic(recipe_of("bfloat16"), Random(2, 0), tile=64))
    assert all(bool(x.isfinite().all()) for x in actual.values())


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
        torch.stack(functional.pad(y.transpose(1, 2), (0, 0, 0, -tokens % chunk)).split(chunk, 2), 2) for y in parts
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


def healthy_rules(example: Example, storage: str) -> dict[str, Rule]:
    dtype: torch.dtype = getattr(torch, storage)
    rules: dict[str, Rule] = {"recurrence": lambda x: recurrence(x, example)}
    for chunk in TILES:
        rules[f"wy {chunk}"] = lambda x, chunk=chunk: wy_chunks(x, example, chunk, dtype)  # type: ignore[misc]  # default
        rules[f"residual {chunk}"] = lambda x, chunk=chunk: residual_chunks(x, example, chunk, dtype)  # type: ignore[misc]  # default
    return rules


def false_alarms(seeds: Sequence[int], storage: str) -> list[tuple[int, str, str, float]]:
    """Returns seed, candidate, output and ratio of every healthy result beyond its tolerance."""
    alarms = []
    for seed in seeds:
        example = make_example(seed, storage)
        expected = expected_of(example)
        tolerance = tolerances(expected, sampled(example, storage, seed), storage)
        for rule_name, rule in healthy_rules(example, storage).items():
            ratios = worst_ratio(results(rule, example.tensors, example.cotangents), expected, tolerance, storage)
            alarms += [(seed, rule_name, name, ratio) for name, ratio in ratios.items() if not ratio <= 1]
    return alarms


@pytest.mark.parametrize("storage", ["bfloat16", "float16", "float32"])
def test_healthy_kernels_of_every_chunk_length_pass(storage: str) -> None:
    assert false_alarms(range(0, len(REGIMES) * len(SHAPES), 3), storage) == []


@pytest.mark.slow
@pytest.mark.parametrize("storage", ["bfloat16", "float16", "float32"])
def test_healthy_kernels_pass_in_a_long_campaign(storage: str) -> None:
    assert false_alarms(range(1000, 1320), storage) == []


@pytest.mark.parametrize("storage", ["bfloat16", "float32"])
def test_round_to_nearest_stays_within_the_random_budget(storage: str) -> None:
    example = make_example(1, storage)
    expected = expected_of(example)
    tolerance = tolerances(expected, sampled(example, storage, 1), storage)
    nearest = emulated(example, Arithmetic(recipe_of(storage), Nearest(), tile=16))
    ratios = worst_ratio({name: x[0] for name, x in nearest.items()}, expected, tolerance, storage)
    assert max(ratios.values()) <= 1


@pytest.mark.parametrize("storage", ["bfloat16", "float32"])
@pytest.mark.parametrize("fault", ["scale", "beta", "log_decay"])
def test_one_percent_stands_out_of_the_gain_of_random_executions(fault: str, storage: str) -> None:
    example = make_example(1, storage)
    expected, samples = expected_of(example), sampled(example, storage, 1)
    faulty = expected_of(example, **{fault: 1.01})
    visible = {}
    for name, x in expected.items():
        sigma = (samples[name] - x).square().mean(0).sqrt().clamp_min(2.0**-126)
        weight = x / sigma.square()
        gains = ((samples[name] - x) * weight).flatten(1).sum(1)
        visible[name] = float(((faulty[name] - x) * weight).sum().abs() / gains.square().mean().sqrt())
    assert max(visible.values()) > LAMBDA
