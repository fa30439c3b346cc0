"""Plug-in of d9d, whose layers ours share names and parameters with: ``--plugin tests/peers/d9d_peers.py``.

Where the meaning differs: its eager backend *adds* the mask to the logits, so that a boolean one hides nothing, and a
row that sees no key is NaN; its torch backend refuses a mask beside the causal flag. The adapter hands over one
additive mask that holds causality too, and puts 0 where a row sees no key. ``boolean-mask`` hands the key mask over as
it is.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from optimized.candidate import Candidate
from tests.peers.interpreter import imported
from tests.peers.peer import TRAINED, each, fused, interpreted, layered, only, stored, widened
from tests.peers.visibility import additive, rows_with_keys, visible

__all__ = ["CANDIDATES"]

_BLOCK = "d9d.module.block"
_ATTENTION = f"{_BLOCK}.attention"
Tables = tuple[Tensor, Tensor]


def _run(make: Callable[..., nn.Module], parameters: Mapping[str, Tensor], *inputs: Any, **options: Any) -> Tensor:
    """Returns what a module gives that is made without memory and run on the parameters of a call."""
    with torch.device("meta"):
        module = make(**options)
    out: Tensor = functional_call(module, dict(parameters), inputs, strict=True)
    return out


def _backend(name: str) -> Any:
    config = imported(f"{_ATTENTION}.sdpa.config")
    return config.EagerSdpaBackendConfig() if name == "eager" else config.TorchSdpaBackendConfig()


def _mask(hidden_states: Tensor, key_mask: Tensor | None, *, is_causal: bool) -> tuple[Tensor | None, Tensor | None]:
    """Returns the additive mask, and which keys are seen; without a key mask causality is left to the layer."""
    if key_mask is None:
        return None, None
    seen = visible(hidden_states, hidden_states, (None, 0 if is_causal else None), key_mask)
    return additive(seen, hidden_states.dtype), seen


def attention(module: str, layer: str, backend: str, *, is_boolean: bool = False) -> Callable[..., Tensor]:
    """Returns a softmax layer with one of its backends."""

    def call(
        hidden_states: Tensor, attention_mask: Tensor | None, position_embeddings: Tables,
        parameters: Mapping[str, Tensor], *, is_causal: bool, rope_style: str, **options: Any,
    ) -> Tensor:  # fmt: skip
        style = imported(f"{_BLOCK}.positional").RotaryEmbeddingStyle(rope_style)
        mask, seen = _mask(hidden_states, attention_mask, is_causal=is_causal)
        if is_boolean and attention_mask is not None:
            mask, seen = attention_mask[:, None, None, :], None
        leaves_causality = mask is None or is_boolean
        out = _run(
            getattr(imported(f"{_ATTENTION}.{module}"), layer), parameters, hidden_states, mask, position_embeddings,
            is_causal=is_causal and leaves_causality, rope_style=style, sdpa_backend=_backend(backend), **options,
        )  # fmt: skip
        return rows_with_keys(out, seen)

    return call


def delta_net(
    hidden_states: Tensor, attention_mask: Tensor | None, parameters: Mapping[str, Tensor], *,
    decay_gate: Mapping[str, Any], **options: Any,
) -> Tensor:  # fmt: skip
    """Gated DeltaNet, whose delta rule, convolution and Mamba gate are fla's."""
    module = imported(f"{_ATTENTION}.linear.gated_deltanet")
    kind = "Mamba" if decay_gate["type"] == "mamba" else "LogSigmoid"
    gate = getattr(module, f"{kind}DecayGateParameters")(**decay_gate)
    mask = None if attention_mask is None else attention_mask.to(hidden_states.dtype)
    # Its Mamba gate initialises itself when it is made, which needs memory.
    layer = module.GatedDeltaNet(decay_gate=gate, **options)
    out: Tensor = functional_call(layer, dict(parameters), (hidden_states, mask), strict=True)
    return out


def low_rank(hidden_states: Tensor, parameters: Mapping[str, Tensor], **options: Any) -> Tensor:
    """The projection through a bottleneck."""
    layer = imported(f"{_ATTENTION}.multi_head_latent").LowRankProjection
    return _run(layer, parameters, hidden_states, **options)


def eager_sdpa(
    query: Tensor, key: Tensor, value: Tensor, *, scale: float, window: tuple[int | None, int | None] = (None, None),
    sinks: Tensor | None = None, key_mask: Tensor | None = None, bias: Tensor | None = None,
) -> tuple[Tensor, None]:  # fmt: skip
    """The eager backend by itself, with its own windows and sinks; hidden rows are put right as above."""
    del bias  # declined
    parameters = imported(f"{_ATTENTION}.sdpa").SdpaParameters(
        num_sinks=None if sinks is None else sinks.shape[0], window_size=window
    )
    backend = imported(f"{_ATTENTION}.sdpa.impl.eager").EagerSdpa(_backend("eager"), parameters)
    keys = None if key_mask is None else additive(key_mask[:, None, None, :], query.dtype)
    own = {} if sinks is None else {"sinks": sinks}
    out: Tensor = functional_call(backend, own, (query, key, value, keys, False, scale), strict=True)
    return (out if sinks is not None else rows_with_keys(out, visible(query, key, window, key_mask))), None


def rms_norm(x: Tensor, weight: Tensor, *, eps: float, zero_centered: bool = False) -> Tensor:
    """Its RMSNorm in Triton."""
    out: Tensor = imported("d9d.kernel.normalization").rms_norm(x, weight, eps=eps, zero_centered=zero_centered)
    return out


def silu_mul(gate: Tensor, x: Tensor) -> Tensor:
    """Its SwiGLU in Triton."""
    out: Tensor = imported("d9d.kernel.swiglu").silu_mul(gate, x)
    return out


def rope(x: Tensor, cos: Tensor, sin: Tensor, *, style: str) -> Tensor:
    """Its rotation in torch."""
    module = imported(f"{_BLOCK}.positional")
    out: Tensor = module.RotaryEmbeddingApplicator(style=module.RotaryEmbeddingStyle(style))(x, x, cos, sin)[0]
    return out


def with_mask(_hidden: Any, attention_mask: Any = None, *_: Any, **__: Any) -> str | None:
    """Refuses calls without a mask: this candidate shows what one does."""
    return None if attention_mask is not None else "attention_mask: got None, expected a boolean key mask"


def narrow_values(*_: Any, v_head_dim: int, qk_nope_head_dim: int, qk_rope_head_dim: int, **__: Any) -> str | None:
    """Refuses values that are wider than keys, as the layer does."""
    width = qk_nope_head_dim + qk_rope_head_dim
    return None if v_head_dim <= width else f"v_head_dim: got {v_head_dim}, expected at most {width}"


def as_many(query: Tensor, key: Tensor, *_: Any, **__: Any) -> str | None:
    """Refuses other numbers of queries than keys."""
    T, S = query.shape[1], key.shape[1]
    return None if T == S else f"tokens: got {T} queries and {S} keys, expected as many of both"


_TORCH = functools.partial(each, needs=("d9d", "torch", "pydantic"))
_each = functools.partial(each, needs=("d9d", "triton", "pydantic"), formats=TRAINED)
_GQA, _MLA = ("grouped_query", "GroupedQueryAttention"), ("multi_head_latent", "MultiHeadLatentAttention")

# fmt: off
CANDIDATES: tuple[Candidate, ...] = (
    *_each("d9d-gqa-eager", "grouped_query_attention", attention(*_GQA, "eager"), stored, refusals=(interpreted,)),
    *_each("d9d-gqa-torch", "grouped_query_attention", attention(*_GQA, "torch"), layered, refusals=(interpreted,)),
    *_each("d9d-gqa-eager-boolean-mask", "grouped_query_attention", attention(*_GQA, "eager", is_boolean=True), stored,
           formats=("float32",), refusals=(interpreted, with_mask)),
    *_each("d9d-mla-eager", "multi_head_latent_attention", attention(*_MLA, "eager"), stored,
           refusals=(interpreted, narrow_values)),
    *_each("d9d-mla-torch", "multi_head_latent_attention", attention(*_MLA, "torch"), layered,
           refusals=(interpreted, narrow_values)),
    *_TORCH("d9d-eager-sdpa", "attention", eager_sdpa, stored, refusals=(only(bias=None), as_many)),
    *each("d9d-gated-delta-net", "gated_delta_net", delta_net, fused, needs=("d9d", "fla", "triton", "pydantic"),
          refusals=(interpreted,)),
    *_each("d9d-low-rank-projection", "low_rank_projection", low_rank, fused, refusals=(interpreted,)),
    *_each("d9d-rms-norm", "rms_norm", rms_norm, widened, refusals=(interpreted,)),
    *_each("d9d-silu-mul", "silu_mul", silu_mul, widened, refusals=(interpreted,)),
    *_TORCH("d9d-rope", "rope", rope, stored),
)
# fmt: on
"""d9d's layers and kernels as candidates."""
