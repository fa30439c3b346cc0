"""gpt-oss attention: transformers' layer, ours around ``FlashSdpa`` with sinks, and the exchange of their state dicts.

gpt-oss was released with biases in its projections, our modules have none: here its ``attention_bias`` is off.
"""

from functools import partial
from typing import Any

from torch import Tensor

from tests.exchange.agreement import State
from tests.exchange.exchange import Exchange, Rope
from tests.exchange.peers import Peer, make_peer, transformers
from tests.exchange.sliding import SlidingAttention, sliding_attention

__all__ = ["EXCHANGES", "SLIDING_WINDOW", "from_peer", "to_peer"]

SLIDING_WINDOW = 4
"""Tokens that a token of a sliding layer of transformers sees, itself included: three before it."""

_BASE = 1.5e5
_HEADS: dict[str, Any] = {"hidden_size": 24, "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 8}


def _peer(*, sliding_window: int | None) -> Peer:
    model = transformers("models.gpt_oss.modeling_gpt_oss")
    config = model.GptOssConfig(
        **_HEADS,
        rope_parameters={"rope_type": "default", "rope_theta": _BASE},
        attention_bias=False,
        num_hidden_layers=1,
        sliding_window=sliding_window,
        layer_types=["full_attention" if sliding_window is None else "sliding_attention"],
        attn_implementation="eager",
    )
    return make_peer(config, model.GptOssAttention, model.GptOssRotaryEmbedding)


def from_peer(state: State) -> dict[str, Tensor]:
    """Returns transformers' state dict under our names: the sinks belong to ``FlashSdpa``."""
    return {"sdpa.sinks" if name == "sinks" else name: value for name, value in state.items()}


def to_peer(state: State) -> dict[str, Tensor]:
    """Returns our state dict under transformers' names."""
    return {name.removeprefix("sdpa."): value for name, value in state.items()}


def _exchange(*, sliding_window: int | None) -> Exchange:
    return Exchange(
        make_peer=partial(_peer, sliding_window=sliding_window),
        from_peer=from_peer,
        to_peer=to_peer,
        function=sliding_attention,
        make_module=SlidingAttention,
        options={
            **_HEADS,
            "num_sinks": _HEADS["num_attention_heads"],
            "window_size": None if sliding_window is None else sliding_window - 1,
        },
        rope=Rope(rope_dim=_HEADS["head_dim"], base=_BASE, style="half"),
        is_same_without_keys=True,
    )


EXCHANGES = {
    "gpt-oss": _exchange(sliding_window=None),
    "gpt-oss-sliding": _exchange(sliding_window=SLIDING_WINDOW),
}
"""gpt-oss with all keys and with a sliding window."""
