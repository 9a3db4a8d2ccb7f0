"""What importing the package loads, and that its parts import in one direction."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import sparsetrain

PACKAGE = Path(sparsetrain.__file__).parent
MODULES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))

# A part may import those before it, and itself. The package's own __init__ is above all.
LAYERS = (
    {"cores"},
    {"patterns", "schedule", "errors", "file_format", "native", "plain"},
    {"select"},
    {"reference"},
    {"ops"},
    {"products"},
    {"autograd"},
    {"methods"},
    {"nn"},
    {"pruning"},
    {"permutation", "inference"},
    {"export"},
    {"targets", "upgrade"},
    {"recipe"},
    {"lightning"},
    {"bench"},
    {"cli"},
    {"__init__", "__main__"},
)
HEAVY = (
    "pytorch_lightning",
    "lightning",
    "timm",
    "hydra",
    "omegaconf",
    "wandb",
    "torchvision",
    "xformers",
    "rich",
    "sklearn",
    "pyarrow",
    "datasets",
    "safetensors",
)
# Where each may be imported, at the top of a file or inside a function.
HOMES = {
    "hydra": {"recipe", "cli"},
    "omegaconf": {"recipe", "targets", "cli"},
    "pytorch_lightning": {"lightning", "cli"},
    "lightning": {"lightning"},
    "timm": {"lightning", "cli", "export"},  # of a model that timm built
    "wandb": {"lightning", "cli"},
    "torchvision": {"lightning", "cli"},
    "xformers": {"lightning", "cli"},
}


def part(module: str) -> str:
    """`nn` of nn/linear.py, `schedule` of schedule.py."""
    return module.split("/")[0].removesuffix(".py")


def imported(module: str) -> Iterator[str]:
    """Full names of all that a file imports, inside functions and for type checking too."""
    for node in ast.walk(ast.parse((PACKAGE / module).read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} has a relative import"
            names = [alias.name for alias in node.names]
            # `from sparsetrain import ops` is an import of sparsetrain.ops.
            if node.module == "sparsetrain":
                yield from (f"sparsetrain.{name}" for name in names)
            else:
                yield str(node.module)


def rank(name: str) -> int:
    ranks = [i for i, layer in enumerate(LAYERS) if name in layer]
    assert ranks, f"sparsetrain.{name} has no place in LAYERS"
    return ranks[0]


def test_imports_go_one_way():
    upwards = [
        f"{module} imports {name}"
        for module in MODULES
        for name in imported(module)
        if name.startswith("sparsetrain.")
        and (there := name.split(".")[1]) != part(module)
        and rank(there) >= rank(part(module))
    ]
    assert upwards == []


def test_the_package_imports_nothing_that_only_a_checkout_has():
    found = [
        f"{module} imports {name}"
        for module in MODULES
        for name in imported(module)
        if name.split(".")[0] in ("scripts", "tests")
    ]
    assert found == []


def test_what_is_heavy_is_imported_in_its_own_part_alone():
    elsewhere = [
        f"{module} imports {name}"
        for module in MODULES
        for name in imported(module)
        if part(module) not in HOMES.get(name.split(".")[0], {part(module)})
    ]
    assert elsewhere == []


def run(program: str) -> str:
    command = [sys.executable, "-W", "error", "-c", program]
    result = subprocess.run(
        command, capture_output=True, text=True, cwd=PACKAGE.parent, timeout=120
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


REFUSE = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in REFUSED and "find_spec" not in sys._getframe(2).f_code.co_name:
            raise ModuleNotFoundError(f"{name} is refused", name=name)
sys.meta_path.insert(0, Refuse())
import sparsetrain as st, torch
"""


def refuse(*allowed: str) -> str:
    return f"REFUSED = {set(HEAVY) - set(allowed)}" + REFUSE


def test_importing_the_package_and_training_with_it_need_torch_alone():
    program = """
model = torch.nn.Sequential(torch.nn.Linear(8, 8))
print(len(st.sparsify(model, st.Sparsity(weight=st.SRSTE())).converted))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
st.attach(model, optimizer, total_steps=2)
for _ in range(2):
    model(torch.randn(4, 8)).sum().backward()
    optimizer.step()
print(st.inspect(model)[0].density)
print(st.linear24(torch.ones(1, 8), torch.ones(4, 8), None).tolist())
print(sorted(set(sys.modules) & REFUSED))
for call in (
    lambda: st.sparsify(model, recipe="vit_b_24"),
    lambda: st.save_pretrained(model, "nowhere"),
    lambda: st.load_weights("nowhere"),
):
    try:
        call()
    except ModuleNotFoundError as error:
        print(error)
"""
    assert run(refuse() + program).splitlines() == [
        *("1", "0.5", "[[4.0, 4.0, 4.0, 4.0]]", "[]"),
        "recipe='vit_b_24' needs hydra-core: pip install hydra-core",
        "save_pretrained needs safetensors: pip install safetensors",
        "load_weights needs safetensors: pip install safetensors",
    ]


@pytest.mark.slow
def test_the_callback_needs_torch_and_a_lightning_alone():
    # What Lightning itself looks for.
    lightning = ("pytorch_lightning", "lightning", "rich", "omegaconf", "torchvision")
    program = """
import warnings
warnings.simplefilter("ignore")
import pytorch_lightning as pl
class Module(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(8, 8)
    def training_step(self, batch):
        return self.layer(batch).sum()
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)
module = Module()
callback = st.SparsifyModel(st.Sparsity())
trainer = pl.Trainer(
    accelerator="cpu", max_steps=2, callbacks=[callback], logger=False, barebones=False,
    enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
)
trainer.fit(module, torch.randn(4, 2, 8))
print(len(callback.report.converted), sorted(set(sys.modules) & REFUSED))
"""
    assert run(refuse(*lightning) + program).splitlines()[-1] == "1 []"


def test_a_lightning_without_rich_is_enough():
    for module in (m for m in MODULES if part(m) == "lightning"):
        for node in ast.parse((PACKAGE / module).read_text()).body:
            names = [alias.name for alias in getattr(node, "names", [])]
            name = getattr(node, "module", None) or " ".join(names)
            assert name.split(".")[0] != "rich", f"{module} imports rich before a bar is drawn"


def test_help_and_tab_completion_wait_neither_for_torch_nor_for_hydra():
    program = """
import os, sys
from sparsetrain.cli.main import main
os.environ["COMP_LINE"] = "sparsetrain fit recipe=vit_tiny_24 sparsity=weig"
for words in (["--help"], ["fit", "--help"], ["export", "--help"], ["complete", "query"]):
    sys.argv = ["sparsetrain", *words]
    main()
os.environ["COMP_LINE"] = "sparsetrain fit recipe=vit_tiny_24 see"
main()
print({"torch", "hydra"} & {*sys.modules})
"""
    assert run(program).split()[-3:] == ["sparsity=weights24", "seed=", "set()"]


def test_a_report_waits_neither_for_torch_nor_for_a_lightning(tmp_path):
    (tmp_path / "metrics.csv").write_text("step,train/loss\n0,2.0\n1,1.0\n")
    program = f"""
import sys
from sparsetrain.cli.main import main
sys.argv = ["sparsetrain", "report", {str(tmp_path)!r}]
main()
print({{"torch", "pytorch_lightning", "hydra"}} & {{*sys.modules}})
"""
    assert run(program).splitlines()[-1] == "set()"
    assert (tmp_path / "report.html").is_file()


def test_every_public_name_is_there():
    # The callbacks load Lightning when they are asked for, which the tests of lightning/ do.
    lazy = {"SparsifyModel", "SparsityMonitor"}
    assert [name for name in {*sparsetrain.__all__} - lazy if not hasattr(sparsetrain, name)] == []
    assert set(sparsetrain.__all__) <= set(dir(sparsetrain)), "what an editor completes"
    with pytest.raises(AttributeError, match="has no attribute 'sparsity24'"):
        _ = sparsetrain.sparsity24
    with pytest.raises(AttributeError, match=r"'pack_weights': each forward packs; packed_once"):
        _ = sparsetrain.pack_weights
