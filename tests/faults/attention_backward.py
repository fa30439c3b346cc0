"""Faults inside the backward pass of softmax attention, whose outputs are all right."""

import dataclasses
import random
from collections.abc import Sequence

import torch
from torch import Tensor

from harness.power.fault import Fault
from tests.faults.flash import VALUE_TILE, Flash, by_value_tile
from tests.faults.flash_forward import TILE, Problem
from tests.faults.flash_seeding import tiled
from tests.faults.seeding import SINGLE

__all__ = ["FAULTS"]


class _FirstStatistics(Flash):
    """Every tile of queries takes LSE and row sums of the first one."""

    def statistics(self, number: int) -> int:
        return 0 * number


class _TailUnmasked(Flash):
    """Tiles that the window lets through entirely do not hide what lies beyond the last key either."""

    def seen_again(self, problem: Problem, rows: slice, start: int) -> Tensor:
        seen = self.seen(problem, rows, start)
        return seen | ~self.exists(problem, start) if bool(self.inside(problem, rows, start).all()) else seen


def _rounded_up(width: int, unit: int) -> int:
    return (width + unit - 1) // unit * unit


class _PitchOf32(Flash):
    """Rows of the query gradient are written at a pitch of a multiple of 16 and read at one of 32."""

    def stored_query(self, grad: Tensor) -> Tensor:
        tokens, width = grad.shape[-2:]
        written, read = (_rounded_up(width, unit) for unit in (16, 32))
        flat = torch.zeros(*grad.shape[:-2], tokens * read)
        flat[..., : tokens * written].unflatten(-1, (tokens, written))[..., :width] = grad  # type: ignore[no-untyped-call]  # torch's own
        return flat.reshape(*grad.shape[:-1], read)[..., :width]


class _ZeroedTo16(Flash):
    """Of an accumulator that is a multiple of 32 wide, as much is zeroed as one that is a multiple of 16 would need."""

    def buffer(self, like: Tensor, name: str) -> Tensor:
        if name != "query":
            return super().buffer(like, name)
        tokens, width = like.shape[-2:]
        flat = torch.empty(*like.shape[:-2], tokens * _rounded_up(width, 32))
        flat[..., : tokens * _rounded_up(width, 16)] = 0.0
        return flat.reshape(*like.shape[:-1], -1)[..., :width]


class _KeyWidthForValues(Flash):
    """The row sums of the output and its gradient stop at the width of the keys."""

    def delta(self, problem: Problem, grad_out: Tensor, out: Tensor) -> Tensor:
        width = problem.query.shape[-1]
        return (grad_out[..., :width] * out[..., :width]).sum(-1, keepdim=True)


class _LastValueTile(Flash):
    """Each tile of value channels overwrites the gradients of queries and keys that the one before gave."""

    def grad_weights(self, grad_out: Tensor, value: Tensor, out: Tensor, delta: Tensor) -> Tensor:
        tiles = by_value_tile(grad_out, value)
        if len(tiles) == 1:
            return super().grad_weights(grad_out, value, out, delta)
        last = out.shape[-1] - (out.shape[-1] - 1) % VALUE_TILE - 1
        whole = (grad_out * out).sum(-1, keepdim=True)
        return tiles[-1] - (delta - whole + (grad_out * out)[..., last:].sum(-1, keepdim=True))


class _DeltaPerTile(Flash):
    """Each tile of value channels subtracts the row sum of all of them."""

    def grad_weights(self, grad_out: Tensor, value: Tensor, out: Tensor, delta: Tensor) -> Tensor:
        extra = len(by_value_tile(grad_out, value)) - 1
        return super().grad_weights(grad_out, value, out, delta) - extra * delta


class _MaskForgotten(Flash):
    """The key mask is not passed on to the backward pass."""

    def seen_again(self, problem: Problem, rows: slice, start: int) -> Tensor:
        return self.seen(dataclasses.replace(problem, key_mask=None), rows, start)


class _SkippedUnwritten(Flash):
    """Tiles of keys that nobody sees are skipped, and their gradients with them."""

    def buffer(self, like: Tensor, name: str) -> Tensor:
        return super().buffer(like, name) if name == "query" else torch.empty(like.shape)


class _LseForgotten(Flash):
    """The gradient of the LSE does not enter the row sums."""

    def row_sums(self, delta: Tensor, grad_lse: Tensor) -> Tensor:
        return delta - 0.0 * grad_lse


class _LseNotInSinks(Flash):
    """The gradient of the LSE reaches queries and keys, the sinks get only that of the output."""

    def sink_terms(self, weights: Tensor, delta: Tensor, grad_lse: Tensor) -> Tensor:
        return -(weights * (delta + grad_lse))


class _NarrowEpilogue(Flash):
    """A tile of key gradients has half the room that it needs: the next one is stored over its second half."""

    def stored_key(self, grad: Tensor) -> Tensor:
        result = grad.clone()
        half = TILE // 2
        for start in range(TILE, grad.shape[-2], TILE):
            rows = min(half, grad.shape[-2] - start)
            result[..., start - half : start - half + rows, :] = grad[..., start : start + rows, :]
        return result


class _FreeOrder(Flash):
    """Tiles of keys add to the query gradient as they come, also where one order was asked for."""

    _order = random.Random(89)
    """Of the process: calls differ."""

    def visited(self, tiles: Sequence[int]) -> Sequence[int]:
        return self._order.sample(tiles, len(tiles))


_LONG = {"query_tokens": 40, "key_tokens": 40}

FAULTS: tuple[Fault, ...] = (
    tiled("B014", "first-tile-statistics", _FirstStatistics,
          what="LSE and row sums are read at the first tile of queries for all of them.",
          source="flash-attention b3f1b6a5", detectors=("GRAD",), phase="gradient", reach={"query_tokens": 40}),
    tiled("B016", "tail-unmasked", _TailUnmasked,
          what="Tiles that need no window also skip the mask of what lies beyond the last key; its weight overflows.",
          source="flash-attention #443", detectors=("NAN", "GRAD"), phase="gradient", regimes=("negative",),
          reach={"query_tokens": 40, "key_tokens": 7, "window_left": None, "window_right": None, "sinks": False}),
    tiled("B017a", "gradient-pitch", _PitchOf32,
          what="Query gradients are written in rows of a multiple of 16 channels and read in rows of one of 32.",
          source="flash-attention #2896", detectors=("GRAD",), phase="gradient", reach={"head_dim": 72}),
    tiled("B017b", "accumulator-half-zeroed", _ZeroedTo16,
          what="An accumulator of padded rows is zeroed as if they were narrower, and added to.",
          source="flash-attention #2896", detectors=("NAN", "MEM", "GRAD"), phase="gradient", reach={"head_dim": 40}),
    tiled("B017c", "key-width-for-values", _KeyWidthForValues,
          what="Row sums over value channels stop at the width of the keys.",
          source="flash-attention #2482", detectors=("GRAD",), phase="gradient",
          reach={"head_dim": 32, "value_dim": 40}),
    tiled("B019", "value-tiles-overwrite", _LastValueTile,
          what="With value channels in tiles, the last tile's gradients of queries and keys replace those before.",
          source="flash-linear-attention e4c7f880", detectors=("GRAD",), phase="gradient", reach={"value_dim": 72}),
    tiled("B020", "row-sum-per-value-tile", _DeltaPerTile,
          what="The row sum of all value channels is subtracted once per tile of them.",
          source="flash-linear-attention 2cec2a33", detectors=("GRAD",), phase="gradient", reach={"value_dim": 72}),
    tiled("B022a", "backward-without-key-mask", _MaskForgotten,
          what="The backward pass does not know which keys the forward pass hid.",
          source="flash-attention 161b0e60", detectors=("GRAD", "META"), phase="gradient",
          reach={"key_mask": True}),
    tiled("B022b", "skipped-gradients-unwritten", _SkippedUnwritten,
          what="Gradients of tiles of keys that no query sees are skipped instead of zeroed.",
          source="flash-attention ea8f7350", detectors=("NAN", "MEM", "GRAD"), phase="gradient",
          reach={"query_tokens": 5, "key_tokens": 40, "window_left": 2, "window_right": 0}),
    tiled("B023a", "lse-gradient-dropped", _LseForgotten,
          what="The gradient of the returned LSE is ignored.",
          source="flash-attention #1817", detectors=("GRAD",), phase="gradient"),
    tiled("B023b", "lse-gradient-without-sinks", _LseNotInSinks,
          what="The gradient of the returned LSE reaches queries and keys, but not the sinks.",
          source="flash-attention a4510a6e", detectors=("GRAD",), phase="gradient", reach={"sinks": True}),
    tiled("B086b", "epilogue-overlaps", _NarrowEpilogue,
          what="Tiles of key gradients in float32 get the room of 16 bits, so that each overwrites half of another.",
          source="flash-attention 5844fa69", detectors=("GRAD", "DET", "MEM"), phase="gradient", reach=_LONG),
    tiled("B089", "order-not-kept", _FreeOrder,
          what="Query gradients are added up in another order in every call, though one order was promised.",
          source="flash-attention #2244", detectors=("DET",), phase="gradient", storages=SINGLE, reach=_LONG,
          deterministic=True),
)  # fmt: skip
