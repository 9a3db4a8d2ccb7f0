"""Tab completion, driven through bash."""

import os
import shutil
import subprocess
import sys

import pytest
from cli_helpers import ROOT, call, environment
from omegaconf import OmegaConf

from sparsetrain.recipe import compose

SPARSITIES = sorted(
    f"sparsity={path.stem}" for path in (ROOT / "configs" / "sparsity").glob("*.yaml")
)

DRIVE = """\
set -e
eval "$(sparsetrain complete)"
for line in "$@"; do
  COMP_LINE="$line"; COMP_POINT=${#line}
  read -ra COMP_WORDS <<< "$line"
  set +e; _sparsetrain_complete; set -e
  printf '%s|' "${COMPREPLY[@]}"; echo
done
complete -p sparsetrain
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A working folder, and the console script of an installed package on a path."""
    folder = tmp_path_factory.mktemp("shell")
    (folder / "bin").mkdir()
    script = folder / "bin" / "sparsetrain"
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -m sparsetrain "$@"\n')
    script.chmod(0o755)
    (folder / "runs" / "a").mkdir(parents=True)
    (folder / "runs" / "a.ckpt").touch()
    return folder


def completions(folder, *lines):
    """What bash is offered at the end of each line."""
    env = environment()
    env["PATH"] = f"{folder / 'bin'}{os.pathsep}{env['PATH']}"
    done = subprocess.run(
        ["bash", "-c", DRIVE, "bash", *lines],
        cwd=folder, env=env, capture_output=True, text=True, check=True, timeout=200,
    )  # fmt: skip
    *found, registered = done.stdout.splitlines()
    assert registered == "complete -o nospace -F _sparsetrain_complete sparsetrain"
    assert done.stderr == ""
    return [[word for word in line.split("|") if word] for line in found]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("sparsetrain f", ["fit", "validate", "export"]),
        ("sparsetrain export format=", ["format=safetensors", "format=onnx"]),
        ("sparsetrain validate checkpoint=x recipe=vit_tiny_24", ["recipe=vit_tiny_24"]),
        ("sparsetrain fit recipe=vit_tiny_24 engine=", ["engine=auto", "engine=masked"]),
        ("sparsetrain fit recipe=vit_tiny_24 data.cache=n", ["data.cache=null"]),
        ("sparsetrain fit recipe=vit_tiny_24 sparsity=", SPARSITIES),
        ("sparsetrain fit recipe=vit_tiny_24 trainer.max_e", ["trainer.max_epochs="]),
        ("sparsetrain fit data=parquet data.im", ["data.img_size=", "data.image_column="]),
        ("sparsetrain fit recipe=vit_tiny_24 ", ["sparsity=", "sparsity.", "seed="]),
        (f"sparsetrain fit recipe={ROOT}/recipes/vit_b_24.yaml mix.pr", ["mix.prob="]),
    ],
)
def test_a_query_is_answered_with_the_words_that_go_on(line, words, monkeypatch):
    monkeypatch.setenv("COMP_LINE", line)
    ended = call("complete", "query")
    assert ended.status == 0, ended.err
    assert set(words) <= set(ended.out.split())


def test_the_first_keys_are_those_of_the_composed_config(monkeypatch):
    nodes = compose(["recipe=vit_tiny_24"]).items_ex(resolve=False)
    keys = {f"{key}{'.' if OmegaConf.is_dict(node) else '='}" for key, node in nodes}
    monkeypatch.setenv("COMP_LINE", "sparsetrain fit ")
    offered = {*call("complete", "query").out.split()}
    groups = {f"{path.name}=" for path in (ROOT / "configs").iterdir() if path.is_dir()}
    assert offered == keys | groups | {"recipe="}


@pytest.mark.parametrize("word", ["recipe=nope trainer.m", "nonsense tra", "seed=1 wib", "lr=[1 m"])
def test_a_query_among_wrong_words_ends_without_a_complaint(word, monkeypatch):
    monkeypatch.setenv("COMP_LINE", f"sparsetrain fit {word}")
    ended = call("complete", "query")
    assert (ended.status, ended.err) == (0, "")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_verbs_keys_values_and_files_are_completed(folder):
    found = completions(
        folder,
        "sparsetrain f",
        "sparsetrain fit recipe=vit_tiny_24 sparsity=",
        "sparsetrain validate checkpoint=x recipe=vit_tiny_24",
        "sparsetrain export format=",
        "sparsetrain export checkpoint=runs/a",
    )
    assert found[0] == ["fit "]
    assert sorted(found[1]) == SPARSITIES
    assert found[2] == ["recipe=vit_tiny_24 "]
    formats = "safetensors onnx dense coo csr bsr semi_structured packed"
    assert found[3] == [f"format={name}" for name in formats.split()]
    assert sorted(found[4]) == ["checkpoint=runs/a.ckpt", "checkpoint=runs/a/"]
