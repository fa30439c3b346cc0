"""The layers of ``semantics.md`` as ``nn.Module``, with the names and constructor arguments of d9d.

Every module that computes more than a projection takes ``backend``, one of ``flash4``, ``triton``, ``torch`` and
``eager`` (see ``optimized.backends``); None chooses by the device and dtype of each call. Parameters are initialised by
the constructor and again by ``reset_parameters()``, also after construction on the meta device and ``to_empty``. Under
autocast the projections run in the autocast dtype and everything else in the dtype that it is given; states, log decays
and sums stay float32.
"""

from optimized.modules.decay_gates import (
    AnyDecayGateParameters,
    LogSigmoidDecayGate,
    LogSigmoidDecayGateParameters,
    MambaDecayGate,
    MambaDecayGateParameters,
)
from optimized.modules.flash_sdpa import FlashSdpa
from optimized.modules.gated_delta_net import CausalShortDepthwiseConv1d, GatedDeltaNet
from optimized.modules.grouped_query_attention import GroupedQueryAttention
from optimized.modules.low_rank_projection import LowRankProjection
from optimized.modules.multi_head_latent_attention import MultiHeadLatentAttention
from optimized.modules.rms_norm import RMSNorm
from optimized.modules.rope_scaling import (
    LinearRopeScaling,
    NoRopeScaling,
    NtkRopeScaling,
    RopeScaling,
    YarnRopeScaling,
)
from optimized.modules.rotary_embedding import (
    RotaryEmbeddingApplicator,
    RotaryEmbeddingProvider,
    RotaryEmbeddingStyle,
)

__all__ = [
    "AnyDecayGateParameters",
    "CausalShortDepthwiseConv1d",
    "FlashSdpa",
    "GatedDeltaNet",
    "GroupedQueryAttention",
    "LinearRopeScaling",
    "LogSigmoidDecayGate",
    "LogSigmoidDecayGateParameters",
    "LowRankProjection",
    "MambaDecayGate",
    "MambaDecayGateParameters",
    "MultiHeadLatentAttention",
    "NoRopeScaling",
    "NtkRopeScaling",
    "RMSNorm",
    "RopeScaling",
    "RotaryEmbeddingApplicator",
    "RotaryEmbeddingProvider",
    "RotaryEmbeddingStyle",
    "YarnRopeScaling",
]
