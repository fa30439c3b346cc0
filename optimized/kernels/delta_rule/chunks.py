"""Where the chunks of a call lie: a chunk never reaches into another sequence.

A dense batch of ``B`` rows has ``B`` sequences of ``T`` tokens, and kernels compute the place of a chunk. Packed
sequences have one row and differ in length, and kernels look it up. Chunks are numbered through all sequences; an empty
sequence has none.

Letters: ``B`` batch, ``T`` tokens, ``N`` sequences.
"""

from typing import NamedTuple

import torch
import triton

__all__ = ["ChunkTable", "chunk_table"]


class ChunkTable(NamedTuple):
    """Numbers of sequences and chunks, and for packed sequences the tables that kernels read, else None.

    Attributes:
        num_sequences: ``N``, and so many states a head.
        num_chunks: chunks of all sequences.
        sequences: ``(N, 3)`` int64: first token, token after the last, number of the first chunk.
        chunks: ``(num_chunks, 2)`` int64: first token, token after the last of the sequence.
    """

    num_sequences: int
    num_chunks: int
    sequences: torch.Tensor | None
    chunks: torch.Tensor | None


def chunk_table(*, batch: int, tokens: int, cu_seqlens: torch.Tensor | None, chunk_size: int) -> ChunkTable:
    """Returns the chunks of a dense batch, or of the packed sequences between the offsets ``cu_seqlens (N + 1,)``."""
    if cu_seqlens is None:
        return ChunkTable(batch, batch * triton.cdiv(tokens, chunk_size), None, None)
    offsets = cu_seqlens.to(device="cpu", dtype=torch.int64)
    counts = (offsets.diff() + chunk_size - 1) // chunk_size
    first_chunks = counts.cumsum(0) - counts
    sequences = torch.stack([offsets[:-1], offsets[1:], first_chunks], dim=1)
    of_chunk = torch.repeat_interleave(torch.arange(len(counts)), counts)
    numbers = torch.arange(len(of_chunk)) - first_chunks[of_chunk]
    chunks = torch.stack([offsets[of_chunk] + numbers * chunk_size, offsets[of_chunk + 1]], dim=1)
    device = cu_seqlens.device
    return ChunkTable(len(counts), len(of_chunk), sequences.to(device), chunks.to(device))
