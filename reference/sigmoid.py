"""The logistic function with a derivative that is relatively accurate also where it saturates."""

from torch import Tensor
from torch.nn.functional import logsigmoid

__all__ = ["sigmoid"]


def sigmoid(x: Tensor) -> Tensor:
    """The logistic function ``1 / (1 + exp(-x))``, as the exponential of its logarithm.

    Autograd of ``torch.sigmoid`` computes ``y (1 - y)`` from the rounded y, where ``1 - y`` has no digit left at
    x = 37; the derivative of the log is ``sigmoid(-x)``, which keeps them all.
    """
    return logsigmoid(x).exp()
