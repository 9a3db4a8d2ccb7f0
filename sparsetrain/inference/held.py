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

    @property
    def packed_dtype(self) -> torch.dtype:
        """That of the values; torch.func may put the bytes of a state dict in."""
        return FLOAT8 if self.values.dtype == torch.uint8 else self.values.dtype

    def weight_at(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """The packed weight as products read it. A replica of nn.DataParallel is where x is, and
        shares what is no parameter."""
        values, meta, scales = self.values.view(self.packed_dtype), self.meta, self.scales
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
        keys = {f"{prefix}{name}": name for name in self.held()}
        if f"{prefix}values" not in state_dict and f"{prefix}weight" in state_dict:
            error_msgs.append(
                f"{prefix}weight is dense in the file and packed here: load the file into the "
                "dense model, and quantize that"
            )
            return
        rest = {key: tensor for key, tensor in state_dict.items() if key not in keys}
        lists = missing_keys, unexpected_keys, error_msgs
        super()._load_from_state_dict(rest, prefix, local_metadata, strict, *lists)
        missing_keys += [key for key in keys if strict and key not in state_dict]
        given = {key: name for key, name in keys.items() if key in state_dict}
        assign = local_metadata.get("assign_to_params_buffers", False)
        reasons = [self._why_not(key, given[key], state_dict[key], assign) for key in given]
        if wrong := list(filter(None, reasons)):
            error_msgs.append(wrong[0])
            return
        for key, name in given.items():
            here: Tensor = getattr(self, name)
            tensor = state_dict[key].detach().view(here.dtype)
            if assign:
                setattr(self, name, tensor)
            else:
                with torch.no_grad():
                    here.copy_(tensor)

    def _why_not(self, key: str, name: str, there: Any, assign: bool) -> str:
        here: Tensor = getattr(self, name)
        if not isinstance(there, Tensor):
            return f"{key} is {type(there).__name__} in the file, not a tensor"
        dtype = there.dtype
        if name == "values" and dtype == torch.uint8:
            dtype = FLOAT8
        if name == "values" and dtype != here.dtype:
            return (
                f"{key} is {dtype} in the file and {here.dtype} here: "
                f"quantize the model with dtype={dtype}"
            )
        if (dtype, there.shape) != (here.dtype, here.shape):
            found, wanted = (f"{t.dtype} {list(t.shape)}" for t in (there, here))
            return f"{key} is {found} in the file and {wanted} here"
        if not assign and here.is_meta:
            return f"{key} is on the meta device: load with assign=True"
        if not assign and there.is_meta:
            return f"{key} is on the meta device in the file, without numbers"
        return ""


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.view(torch.uint8) if tensor.dtype == FLOAT8 else tensor
