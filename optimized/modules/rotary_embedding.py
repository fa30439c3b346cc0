"""Rotary position embedding as modules: tables that are looked up, and their application to queries and keys.

Letters: B batch, T tokens, H query heads, G key/value heads, D head width, R rotated channels.
"""

from collections.abc import Callable
from enum import StrEnum
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from optimized.backends import check_backend, operations, without_autocast
from optimized.eager.arithmetic import arithmetic_dtype
from optimized.eager.checks import check_shape
from optimized.eager.rope_tables import rope_tables
from optimized.modules.checks import check_even, check_positive, check_sizes
from optimized.modules.rope_scaling import NoRopeScaling, RopeScaling

__all__ = ["RotaryEmbeddingApplicator", "RotaryEmbeddingProvider", "RotaryEmbeddingStyle", "as_style"]


class RotaryEmbeddingStyle(StrEnum):
    """Which channels make a pair that is rotated."""

    HALF = "half"
    """Channels i and i + R/2."""
    INTERLEAVED = "interleaved"
    """Channels 2i and 2i + 1."""


class RotaryEmbeddingProvider(nn.Module):
    """Tables of ``cos(p * f_i)`` and ``sin(p * f_i)``, ``f_i = rope_base^(-2i/R)``, for the positions p of tokens.

    The angles are computed in float64 and rounded once. The tables are buffers that no state dict holds; they follow
    the module to other devices, and in dtype they are float64 in a float64 module, else float32: a 16-bit table is off
    by up to 2^-9, which no later precision makes up for.

    Source: Su et al., "RoFormer", section 3.2.2; ``RotaryEmbeddingProvider`` of d9d.
    """

    cos_emb: Tensor
    sin_emb: Tensor

    def __init__(
        self,
        rope_base: float,
        head_dim: int,
        max_position_ids: int,
        style: RotaryEmbeddingStyle | str,
        rope_scaling: RopeScaling | None = None,
    ) -> None:
        """Makes the tables.

        Args:
            rope_base: base of the geometric row of frequencies, positive; more than 1 with YaRN.
            head_dim: R, the number of rotated channels, even.
            max_position_ids: number of positions that can be looked up, from 0.
            style: "half" repeats the angles block-wise, "interleaved" element-wise.
            rope_scaling: change of the frequencies for long contexts; None is ``NoRopeScaling()``.

        Raises:
            TypeError: an argument is no number, or the scaling is no ``RopeScaling``.
            ValueError: a number is out of range, or the style is unknown.
        """
        super().__init__()
        check_positive("rope_base", rope_base)
        check_even("head_dim", head_dim)
        check_sizes(max_position_ids=max_position_ids)
        scaling = NoRopeScaling() if rope_scaling is None else rope_scaling
        if not isinstance(scaling, RopeScaling):
            raise TypeError(f"rope_scaling: got {type(scaling).__name__}, expected None or a RopeScaling")
        self.rope_base = rope_base
        self.style = as_style("style", style)
        self.rope_scaling = scaling
        for name in ("cos_emb", "sin_emb"):
            dtype = arithmetic_dtype(torch.get_default_dtype())
            self.register_buffer(name, torch.empty(max_position_ids, head_dim, dtype=dtype), persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Computes the tables anew, for the device and dtype that they have."""
        if self.cos_emb.is_meta:
            return
        positions, head_dim = self.cos_emb.shape
        tables = rope_tables(
            torch.arange(positions, device=self.cos_emb.device, dtype=torch.float64),
            rope_dim=head_dim,
            base=self.rope_base,
            style=self.style.value,
            scaling=self.rope_scaling.options,
        )
        self.cos_emb.copy_(tables.cos)
        self.sin_emb.copy_(tables.sin)

    def forward(self, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Returns cosines and sines, each of shape ``(*position_ids.shape, R)``.

        Args:
            position_ids: integers from 0 to ``max_position_ids - 1``, usually (B, T).

        Raises:
            TypeError: the positions are no integers.
            IndexError: a position has no row in the tables (on a GPU, an assertion of the device).
        """
        if position_ids.dtype not in (torch.int32, torch.int64):
            raise TypeError(f"position_ids: got {position_ids.dtype}, expected torch.int32 or torch.int64")
        # Unlike an index, an embedding refuses negative positions.
        return functional.embedding(position_ids, self.cos_emb), functional.embedding(position_ids, self.sin_emb)

    def extra_repr(self) -> str:
        """Returns what ``print`` shows."""
        positions, head_dim = self.cos_emb.shape
        return f"{self.rope_base}, {head_dim}, {positions}, {self.style.value!r}, {self.rope_scaling}"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:  # noqa: FBT001, FBT002 - torch's own
        """Keeps the tables wide when a module changes its dtype, and computes them anew in a wider one."""
        before = self.cos_emb.dtype
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # torch
        wanted = arithmetic_dtype(self.cos_emb.dtype)
        if self.cos_emb.dtype != before:
            self.cos_emb, self.sin_emb = (torch.empty_like(x, dtype=wanted) for x in (self.cos_emb, self.sin_emb))
            self.reset_parameters()
        return self


class RotaryEmbeddingApplicator(nn.Module):
    """Rotates pairs of channels of queries and keys: ``x * cos + rotate(x) * sin``.

    Source: Su et al., "RoFormer", section 3.4.2; ``RotaryEmbeddingApplicator`` of d9d.
    """

    def __init__(self, style: RotaryEmbeddingStyle | str, *, backend: str | None = None) -> None:
        """Makes the layer, which has no parameters.

        Args:
            style: which channels make a pair.
            backend: see ``optimized.backends``.

        Raises:
            ValueError: the style is unknown, or there is no such backend.
        """
        super().__init__()
        self.style = as_style("style", style)
        self.backend = check_backend(backend)

    def reset_parameters(self) -> None:
        """Does nothing, as there are no parameters: whoever resets all parts of a model need not ask."""

    def forward(
        self,
        query_states: Tensor,
        key_states: Tensor,
        position_embedding_cos: Tensor,
        position_embedding_sin: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Returns queries and keys with their first R channels rotated; the other D - R pass through.

        Args:
            query_states: shape (B, T, H, D).
            key_states: shape (B, T, G, D).
            position_embedding_cos: shape (B, T, R), R even and at most D, of any floating-point dtype.
            position_embedding_sin: shape (B, T, R).

        Raises:
            TypeError: an argument is no tensor.
            ValueError: a shape disagrees, or the backend says why it cannot.
        """
        _check_rotation("query_states", query_states, position_embedding_cos, position_embedding_sin)
        _check_rotation("key_states", key_states, position_embedding_cos, position_embedding_sin)
        query = self._rotated(query_states, position_embedding_cos, position_embedding_sin)
        return query, self._rotated(key_states, position_embedding_cos, position_embedding_sin)

    def _rotated(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        with without_autocast(x):
            return operations(self.backend, x).rope_partial(x, cos, sin, style=self.style.value)


def as_style(argument: str, style: RotaryEmbeddingStyle | str) -> RotaryEmbeddingStyle:
    """Returns the style of that name.

    Raises:
        ValueError: there is no such style.
    """
    if style not in list(RotaryEmbeddingStyle):
        raise ValueError(f"{argument}: got {style!r}, expected one of {', '.join(RotaryEmbeddingStyle)}")
    return RotaryEmbeddingStyle(style)


def _check_rotation(argument: str, x: Tensor, cos: Tensor, sin: Tensor) -> None:
    """Refuses tables that do not belong to the tokens, or that have more channels than a head."""
    check_shape(argument, x, ("B", "T", "H", "D"))
    B, T, _, D = x.shape
    check_shape("position_embedding_cos", cos, (B, T, "R"))
    R = cos.shape[-1]
    if R > D or R % 2:
        raise ValueError(f"position_embedding_cos: got {R} channels, expected an even number up to {D}")
    check_shape("position_embedding_sin", sin, (B, T, R))
