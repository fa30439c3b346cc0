"""Which elements of a tensor round alike, found once per tensor and used by every aggregate of it.

A kernel rounds equal values alike, opposite values oppositely, and values that differ by a power of two alike as well.
Whatever rounds alike adds up before it is squared. In most tensors hardly any two values are alike, and then a sum of
squares needs no groups: only those elements are grouped that have company.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Alike", "alike"]

_MANTISSA = 0x000FFFFFFFFFFFFF


@dataclass(frozen=True, slots=True, kw_only=True)
class Alike:
    """The groups of elements that round alike.

    Attributes:
        company: flat indices of the elements whose group has more than one element, groups one after the other.
        group: the group of each of them, from 0 on.
        sign: 1.0 or -1.0 for each of them, that of its value.
        groups: how many groups there are.
    """

    company: Tensor
    group: Tensor
    sign: Tensor
    groups: int

    def square(self, amount: Tensor) -> float:
        """Returns the sum of squares of amounts, of the tensor's shape, after adding up what rounds alike."""
        flat = amount.reshape(-1)
        theirs = flat[self.company]
        sums = torch.zeros(self.groups, dtype=torch.float64).index_add_(0, self.group, theirs * self.sign)
        return float((_alone(flat, self.company).square().sum() + sums.square().sum()).item())

    def square_by_part(self, amount: Tensor, part: Tensor, count: int) -> Tensor:
        """Returns, per part, the sum of squares of its amounts after adding up what rounds alike within it.

        Args:
            amount: of the tensor's shape.
            part: number of the part of each element, flat.
            count: number of parts.
        """
        flat = amount.reshape(-1)
        result = torch.zeros(count, dtype=torch.float64)
        result.index_add_(0, part, _alone(flat, self.company).square())
        if not self.company.numel():
            return result
        both, inverse = torch.unique(part[self.company] * self.groups + self.group, return_inverse=True)
        sums = torch.zeros(both.numel(), dtype=torch.float64).index_add_(0, inverse, flat[self.company] * self.sign)
        return result.index_add_(0, both.div(self.groups, rounding_mode="floor"), sums.square())


def alike(values: Tensor) -> Alike:
    """Returns the groups of a float64 tensor without NaN: values alike in their leading 40 bits round alike."""
    flat = values.contiguous().reshape(-1)
    key, order = (((flat.view(torch.int64) & _MANTISSA) + (1 << 11)) >> 12).sort()
    if key.numel() < 2:
        return Alike(company=order[:0], group=order[:0], sign=flat[:0], groups=0)
    same = key[1:] == key[:-1]
    edge = same.new_zeros(1)
    company = torch.cat([edge, same]) | torch.cat([same, edge])
    begins = company & ~torch.cat([edge, same])
    group = begins.cumsum(0)[company] - 1
    where = order[company]
    return Alike(
        company=where,
        group=group,
        sign=torch.copysign(torch.ones(where.numel(), dtype=torch.float64), flat[where]),
        groups=int(begins.sum().item()),
    )


def _alone(flat: Tensor, company: Tensor) -> Tensor:
    """Returns the amounts of the elements that have no company, zero for the others."""
    return flat.index_fill(0, company, 0.0) if company.numel() else flat
