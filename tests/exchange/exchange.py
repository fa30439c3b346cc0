"""One layer on both sides: transformers' and ours, with the two conversions of the state dict.

Legend: B batch, T tokens, C channels.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

import reference
from optimized.modules import RotaryEmbeddingProvider
from reference.rope import RopeStyle
from tests.exchange.agreement import State, Trial, run_function, run_module
from tests.exchange.peers import Peer

__all__ = ["SIDES", "Exchange", "Rope", "Side"]

Side = Literal["reference", "module"]
SIDES: tuple[Side, ...] = ("reference", "module")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rope:
    """The rotary tables of a layer, each ``(B, T, rope_dim)``, of the positions ``0 .. T - 1``.

    Attributes:
        rope_dim: rotated channels of a head.
        base: base of the frequencies.
        style: which channels make a pair.
    """

    rope_dim: int
    base: float
    style: str

    def reference_tables(self, B: int, T: int, *, style: str | None = None) -> tuple[Tensor, Tensor]:
        """Returns the reference's cosines and sines, in another style if one is given."""
        positions = torch.arange(T).expand(B, T)
        made = style or self.style
        return reference.rope_tables(positions, rope_dim=self.rope_dim, base=self.base, style=RopeStyle(made))

    def module_tables(self, B: int, T: int) -> tuple[Tensor, Tensor]:
        """Returns the cosines and sines of our provider."""
        provider = RotaryEmbeddingProvider(self.base, self.rope_dim, max_position_ids=T, style=self.style).double()
        cos, sin = provider(torch.arange(T).expand(B, T))
        return cos, sin


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """One layer on both sides.

    Attributes:
        make_peer: returns transformers' layer.
        from_peer: turns transformers' state dict into ours.
        to_peer: turns our state dict into transformers'.
        function: our layer as a function of ``reference``: hidden states, mask, tables, parameters, options.
        make_module: our layer as a module, from its options.
        options: the options of both.
        rope: the rotary tables of the layer, None if it takes none.
        hidden_size: C.
        num_tokens: T of the inputs.
        is_same_without_keys: whether a token that sees no key has the same output on both sides.
    """

    make_peer: Callable[[], Peer]
    from_peer: Callable[[State], dict[str, Tensor]]
    to_peer: Callable[[State], dict[str, Tensor]]
    function: Callable[..., Tensor]
    make_module: Callable[..., nn.Module]
    options: Mapping[str, Any]
    rope: Rope | None = None
    hidden_size: int = 24
    num_tokens: int = 9
    is_same_without_keys: bool = False

    def trial(
        self, side: Side, state: State, hidden_states: Tensor, cotangent: Tensor, key_mask: Tensor | None = None
    ) -> Trial:
        """Runs our layer forward and backward: the reference's function or the module, which loads strictly."""
        if side == "reference":
            return self.reference_trial(state, hidden_states, cotangent, key_mask)
        B, T, _ = hidden_states.shape
        module = self.make_module(**self.options).double()
        tables = () if self.rope is None else (self.rope.module_tables(B, T),)
        return run_module(module, lambda x: module(x, key_mask, *tables), state, hidden_states, cotangent)

    def reference_trial(
        self, state: State, hidden_states: Tensor, cotangent: Tensor, key_mask: Tensor | None = None, **changes: Any
    ) -> Trial:
        """Runs the reference's function forward and backward, with some options changed."""
        B, T, _ = hidden_states.shape
        options = {**self.options, **changes}
        style = options.get("rope_style")
        tables = () if self.rope is None else (self.rope.reference_tables(B, T, style=style),)
        return run_function(
            lambda x, parameters: self.function(x, key_mask, *tables, parameters, **options),
            state,
            hidden_states,
            cotangent,
        )
