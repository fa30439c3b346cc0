"""Memory layouts: the same values, other strides. What surrounds a view in memory is NaN, so that reading it shows."""

import torch
from torch import Tensor

__all__ = ["lay_out"]


def lay_out(value: Tensor, layout: str) -> Tensor:
    """Returns a tensor of the same values in a layout.

    Args:
        value: contiguous.
        layout: ``contiguous``; ``fused``, the second half of each row of a tensor twice as wide, as a fused projection
            of queries, keys and values gives it; ``transposed``, axes 1 and 2 swapped in memory (heads before tokens),
            or the two axes of a matrix. Scalars per channel, masks and offsets stay contiguous.
    """
    if layout == "contiguous" or value.dim() < 2 or not value.is_floating_point() or not value.numel():
        return value.clone()
    if layout == "transposed":
        first = 1 if value.dim() > 2 else 0
        # A copy also where an axis has one element: what a candidate writes into its inputs must not reach ours.
        swapped = value.transpose(first, first + 1).clone(memory_format=torch.contiguous_format)
        return swapped.transpose(first, first + 1)
    lead = value.shape[:2] if value.dim() > 2 else value.shape[:1]
    flat = value.reshape(*lead, -1)
    width = flat.shape[-1]
    wide = torch.full((*lead, 2 * width), torch.nan, dtype=value.dtype, device=value.device)
    wide[..., width:] = flat
    return wide[..., width:].view(value.shape)
