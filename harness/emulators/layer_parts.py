"""What emulators of layers share: stages between which tensors are stored, and tensors that several stages read."""

from torch import Tensor

from harness.emulators import linear, rms_norm, rope
from harness.emulators.arithmetic import Arithmetic
from harness.emulators.parts import gradient_stored, stage

__all__ = ["normed", "projected", "rotated", "uses"]


def uses(arithmetic: Arithmetic, point: str, value: Tensor, count: int) -> tuple[Tensor, ...]:
    """Returns the tensor for ``count`` stages; each stores its gradient, and so does every addition of two."""
    forks = arithmetic.fork(point, value, count)
    return tuple(gradient_stored(arithmetic, f"{point}.use{index}", use) for index, use in enumerate(forks))


def projected(arithmetic: Arithmetic, name: str, x: Tensor, weight: Tensor) -> Tensor:
    """Returns the stored projection of stage ``name``."""
    out = linear.emulate(stage(arithmetic, name), {"x": x, "weight": weight}, {})["out"]
    return arithmetic.store(f"{name}.stored", out)


def normed(
    arithmetic: Arithmetic, name: str, x: Tensor, weight: Tensor, *, eps: float, zero_centered: bool = False
) -> Tensor:
    """Returns the stored RMSNorm of stage ``name``."""
    options = {"eps": eps, "zero_centered": zero_centered}
    out = rms_norm.emulate(stage(arithmetic, name), {"x": x, "weight": weight}, options)["out"]
    return arithmetic.store(f"{name}.stored", out)


def rotated(arithmetic: Arithmetic, name: str, x: Tensor, cos: Tensor, sin: Tensor, *, style: str) -> Tensor:
    """Returns the stored rotary embedding of stage ``name``."""
    out = rope.emulate(stage(arithmetic, name), {"x": x, "cos": cos, "sin": sin}, {"style": style})["out"]
    return arithmetic.store(f"{name}.stored", out)
