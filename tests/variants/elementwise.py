"""Rows of the table of healthy variants: norms, RoPE, the short convolution and the gates."""

from tests.variants.convolutions import make_short_conv
from tests.variants.gates import make_log_sigmoid_decay, make_mamba_decay, make_silu_mul
from tests.variants.norms import Norm, make_gated_rms_norm, make_l2_norm, make_rms_norm
from tests.variants.recipes import Row, base_two, widened
from tests.variants.rotations import by_complex_numbers, by_matrices, by_rolling, make_rope
from tests.variants.sums import ORDERS

__all__ = ["NORMS", "ROWS"]

NORMS = {
    "in-order": Norm(summed=ORDERS["in-order"]),
    "reversed": Norm(summed=ORDERS["reversed"]),
    "pairwise": Norm(summed=ORDERS["pairwise"], divides=True),
    "lanes": Norm(summed=ORDERS["lanes"]),
    "interleaved-divided": Norm(summed=ORDERS["interleaved"], divides=True),
    "interleaved": Norm(summed=ORDERS["interleaved"]),
    "kahan": Norm(summed=ORDERS["kahan"]),
    "running-mean": Norm(summed=ORDERS["running-mean"]),
    "float64": Norm(summed=ORDERS["float64"], divides=True),
    "scaled": Norm(is_scaled=True),
    "scaled-pairwise": Norm(summed=ORDERS["pairwise"], is_scaled=True),
    "autograd": Norm(by_autograd=True),
    "autograd-divided": Norm(by_autograd=True, divides=True),
}

_GAINS = {
    "gain-before": Norm(gain="before"),
    "gain-to-root": Norm(gain="to the root", summed=ORDERS["lanes"]),
    "autograd-gain-before": Norm(gain="before", by_autograd=True),
    "autograd-gain-to-root": Norm(gain="to the root", by_autograd=True),
}

_ROPES = {
    "by-pairs": make_rope("first", "first", "first"),
    "once-there": make_rope("products", "once", "first"),
    "second-fused": make_rope("second", "second", "second"),
    "once": make_rope("once", "once", "once"),
    "fused-apart": make_rope("first", "second", "first"),
    "fused-across": make_rope("second", "first", "second"),
    "fused-there": make_rope("first", "once", "products"),
    "fused-back": make_rope("products", "products", "first"),
    "once-back": make_rope("products", "first", "once"),
    "once-and-fused": make_rope("once", "second", "products"),
    "mixed": make_rope("second", "once", "second"),
    "complex": by_complex_numbers,
    "matrices": by_matrices,
    "rolled": by_rolling,
}

_CONVOLUTIONS = (
    ("reversed", "halves"), ("unfolded", "torch"), ("grouped", "silu"), ("tap-major", "halves"), ("fused", "halves"),
    ("in-order", "float64"), ("pairwise", "torch"), ("kahan", "halves"), ("float64", "silu"), ("interleaved", "halves"),
    ("running-mean", "torch"), ("fused", "silu"), ("lanes", "float64"),
)  # fmt: skip

_GATED = {
    "lanes": ("lanes", make_silu_mul("halves")),
    "reversed": ("reversed", make_silu_mul("torch")),
    "kahan": ("kahan", make_silu_mul("float64")),
    "autograd": ("autograd", make_silu_mul("silu")),
    "scaled": ("scaled", make_silu_mul("halves", order="x first")),
    "gate-last": ("running-mean", make_silu_mul("halves", order="s last")),
}

_EXACT_SOFTPLUSES = ("logaddexp", "log1p", "atanh", "float64", "logsigmoid")

ROWS: tuple[Row, ...] = (
    *((f"rms-norm-{name}", "rms_norm", make_rms_norm(norm), widened) for name, norm in {**NORMS, **_GAINS}.items()),
    *((f"l2-norm-{name}", "l2_norm", make_l2_norm(norm), widened) for name, norm in NORMS.items()),
    *((f"gated-rms-norm-{name}", "gated_rms_norm", make_gated_rms_norm(make_rms_norm(NORMS[norm]), gated), widened)
      for name, (norm, gated) in _GATED.items()),
    ("gated-rms-norm-base-two", "gated_rms_norm",
     make_gated_rms_norm(make_rms_norm(NORMS["pairwise"]), make_silu_mul("base-two")), base_two),
    *((f"rope-{name}", "rope", call, widened) for name, call in _ROPES.items()),
    *((f"short-conv-{taps}-{logistic}", "short_conv", make_short_conv(taps, logistic), widened)
      for taps, logistic in _CONVOLUTIONS),
    ("short-conv-fused-base-two", "short_conv", make_short_conv("fused", "base-two"), base_two),
    ("silu-mul-by-halves", "silu_mul", make_silu_mul("halves"), widened),
    ("silu-mul-x-first", "silu_mul", make_silu_mul("halves", order="x first"), widened),
    ("silu-mul-last", "silu_mul", make_silu_mul("torch", order="s last"), widened),
    ("silu-mul-torch", "silu_mul", make_silu_mul("silu"), widened),
    ("silu-mul-float64", "silu_mul", make_silu_mul("float64"), widened),
    ("silu-mul-base-two", "silu_mul", make_silu_mul("base-two"), base_two),
    *((f"mamba-decay-{name}", "mamba_decay", make_mamba_decay(name), widened) for name in _EXACT_SOFTPLUSES),
    ("mamba-decay-base-two", "mamba_decay", make_mamba_decay("base-two"), base_two),
    *((f"log-sigmoid-{name}", "log_sigmoid_decay", make_log_sigmoid_decay(name), widened)
      for name in _EXACT_SOFTPLUSES),
    ("log-sigmoid-divided", "log_sigmoid_decay", make_log_sigmoid_decay("log1p", divides=True), widened),
    ("log-sigmoid-base-two", "log_sigmoid_decay", make_log_sigmoid_decay("base-two"), base_two),
)  # fmt: skip
