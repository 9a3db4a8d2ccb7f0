"""StopOnNonFinite raises before a number that is not finite reaches the weights."""

import pytest
import pytorch_lightning as pl
import torch
from breaking import (
    Breaks,
    assert_as_just_before,
    fit,
    infinite_gradient,
    infinite_weight,
    nan_image,
    nan_layer,
)
from lightning_helpers import CHATTER, Stranger, make_trainer, vectors
from pytorch_lightning.plugins.precision import MixedPrecision
from timm.layers.mlp import Mlp
from torch import nn
from torch.amp.grad_scaler import GradScaler
from torch.utils.data import DataLoader

from sparsetrain import STE, Activation24, Schedule, SparsifyModel, Sparsity
from sparsetrain.errors import NonFiniteError
from sparsetrain.lightning import StopOnNonFinite, read_checkpoint

pytestmark = CHATTER


@pytest.mark.parametrize(
    ("breaks", "said"),
    [
        (nan_layer, r"loss is nan; first in the output of body\.3 \(NanWhileTold\)"),
        (infinite_weight, r"loss is \w+; the weights body\.2\.weight are not finite"),
        (nan_image, r"loss is nan; the images already hold non-finite values"),
        (
            infinite_gradient,
            r"the gradient of body\.2\.bias is not finite \(4 parameters in all\); lower the "
            r"learning rate, or clip gradients with trainer\.gradient_clip_val",
        ),
    ],
)
@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("fused", [False, True])
def test_the_first_number_that_is_not_finite_is_named_and_no_weight_changes(
    tmp_path, breaks, said, sparse, fused
):
    module = Breaks(breaks, fused=fused)
    callbacks = [SparsifyModel(Sparsity(weight=STE(), schedule=Schedule()))] if sparse else []
    with pytest.raises(NonFiniteError, match=f"step 2: {said}"):
        fit(tmp_path, module, *callbacks)
    assert_as_just_before(module)


@pytest.mark.parametrize("fused", [False, True])
def test_the_checkpoint_of_the_last_good_step_stays_and_loads(tmp_path, fused):
    whole = Breaks(lambda module, batch: batch, fused=fused)
    fit(tmp_path / "whole", whole)
    with pytest.raises(NonFiniteError):
        fit(tmp_path / "broken", Breaks(nan_layer, fused=fused))
    names = sorted(path.name for path in (tmp_path / "broken" / "saved").iterdir())
    assert names == ["step=1.ckpt", "step=2.ckpt"]
    saved, expected = (
        read_checkpoint(tmp_path / run / "saved" / "step=2.ckpt")["state_dict"]
        for run in ("broken", "whole")
    )
    assert all(torch.equal(saved[name], value) for name, value in expected.items())


def test_a_layer_that_recovers_by_a_second_forward_is_not_blamed(tmp_path):
    def nan_once(module, batch):
        def forget(layer, x, out):
            layer.told = False

        module.body[3].told = True
        module.body[3].register_forward_hook(forget)
        return batch

    with pytest.raises(NonFiniteError, match="in a second forward every layer's output is finite"):
        fit(tmp_path, Breaks(nan_once))


def test_a_batch_that_is_no_images_and_a_module_without_forward_get_the_step_alone(tmp_path):
    class Dicts(Stranger):
        def training_step(self, batch):
            return super().training_step((batch["x"] * float("nan"), batch["y"]))

    class NoForward(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(8, 4)

        def training_step(self, batch):
            return self.layer(batch[0]).sum() * float("nan")

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    dicts = DataLoader([{"x": x, "y": y} for x, y in vectors()], batch_size=None)  # pyright: ignore[reportArgumentType]
    for module, batches in ((Dicts(), dicts), (NoForward(), vectors())):
        trainer = make_trainer(tmp_path, StopOnNonFinite())
        with pytest.raises(NonFiniteError, match="step 0: loss is nan; where was not sought: "):
            trainer.fit(module, batches)


def half_precision():
    """16-mixed on a CPU, where Lightning does not offer it."""
    return MixedPrecision("16-mixed", "cpu", GradScaler("cpu"))


def test_the_layer_is_sought_in_the_precision_of_the_run(tmp_path):
    # 1e4 · 1e4 overflows float16, but not float32.
    module = Stranger(nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 4)))
    for layer in module.body:
        nn.init.constant_(layer.weight, 1e4)
    trainer = make_trainer(tmp_path, StopOnNonFinite(), plugins=[half_precision()])
    with pytest.raises(NonFiniteError, match=r"first in the output of body\.\d \(Linear\)"):
        trainer.fit(module, vectors())


@pytest.mark.parametrize("warmup", [0.0, 1.0], ids=["sparse", "dense"])
def test_a_squared_relu_that_overflows_float16_is_told_with_its_fix(tmp_path, warmup):
    module = Stranger(Mlp(8, 16, 4))
    nn.init.constant_(module.body.fc1.weight, 300.0)
    nn.init.constant_(module.body.fc2.weight, 1e-6)
    sparse = SparsifyModel(
        Sparsity(weight=None, activation=Activation24(), schedule=Schedule(dense_warmup=warmup))
    )
    trainer = make_trainer(tmp_path, sparse, StopOnNonFinite(), plugins=[half_precision()])
    with pytest.raises(NonFiniteError, match=r"relu\(z\)² passes where z > 255: set trainer.prec"):
        trainer.fit(module, vectors())


def test_gradients_are_left_to_the_grad_scaler_which_skips_their_step(tmp_path):
    module = Breaks(infinite_gradient)
    trainer = make_trainer(tmp_path, StopOnNonFinite(), plugins=[half_precision()], max_steps=3)
    trainer.fit(module, vectors())
    assert_as_just_before(module)


def test_a_finite_run_is_not_stopped(tmp_path):
    module = Stranger()
    fit(tmp_path, module)
    assert len(module.losses) == 4
