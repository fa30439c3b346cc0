"""Faults inside the forward pass of softmax attention: online softmax, tiles, masks, merged splits, shared memory."""

import math
import random
from collections.abc import Sequence

import torch
from torch import Tensor

from harness.power.fault import Fault
from tests.faults.flash import Flash
from tests.faults.flash_forward import TILE, Part, Problem, State, Window
from tests.faults.flash_seeding import tiled
from tests.faults.seeding import HALF

__all__ = ["FAULTS"]

_LARGEST_HALF = 65504.0


class _SentinelTop(Flash):
    """The running maximum starts at a finite number, above every logit of some rows."""

    def first_top(self, rows: Tensor) -> Tensor:
        return torch.full_like(rows, -5e4)


class _UnguardedMerge(Flash):
    """A row that no split sees is shifted by -inf: -inf less -inf is NaN."""

    def finite(self, top: Tensor) -> Tensor:
        return top


class _UnguardedSplit(Flash):
    """A split without a visible key divides 0 by 0, and the weight 0 of its part does not remove the NaN."""

    def part(self, state: State) -> Part:
        top, total, acc = state
        return acc / total, torch.where(total > 0, top + torch.log(total), -torch.inf)


class _GarbageTail(Flash):
    """The last tile of values keeps what was in memory: a weight of 0 times NaN is NaN."""

    def padding(self, tile: Tensor, name: str) -> Tensor:
        return tile if name == "value" else super().padding(tile, name)


class _AddedMask(Flash):
    """The last tile of keys keeps what was in memory, and -inf is added to its logits instead of put in their place."""

    def padding(self, tile: Tensor, name: str) -> Tensor:
        return tile if name == "key" else super().padding(tile, name)

    def hide(self, logits: Tensor, seen: Tensor) -> Tensor:
        return logits + torch.zeros_like(seen, dtype=torch.float32).masked_fill(~seen, -torch.inf)


class _HalfScores(Flash):
    """Scores are stored in float16 before they are scaled."""

    def stored_scores(self, scores: Tensor) -> Tensor:
        return scores.half().float()


class _OverflowingScores(Flash):
    """Scores overflow where float16 does before they are scaled, and are exact elsewhere."""

    def stored_scores(self, scores: Tensor) -> Tensor:
        return torch.where(scores.abs() > _LARGEST_HALF, scores.sign() * torch.inf, scores)


class _DividedRow(Flash):
    """The mask takes the index of a row for one of packed heads and divides it by the group."""

    def positions(self, problem: Problem, rows: slice) -> Tensor:
        group = problem.query.shape[2]
        shift = problem.key.shape[3] - problem.query.shape[3]
        return torch.arange(rows.start, rows.stop) // group + shift


class _BaseTwoParts(Flash):
    """Splits return their LSE to base 2, and the merge takes it for a natural one."""

    def part(self, state: State) -> Part:
        out, lse = super().part(state)
        return out, lse / math.log(2)


class _ClampedRight(Flash):
    """A right window beyond the number of keys is clamped to it, though a row may sit before the first key."""

    def limits(self, problem: Problem) -> Window:
        left, right = problem.window
        return left, None if right is None else min(right, problem.key.shape[3])


class _LiteralLeft(Flash):
    """The -1 that stands for no left window is taken for a number."""

    def limits(self, problem: Problem) -> Window:
        left, right = problem.window
        return -1 if left is None else left, right


class _LiteralRight(Flash):
    """The -1 that stands for no right window is taken for a number."""

    def limits(self, problem: Problem) -> Window:
        left, right = problem.window
        return left, -1 if right is None else right


class _CausalLost(Flash):
    """An unbounded left window with a right one of 0 resolves to no window at all."""

    def limits(self, problem: Problem) -> Window:
        return (None, None) if problem.window == (None, 0) else problem.window


class _ZeroIsNone(Flash):
    """A window of 0 is false, and false stands for unbounded."""

    def limits(self, problem: Problem) -> Window:
        left, right = problem.window
        return left or None, right


class _Race(Flash):
    """One time in four a tile of values is read before it is written: the tile before it is still there."""

    _coin = random.Random(85)
    """Of the process: no two calls race alike."""

    def load(self, problem: Problem, name: str, start: int) -> Tensor:
        is_early = name == "value" and start > 0 and self._coin.random() < 1 / 4
        return super().load(problem, name, start - TILE if is_early else start)


class _TailRace(Flash):
    """Where queries fill their tiles and keys do not, the last tile of values is read before it is written."""

    def load(self, problem: Problem, name: str, start: int) -> Tensor:
        queries, keys = problem.query.shape[3], problem.key.shape[3]
        is_early = name == "value" and queries % TILE == 0 and 0 < keys - start < TILE and start > 0
        return super().load(problem, name, start - TILE if is_early else start)


class _SharedFactor(Flash):
    """The third stage keeps its factor where the first one did, and reads what the first one left."""

    def factor(self, factors: Sequence[Tensor]) -> Tensor:
        return factors[0] if len(factors) == 3 else factors[-1]


class _TruncatedWeights(Flash):
    """Softmax weights lose the bits that bfloat16 does not keep instead of being rounded."""

    def operand(self, weights: Tensor, problem: Problem) -> Tensor:
        if problem.storage != torch.bfloat16:
            return super().operand(weights, problem)
        return (weights.contiguous().view(torch.int32) & -(2**16)).view(torch.float32)


_HIDDEN_ROWS = {"query_tokens": 24, "key_tokens": 7, "window_left": None, "window_right": 0, "sinks": False}

FAULTS: tuple[Fault, ...] = (
    tiled("B001", "finite-first-maximum", _SentinelTop,
          what="The running maximum starts at -5e4, so that rows of lower logits sum to nothing.",
          source="flashinfer #4267", detectors=("VAL", "META"), regimes=("negative",),
          reach={"head_dim": 128, "scale": 1.0, "sinks": False}),
    tiled("B002a", "unguarded-merge", _UnguardedMerge, splits=2,
          what="Merging splits subtracts a largest LSE of -inf where a row sees no key.",
          source="flash-attention 31920dda", detectors=("NAN", "VAL"), reach=_HIDDEN_ROWS),
    tiled("B002b", "unguarded-split", _UnguardedSplit, splits=2,
          what="A split without a visible key divides by its empty denominator, and its NaN outlives a weight of 0.",
          source="flashinfer #4401", detectors=("NAN", "VAL"),
          reach={"query_tokens": 40, "key_tokens": 40, "window_right": 0}),
    tiled("B004a", "value-tail-unwritten", _GarbageTail,
          what="Values beyond the last key are whatever was in memory, and a weight of 0 does not silence NaN.",
          source="flash-attention #1745", detectors=("NAN", "MEM"), reach={"key_tokens": 21}),
    tiled("B004b", "mask-added-to-nan", _AddedMask,
          what="The mask is added to logits of keys that were never loaded, which leaves NaN a NaN.",
          source="pytorch #101967", detectors=("NAN", "MEM"), reach={"key_tokens": 21}),
    tiled("B008a", "scores-in-float16", _HalfScores,
          what="Products of queries and keys are rounded to float16 before the scale is applied.",
          source="metal-flash-attention #8", detectors=("VAL", "NAN")),
    tiled("B008b", "scores-overflow-float16", _OverflowingScores,
          what="Products of queries and keys become infinite at float16's limit, though their scaled values are small.",
          source="metal-flash-attention #8", detectors=("NAN", "VAL"), regimes=("negative",),
          reach={"head_dim": 128}),
    tiled("B011", "mask-row-divided-by-group", _DividedRow,
          what="The mask divides the row by the group size, though heads are not packed into rows.",
          source="flash-attention #2528", detectors=("VAL", "META"),
          reach={"group": 3, "query_tokens": 24, "key_tokens": 24, "window_right": 0}),
    tiled("B013b", "splits-in-base-two", _BaseTwoParts, splits=2,
          what="Splits hand over their LSE to base 2 and are merged as if it were natural.",
          source="vllm #28840", detectors=("VAL", "META"), reach={"key_tokens": 40, "query_tokens": 20}),
    tiled("B034", "right-window-clamped", _ClampedRight,
          what="The right window is cut to the number of keys, which hides keys from rows before the first of them.",
          source="flash-attention #895", detectors=("VAL", "META"),
          reach={"query_tokens": 30, "key_tokens": 5, "window_left": None, "window_right": 60}),
    tiled("B035a", "minus-one-left", _LiteralLeft,
          what="An unbounded left side is passed as -1 and tested as a number, so that causal rows see nothing.",
          source="TransformerEngine #3532", detectors=("VAL", "META"),
          reach={"window_left": None, "window_right": 0}),
    tiled("B035b", "minus-one-right", _LiteralRight,
          what="An unbounded right side is passed as -1 and tested as a number, so that a row does not see itself.",
          source="flash-attention #2490", detectors=("VAL", "META"),
          reach={"window_left": 2, "window_right": None}),
    tiled("B035c", "causal-resolved-to-full", _CausalLost,
          what="The pair of no left and a right window of 0 is resolved to full attention.",
          source="flash-attention 5678dd90", detectors=("VAL", "META"),
          reach={"query_tokens": 9, "key_tokens": 9, "window_left": None, "window_right": 0}),
    tiled("B035d", "window-zero-is-none", _ZeroIsNone,
          what="A left window of 0 is tested for truth and counts as unbounded.",
          source="flash-attention 5678dd90", detectors=("VAL", "META"),
          reach={"query_tokens": 9, "key_tokens": 9, "window_left": 0}),
    tiled("B085a", "race", _Race,
          what="A tile of values in four is read before it is written, other ones in every call.",
          source="flash-attention 1c41d2b0", detectors=("DET", "VAL"), reach={"key_tokens": 40}),
    tiled("B085b", "tail-race", _TailRace,
          what="With full tiles of queries, the ragged last tile of values still holds the tile before it.",
          source="flash-attention e540fc1b", detectors=("VAL", "DET"),
          reach={"query_tokens": 32, "key_tokens": 29, "window_left": None}),
    tiled("B086a", "stage-buffers-overlap", _SharedFactor,
          what="Room for the factors of two stages is used by three, so that the third reads that of the first.",
          source="flash-attention 188643b8", detectors=("VAL", "DET", "MEM"),
          reach={"key_tokens": 40, "query_tokens": 20}),
    tiled("X002", "weights-truncated", _TruncatedWeights,
          what="Softmax weights are cut to bfloat16 instead of rounded, which shrinks every one.",
          source="issue of attest", detectors=("VAL", "GRAD"), storages=HALF),
)  # fmt: skip
