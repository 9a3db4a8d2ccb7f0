"""Recipe files and folders of configs run no code, unless a word on the command line says so."""

import re

import pytest
from cli_helpers import ROOT, call
from omegaconf import DictConfig, OmegaConf

from sparsetrain.cli.flags import split_flags
from sparsetrain.cli.overrides import take_allowed
from sparsetrain.recipe import store_own_recipe
from sparsetrain.targets import TARGETS, checked

TINY = """\
defaults:
  - override /model: vit_tiny
  - override /sparsity: weights24
  - override /data: digits
optimizer: {warmup_epochs: 0}
trainer: {max_epochs: 1, limit_train_batches: 2, precision: 32-true}
"""
SAVE = "{_target_: torch.save, obj: 1, f: MARKER}"


@pytest.fixture
def marker(tmp_path):
    """Never made: asserted at the end of each test."""
    path = tmp_path / "ran"
    yield path
    assert not path.exists()


def test_every_target_of_the_package_is_listed():
    files = [path for part in ("configs", "recipes") for path in (ROOT / part).rglob("*.yaml")]
    named = {name for path in files for name in re.findall(r"_target_: *(\S+)", path.read_text())}
    assert len(named) > 20
    assert named <= TARGETS


CONFIGS = {
    "callback": (f"callbacks: {{x: {SAVE}}}", "callbacks.x._target_='torch.save'"),
    "argument": (f"model: {{options: {{patch_size: {SAVE}}}}}", "model.options.patch_size._target"),
    "list": (f"sparsity: {{exclude: [1, {SAVE}]}}", "sparsity.exclude[1]._target_"),
    "walked": (
        "mix: {_target_: sparsetrain.native.find.os.system, command: touch MARKER}",
        "mix._target_='sparsetrain.native.find.os.system'",
    ),
    "partial": ("mix: {_target_: os.system, _partial_: true}", "mix._target_='os.system'"),
    "a number": ("mix: {_target_: 3}", "mix._target_=3"),
    "interpolated": ("seed: 0\ndata: {_target_: '${seed}'}", "write its name out"),
    "elsewhere": (f"mine: {SAVE}\nmix: '${{mine}}'", "mine._target_='torch.save'"),
    "made by a resolver": (
        "mix: '${oc.create:{_target_:torch.save,obj:1}}'",
        "mix._target_='torch.save'",
    ),
    "decoded": ("""mix: '${oc.decode:"{_target_:torch.save}"}'""", "mix"),
    "escaped": (r"mix: '\${oc.create:{_target_:torch.save}}'", "mix="),
}


@pytest.mark.parametrize(("text", "part"), CONFIGS.values(), ids=CONFIGS)
def test_a_target_that_is_not_ours_is_refused_wherever_it_stands(text, part):
    config = OmegaConf.create(text)
    assert isinstance(config, DictConfig)
    with pytest.raises(ValueError, match=f"^file: {re.escape(part)}|{re.escape(part)}$"):
        checked(config, "file")


RECIPES = {
    "model": ("model: {_target_: os.system, command: touch MARKER}", "model._target_='os.system'"),
    "hydra's callback": (f"hydra: {{callbacks: {{x: {SAVE}}}}}", "hydra.callbacks is changed"),
    "logging": (
        "hydra: {job_logging: {version: 1, handlers: {x: {class: logging.FileHandler, "
        "filename: MARKER}}}}",
        "hydra.job_logging is changed",
    ),
    "environment": ("hydra: {job: {env_set: {LD_PRELOAD: x.so}}}", "hydra.job.env_set is changed"),
    "YAML": ("seed: !!python/object/apply:os.system ['touch MARKER']", "is no YAML"),
}


@pytest.mark.parametrize(("text", "part"), RECIPES.values(), ids=RECIPES)
def test_fit_refuses_it_in_a_recipe_file(tmp_path, marker, text, part):
    # The name of a recipe of the package, whose place it does not take.
    recipe = tmp_path / "vit_b_24.yaml"
    recipe.write_text(TINY + text.replace("MARKER", str(marker)))
    words = [f"recipe={recipe}", "logger=csv", f"hydra.run.dir={tmp_path}/run"]
    assert part in call("fit", *words).complaint
    assert not (tmp_path / "run").exists()


def test_tune_and_validate_check_a_recipe_file_too(trained, tmp_path, marker):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(TINY + f"data: {{augment: {SAVE}}}".replace("MARKER", str(marker)))
    part = "data.augment._target_='torch.save'"
    assert part in call("tune", f"recipe={recipe}").complaint
    assert part in call("validate", f"recipe={recipe}", f"checkpoint={trained.last}").complaint


FOLDERS = {
    "callback": (f"# @package _global_\ncallbacks: {{x: {SAVE}}}", "callbacks.x._target_"),
    "package": (
        "# @package hydra.callbacks.x\n_target_: torch.save\nobj: 1\nf: MARKER",
        "hydra.callbacks is changed",
    ),
    "environment": (
        "# @package _global_\nhydra: {job: {env_set: {PATH: /tmp}}}",
        "hydra.job.env_set is changed",
    ),
}


@pytest.mark.parametrize(("text", "part"), FOLDERS.values(), ids=FOLDERS)
def test_fit_refuses_it_in_a_folder_of_configs(tmp_path, marker, text, part):
    path = tmp_path / "cfg" / "extra" / "evil.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(text.replace("MARKER", str(marker)))
    # As the second of a sweep, which no first look at the words would see.
    (path.parent / "good.yaml").write_text("a: 1")
    words = ["--config-dir", f"{tmp_path}/cfg", f"hydra.sweep.dir={tmp_path}/run"]
    picked = ["+extra=evil"] if "callbacks:" in text else ["-m", "+extra=good,evil"]
    assert part in call("fit", "recipe=vit_tiny_24", *words, *picked).complaint


@pytest.mark.parametrize(
    "flag",
    ["--config-path=x", "--config-name=x", "--experimental-rerun=x", "--exp=x", "-cn=x", "-cp=x"],
)
def test_flags_that_replace_the_config_or_unpickle_one_are_refused(flag):
    with pytest.raises(ValueError, match="is no flag of fit"):
        split_flags(["recipe=vit_tiny_24", flag])


def test_a_folder_of_configs_is_given_once(tmp_path):
    flags, words = split_flags(["-m", "seed=1,2", "--cfg", "job", f"--config-dir={tmp_path}"])
    assert flags == ["-m", "--cfg", "job"]
    assert words == ["seed=1,2", f"hydra.searchpath=['file://{tmp_path}']"]
    with pytest.raises(ValueError, match="no such folder"):
        split_flags(["-cd", f"{tmp_path}/nowhere"])
    with pytest.raises(ValueError, match="say the same"):
        split_flags(["-cd", str(tmp_path), "hydra.searchpath=[file:///x]"])


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ([], set()),
        (["allow_targets=[a.B,c.d.E]"], {"a.B", "c.d.E"}),
        (["allow_targets=a.B"], {"a.B"}),
        (["+callbacks.x._target_=a.B", "seed=1"], {"a.B"}),
        (["+callbacks.x={_target_:a.B,y:[{_target_:'c.D'}]}"], {"a.B", "c.D"}),
        (["mix._target_=a.B,c.D"], {"a.B", "c.D"}),
        (["~callbacks.x._target_", "seed=_target_"], set()),
    ],
)
def test_words_on_the_command_line_allow_what_they_name(words, names):
    allowed, rest = take_allowed(words)
    assert allowed == names
    assert rest == [word for word in words if not word.startswith("allow_targets")]


@pytest.mark.parametrize("word", ["allow_targets=[torch]", "allow_targets=3", "allow_targets=[{}]"])
def test_allow_targets_takes_names_in_full(word):
    with pytest.raises(ValueError, match="give names in full"):
        take_allowed([word])


def test_a_recipe_file_names_what_the_command_line_allows(tmp_path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(TINY + "callbacks: {x: {_target_: probe.PlantNaN, step: 99}}")
    words = ["fit", f"recipe={recipe}", "--cfg", "job"]
    assert "allow_targets=[probe.PlantNaN]" in call(*words).complaint
    assert "probe.PlantNaN" in call(*words, "allow_targets=[probe.PlantNaN]").out


@pytest.mark.parametrize(
    ("version", "fix"), [("3", "install a newer"), ("0", "write it again"), ("one", "is a number")]
)
def test_a_recipe_of_another_format_says_what_to_do(tmp_path, version, fix):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(f"format: {version}\n{TINY}")
    with pytest.raises(ValueError, match=fix):
        store_own_recipe(recipe)
