"""The network of a recipe: a timm model, with the attention that was asked for."""

from __future__ import annotations

import difflib
import inspect
import re
from pathlib import Path
from typing import Any

from torch import nn

from sparsetrain.errors import first_three
from sparsetrain.lightning.patches import multiply_patches
from sparsetrain.recipe import nearest

ATTENTIONS = ("sdpa", "xformers")
TOKENIZERS = ("patches", "convolutions")


def build_network(
    name: str,
    img_size: int,
    num_classes: int,
    drop_path: float = 0.0,
    attention: str = "sdpa",
    tokenizer: str = "patches",
    options: dict[str, Any] | None = None,
) -> nn.Module:
    """`timm.create_model(name)` for square images of `img_size` pixels, untrained. Images are cut
    into patches by a matrix product (`PatchConv2d`).

    drop_path: stochastic depth rate at the last block.
    attention: `sdpa` (PyTorch's fused attention) or `xformers` (memory-efficient attention).
    tokenizer: `patches` (the model's own) or `convolutions` (those of CCT, `ConvTokenizer`).
    options: further arguments of the timm model, as `embed_dim` or `depth`.

    Raises ValueError for an unknown model (with the nearest names), an option it does not take or
    that could unpickle a file, weights of another model, a tokenizer it does not take, or
    an attention that cannot run here.
    """
    import timm

    _check_files(options or {})

    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3, cutoff=0.5)
        hint = f"near: {', '.join(near)}" if near else "see timm.list_models()"
        raise ValueError(f"model.name={name!r}: timm has no such model; {hint}")
    if attention not in ATTENTIONS:
        raise ValueError(f"model.attention={attention!r}: choose one of {', '.join(ATTENTIONS)}")
    if tokenizer not in TOKENIZERS:
        raise ValueError(f"model.tokenizer={tokenizer!r}: choose one of {', '.join(TOKENIZERS)}")
    embedding: dict[str, Any] = {}
    if tokenizer == "convolutions":
        from sparsetrain.lightning.tokenizer import ConvTokenizer

        embedding = {"embed_layer": ConvTokenizer}
    try:
        network = timm.create_model(
            name,
            img_size=img_size,
            num_classes=num_classes,
            drop_path_rate=drop_path,
            **(options or {}),
            **embedding,
        )
    except OSError as error:
        if not (options or {}).get("pretrained"):
            raise
        raise ValueError(
            f"model.options.pretrained=true: the weights of {name} cannot be fetched "
            f"({str(error).splitlines()[0]}); leave it out, or give them as "
            "+model.options.checkpoint_path=FILE.safetensors"
        ) from error
    except (TypeError, ValueError, AssertionError, ArithmeticError, LookupError) as error:
        _check_option(str(error), options or {})
        fix = "; model.tokenizer=convolutions is for timm's ViTs" if embedding else ""
        raise ValueError(
            f"model.name={name!r} does not take img_size={img_size} with options={options}: "
            f"{error}{fix}; give a ViT of timm, or options that its class takes"
        ) from error
    except RuntimeError as error:
        _check_weights(str(error), options or {})
        raise
    _check_size(network, name, img_size)
    multiply_patches(network)
    if attention == "xformers":
        from sparsetrain.lightning.attention import use_xformers

        use_xformers(network)
    return network


def _check_option(refusal: str, options: dict[str, Any]) -> None:
    """Raise ValueError with the nearest names for an option that the model's class says it does not
    take. Any other refusal passes."""
    import timm.models

    found = re.match(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'", refusal)
    kind = found and getattr(timm.models, found[1], None)
    if found and kind and found[2] in options:
        takes = [f"model.options.{name}" for name in inspect.signature(kind).parameters]
        option = f"model.options.{found[2]}"
        raise ValueError(f"{option} is no argument of {found[1]}: {nearest(option, takes)}")


def _check_weights(refusal: str, options: dict[str, Any]) -> None:
    """Raise ValueError with the first tensors of a file that `load_state_dict` says do not fit. Any
    other refusal passes."""
    if not refusal.startswith("Error(s) in loading state_dict"):
        return
    differ = []
    for line in refusal.splitlines():
        names = re.findall(r'"([^"]+)"', line)
        if line.strip().startswith("Missing"):
            differ += [f"{name} is absent there" for name in names]
        elif line.strip().startswith("Unexpected"):
            differ += [f"{name} is absent here" for name in names]
        elif match := re.search(r"size mismatch for (\S+):.*?\[(.*?)\].*?\[(.*?)\]", line):
            differ.append(f"{match[1]} is ({match[2]}) there and ({match[3]}) here")
    path = options.get("checkpoint_path")
    raise ValueError(
        f"model.options.checkpoint_path={path} is of another model: {first_three(differ)}; give "
        "the model.* that the file was written with"
    )


def _check_size(network: nn.Module, name: str, img_size: int) -> None:
    """Raise ValueError for images that do not divide into the model's patches."""
    embed: Any = getattr(network, "patch_embed", None)
    for size in getattr(embed, "patch_size", None) or ():
        if img_size % size and not getattr(embed, "dynamic_img_pad", False):
            near = sorted({max(img_size // size, 1) * size, (img_size // size + 1) * size})
            raise ValueError(
                f"model.img_size={img_size} is not a multiple of the {size} pixels of a patch of "
                f"{name}: give {' or '.join(map(str, near))}"
            )


def _check_files(options: dict[str, Any]) -> None:
    """Raise ValueError for options from which timm, depending on its version, unpickles a file."""
    path = options.get("checkpoint_path")
    # Lower case and whole, as timm tells them apart.
    if path and not str(path).endswith(".safetensors"):
        raise ValueError(
            f"model.options.checkpoint_path={path!r}: reading it could run any code; convert it "
            "to .safetensors"
        )
    if path and not Path(path).is_file():
        raise ValueError(f"model.options.checkpoint_path={path}: no such file")
    for key in ("pretrained_cfg", "pretrained_cfg_overlay"):
        value = options.get(key)
        if value is not None and not isinstance(value, str):
            raise ValueError(
                f"model.options.{key}={value!r} may name a file, and reading that could run any "
                "code: give the tag of timm's own weights in model.name"
            )
