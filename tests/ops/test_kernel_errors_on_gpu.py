"""What CUDA kernels do not take is refused, by the argument's name."""

import pytest
import torch
from kernel_checks import REFERENCE, arguments, is_float, matrix, needs_kernels

from sparsetrain import ops
from sparsetrain.reference.masks24 import select24

pytestmark = [pytest.mark.gpu, needs_kernels]

FIRST = {"add_mask24_": "out", "squared_relu24": "z", "squared_relu24_backward": "grad_h"}
"""What the first argument is called, where that is not x."""


@pytest.mark.parametrize("name", [n for n in REFERENCE if n not in ("flips24", "random24")])
def test_float64_is_refused_by_function_and_kernel(name):
    x = matrix(8, 16, torch.float32)
    wide = [a.double() if is_float(a) and a.dim() == 2 else a for a in arguments(name, x)]
    first = FIRST.get(name, "x")
    words = "use float32, bfloat16 or float16, or a CPU tensor"
    with pytest.raises(ValueError, match=f"^{first}: torch.float64 has no CUDA kernel; {words}"):
        getattr(ops, name)(*wide)
    with pytest.raises(RuntimeError, match=f"{first}: Double has no CUDA kernel; {words}"):
        getattr(torch.ops.sparsetrain, name)(*wide)


@pytest.mark.parametrize(
    ("dtype", "to", "words"),
    [
        (torch.bfloat16, torch.float16, "dtype: Half from BFloat16 has no CUDA kernel; leave it"),
        (torch.float16, torch.bfloat16, "dtype: BFloat16 from Half has no CUDA kernel; leave it"),
        (torch.float16, torch.float32, "dtype: Float from Half has no CUDA kernel; leave it"),
        (torch.float32, torch.float64, "dtype: Double"),
    ],
)
def test_a_conversion_without_a_kernel_is_refused(dtype, to, words):
    x = matrix(8, 16, dtype)
    with pytest.raises(RuntimeError, match=words):
        ops.sparsify24(x, "row", to)
    with pytest.raises(RuntimeError, match=words):
        ops.apply24(x, select24(x, "transposable"), to)
    with pytest.raises(RuntimeError, match=words):
        ops.pack_into24(x, None, "greedy", dense=x.to(to))


@pytest.mark.parametrize("name", ["add_mask24_", "apply24", "mask24", "sparsify24"])
@pytest.mark.parametrize("change", ["shape", "dtype", "device"])
def test_a_mask_that_does_not_fit_is_refused_by_function_and_kernel(name, change):
    x = matrix(8, 16, torch.bfloat16)
    mask = select24(x, "transposable")
    wrong = {"shape": mask[:, :1], "dtype": mask.bool(), "device": mask.cpu()}[change]
    given = (x, "row", None, wrong) if name == "sparsify24" else (x, wrong)
    given = (x.clone(), *given) if name == "add_mask24_" else given
    argument = "previous" if name == "sparsify24" else "mask"
    with pytest.raises(ValueError, match=f"^{argument}: "):
        getattr(ops, name)(*given)
    with pytest.raises(RuntimeError, match=f"{argument}: "):
        getattr(torch.ops.sparsetrain, name)(*given)


@pytest.mark.parametrize(("name", "argument"), [("mvue24", "seed"), ("soft_threshold24", "scale")])
def test_a_scalar_elsewhere_is_refused_by_function_and_kernel(name, argument):
    x, scalar = arguments(name, matrix(8, 16, torch.bfloat16))
    with pytest.raises(ValueError, match=f"^{argument}: on cpu, but x is on cuda"):
        getattr(ops, name)(x, scalar.cpu())
    with pytest.raises(RuntimeError, match=f"{argument}: on another device"):
        getattr(torch.ops.sparsetrain, name)(x, scalar.cpu())


@pytest.mark.parametrize("place", [1, 2, 3, 4])
def test_a_packed_part_of_another_matrix_is_refused_by_function_and_kernel(place):
    given = [*arguments("squared_relu24_backward", matrix(136, 80, torch.bfloat16))]
    given[place] = given[place][1:]
    name = ["", "values", "meta", "values_t", "meta_t"][place]
    with pytest.raises(ValueError, match=f"^{name}: "):
        ops.squared_relu24_backward(*given)
    with pytest.raises(RuntimeError, match=f"{name}: "):
        torch.ops.sparsetrain.squared_relu24_backward(*given)


def test_an_unknown_rule_is_refused_by_the_kernel_too():
    x = matrix(8, 16, torch.bfloat16)
    for name in ("select24", "sparsify24", "squared_relu24"):
        with pytest.raises((RuntimeError, ValueError), match=r"rule: .best. is unknown"):
            getattr(torch.ops.sparsetrain, name)(x, "best")
    *given, _ = arguments("squared_relu24_backward", x)
    with pytest.raises((RuntimeError, ValueError), match=r"rule: .best. is unknown"):
        torch.ops.sparsetrain.squared_relu24_backward(*given, "best")


@pytest.mark.parametrize(
    ("rule", "words"), [("row", "rule: .row. gives each orient"), ("best", "rule: .best. is unkn")]
)
def test_a_rule_that_gives_no_one_mask_is_refused_by_function_and_kernel(rule, words):
    x = matrix(8, 16, torch.bfloat16)
    forms = ops.empty_forms24(x, columns=True, dense=True)
    for call in (ops.pack_into24, torch.ops.sparsetrain.pack_into24):
        with pytest.raises((RuntimeError, ValueError), match=words):
            call(x, None, rule, *forms)


@pytest.mark.parametrize("change", ["shape", "strides", "dtype", "device", "without metadata"])
@pytest.mark.parametrize("place", ops.Forms24._fields)
def test_a_place_that_does_not_fit_is_refused_by_function_and_kernel(place, change):
    x = matrix(136, 80, torch.bfloat16)
    forms = ops.empty_forms24(x, rows=True, columns=True, dense=True)
    was = getattr(forms, place)
    wrong = {
        "shape": was[1:],
        "strides": was.transpose(0, 1).contiguous().transpose(0, 1),
        "dtype": was.to(torch.int16),
        "device": was.cpu(),
        "without metadata": None,
    }[change]
    if wrong is None and place == "dense":
        return
    given = forms._replace(**{place: wrong})
    with pytest.raises(ValueError, match=r"^(values|meta|dense)"):
        ops.pack_into24(x, None, "greedy", *given)
    with pytest.raises(RuntimeError, match=r"(values|meta|dense|dtype)(_t)?: "):
        torch.ops.sparsetrain.pack_into24(x, None, "greedy", *given)


@pytest.mark.parametrize("stride_0", [0, 1])
def test_an_out_whose_elements_share_memory_is_refused(stride_0):
    x = matrix(8, 16, torch.bfloat16)
    out = x.narrow(stride_0, 0, 1).expand(8, 16)
    with pytest.raises(ValueError, match="out: an expanded tensor"):
        ops.add_mask24_(out, x, select24(x, "row"))
