"""Faults of RMSNorm, gated or not."""

import torch
from torch import Tensor

from harness.power.fault import Fault
from tests.faults.gradient_paths import through
from tests.faults.norm_steps import Norm
from tests.faults.seeding import HALF, Call, seeded
from tests.variants.wrong_results import truncated

__all__ = ["FAULTS"]

STREAMING_MULTIPROCESSORS = 132
"""Of an H100: as many programs share the rows of a weight's gradient."""

_BLOCK = 16
"""Rows that one step of a program sums."""

_STORE = 16
"""Channels of one store."""


class _NarrowSum(Norm):
    """Products are narrowed before a block of rows is summed; only the carry is wide."""

    def share(self, terms: Tensor) -> Tensor:
        total = torch.zeros_like(terms[0])
        for block in torch.split(terms.bfloat16(), _BLOCK):
            part = torch.zeros_like(block[0])
            for row in block:
                part = part + row
            total = total + part.float()
        return total


class _BlockSum(Norm):
    """The same with wide products."""

    def share(self, terms: Tensor) -> Tensor:
        total = torch.zeros_like(terms[0])
        for block in torch.split(terms, _BLOCK):
            part = torch.zeros_like(block[0])
            for row in block:
                part = part + row
            total = total + part
        return total


class _OverGradient(Norm):
    """The gradient of the input takes the place of that of the result."""

    def stored_gradient(self, grad: Tensor, out_grad: Tensor) -> Tensor:
        out_grad.copy_(grad)
        return grad


class _NarrowReciprocal(Norm):
    """The reciprocal root is rounded to bfloat16."""

    def reciprocal(self, mean: Tensor) -> Tensor:
        return through(super().reciprocal(mean), torch.bfloat16)


class _SlotsUnwritten(Norm):
    """Nobody writes the rows of programs that have nothing to sum."""

    def slots(self, channels: int) -> Tensor:
        return torch.empty(self.programs, channels)


def _of_all_heads(terms: Tensor) -> Tensor:
    return terms.flatten(-2).mean(-1, keepdim=True).unsqueeze(-1)


class _WholeWidth(Norm):
    """Rows are normalised over all heads at once."""

    def mean(self, terms: Tensor) -> Tensor:
        return _of_all_heads(terms)

    def mean_again(self, terms: Tensor) -> Tensor:
        return _of_all_heads(terms)


class _WholeWidthBackward(Norm):
    """Rows are normalised head by head, their gradients over all heads at once."""

    def mean_again(self, terms: Tensor) -> Tensor:
        return _of_all_heads(terms)


class _InTiles(Norm):
    """Results are stored row by row in whole tiles of channels."""

    is_masked = True

    def stored(self, out: Tensor) -> Tensor:
        memory = torch.empty(out.shape, dtype=out.dtype)
        channels = out.shape[-1]
        width = channels if self.is_masked else -(-channels // _STORE) * _STORE
        for index, row in enumerate(torch.nn.functional.pad(out.flatten(0, -2), (0, width - channels))):
            torch.as_strided(memory, (width,), (1,), memory.storage_offset() + index * channels).copy_(row)
        return memory


class _TilesUnmasked(_InTiles):
    """The last tile is stored whole."""

    is_masked = False


def _norm() -> Call:
    return Norm().rms_norm


def _gated_norm() -> Call:
    return Norm().gated_rms_norm


def _wide_sum() -> Call:
    return _BlockSum().rms_norm


def _many_programs() -> Call:
    return Norm(STREAMING_MULTIPROCESSORS).rms_norm


def _in_tiles() -> Call:
    return _InTiles().rms_norm


def _large_eps(base: Call) -> Call:
    """Returns the norm with an eps of its own."""
    return lambda *args, **kwargs: base(*args, **{**kwargs, "eps": 1e-5})


FAULTS: tuple[Fault, ...] = (
    seeded("B055", "narrow-weight-sum", "rms_norm", lambda _: _NarrowSum().rms_norm, base=_wide_sum, storages=HALF,
           what="Blocks of rows of the weight's gradient are summed in bfloat16.",
           source="Liger-Kernel #950", detectors=("GRAD",), phase="gradient"),
    seeded("B056", "over-out-gradient", "rms_norm", lambda _: _OverGradient().rms_norm, base=_norm,
           what="The gradient of the input is written over the gradient of the result, which others still need.",
           source="Liger-Kernel #376", detectors=("MEM", "GRAD"), phase="gradient", reach={"cotangent": "normal"}),
    seeded("B058", "narrow-reciprocal", "rms_norm", lambda _: _NarrowReciprocal().rms_norm, base=_norm,
           what="The reciprocal root of a row is rounded to bfloat16, so that all of its channels err alike.",
           source="IRON #139", detectors=("VAL",)),
    seeded("B059", "slots-unwritten", "rms_norm",
           lambda _: _SlotsUnwritten(STREAMING_MULTIPROCESSORS).rms_norm, base=_many_programs,
           what="With fewer rows than programs, the shares of idle programs in the weight's gradient are garbage.",
           source="flash-attention #781", detectors=("NAN", "MEM", "GRAD"), phase="gradient"),
    seeded("B061a", "norm-of-all-heads", "gated_rms_norm", lambda _: _WholeWidth().gated_rms_norm, base=_gated_norm,
           what="The mean square is that of all heads instead of one.",
           source="mamba #547", detectors=("VAL", "GRAD"), reach={"heads": 2}),
    seeded("B061b", "backward-of-all-heads", "gated_rms_norm", lambda _: _WholeWidthBackward().gated_rms_norm,
           base=_gated_norm, what="The backward pass alone takes the means of all heads instead of one.",
           source="mamba #910", detectors=("GRAD",), phase="gradient", reach={"heads": 2}),
    seeded("B088a", "tail-stored", "rms_norm", lambda _: _TilesUnmasked().rms_norm, base=_in_tiles,
           what="The last tile of channels is stored without a mask, beyond the end of the result.",
           source="flash-attention #2755", detectors=("MEM",), reach={"channels": 24}),
    seeded("Y001", "eps-tenfold", "rms_norm", _large_eps,
           what="A fixed eps of 1e-5 is added where 1e-6 was asked for.",
           source="planted", detectors=("VAL",), reach={"eps": 1e-6}),
    seeded("Y008", "truncated", "rms_norm", truncated, storages=HALF,
           what="Results are cut to bfloat16 instead of rounded.", source="planted", detectors=("VAL",)),
)  # fmt: skip
