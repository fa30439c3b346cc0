"""What every operation means, slowly and in the dtype of its inputs: float64 in, float64 all the way; torch only."""

from reference.attention import AttentionOutput, attention
from reference.flash_sdpa import flash_sdpa
from reference.gated_delta_net import gated_delta_net
from reference.gated_delta_rule import GatedDeltaRuleOutput, gated_delta_rule
from reference.gated_rms_norm import gated_rms_norm
from reference.grouped_query_attention import grouped_query_attention
from reference.l2_norm import l2_norm
from reference.log_sigmoid_decay import log_sigmoid_decay
from reference.low_rank_projection import low_rank_projection
from reference.mamba_decay import mamba_decay
from reference.masks import Window, visible_pairs
from reference.multi_head_latent_attention import multi_head_latent_attention
from reference.rms_norm import rms_norm
from reference.rope import RopeStyle, rope
from reference.rope_tables import RopeTables, rope_tables
from reference.short_conv import short_conv
from reference.silu_mul import silu_mul
from reference.varlen_attention import varlen_attention

__all__ = [
    "AttentionOutput",
    "GatedDeltaRuleOutput",
    "RopeStyle",
    "RopeTables",
    "Window",
    "attention",
    "flash_sdpa",
    "gated_delta_net",
    "gated_delta_rule",
    "gated_rms_norm",
    "grouped_query_attention",
    "l2_norm",
    "log_sigmoid_decay",
    "low_rank_projection",
    "mamba_decay",
    "multi_head_latent_attention",
    "rms_norm",
    "rope",
    "rope_tables",
    "short_conv",
    "silu_mul",
    "varlen_attention",
    "visible_pairs",
]
