"""A linear layer whose weight is sparse in the products."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import Self

from sparsetrain.autograd import compute_dtype, packed_linear
from sparsetrain.methods import SSTE, WeightMethod
from sparsetrain.nn.choose import choose_mask, describe
from sparsetrain.nn.leaf import traced
from sparsetrain.nn.phase import Phase
from sparsetrain.nn.sharded import check_whole, is_sharded, whole
from sparsetrain.nn.swap import with_class
from sparsetrain.nn.watch import Watch, watched
from sparsetrain.ops import flips24
from sparsetrain.patterns import NM, Pattern
from sparsetrain.products import BOTH, Forms, Packed, Product
from sparsetrain.reference.soft_threshold24 import soft_scale24
from sparsetrain.select import Selection

TWO_OF_FOUR = NM(2, 4)


class SparseLinear(nn.Linear):
    """`nn.Linear` that multiplies by a 2:4 version of its weight.

    The parameters are the dense layer's own, under the same names; what is sparse is made from
    them in each forward. Made by `from_dense`, undone by `to_dense`.

    method: what gradient the weight gets; pattern: what may be non-zero in it; selection: how a 2:4
        mask is chosen; product: what multiplies it.
    phase: whether it runs sparse now; the layers of one optimizer share it.
    mask: bits [O, ceil(I/8)] that `update_mask` chose, or None to choose from the weight in every
        forward. `attach` chooses masks where `keeps_mask` is true. Evaluation chooses the mask
        again, so averaged or loaded weights have masks of their own, unless the masks are frozen;
        masks of other patterns than 2:4 stay. Loading a state dict drops it, and the scores. A copy
        has it only where masks are frozen: it will hold other weights, an average of them, and
        would keep it while the model chooses others.
    scale: float32 [1], β of S-STE, else None. scores: what a method chooses masks by, None for
        magnitudes. flipped: mask bits that changed at the last choice (int64 scalar), or None where
        none was counted.
    held: the weight packed for several forwards (`nn.scope`), else None.
    watch: what the first sparse step sees of the layer (`nn.watch`), else None.
    dense_class: what it was, `nn.Linear` or a subclass that computes nothing else.

    mask, scale, scores and flipped follow the module to its device but are no buffers: DDP would
    broadcast them in every forward, weight averaging would average them, and the state dict
    must stay the dense one. `nn.state` saves them.
    """

    method: WeightMethod
    pattern: Pattern
    selection: Selection
    product: Product
    phase: Phase
    mask: Tensor | None
    scale: Tensor | None
    scores: Tensor | None
    flipped: Tensor | None
    held: Packed | None
    watch: Watch | None
    dense_class: type[nn.Linear]

    @classmethod
    def from_dense(
        cls,
        dense: nn.Linear,
        method: WeightMethod,
        selection: Selection,
        product: Product,
        phase: Phase,
        pattern: Pattern = TWO_OF_FOUR,
    ) -> SparseLinear:
        """The sparse layer on the parameters (shared), hooks and mode of `dense`."""
        layer = with_class(dense, cls)
        layer.method, layer.selection, layer.product = method, selection, product
        layer.phase, layer.dense_class, layer.pattern = phase, type(dense), pattern
        layer.mask = layer.scale = layer.scores = layer.flipped = None
        layer.held = layer.watch = None
        layer.start()
        return layer

    def to_dense(self) -> nn.Linear:
        """The dense layer on the same parameters."""
        layer = with_class(self, self.dense_class)
        for name in SparseLinear.__annotations__:
            del layer.__dict__[name]
        return layer

    @property
    def sparse(self) -> bool:
        """Whether it runs sparse now; False in dense phases of a schedule."""
        return self.phase.runs_sparse(self.training)

    def forward(self, input: Tensor) -> Tensor:
        if (node := traced(self, input)) is not None:
            return node
        if not self.sparse:
            return F.linear(input, self.weight, self.bias)
        packed = self.packed(compute_dtype(input, self.weight))
        return packed_linear(input, watched(self), self.bias, packed, mvue=self.method.mvue)

    def packed(self, dtype: torch.dtype, forms: Forms = BOTH) -> Packed:
        """The weight as it is now under its mask, as products in `dtype` read it.

        Raises ValueError where the weight is not whole.
        """
        self.expect_step()
        check_whole(self.weight)
        weight, held = self.weight.detach(), self.held
        if held is not None and (held.dtype, held.device) == (dtype, weight.device):
            return held
        # A replica of nn.DataParallel has its weight elsewhere, and shares what is no parameter.
        mask, scale = _on(weight.device, self.kept), _on(weight.device, self.scale)
        if mask is None and not isinstance(self.pattern, NM):
            mask = self._choose(weight)
        return self.method.pack(weight, mask, scale, self.selection, self.product, dtype, forms)

    @property
    def keeps_mask(self) -> bool:
        """Whether masks are to outlast an optimizer step. Those of sharded weights do: a forward
        may see them rounded, and the mask is of the master weight."""
        lasting = self.phase.frozen or self.phase.schedule.mask_every > 1
        return lasting or not isinstance(self.pattern, NM) or is_sharded(self.weight)

    @property
    def kept(self) -> Tensor | None:
        """The mask that the next forward must use; None lets it choose."""
        stays = self.training or self.phase.frozen or not isinstance(self.pattern, NM)
        return self.mask if stays else None

    def step_mask(self) -> Tensor:
        """The mask of the training step, whatever mode the layer is in."""
        return self.current_mask() if self.mask is None else self.mask

    @torch.no_grad()
    def start(self) -> None:
        """What a method fixes when training starts to be sparse: β of S-STE, in its place."""
        if not isinstance(self.method, SSTE) or self.weight.is_meta:
            return
        with torch.inference_mode(False), torch.no_grad():
            scale = soft_scale24(whole(self.weight))
            self.scale = scale if self.scale is None else self.scale.copy_(scale)

    @torch.no_grad()
    def update_mask(self, chosen: Tensor | None = None) -> None:
        """Choose the mask from the weight as it is now, and count what changed. chosen: that mask,
        where it is known already."""
        # Training changes it in place, which it may not with one made in inference mode.
        with torch.inference_mode(False), torch.no_grad():
            mask = self._choose(whole(self.weight)) if chosen is None else chosen
            if self.mask is None:
                self.mask = mask
            else:
                self.flipped = flips24(mask, self.mask)
                self.mask.copy_(mask)

    def current_mask(self) -> Tensor:
        """The mask the next forward uses (or would use, in a dense phase).

        Chosen from the master weight, where none is kept: FSDP2 with a param_dtype gives the
        forward a rounded weight, which may hold other ties.
        """
        kept = self.kept
        return self._choose(whole(self.weight)) if kept is None else kept

    def _choose(self, weight: Tensor) -> Tensor:
        density, scores = self.phase.density(self.pattern.density), _on(weight.device, self.scores)
        return choose_mask(weight, self.pattern, self.selection, density, scores)

    @torch.no_grad()
    def used_weight(self) -> Tensor:
        """[O, I] in the weight's dtype: what the products multiply by, zeros included, before a
        format rounds it."""
        if not self.sparse:
            return whole(self.weight)
        return self.method.weight24(whole(self.weight), self.current_mask(), self.scale)

    def evaluated_weight(self) -> Tensor:
        """[O, I]: what an evaluation multiplies by, in the phase that was trained last, under masks
        chosen anew unless they are frozen."""
        training = self.training
        self.training = False
        try:
            return self.used_weight()
        finally:
            self.training = training

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *rest)
        if f"{prefix}weight" in state_dict:
            self.mask = self.flipped = self.scores = None  # they are of other weights

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)
        for name in ("mask", "scale", "scores", "flipped"):
            value = getattr(self, name)
            device = None if value is None else fn(value).device
            if value is not None and value.is_meta and device != value.device:
                value = None  # `to_empty` makes memory without numbers
            # To the device only: β stays the float32 number it is in a bfloat16 model.
            setattr(self, name, None if value is None else value.to(device))
        self.held = None
        return self

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"held": None, "watch": None}

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        masks = {} if self.phase.frozen else {"mask": None, "flipped": None}
        copied = memo[id(self)] = type(self).__new__(type(self))
        state = self.__dict__ | masks | {"held": None, "watch": None}
        copied.__dict__ = copy.deepcopy(state, memo)
        return copied

    def extra_repr(self) -> str:
        state = "" if self.sparse else ", now dense"
        what = self.method.describe(describe(self.pattern, self.selection))
        return f"{super().extra_repr()}, {what}, engine={self.product}{state}"

    def expect_step(self) -> None:
        """Warn where a method or a schedule lacks what happens in the optimizer step."""
        if torch.compiler.is_compiling() or self in self.phase.held or not self.training:
            return
        method, phase = self.method.in_step, self.phase.in_step
        what, missing = method if method[0] else phase
        replica = getattr(self, "_is_replica", False)  # of nn.DataParallel
        if what and torch.is_grad_enabled() and self.weight.requires_grad and not replica:
            warnings.warn(
                f"{what} is not attached to an optimizer, so {missing}: call "
                "sparsetrain.attach(model, optimizer, total_steps=…)",
                stacklevel=4,
            )


def _on(device: torch.device, tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.to(device)


def sparse_linears(model: nn.Module) -> dict[str, SparseLinear]:
    """The model's sparse linear layers by name."""
    return {n: m for n, m in model.named_modules() if isinstance(m, SparseLinear)}
