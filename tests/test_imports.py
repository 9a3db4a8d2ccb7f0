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
    {"patterns", "schedule", "errors", "file_format", "native"},
    {"select"},
    {"reference"},
    {"ops"},
    {"products"},
    {"autograd"},
    {"methods"},
    {"nn"},
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
)
# Where each may be imported, at the top of a file or inside a function.
HOMES = {
    "hydra": {"recipe", "cli"},
    "omegaconf": {"recipe", "targets", "cli"},
    "pytorch_lightning": {"lightning", "cli"},
    "lightning": {"lightning"},
    "timm": {"lightning", "cli"},
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


def test_importing_the_package_needs_torch_alone():
    # Blocked, not only absent from sys.modules: a caught ImportError would hide a use.
    program = f"""
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        assert name.split(".")[0] not in {HEAVY!r}, name
sys.meta_path.insert(0, Refuse())
import sparsetrain, torch
model = torch.nn.Sequential(torch.nn.Linear(8, 8))
print(len(sparsetrain.sparsify(model, sparsetrain.Sparsity()).converted))
print(sorted(set(sys.modules) & set({HEAVY!r})))
"""
    assert run(program).splitlines() == ["1", "[]"]


def test_help_and_tab_completion_do_not_wait_for_torch():
    program = """
import os, sys
from sparsetrain.cli.main import main
os.environ["COMP_LINE"] = "sparsetrain fit recipe=vit_tiny_24 sparsity=weig"
for words in (["--help"], ["fit", "--help"], ["export", "--help"], ["complete", "query"]):
    sys.argv = ["sparsetrain", *words]
    main()
print("torch" in sys.modules)
"""
    assert run(program).splitlines()[-2:] == ["sparsity=weights24", "False"]


def test_every_public_name_is_there():
    # The callbacks load Lightning when they are asked for, which the tests of lightning/ do.
    lazy = {"SparsifyModel", "SparsityMonitor"}
    assert [name for name in {*sparsetrain.__all__} - lazy if not hasattr(sparsetrain, name)] == []
    assert set(sparsetrain.__all__) <= set(dir(sparsetrain)), "what an editor completes"
    with pytest.raises(AttributeError, match="has no attribute 'sparsity24'"):
        _ = sparsetrain.sparsity24
    with pytest.raises(AttributeError, match=r"'pack_weights': each forward packs; packed_once"):
        _ = sparsetrain.pack_weights
