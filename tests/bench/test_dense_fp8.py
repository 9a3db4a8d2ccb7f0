"""Dense layers in fp8, which 2:4 in fp8 is compared with."""

import torch
from torch import nn

from sparsetrain.bench.dense_fp8 import Fp8Linear, make_fp8


def test_named_layers_change_and_keep_their_parameters():
    model = nn.Sequential(nn.Linear(32, 16), nn.GELU(), nn.Linear(16, 8, bias=False))
    weights = [model[0].weight, model[2].weight]
    make_fp8(model, ("2",))
    assert [type(model[i]) for i in (0, 2)] == [nn.Linear, Fp8Linear]
    assert model[0].weight is weights[0]
    assert model[2].weight is weights[1]


def test_an_e4m3_product_is_near_and_the_gradients_of_weights_are_in_16_bits():
    torch.manual_seed(0)
    linear, x = nn.Linear(64, 48), torch.randn(2, 20, 64, requires_grad=True)
    grad = torch.randn(2, 20, 48)
    found = []
    for layer in (linear, Fp8Linear.from_dense(linear)):
        y = layer(x)
        grads = torch.autograd.grad(y, (x, linear.weight, linear.bias), grad.to(y.dtype))
        found.append([t.detach().float() for t in (y, *grads)])
    errors = [float((a - b).norm() / a.norm()) for a, b in zip(*found, strict=True)]
    assert 0.01 < errors[0] < 0.06
    assert 0.01 < errors[1] < 0.06
    assert max(errors[2:]) < 0.01
