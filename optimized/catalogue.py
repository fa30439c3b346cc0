"""Every candidate of this project, as one tuple; a kernel is imported when it is first loaded, not when it is listed.

A line is ``_each(name, operation, "module:function", recipe)`` and stands for one candidate per storage format, whose
name ends in the format. Five recipes are in use:

- ``_widened``: inputs are widened to float32, nothing is rounded on the way, results are rounded once.
- ``_stored``: the textbook formula, every tensor on the way stored in the inputs' dtype.
- ``_layered``: a layer whose operations are each ``_widened`` and store their results, with matrix products on stored
  operands between them; ``_tensor_core`` if its operations are.
- ``_tensor_core``: a fused kernel, operands of matrix products in the storage format, float32 sums.
- ``_cpu_flash``: the same with the faster exponential of torch's CPU kernels.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any

from optimized.candidate import Candidate, Recipe

__all__ = ["CANDIDATES"]

_SUFFIX = {"float64": "fp64", "float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
_TRAINED = ("float32", "bfloat16", "float16")
_HALF = ("bfloat16", "float16")
_ALL = ("float64", *_TRAINED)

_CPU_EXP_ERROR = 2.0**-21
"""Largest relative error of torch's ``exp_u20`` on [-80, 0]: 4.2e-7 measured, rounded up to a power of two."""


def _arithmetic(storage: str) -> str:
    return "float64" if storage == "float64" else "float32"


def _widened(storage: str) -> Recipe:
    wide = _arithmetic(storage)
    return Recipe(storage=storage, operand=wide, accumulator=wide)


def _stored(storage: str) -> Recipe:
    return Recipe(storage=storage, operand=storage, accumulator=_arithmetic(storage), intermediates=storage)


def _layered(storage: str) -> Recipe:
    wide = _arithmetic(storage)
    return Recipe(storage=storage, operand=storage, accumulator=wide, weights=wide)


def _tensor_core(storage: str) -> Recipe:
    return Recipe(storage=storage, operand=storage, accumulator=_arithmetic(storage))


def _cpu_flash(storage: str) -> Recipe:
    return Recipe(storage=storage, operand=storage, accumulator="float32", exp_error=_CPU_EXP_ERROR)


def _deferred(where: str) -> Callable[..., str | None]:
    """Returns a function that imports ``"module:function"``, a ``supports``, when it is called."""

    def supports(*tensors: object, **options: object) -> str | None:
        sentence: str | None = _find(where)(*tensors, **options)
        return sentence

    return supports


def _find(where: str) -> Callable[..., Any]:
    module, name = where.split(":")
    found: Callable[..., Any] = getattr(import_module(module), name)
    return found


def _each(
    name: str,
    op: str,
    where: str,
    recipe: Callable[[str], Recipe],
    *,
    formats: tuple[str, ...] = _TRAINED,
    supports: str | None = None,
    differentiable: bool = True,
    devices: tuple[str, ...] = ("cpu", "cuda"),
    factory: dict[str, Any] | None = None,
) -> tuple[Candidate, ...]:
    """Returns one candidate per format; with ``factory``, ``where`` is called with it and returns the callable.

    Our own kernels never add up atomically, and promise the same bits. The layers around them leave their projections
    to torch, which promises nothing.
    """

    def load() -> Callable[..., Any]:
        found = _find(where)
        if factory is None:
            return found
        made: Callable[..., Any] = found(**factory)
        return made

    return tuple(
        Candidate(
            name=f"{name}-{_SUFFIX[storage]}",
            op=op,
            load=load,
            recipe=recipe(storage),
            supports=None if supports is None else _deferred(supports),
            differentiable=differentiable,
            devices=devices,
            deterministic=name.startswith("triton-") and "backend" not in (factory or {}),
        )
        for storage in formats
    )


def _layer(
    backend: str, op: str, recipe: Callable[[str], Recipe], *, formats: tuple[str, ...] = _TRAINED
) -> tuple[Candidate, ...]:
    """Returns the module of a layer on one backend, as one candidate per format."""
    is_limited = backend in ("flash4", "triton")
    return _each(
        f"{backend}-{op.replace('_', '-')}",
        op,
        f"optimized.modules.as_operations:{op}",
        recipe,
        formats=formats,
        supports=f"optimized.modules.support:{backend}_{op}" if is_limited else None,
        devices=("cuda",) if backend == "flash4" else ("cpu", "cuda"),
        factory={"backend": backend},
    )


_EAGER = "optimized.eager"
_SDPA = "optimized.torch_sdpa"
_FLEX = "optimized.flex_attention"
_FLASH4 = "optimized.flash4"
_TRITON_RULE = "optimized.gated_delta_rule"

# fmt: off
CANDIDATES: tuple[Candidate, ...] = (
    *_each("torch-rms-norm", "rms_norm", f"{_EAGER}.rms_norm:rms_norm", _widened),
    *_each("eager-rms-norm", "rms_norm", f"{_EAGER}.rms_norm:rms_norm_stored", _stored, formats=_HALF),
    *_each("triton-rms-norm", "rms_norm", "optimized.rms_norm:rms_norm", _widened,
           supports="optimized.rms_norm:supports"),

    *_each("torch-gated-rms-norm", "gated_rms_norm", f"{_EAGER}.gated_rms_norm:gated_rms_norm", _widened),
    *_each("eager-gated-rms-norm", "gated_rms_norm", f"{_EAGER}.gated_rms_norm:gated_rms_norm_stored", _stored,
           formats=_HALF),
    *_each("triton-gated-rms-norm", "gated_rms_norm", "optimized.gated_rms_norm:gated_rms_norm", _widened,
           supports="optimized.gated_rms_norm:supports"),

    *_each("torch-l2-norm", "l2_norm", f"{_EAGER}.l2_norm:l2_norm", _widened),
    *_each("eager-l2-norm", "l2_norm", f"{_EAGER}.l2_norm:l2_norm_stored", _stored, formats=("bfloat16",)),
    *_each("triton-l2-norm", "l2_norm", "optimized.l2_norm:l2_norm", _widened, supports="optimized.l2_norm:supports"),

    *_each("torch-rope", "rope", f"{_EAGER}.rope:rope", _widened),
    *_each("eager-rope", "rope", f"{_EAGER}.rope:rope_stored", _stored, formats=_HALF),
    *_each("triton-rope", "rope", "optimized.rope:rope", _widened, supports="optimized.rope:supports"),
    *_each("torch-rope-tables", "rope_tables", f"{_EAGER}.rope_tables:rope_tables", _widened, differentiable=False),

    *_each("torch-short-conv", "short_conv", f"{_EAGER}.short_conv:short_conv", _widened),
    *_each("eager-short-conv", "short_conv", f"{_EAGER}.short_conv:short_conv_stored", _stored, formats=_HALF),
    *_each("triton-short-conv", "short_conv", "optimized.short_conv:short_conv", _widened,
           supports="optimized.short_conv:supports"),
    *_each("torch-silu-mul", "silu_mul", f"{_EAGER}.silu_mul:silu_mul", _widened),
    *_each("eager-silu-mul", "silu_mul", f"{_EAGER}.silu_mul:silu_mul_stored", _stored, formats=_HALF),
    *_each("triton-silu-mul", "silu_mul", "optimized.silu_mul:silu_mul", _widened,
           supports="optimized.silu_mul:supports"),

    *_each("torch-mamba-decay", "mamba_decay", f"{_EAGER}.mamba_decay:mamba_decay", _widened),
    *_each("triton-mamba-decay", "mamba_decay", "optimized.mamba_decay:mamba_decay", _widened,
           supports="optimized.mamba_decay:supports"),
    *_each("torch-log-sigmoid-decay", "log_sigmoid_decay", f"{_EAGER}.log_sigmoid_decay:log_sigmoid_decay", _widened),
    *_each("triton-log-sigmoid-decay", "log_sigmoid_decay", "optimized.log_sigmoid_decay:log_sigmoid_decay", _widened,
           supports="optimized.log_sigmoid_decay:supports"),

    *_each("torch-attention", "attention", f"{_EAGER}.attention:attention", _widened),
    *_each("eager-attention", "attention", f"{_EAGER}.attention:attention_stored", _stored,
           formats=("float64", *_HALF), supports=f"{_EAGER}.attention:supports_stored"),
    *_each("triton-attention", "attention", "optimized.attention:attention", _tensor_core,
           supports="optimized.attention:supports"),
    *_each("sdpa-math", "attention", f"{_SDPA}:math_attention", _widened, supports=f"{_SDPA}:supports_math"),
    *_each("sdpa-flash", "attention", f"{_SDPA}:flash_attention", _cpu_flash, formats=("float32",),
           supports=f"{_SDPA}:supports_flash", devices=("cpu",)),
    # With 16 bits its backward pass sums the gradients of keys and values in 16 bits, which no recipe can say. In
    # float16 all of its output is 0.004 % too large (48 tokens, width 32, scale 1, torch 2.13); rounding explains less.
    *_each("sdpa-flash", "attention", f"{_SDPA}:flash_attention", _cpu_flash, formats=("bfloat16",),
           supports=f"{_SDPA}:supports_flash", devices=("cpu",), differentiable=False),
    *_each("flex", "attention", f"{_FLEX}:flex_attention", _cpu_flash, formats=("float32", "bfloat16"),
           supports=f"{_FLEX}:supports", devices=("cpu",), differentiable=False),
    *_each("torch-varlen-attention", "varlen_attention", f"{_EAGER}.varlen_attention:varlen_attention", _widened),
    *_each("triton-varlen-attention", "varlen_attention", "optimized.varlen_attention:varlen_attention", _tensor_core,
           supports="optimized.varlen_attention:supports"),

    # Hopper's recipe: it does not grant the 8.8e-5 that a part of Blackwell's exponentials errs by.
    *_each("flash4-attention", "attention", f"{_FLASH4}:attention", _tensor_core, formats=_HALF,
           supports=f"{_FLASH4}:supports", devices=("cuda",)),
    *_each("flash4-varlen-attention", "varlen_attention", f"{_FLASH4}:varlen_attention", _tensor_core, formats=_HALF,
           supports=f"{_FLASH4}:supports_varlen", devices=("cuda",)),

    *_each("torch-delta-rule", "gated_delta_rule", f"{_EAGER}.gated_delta_rule:gated_delta_rule", _widened,
           formats=_ALL),
    *_each("chunked-delta-rule", "gated_delta_rule", "optimized.chunked_delta_rule:chunked_delta_rule", _widened,
           formats=_ALL),
    *_each("triton-delta-rule", "gated_delta_rule", f"{_TRITON_RULE}:gated_delta_rule", _tensor_core,
           supports=f"{_TRITON_RULE}:supports"),
    # Other roundings of the same kernels, for the judge; on a GPU tiles of 16 tokens are too small for wgmma.
    *_each("triton-delta-rule-chunk-16", "gated_delta_rule", f"{_TRITON_RULE}:make_gated_delta_rule", _tensor_core,
           supports=f"{_TRITON_RULE}:supports", factory={"chunk_size": 16}, formats=("bfloat16",),
           devices=("cpu",)),

    *_layer("torch", "low_rank_projection", _layered),
    *_layer("torch", "flash_sdpa", _widened),
    *_layer("torch", "grouped_query_attention", _layered),
    *_layer("torch", "multi_head_latent_attention", _layered),
    *_layer("torch", "gated_delta_net", _layered),
    *_layer("triton", "low_rank_projection", _tensor_core),
    *_layer("triton", "flash_sdpa", _tensor_core),
    *_layer("triton", "grouped_query_attention", _tensor_core),
    *_layer("triton", "multi_head_latent_attention", _tensor_core),
    *_layer("triton", "gated_delta_net", _tensor_core),
    *_layer("flash4", "flash_sdpa", _tensor_core, formats=_HALF),
    *_layer("flash4", "grouped_query_attention", _tensor_core, formats=_HALF),
    *_layer("flash4", "multi_head_latent_attention", _tensor_core, formats=_HALF),
)
# fmt: on
"""What ``attest list`` shows and the entry point ``attest.candidates`` gives."""
