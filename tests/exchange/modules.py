"""Our modules with the eager backend, made from the options of the reference's functions."""

from typing import Any

from torch import nn

from optimized.modules import (
    GatedDeltaNet,
    GroupedQueryAttention,
    MambaDecayGateParameters,
    MultiHeadLatentAttention,
)

__all__ = ["gated_delta_net", "grouped_query_attention", "multi_head_latent_attention"]

BACKEND = "eager"


def grouped_query_attention(**options: Any) -> nn.Module:
    """Returns a ``GroupedQueryAttention``."""
    return GroupedQueryAttention(**options, backend=BACKEND)


def multi_head_latent_attention(**options: Any) -> nn.Module:
    """Returns a ``MultiHeadLatentAttention``."""
    return MultiHeadLatentAttention(**options, backend=BACKEND)


def gated_delta_net(*, decay_gate: dict[str, Any], **options: Any) -> nn.Module:
    """Returns a ``GatedDeltaNet`` with Mamba's decay gate."""
    return GatedDeltaNet(**options, decay_gate=MambaDecayGateParameters(**decay_gate), backend=BACKEND)
