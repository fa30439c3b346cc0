"""Softmax attention on FlashAttention 4 (``flash_attn.cute``), forward and backward, on Hopper and Blackwell GPUs.

A thin adapter: it gives the kernels our call, widths that they have, and the keys that a mask leaves. What they cannot
do is refused in a sentence; nothing falls back to another implementation. Importing this imports no kernel stack.
"""

from optimized.flash4.batched import AttentionOutput, attention, supports
from optimized.flash4.packed import VarlenAttentionOutput, supports_varlen, varlen_attention

__all__ = [
    "AttentionOutput",
    "VarlenAttentionOutput",
    "attention",
    "supports",
    "supports_varlen",
    "varlen_attention",
]
