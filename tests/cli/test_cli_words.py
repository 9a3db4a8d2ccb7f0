"""Words on the command line that are wrong: one line, the nearest names, no traceback."""

import os
import re
import subprocess
import sys

import pytest
from cli_helpers import call, environment, spawn

from sparsetrain import __version__
from sparsetrain.cli import main
from sparsetrain.cli.console import console, show_values, wrapped
from sparsetrain.cli.explain import stop
from sparsetrain.cli.main import VERBS
from sparsetrain.native import ARCHS
from sparsetrain.recipe import nearest


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["fit"], ["recipe= is missing", "vit_tiny_24"]),
        (["fit", "vit_tiny_24"], ["recipe= is missing: write recipe=vit_tiny_24"]),
        (["fit", "recipe", "vit_b_24"], ["recipe= is missing: write recipe=vit_b_24"]),
        (["fit", "./mine.yaml"], ["recipe= is missing: write recipe=./mine.yaml"]),
        (["fit", "vit_tny_24"], ["write recipe=vit_tiny_24 instead of vit_tny_24"]),
        (["fit", "recipe=vit_tiny_42"], ["recipe='vit_tiny_42'", "did you mean vit_tiny_24"]),
        (["fit", "recipe=./nowhere.yaml"], ["recipe=./nowhere.yaml", "no such file"]),
        (["fit", "recipe=vit_tiny_24", "seed"], ["'seed'", "key=value"]),
        (
            ["fit", "recipe=vit_tiny_24", "trainer.max_epoch=1"],
            ["trainer.max_epoch=", "did you mean trainer.max_epochs"],
        ),
        (
            ["fit", "recipe=vit_tiny_24", "sparsity.schedule.dense_tial=0"],
            ["dense_tial", "did you mean sparsity.schedule.dense_tail"],
        ),
        (
            ["fit", "recipe=vit_tiny_24", "sparsity=weigths24"],
            ["sparsity='weigths24'", "did you mean weights24"],
        ),
        (
            ["fit", "recipe=vit_tiny_24", "sparsity.weight.rule=row"],
            ["sparsity.weight.rule= is no key", "write sparsity.selection.solver=row"],
        ),
        (
            ["fit", "recipe=vit_b_act24", "sparsity.activation.rule=transposable_l2"],
            ["write sparsity.activation.selection.solver=exact", ".selection.score=squared"],
        ),
        (
            ["fit", "recipe=vit_tiny_24", "data=parqet"],
            ["data='parqet'", "did you mean parquet"],
        ),
        (["fit", "-m", "recipe=vit_tiny_24,vit_b", "seed=0,1"], ["'vit_b'", "vit_b_24"]),
        (["fit", "recipe=vit_tiny_24", "ema=true"], ["ema=", "did you mean callbacks.ema?"]),
        (["fit", "recipe=vit_tiny_24", "logger=null"], ["csv, wandb", "logger.NAME=null"]),
        (["fit", "recipe=vit_tiny_24", "~callbacks"], ["default, ema", "callbacks.NAME=null"]),
        (["validate"], ["checkpoint= is missing"]),
        (["validate", "chekpoint=x"], ["chekpoint= is no key", "did you mean checkpoint"]),
        (["validate", "foo"], ["'foo'", "key=value"]),
        (["doctor", "foo"], ["doctor takes no words", "'foo'"]),
        (["bench"], ["bench needs a name: python -m sparsetrain bench step"]),
        (["export"], ["checkpoint= is missing"]),
        (["export", "checkpiont=x"], ["checkpiont=", "did you mean checkpoint"]),
        (["export", "checkpoint=x", "format=onxx"], ["'onxx'", "safetensors, onnx"]),
        (["export", "checkpoint=x", "prune=yes"], ["prune='yes'", "true or false"]),
        (
            ["wibble"],
            ["'wibble' is no command", "fit, validate, export, prune, report, dashboard, doctor"],
        ),
        (["validat"], ["'validat' is no command", "did you mean validate"]),
    ],
    ids=" ".join,
)
def test_a_wrong_word_is_answered_in_one_line_with_the_nearest_names(words, parts):
    complaint = call(*words).complaint
    for part in parts:
        assert part in complaint


def test_a_recipe_that_hydra_reads_in_quotes_is_named_without_them():
    assert call("fit", "recipe=…").complaint.startswith("recipe='…' is unknown: ")


def test_no_name_is_offered_twice():
    complaint = call("fit", "recipe=vit_b24").complaint
    assert complaint.count("vit_b_24") == 1


def test_of_many_keys_the_nearest_are_listed_and_the_others_counted():
    complaint = call("fit", "recipe=vit_tiny_24", "xyzzy=1").complaint
    listed, more = complaint.partition("there are ")[2].split(" and ")
    assert len(listed.split(", ")) == 8
    assert int(more.removesuffix(" more")) > 50
    assert nearest("q", ["a", "b"]) == "there are a, b"


def test_an_unknown_command_ends_with_status_2_and_an_explained_error_with_1():
    assert call("train").status == 2
    assert call("fit", "recipe=nope").status == 1
    assert call("doctor", "foo").status == 1


def test_the_version_is_printed():
    ended = call("--version")
    assert (ended.status, ended.out) == (0, f"sparsetrain {__version__}\n")


@pytest.mark.slow
def test_a_wrong_word_ends_a_process_without_traceback_or_output(tmp_path):
    ended = spawn("-m", "sparsetrain", "fit", "recipe=vit_b_42", cwd=tmp_path)
    assert ended.status == 1
    assert ended.out == ""
    assert "did you mean vit_b_24" in ended.complaint
    assert not list(tmp_path.iterdir())


def test_without_words_and_with_help_the_commands_are_listed():
    for words in ([], ["--help"], ["-h"], ["help"]):
        ended = call(*words)
        assert ended.status == 0
        for verb in VERBS:
            assert f"python -m sparsetrain {verb}" in ended.out


@pytest.mark.parametrize("verb", VERBS)
def test_every_command_explains_itself(verb):
    ended = call(verb, "--help")
    assert ended.status == 0
    assert "sparsetrain" in ended.out
    assert max(map(len, ended.out.splitlines())) <= 80  # columns of a terminal


def test_help_imports_neither_torch_nor_hydra(tmp_path):
    ask = "import sys; from sparsetrain.cli.main import VERBS, verb_help\n[*map(verb_help, VERBS)]"
    heavy = "print(sorted(sys.modules.keys() & {'torch', 'hydra'}))"
    done = spawn("-c", f"{ask}\n{heavy}", cwd=tmp_path)
    assert done.out == "[]\n", done.err


def test_threads_sleep_while_they_wait_unless_the_user_decided(monkeypatch):
    monkeypatch.setenv("OMP_WAIT_POLICY", "")
    monkeypatch.delenv("OMP_WAIT_POLICY")
    main._wait_asleep()
    assert "OMP_WAIT_POLICY" not in os.environ, "torch is there, and has read it"
    monkeypatch.delitem(sys.modules, "torch")
    main._wait_asleep()
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    main._wait_asleep()
    assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE"


def test_the_help_of_build_names_every_architecture():
    assert f"{', '.join(ARCHS)} or native" in call("build", "--help").out


def test_long_values_wrap_between_words_and_paths_stay_whole():
    path = "runs/" + "x" * 40
    assert wrapped(f"one two {path} three", 20) == ["one two", path, "three"]
    assert wrapped("", 20) == [""]


def test_on_a_terminal_prose_wraps_between_words_and_commands_are_left_to_it(monkeypatch, capsys):
    monkeypatch.setattr(console, "_force_terminal", True)
    monkeypatch.setattr(console, "_width", 40)
    command = f"wandb sync runs/{'x' * 40}"
    show_values((("layers", "word " * 10), ("sync", command)), prose=("layers",))
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in capsys.readouterr().out.splitlines()]
    prose = [f"layers  {'word ' * 5}word", f"        {'word ' * 3}word"]
    assert lines == [*prose, f"sync    {command}"]


def test_an_error_wraps_between_words_on_a_terminal_and_its_command_does_not(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "40")
    message = f"{'word ' * 10}\ngo on with: {'command ' * 10}"
    with pytest.raises(SystemExit):
        stop(message, 1)
    assert capsys.readouterr().err == f"sparsetrain: {message}\n"
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with pytest.raises(SystemExit):
        stop(message, 1)
    *prose, command = capsys.readouterr().err.splitlines()
    assert [len(line) <= 40 for line in prose] == [True, True]
    assert command == f"go on with: {'command ' * 10}"


def test_help_whose_reader_has_seen_enough_ends_without_a_word():
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "sparsetrain", "fit", "--help"]
    done = subprocess.run(
        command, stdout=write, stderr=subprocess.PIPE, env=environment(), check=False
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (0, b"")


def test_the_help_of_fit_lists_every_recipe_data_set_and_sparsity():
    out = call("fit", "--help").out
    for name in ("deit_s_24", "vit_l_24", "vit_b_dense", "imagenet", "parquet", "s_ste24"):
        (line,) = (li for li in out.splitlines() if li.startswith(f"  {name} "))
        assert len(line.split()) > 3, "a name and what it is"


def test_doctor_names_versions_devices_engines_and_recipes():
    ended = call("doctor")
    assert ended.status == 0
    for word in ("torch ", "cpu ", "masked ", "vit_tiny_24", "IMAGENET_DIR is not set"):
        assert word in ended.out
