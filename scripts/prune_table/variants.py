"""One dense checkpoint pruned in every way, and what each way costs."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from hydra.utils import instantiate
from torch import Tensor, nn

import sparsetrain as st
from sparsetrain.cli.load import load_trained
from sparsetrain.lightning.data.dataset import SeededImages

METHODS = {
    "magnitude": st.Magnitude(),
    "weightnorm": st.WeightNorm(),
    "wanda": st.Wanda(),
    "sparsegpt": st.SparseGPT(),
}
MASKS = ("row", "exact")
INCLUDE = ("*blocks*",)
CALIBRATION, HELD = 512, 2048
"""Training images that methods see, and others that choose the best way."""

Row = dict[str, Any]
Batches = list[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Variant:
    """A way to prune. permute: before; fit: least squares after."""

    method: str
    masks: str
    permute: bool
    fit: bool


VARIANTS = tuple(
    Variant(method, masks, permute, fit)
    for masks, permute, method, fit in product(MASKS, (False, True), METHODS, (False, True))
)


@dataclass(frozen=True)
class Data:
    """Batches on the device: inputs for methods, other training images, validation images."""

    calibration: list[Tensor]
    held: Batches
    val: Batches


def rows_of(checkpoint: Path, folder: Path, root: str | None, include: Sequence[str]) -> list[Row]:
    """A row of the dense model, and one of each variant; those in folder/rows.json are kept."""
    file = folder / "rows.json"
    rows: list[Row] = json.loads(file.read_text()) if file.is_file() else []
    done = [row["variant"] for row in rows]
    if all(asdict(variant) in done for variant in VARIANTS):
        return rows
    dense, data, seed = open_checkpoint(checkpoint, root)
    permuted: dict[str, tuple[nn.Module, float | None]] = {}
    for variant in (None, *VARIANTS):
        if (variant and asdict(variant)) in done:
            continue
        start, won = time.perf_counter(), None
        network = dense
        if variant is not None:
            sparsity = st.Sparsity(include=tuple(include), selection=st.Selection(variant.masks))  # pyright: ignore[reportArgumentType]
            if variant.permute:
                if variant.masks not in permuted:
                    network = copy.deepcopy(dense)
                    permuted[variant.masks] = (
                        network,
                        st.permute(network, sparsity, seed=seed).won_back,
                    )
                network, won = permuted[variant.masks]
            network = pruned(network, variant, sparsity, data.calibration)
        row = {"seed": seed, "variant": variant and asdict(variant), **evaluated(network, data)}
        row |= {"won_back": won, "seconds": round(time.perf_counter() - start, 2)}
        rows.append(row)
        file.write_text(json.dumps(rows, indent=1))
        print(f"seed {seed}: {said(row)}", flush=True)
    return rows


def pruned(
    network: nn.Module, variant: Variant, sparsity: st.Sparsity, calibration: list[Tensor]
) -> nn.Module:
    """A pruned copy."""
    network = copy.deepcopy(network)
    method = METHODS[variant.method]
    reads = variant.fit or method.reads != "nothing"
    st.prune(
        network,
        method,
        sparsity,
        calibration=calibration if reads else None,
        refit=variant.fit,
        engine="masked",
    )
    return network


def open_checkpoint(checkpoint: Path, root: str | None) -> tuple[nn.Module, Data, int]:
    """The dense network, its data, and the seed that it was trained with."""
    trained = load_trained(str(checkpoint))
    if any(isinstance(module, st.SparseLinear) for module in trained.network.modules()):
        raise SystemExit(f"prune_table: {checkpoint} is sparse: give one of sparsity=dense")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if root is not None:
        trained.config.data.root = root
    data = instantiate(trained.config.data, _convert_="all")
    data.setup("fit")
    # First, because its loading processes are forks, which a GPU in use does not survive.
    val = [(x.to(device), y.to(device)) for x, y in data.val_dataloader()]
    train = data.splits.train
    images = SeededImages(train.source, data.splits.val.transform, data.seed)
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(data.seed))
    first, rest = order[:CALIBRATION], order[CALIBRATION : CALIBRATION + HELD]
    calibration = [x for x, _ in batches_of(images, first, data.batch_size, device)]
    held = batches_of(images, rest, data.batch_size, device)
    return trained.network.to(device), Data(calibration, held, val), trained.config.seed


def batches_of(images: SeededImages, order: Tensor, size: int, device: torch.device) -> Batches:
    batches = []
    for part in order.split(size):
        x, y = zip(*(images[0, index] for index in part.tolist()), strict=True)
        batches.append((torch.stack(x).to(device), torch.tensor(y, device=device)))
    return batches


def evaluated(network: nn.Module, data: Data) -> Row:
    """Top-1 in percent and loss on validation images, and the loss on training images."""
    top1, loss = measured(network, data.val)
    return {"top1": top1, "loss": loss, "train_loss": measured(network, data.held)[1]}


@torch.no_grad()
def measured(network: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> tuple[float, float]:
    network.eval()
    parts = [(network(images).double(), labels) for images, labels in batches]
    logits, labels = (torch.cat(part) for part in zip(*parts, strict=True))
    right = (logits.argmax(1) == labels).double().mean()
    return 100 * right.item(), F.cross_entropy(logits, labels).item()


def said(row: Row) -> str:
    """A row in a line."""
    kind = row["variant"]
    words = ["dense"] if kind is None else [kind["method"], kind["masks"]]
    words += [word for word in ("permute", "fit") if kind and kind[word]]
    return f"{' '.join(words)}: {row['top1']:.2f} %, loss {row['loss']:.4f}, {row['seconds']} s"
