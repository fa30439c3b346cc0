"""Where the sequences of a packed call lie, and which program computes which tile of them.

A dense batch needs no table: its programs count their tiles. The sequences of a packed call have lengths of their own,
so that a program reads a row of a table, which the host builds from the offsets.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
import triton
import triton.language as tl

__all__ = ["Packing", "locate", "longest", "schedule"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Packing:
    """Sequences that lie one behind the other.

    Attributes:
        query_offsets: ``(0, ..., query tokens)``, where every sequence starts and the last one ends.
        key_offsets: the same of the key tokens, as many.
    """

    query_offsets: tuple[int, ...]
    key_offsets: tuple[int, ...]


def longest(offsets: tuple[int, ...]) -> int:
    """Returns the number of tokens of the longest sequence, 0 without any."""
    return max((end - start for start, end in pairwise(offsets)), default=0)


def schedule(packing: Packing, *, block: int, of_keys: bool, device: torch.device) -> torch.Tensor:
    """Returns int32 ``(tiles, 5)``: first token of the tile, start and length of its queries, start and length of keys.

    Every tile of ``block`` queries (of keys if ``of_keys``) of every sequence is there once; a sequence without the
    other kind of tokens is too, since its results are zeros that somebody has to write. The tiles with the most work
    come first: long sequences, and within one the last queries or the first keys, as a causal window has it.
    """
    query_offsets, key_offsets = torch.tensor(packing.query_offsets), torch.tensor(packing.key_offsets)
    query_lengths, key_lengths = query_offsets.diff(), key_offsets.diff()
    order = (query_lengths * key_lengths).argsort(descending=True, stable=True)
    tiles = ((key_lengths if of_keys else query_lengths)[order] + block - 1) // block
    sequence = order.repeat_interleave(tiles)
    tile = torch.arange(len(sequence)) - (tiles.cumsum(0) - tiles).repeat_interleave(tiles)
    if not of_keys:
        tile = tiles.repeat_interleave(tiles) - 1 - tile
    columns = (tile * block, query_offsets[sequence], query_lengths[sequence])
    table = torch.stack([*columns, key_offsets[sequence], key_lengths[sequence]], 1)
    return table.to(device, torch.int32)


@triton.jit  # type: ignore[untyped-decorator]  # triton is not annotated
def locate(
    schedule_pointer: tl.tensor,
    T: tl.tensor,
    S: tl.tensor,
    num_heads: tl.tensor,
    BLOCK: tl.constexpr,
    OF_KEYS: tl.constexpr,
    IS_PACKED: tl.constexpr,
) -> tl.tensor:
    """Returns batch entry, head and first token of this program's tile, start and length of its queries and keys.

    Programs of one head are neighbours, so that they share its keys and values in the cache. Under a causal window the
    last tile of queries and the first tile of keys have the most partners: the longest programs start first.
    """
    if IS_PACKED:
        num_tiles = tl.num_programs(0) // num_heads
        row = schedule_pointer + tl.program_id(0) % num_tiles * 5
        batch = tl.cast(0, tl.int64)
        head = tl.cast(tl.program_id(0) // num_tiles, tl.int64)
        first = tl.load(row)
        query_start = tl.load(row + 1).to(tl.int64)
        num_queries = tl.load(row + 2)
        key_start = tl.load(row + 3).to(tl.int64)
        num_keys = tl.load(row + 4)
    else:
        num_tiles = tl.cdiv(S if OF_KEYS else T, BLOCK)
        tile = tl.program_id(0) % num_tiles
        first = (tile if OF_KEYS else num_tiles - 1 - tile) * BLOCK
        batch_head = tl.program_id(0) // num_tiles
        batch = tl.cast(batch_head // num_heads, tl.int64)
        head = tl.cast(batch_head % num_heads, tl.int64)
        query_start = tl.cast(0, tl.int64)
        num_queries = T
        key_start = tl.cast(0, tl.int64)
        num_keys = S
    return batch, head, first, query_start, num_queries, key_start, num_keys
