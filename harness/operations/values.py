"""Values of inputs: seeded per tensor, by kind, quantised to the storage dtype; cotangents; lengths for strategies."""

import zlib
from collections.abc import Mapping, Sequence

import torch
from hypothesis import strategies as st
from torch import Tensor

from harness.operations.base import Output, output_dtype, storage_dtype
from harness.operations.case import Case

__all__ = ["LAYER_REGIMES", "Values", "cotangents", "lengths", "projection", "rope_angles", "widths"]

LAYER_REGIMES: tuple[str, ...] = ("normal", "tiny", "zero_rows", "mean_shifted")

_EDGES = (1, 2, 3, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 256, 257)
_WIDTHS = (4, 8, 16, 24, 32, 40, 64, 72, 80, 96, 104, 128, 192, 256)


def lengths(largest: int, smallest: int = 1) -> st.SearchStrategy[int]:
    """Returns a strategy of lengths in which tile edges and their neighbours weigh as much as all the others."""
    edges = [edge for edge in _EDGES if smallest <= edge <= largest]
    return st.one_of(st.sampled_from(edges), st.integers(smallest, largest)) if edges else st.just(smallest)


def widths(largest: int) -> st.SearchStrategy[int]:
    """Returns a strategy of head widths, powers of two and not."""
    return st.sampled_from([width for width in _WIDTHS if width <= largest])


class Values:
    """Makes the tensors of a case, each from its own generator, so that adding one changes no other.

    Args:
        case: gives dtype and seed.
    """

    def __init__(self, case: Case) -> None:
        self._seed = case.seed
        self._dtype = storage_dtype(case.dtype)

    def generator(self, name: str) -> torch.Generator:
        """Returns the generator of a tensor; torch's CPU generator heeds the lower 32 bits of a seed alone."""
        return torch.Generator().manual_seed(zlib.crc32(f"{self._seed}:{name}".encode()))

    def store(self, value: Tensor) -> Tensor:
        """Returns float64 values in the storage dtype."""
        return value.to(self._dtype)

    def normal(self, name: str, shape: Sequence[int], *, scale: float = 1.0, shift: float = 0.0) -> Tensor:
        """Returns normal values in float64."""
        return torch.randn(*shape, generator=self.generator(name), dtype=torch.float64) * scale + shift

    def uniform(self, name: str, shape: Sequence[int], low: float, high: float) -> Tensor:
        """Returns uniform values in float64."""
        return torch.rand(*shape, generator=self.generator(name), dtype=torch.float64) * (high - low) + low

    def integers(self, name: str, shape: Sequence[int], low: int, high: int) -> Tensor:
        """Returns integers from ``low`` to ``high`` inclusive."""
        return torch.randint(low, high + 1, tuple(shape), generator=self.generator(name))

    def mask(self, name: str, shape: Sequence[int], keep: float = 0.7) -> Tensor:
        """Returns a boolean mask; about one row in four is padded on the left, one in eight is hidden entirely."""
        rows, tokens = shape
        mask = torch.rand(rows, tokens, generator=self.generator(name)) < keep
        kinds = self.integers(f"{name}.kind", (rows,), 0, 7)
        starts = self.integers(f"{name}.start", (rows,), 0, max(tokens - 1, 0))
        for row in range(rows):
            if kinds[row] <= 1:
                mask[row] = torch.arange(tokens) >= starts[row]
            elif kinds[row] == 2:
                mask[row] = False
        return mask

    def kind(self, name: str, shape: Sequence[int], kind: str) -> Tensor:
        """Returns float64 values of a kind.

        ``normal``; ``tiny`` (1e-4); ``large`` (100); ``two_valued`` (+-1); ``mean_shifted`` (mean 4); ``massive`` (one
        channel in sixteen 60 times larger); ``zero_rows`` (half of the rows 0); ``low_rank`` (rank 1 plus 1 %);
        ``flat`` (1e-2); ``equal`` (all rows alike).
        """
        value = self.normal(name, shape)
        match kind:
            case "tiny":
                value = value * 1e-4
            case "flat":
                value = value * 1e-2
            case "large":
                value = value * 100
            case "two_valued":
                value = torch.where(value > 0, 1.0, -1.0).to(torch.float64)
            case "mean_shifted":
                value = value + 4
            case "massive":
                value = value * torch.where(torch.arange(shape[-1]) % 16 == 3, 60.0, 1.0)
            case "zero_rows":
                value = value * (self.uniform(f"{name}.rows", (*shape[:-1], 1), 0, 1) < 0.5)
            case "low_rank":
                base = self.normal(f"{name}.base", shape[-1:])
                value = base * self.normal(f"{name}.gain", (*shape[:-1], 1)).sign() + value * 1e-2
            case "equal":
                value = self.normal(f"{name}.base", shape[-1:]).expand(*shape).clone()
        return value


def cotangents(
    case: Case, outputs: Sequence[Output], shapes: Mapping[str, Sequence[int]]
) -> dict[str, Tensor]:  # fmt: skip
    """Returns a random cotangent for every output, by the case's kind; never constant over all elements.

    Args:
        case: gives kind, dtype and seed.
        outputs: the operation's outputs.
        shapes: shape by output name.
    """
    values = Values(case)
    result = {}
    for output in outputs:
        shape, label = shapes[output.name], f"cotangent.{output.name}"
        value = values.normal(label, shape)
        if case.cotangent == "one_hot" and value.numel():
            position = int(values.integers(f"{label}.position", (1,), 0, value.numel() - 1))
            hot = torch.zeros_like(value).view(-1)
            hot[position] = value.view(-1)[position].sign() * 1.5
            value = hot.view(value.shape)
        elif case.cotangent == "power_of_two":
            # float16 ends at 65504: larger powers overflow on the way in healthy kernels too
            largest = 2 if case.dtype == "float16" else 8
            value = torch.sign(value) * 2.0 ** values.integers(f"{label}.power", (1,), -8, largest).item()
        elif case.cotangent == "expanded" and len(shape) > 1:
            value = value[:, :1].expand(*shape)
        result[output.name] = value.to(output_dtype(output, case.dtype))
    return result


def rope_angles(values: Values, batch: int, tokens: int, width: int, style: str) -> Tensor:
    """Returns angles ``(batch, tokens, width)`` of positions that differ from row to row, in the style's order."""
    positions = torch.arange(tokens) + values.integers("positions", (batch, 1), 0, 512)
    frequencies = 10000.0 ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    angles = positions[..., None].to(torch.float64) * frequencies
    return torch.cat([angles, angles], -1) if style == "half" else angles.repeat_interleave(2, -1)


def projection(values: Values, name: str, out_features: int, in_features: int) -> Tensor:
    """Returns a random weight ``(out_features, in_features)`` that keeps the size of what it projects."""
    return values.store(values.normal(name, (out_features, in_features), scale=in_features**-0.5))
