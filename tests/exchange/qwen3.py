"""Qwen3 attention: transformers' layer, ours, and the exchange of their state dicts, whose names are the same.

Our grouped-query layer has no window: the sliding layers are ``FlashSdpa`` between projections, see ``sliding``.
"""

from functools import partial
from typing import Any

from torch import Tensor

import reference
from tests.exchange import modules
from tests.exchange.agreement import State
from tests.exchange.exchange import Exchange, Rope
from tests.exchange.peers import Peer, make_peer, transformers
from tests.exchange.sliding import SlidingAttention, sliding_attention

__all__ = ["EXCHANGES", "SLIDING_WINDOW", "keep_names"]

SLIDING_WINDOW = 3
"""Tokens that a token of a sliding layer of transformers sees, itself included: two before it."""

_EPS = 1e-3  # large enough that a norm without it, or with another one, is another norm
_BASE = 1e4
_HEADS: dict[str, Any] = {"hidden_size": 24, "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 8}


def _peer(*, sliding_window: int | None) -> Peer:
    model = transformers("models.qwen3.modeling_qwen3")
    config = model.Qwen3Config(
        **_HEADS,
        rms_norm_eps=_EPS,
        rope_parameters={"rope_type": "default", "rope_theta": _BASE},
        num_hidden_layers=1,
        use_sliding_window=sliding_window is not None,
        sliding_window=sliding_window,
        max_window_layers=0,
        attn_implementation="eager",
    )
    return make_peer(config, model.Qwen3Attention, model.Qwen3RotaryEmbedding)


def keep_names(state: State) -> dict[str, Tensor]:
    """Returns a state dict as it is, in either direction."""
    return dict(state)


_ROPE = Rope(rope_dim=_HEADS["head_dim"], base=_BASE, style="half")

EXCHANGES = {
    "qwen3": Exchange(
        make_peer=partial(_peer, sliding_window=None),
        from_peer=keep_names,
        to_peer=keep_names,
        function=reference.grouped_query_attention,
        make_module=modules.grouped_query_attention,
        options={**_HEADS, "qk_norm_eps": _EPS, "is_causal": True, "rope_style": "half"},
        rope=_ROPE,
    ),
    "qwen3-sliding": Exchange(
        make_peer=partial(_peer, sliding_window=SLIDING_WINDOW),
        from_peer=keep_names,
        to_peer=keep_names,
        function=sliding_attention,
        make_module=SlidingAttention,
        options={**_HEADS, "qk_norm_eps": _EPS, "window_size": SLIDING_WINDOW - 1},
        rope=_ROPE,
    ),
}
"""Qwen3 with all keys and with a sliding window."""
