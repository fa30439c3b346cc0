"""transformers' norms, rotations, rotary tables and activations behind the calls of our operations.

Where the meaning differs: DeepSeek-V3's rotation of interleaved pairs leaves them in the order of halves, queries and
keys alike, which is put back here; tables are always in the order of halves.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tests.peers.transformers_models import make, model, run

__all__ = ["gated_norm", "l2_norm", "norm", "rope", "rope_deepseek_v2", "rope_deepseek_v3", "tables"]


def norm(name: str, class_name: str) -> Callable[..., Tensor]:
    """Returns a model's RMSNorm; whether its weight is stored around zero is the model's, other cases are declined."""

    def rms_norm(x: Tensor, weight: Tensor, *, eps: float, zero_centered: bool = False) -> Tensor:
        del zero_centered
        out: Tensor = run(make(getattr(model(name), class_name), weight.shape[0], eps=eps), {"weight": weight}, x)
        return out

    return rms_norm


def gated_norm(x: Tensor, gate: Tensor, weight: Tensor, *, eps: float, zero_centered: bool = False) -> Tensor:
    """Qwen3-Next's norm of the delta rule's result, times ``silu(gate)``."""
    del zero_centered  # declined
    norm_class = model("qwen3_next").Qwen3NextRMSNormGated
    out: Tensor = run(make(norm_class, weight.shape[0], eps=eps), {"weight": weight}, x, gate)
    return out


def l2_norm(x: Tensor, *, eps: float = 1e-6) -> Tensor:
    """Qwen3-Next's norm of queries and keys, which it calls with float32 numbers, as here."""
    out: Tensor = model("qwen3_next").l2norm(x.float(), dim=-1, eps=eps)
    return out.to(x.dtype)


def rope(x: Tensor, cos: Tensor, sin: Tensor, *, style: str) -> Tensor:
    """Qwen3's rotation of halves."""
    del style  # declined
    out: Tensor = model("qwen3").apply_rotary_pos_emb(x, x, cos, sin, unsqueeze_dim=2)[0]
    return out


def rope_deepseek_v2(x: Tensor, cos: Tensor, sin: Tensor, *, style: str) -> Tensor:
    """DeepSeek-V2's rotation of interleaved pairs by complex numbers, heads before tokens."""
    del style  # declined
    angles = torch.complex(cos[..., ::2].float(), sin[..., ::2].float())
    heads_first = x.transpose(1, 2)
    out: Tensor = model("deepseek_v2").apply_rotary_emb(heads_first, heads_first, angles)[0]
    return out.transpose(1, 2)


def rope_deepseek_v3(x: Tensor, cos: Tensor, sin: Tensor, *, style: str) -> Tensor:
    """DeepSeek-V3's rotation of interleaved pairs, put back into their places."""
    del style  # declined
    once = [torch.cat((table[..., ::2], table[..., ::2]), -1) for table in (cos, sin)]
    out: Tensor = model("deepseek_v3").apply_rotary_pos_emb_interleave(x, x, *once, unsqueeze_dim=2)[0]
    return torch.stack(out.chunk(2, -1), -1).flatten(-2)


def tables(
    positions: Tensor, *, rope_dim: int, base: float, style: str, scaling: dict[str, Any] | None = None
) -> tuple[Tensor, Tensor]:
    """The rotary tables of Qwen3, whose angles are products in float32."""
    del style  # declined
    module = model("qwen3")
    parameters: dict[str, Any] = {"rope_type": "default", "rope_theta": base}
    if scaling is not None:
        parameters |= {"rope_type": scaling["type"], "factor": scaling["factor"]}
        if scaling["type"] == "yarn":
            parameters["original_max_position_embeddings"] = scaling["original_max_position"]
            parameters |= {key: scaling[key] for key in ("beta_fast", "beta_slow")}
    config = module.Qwen3Config(head_dim=rope_dim, rope_parameters=parameters)
    found = module.Qwen3RotaryEmbedding(config).to(positions.device)(
        torch.zeros((), device=positions.device), positions
    )
    cos, sin = found
    return cos, sin
