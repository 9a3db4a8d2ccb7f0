"""2:4 dropout as a module."""

from __future__ import annotations

from torch import Tensor, nn

from sparsetrain.autograd import dropout24


class Dropout24(nn.Module):
    """Keep two of every four features by chance, times 2, in training; nothing in evaluation.

    In expectation it is `nn.Dropout(0.5)`; two of four neighbours are always left, along features
    and along rows, as sparse products read them. x: [..., H], H a multiple of 4. No parameters;
    PyTorch's generator seeds it, so a run that seeds each step (`lightning.StepSeed`) resumes bit
    for bit. To put it into timm's MLPs: `Sparsity(weight=None, activation=ActivationDropout24())`,
    which also runs the products of fc2 sparse.
    """

    def forward(self, x: Tensor) -> Tensor:
        return dropout24(x) if self.training else x
