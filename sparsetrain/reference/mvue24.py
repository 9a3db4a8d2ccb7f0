"""The minimum-variance unbiased 2:4 estimate of a gradient, along tokens.

Dimension key:  R rows (tokens)   C columns   G = padded_rows(R)/4 groups of four tokens

Chmiel et al., "Minimum variance unbiased N:M sparsity for the neural gradients", ICLR 2023. Of the
magnitudes a of a group with sum Σ, two are kept: with probability p = 2a/Σ and then the value Σ/2;
or, when one is larger than the other three together (s), that one always and as it is, and one of
the others with probability a/s and then the value s.

Both cases are one formula. With w = min(a, sum of the other three) and H half the sum of w, each
value is kept with probability w/H, and then its magnitude becomes max(a, H).

Systematic sampling draws exactly two with exactly these probabilities from one number u: lay the w
end to end; the two that cover the points u·H and u·H + H are kept. A single non-zero has w = a: it
covers both points, and the zero after it, or before it if it is the last, is kept with it.
Rounding moves a probability by about 2^-23 in float32, and it never changes how many are kept.
"""

import torch
from torch import Tensor

from sparsetrain.reference.pack24 import meta24, pad_rows24, padded_rows
from sparsetrain.reference.philox import MVUE_STREAM, random_words, uniform24


def mvue24(x_RC: Tensor, seed: Tensor) -> tuple[Tensor, Tensor]:
    """Sample x.T to 2:4 along tokens. Returns values_t, meta_t (reference/pack24.py).

    seed: int64, one element; its low and high 32 bits are the key of Philox. Group g of column c
    draws word c % 4 of the counter (c // 4, g, 0, 0), and u = (word >> 8) * 2^-24.
    A group of zeros keeps its first two. A group whose magnitudes do not add up to a finite number
    keeps its first two, and both values become that sum (inf or NaN), so that it is noticed.
    Arithmetic is float32 (float64 for float64), each step rounded, none fused.
    """
    R, C = x_RC.shape
    wide = torch.promote_types(x_RC.dtype, torch.float32)
    G = padded_rows(R) // 4
    x_CG4 = pad_rows24(x_RC).to(wide).T.reshape(C, G, 4)
    u_CG = uniform24(random_words(seed, G, C, MVUE_STREAM)).to(wide).T
    position_CG2, value_CG2 = sample24(x_CG4, u_CG)
    return value_CG2.reshape(C, 2 * G).to(x_RC.dtype), meta24(position_CG2)


def sample24(x_CG4: Tensor, u_CG: Tensor) -> tuple[Tensor, Tensor]:
    """Draw two of each group. x float32 or float64, u the same dtype, in [0, 1).

    Returns the positions, int64 [C, G, 2] ascending, and the values [C, G, 2].
    """
    a_CG4 = x_CG4.abs()
    a0, a1, a2, a3 = a_CG4.unbind(dim=-1)
    first, last = a0 + a1, a2 + a3
    total = first + last
    w0, w1 = _weight(a0, a1 + last), _weight(a1, a0 + last)
    w2, w3 = _weight(a2, first + a3), _weight(a3, first + a2)

    end0 = w0
    end1 = end0 + w1
    end2 = end1 + w2
    end3 = end2 + w3
    half = end3 / 2
    point0 = u_CG * half
    point1 = point0 + half

    # An end that reaches the last one has only zeros behind it: nothing to keep there.
    end_CG3 = torch.stack([end0, end1, end2], dim=-1)
    inside_CG3 = end_CG3 < end3[..., None]
    covers0 = (inside_CG3 & (end_CG3 <= point0[..., None])).sum(dim=-1)
    covers1 = (inside_CG3 & (end_CG3 <= point1[..., None])).sum(dim=-1)
    # Rounding may put both points into one value; it never keeps other than two.
    kept0 = covers0.clamp(max=2)
    kept1 = torch.maximum(covers1, covers0 + 1).clamp(max=3)

    finite = total.isfinite()
    position = torch.stack([torch.where(finite, kept0, 0), torch.where(finite, kept1, 1)], dim=-1)
    x_kept, a_kept = x_CG4.gather(-1, position), a_CG4.gather(-1, position)
    value = torch.copysign(torch.maximum(a_kept, half[..., None]), x_kept)
    value = torch.where(a_kept == 0, 0, value)
    return position, torch.where(finite[..., None], value, total[..., None])


def _weight(a_CG: Tensor, others_CG: Tensor) -> Tensor:
    return torch.where(others_CG == 0, a_CG, torch.minimum(a_CG, others_CG))
