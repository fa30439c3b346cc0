"""transformers' layers as its models call them: rotary tables and masks are transformers' own too.

Legend: B batch, T tokens.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from tests.exchange.agreement import State, Trial, run_module
from tests.exchange.float64 import forced_float64

__all__ = ["Peer", "make_peer", "transformers"]


def transformers(module: str) -> Any:
    """Returns a module of transformers, untyped: its annotations come and go with its versions."""
    return import_module(f"transformers.{module}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A layer of transformers and what its model hands to it.

    Attributes:
        config: transformers' configuration of the model, with eager attention.
        layer: the layer, built under ``forced_float64``.
        rotary: the model's rotary embedding, None for a layer that takes none.
        make_mask: makes the layer's mask of a 2-dimensional one, as ``transformers.masking_utils`` does.
    """

    config: Any
    layer: nn.Module
    rotary: nn.Module | None
    make_mask: Callable[..., Tensor | None]

    def trial(self, state: State, hidden_states: Tensor, cotangent: Tensor, key_mask: Tensor | None = None) -> Trial:
        """Loads a state dict strictly and runs the layer forward and backward."""
        return run_module(self.layer, lambda hidden: self._forward(hidden, key_mask), state, hidden_states, cotangent)

    def _forward(self, hidden_states: Tensor, key_mask: Tensor | None) -> Tensor:
        B, T, _ = hidden_states.shape
        positions = torch.arange(T).expand(B, T)
        with forced_float64():
            mask = self.make_mask(
                config=self.config,
                inputs_embeds=hidden_states,
                attention_mask=None if key_mask is None else key_mask.long(),
                position_ids=positions,
                **no_cache(self.make_mask),
            )
            tables = {} if self.rotary is None else {"position_embeddings": self.rotary(hidden_states, positions)}
            outputs = self.layer(hidden_states, attention_mask=mask, **tables)
        output: Tensor = outputs[0] if isinstance(outputs, tuple) else outputs
        return output


def make_peer(
    config: Any, layer: Callable[..., nn.Module], rotary: Callable[..., nn.Module] | None, *, layer_idx: int = 0
) -> Peer:
    """Returns a layer of the class ``layer``, with the mask that transformers' models make for layers of its type."""
    masks = transformers("masking_utils")
    make_masks = {
        "full_attention": masks.create_causal_mask,
        "sliding_attention": masks.create_sliding_window_causal_mask,
        "linear_attention": _two_dimensional_mask,
    }
    layer_types = getattr(config, "layer_types", None) or ["full_attention"]
    with forced_float64():
        made, tables = layer(config, layer_idx=layer_idx), None if rotary is None else rotary(config)
    return Peer(config=config, layer=made, rotary=tables, make_mask=make_masks[layer_types[layer_idx]])


def no_cache(make_mask: Callable[..., Tensor | None]) -> dict[str, None]:
    """Returns the argument that says that there is no cache: transformers 5.24 renamed it and warns of the old name."""
    return {name: None for name in ("cache", "past_key_values") if name in inspect.signature(make_mask).parameters}


def _two_dimensional_mask(*, attention_mask: Tensor | None, **_: object) -> Tensor | None:
    """Returns the mask ``(B, T)`` as it is: linear attention takes it so."""
    return attention_mask
