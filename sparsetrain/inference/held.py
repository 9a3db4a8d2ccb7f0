"""The tensors of a packed weight: attributes of its layer, saved and moved, never averaged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from typing_extensions import Self

from sparsetrain.nn.for_inference import ForInference

FLOAT8 = torch.float8_e4m3fn
NAMES = ("values", "meta", "scales")


class HoldsPacked(ForInference):
    """A layer with a packed weight: `values`, `meta`, and `scales` or None.

    They are no buffers: averages of weights (timm's ModelEmaV2, AveragedModel with `use_buffers`)
    compute new numbers from buffers, integers too, and DDP cannot send float8 over gloo. So an
    average has the packed weight of the model it copied, and each rank of DDP the one that it
    packed. A state dict holds copies, those of float8 as bytes (uint8); what is written into them
    changes no layer. It loads float8 too.
    """

    values: Tensor
    meta: Tensor
    scales: Tensor | None
    bias: Any

    def held(self) -> dict[str, Tensor]:
        """The tensors that there are, by name."""
        found = {name: getattr(self, name) for name in NAMES}
        return {name: tensor for name, tensor in found.items() if tensor is not None}

    def weight_at(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """The packed weight as products read it. A replica of nn.DataParallel is where x is, and
        shares what is no parameter; torch.func may put the bytes of a state dict in."""
        values, meta, scales = self.values, self.meta, self.scales
        values = values.view(FLOAT8) if values.dtype == torch.uint8 else values
        if not getattr(self, "_is_replica", False):
            return values, meta, scales
        scales = None if scales is None else scales.to(x.device)
        return values.to(x.device), meta.to(x.device), scales

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        if self.bias is not None:
            dtype = fn(torch.empty(0, dtype=self.bias.dtype, device=self.bias.device)).dtype
            if dtype.itemsize == 1:
                raise ValueError(
                    f"dtype={dtype}: the bias of a packed layer has 16 bits or more; "
                    f"sparsetrain.quantize(model, dtype={dtype}) packs a weight in 8"
                )
        super()._apply(fn, recurse)
        for name, tensor in self.held().items():
            new = fn(tensor)
            setattr(self, name, new if new.dtype == tensor.dtype else tensor.to(new.device))
        return self

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for name, tensor in self.held().items():
            destination[f"{prefix}{name}"] = _bytes(tensor.clone())

    def _load_from_state_dict(
        self,
        state_dict: Any,
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        mine = {name: state_dict.get(f"{prefix}{name}") for name in self.held()}
        if mine["values"] is None and f"{prefix}weight" in state_dict:
            error_msgs.append(
                f"{prefix}weight is dense in the file and packed here: load the file into the "
                "dense model, and quantize that"
            )
            return
        rest = {k: v for k, v in state_dict.items() if k.removeprefix(prefix) not in mine}
        lists = missing_keys, unexpected_keys, error_msgs
        super()._load_from_state_dict(rest, prefix, local_metadata, strict, *lists)
        missing = [f"{prefix}{name}" for name, tensor in mine.items() if tensor is None]
        missing_keys += missing if strict else []
        given = {name: tensor for name, tensor in mine.items() if isinstance(tensor, Tensor)}
        if wrong := [why for name in given if (why := self._why_not(name, given[name], prefix))]:
            error_msgs.append(wrong[0])
            return
        assign = local_metadata.get("assign_to_params_buffers", False)
        for name, tensor in given.items():
            here = getattr(self, name)
            tensor = tensor.detach().view(here.dtype)
            if assign:
                setattr(self, name, tensor)
            elif here.is_meta:
                error_msgs.append(f"{prefix}{name} is on the meta device: load with assign=True")
            else:
                with torch.no_grad():
                    here.copy_(tensor)

    def _why_not(self, name: str, there: Tensor, prefix: str) -> str:
        here: Tensor = getattr(self, name)
        dtype = there.dtype
        if name == "values" and dtype == torch.uint8:
            dtype = FLOAT8
        if name == "values" and dtype != here.dtype:
            return (
                f"{prefix}values is {dtype} in the file and {here.dtype} here: "
                f"quantize the model with dtype={dtype}"
            )
        if (dtype, there.shape) != (here.dtype, here.shape):
            found, wanted = (f"{t.dtype} {list(t.shape)}" for t in (there, here))
            return f"{prefix}{name} is {found} in the file and {wanted} here"
        return ""


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.view(torch.uint8) if tensor.dtype == FLOAT8 else tensor
