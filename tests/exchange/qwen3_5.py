"""Qwen3.5's Gated DeltaNet: the layer of Qwen3-Next with our layout of projections under transformers' names."""

from torch import Tensor

import reference
from tests.exchange import modules
from tests.exchange.agreement import State
from tests.exchange.exchange import Exchange
from tests.exchange.peers import Peer, make_peer, transformers
from tests.exchange.qwen3_next import DELTA_NET, make_config

__all__ = ["EXCHANGES", "from_peer", "to_peer"]

_NAMES = {
    "in_proj_qkv.weight": "qkv_proj.weight",
    "in_proj_z.weight": "g_proj.weight",
    "in_proj_b.weight": "b_proj.weight",
    "in_proj_a.weight": "decay_gate.proj.weight",
    "conv1d.weight": "qkv_conv1d.weight",
    "A_log": "decay_gate.A_log",
    "dt_bias": "decay_gate.dt_bias",
    "norm.weight": "out_norm.weight",
    "out_proj.weight": "o_proj.weight",
}


def _peer() -> Peer:
    model = transformers("models.qwen3_5.modeling_qwen3_5")
    return make_peer(make_config(model.Qwen3_5TextConfig), model.Qwen3_5GatedDeltaNet, None, layer_idx=0)


def from_peer(state: State) -> dict[str, Tensor]:
    """Returns transformers' state dict under our names, the convolution without its axis of length 1."""
    ours = {_NAMES[name]: value for name, value in state.items()}
    return ours | {"qkv_conv1d.weight": state["conv1d.weight"].squeeze(1)}


def to_peer(state: State) -> dict[str, Tensor]:
    """Returns our state dict under transformers' names."""
    theirs = {name: state[ours] for name, ours in _NAMES.items()}
    return theirs | {"conv1d.weight": state["qkv_conv1d.weight"].unsqueeze(1)}


EXCHANGES = {
    "qwen3.5-delta-net": Exchange(
        make_peer=_peer,
        from_peer=from_peer,
        to_peer=to_peer,
        function=reference.gated_delta_net,
        make_module=modules.gated_delta_net,
        options=DELTA_NET,
        num_tokens=70,  # transformers computes in chunks of 64
        is_same_without_keys=True,
    ),
}
"""Qwen3.5's Gated DeltaNet; its gated attention is that of Qwen3-Next."""
