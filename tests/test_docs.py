"""The documents say what is there: their Python runs, their commands and files exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "csrc/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
PYTHON = re.compile(r"```python\n(.*?)```", re.S)
BLOCKS = [
    pytest.param(block, id=f"{path.name}-{number}")
    for path in DOCS
    for number, block in enumerate(PYTHON.findall(path.read_text("utf-8")))
]
# Its table quotes files of other repositories.
OURS = [path for path in DOCS if path.name != "recipes-sources.md"]


@pytest.mark.filterwarnings("ignore:.*tensorboardX.*")  # the logger of a bare pl.Trainer()
@pytest.mark.parametrize("block", BLOCKS)
def test_python_in_the_documents_runs(block):
    for package in re.findall(r"^(?:import|from) (\w+)", block, re.M):
        pytest.importorskip(package)  # an example of another package's trainer
    exec(compile(block, "document", "exec"), {})


@pytest.mark.parametrize("path", OURS, ids=lambda path: path.name)
def test_files_that_a_document_names_exist(path):
    text = path.read_text("utf-8")
    named = re.findall(r"`((?:docs|scripts|configs|recipes|tests|csrc)/[\w./-]+)`", text)
    named += re.findall(r"\]\(((?!http)[\w./-]+)\)", text)
    for name in named:
        if "NAME" in name:  # of what a contributor adds
            continue
        found = (ROOT / name).exists() or (path.parent / name).exists()
        assert found, f"{path.name} names {name}"


def test_every_recipe_is_in_the_table_of_recipes():
    text = (ROOT / "docs/recipes.md").read_text("utf-8")
    for path in (ROOT / "recipes").glob("*.yaml"):
        assert f"`{path.stem}`" in text


def test_the_readme_has_a_test_command_for_ci():
    text = (ROOT / "README.md").read_text("utf-8")
    assert re.search(r"<!-- test command -->\n```bash\n.+?\n```\n", text, re.S)
