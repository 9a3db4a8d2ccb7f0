"""Sparse products have first gradients: whoever asks for more is told."""

import pytest
import torch
from torch import nn

import sparsetrain as st


def sparse(activation=None, **kinds):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), activation or nn.Identity(), nn.Linear(8, 8))
    st.sparsify(model, st.Sparsity(**kinds))
    return model


@pytest.mark.parametrize("activation", [None, nn.GELU()], ids=["linear", "GELU"])
def test_a_gradient_penalty_is_refused_where_its_terms_would_be_missing(activation):
    model, x = sparse(activation), torch.randn(4, 8, requires_grad=True)
    y = model(x)
    (grad,) = torch.autograd.grad(
        y.sum(), x, create_graph=True
    )  # of a sum, so it comes in constant
    with pytest.raises(RuntimeError, match="cannot be differentiated again"):
        (y.mean() + grad.square().sum()).backward()


def test_a_graph_of_the_backward_that_nobody_uses_changes_no_gradient():
    model, x = sparse(), torch.randn(4, 8)
    model(x).square().mean().backward()
    once = [torch.empty(0) if p.grad is None else p.grad for p in model.parameters()]
    model.zero_grad()
    grads = torch.autograd.grad(
        model(x).square().mean(), list(model.parameters()), create_graph=True
    )
    assert all(torch.equal(a, b) for a, b in zip(once, grads, strict=True))


@pytest.mark.parametrize("kinds", [{}, {"weight": None, "activation": st.ActivationDropout24()}])
def test_transforms_of_torch_func_are_refused_with_what_to_do(kinds):
    class Mlp(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc1, self.act, self.fc2 = nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8)

        def forward(self, x):
            return self.fc2(self.act(self.fc1(x)))

    model = nn.Sequential(Mlp())
    st.sparsify(model, st.Sparsity(**kinds))
    with pytest.raises(RuntimeError, match=r"torch\.func .* densify"):
        torch.func.grad(lambda x: model(x).sum())(torch.randn(4, 8))


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # in torch 2.14's own jvp
@pytest.mark.parametrize("kinds", [{}, {"activation": st.Activation24()}], ids=["linear", "MLP"])
def test_transforms_are_refused_in_the_first_step_too(kinds):
    model = nn.ModuleList([sparse(nn.GELU())])
    st.densify(model)
    st.sparsify(model, st.Sparsity(**kinds))
    st.attach(model, torch.optim.SGD(model.parameters(), lr=0.1))
    x = torch.randn(4, 8)
    with pytest.raises(RuntimeError, match=r"torch\.func .* densify"):
        torch.func.jvp(model[0], (x,), (x,))
    with pytest.raises(RuntimeError, match=r"torch\.func .* densify"):
        torch.func.jacrev(model[0])(x)


@pytest.mark.parametrize("kinds", [{}, {"activation": st.Activation24()}], ids=["linear", "MLP"])
def test_an_export_that_would_drop_the_gradients_is_refused(kinds):
    model, x = nn.Sequential(sparse(nn.GELU())), torch.randn(4, 8)
    st.densify(model)
    st.sparsify(model, st.Sparsity(**kinds))
    with pytest.raises(RuntimeError, match=r"drops the gradients .* model\.eval\(\)"):
        torch.export.export(model, (x,), strict=False)
    with torch.no_grad():
        torch.export.export(model, (x,), strict=False)
    program = torch.export.export(model.eval(), (x,), strict=False).module()
    torch.testing.assert_close(program(x), model(x), rtol=0, atol=0)
    model.train().requires_grad_(False)
    torch.export.export(model, (x,), strict=False)
