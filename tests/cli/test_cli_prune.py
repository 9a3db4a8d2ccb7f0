"""`prune`: checkpoints that validate, export and retrain; errors of one line."""

from typing import Any

import pytest
import torch
from cli_helpers import TINY, call, fit, shown
from safetensors.torch import load_file

from sparsetrain.cli.load import load_trained
from sparsetrain.cli.prune import check_activations
from sparsetrain.cli.prune_words import prune_words
from sparsetrain.methods import Activation24, ActivationDropout24
from sparsetrain.nn import Part, Sparsity, inspect, sparse_linears
from sparsetrain.patterns import NM, VNM, Block, Combined, Unstructured


def pruned(trained, out, *words):
    ended = call("prune", f"checkpoint={trained.last}", f"out={out}", *words)
    assert ended.status == 0, ended.err
    return ended


def test_two_of_four_in_both_orientations_validates_and_exports(trained, tmp_path):
    out = tmp_path / "new" / "pruned.ckpt"
    ended = pruned(trained, out, "method=wanda", "selection=exact", "images=100")
    assert shown(ended.out, "layers") == "4, density 0.500"
    assert shown(ended.out, "calibration").startswith("100 training images of digits")
    assert [path.name for path in out.parent.iterdir()] == ["pruned.ckpt"]
    network = load_trained(str(out)).network
    for layer in sparse_linears(network).values():
        assert NM(2, 4).holds(layer.used_weight())
        assert NM(2, 4).holds(layer.used_weight().T)
        assert torch.equal(layer.used_weight(), layer.weight)
    ended = call("validate", f"checkpoint={out}")
    assert shown(ended.out, "density") == "0.500 (sparse)"
    assert shown(call("export", f"checkpoint={out}").out, "layers").startswith("4 2:4")
    weights = load_file(out.with_suffix(".safetensors"))
    for name, layer in sparse_linears(network).items():
        assert torch.equal(weights[f"{name}.weight"], layer.weight)


def test_layers_that_stay_dense_are_told_with_the_reason(trained, tmp_path):
    words = ["method=magnitude", "pattern=block:32x16", "density=0.5", "include=[*mlp*,*head]"]
    told = [
        line.split("  ", 1)[1].strip()
        for line in pruned(trained, tmp_path / "p.ckpt", *words).out.splitlines()
        if line.startswith("dense")
    ]
    assert any(line.startswith("head, 10×96: 10×96 is not whole blocks") for line in told), told
    assert "blocks.*.attn.qkv (2), 288×96: not named by include" in told


def test_a_permuted_checkpoint_loads_and_the_command_says_what_was_won(dense_tail, tmp_path):
    words = ["method=magnitude", "selection=exact", "permute=true"]
    ended = pruned(dense_tail, tmp_path / "p.ckpt", *words)
    assert "of the difference won back" in shown(ended.out, "permuted")
    before: Any = load_trained(str(dense_tail.last)).network
    network: Any = load_trained(str(tmp_path / "p.ckpt")).network
    assert not torch.equal(network.blocks[0].mlp.fc1.bias, before.blocks[0].mlp.fc1.bias)
    for layer in sparse_linears(network).values():
        assert NM(2, 4).holds(layer.used_weight())


KINDS = [
    ("magnitude", "pattern=block:32x16", Block(32, 16, 0.25)),
    ("weightnorm", "pattern=unstructured", Unstructured(0.25)),
    ("sparsegpt", "pattern=block:32x16", Block(32, 16, 0.25, balanced=False)),
    ("wanda", "pattern=unstructured", Unstructured(0.25)),
    ("sparsegpt", "pattern=block:32x16+2:4", Combined(Block(32, 16, 0.25))),
    ("wanda", "pattern=vnm:32:2:16", VNM(32, 2, 16)),
]


@pytest.mark.slow
@pytest.mark.parametrize(("method", "word", "pattern"), KINDS, ids=lambda value: str(value))
def test_other_patterns_are_written_and_read_back(trained, tmp_path, method, word, pattern):
    words = [f"method={method}", word, "refit=true", "images=64"]
    words += [] if isinstance(pattern, VNM) else ["density=0.25"]
    words += ["balanced=false"] if pattern == Block(32, 16, 0.25, balanced=False) else []
    ended = pruned(
        trained, tmp_path / "p.ckpt", *words, "include=[*mlp*,*qkv*]", "exclude=['*.0.*']"
    )
    assert float(shown(ended.out, "output error").split()[0]) < 1
    network = load_trained(str(tmp_path / "p.ckpt")).network
    assert {layer.pattern for layer in sparse_linears(network).values()} == {pattern}
    assert [stats.name for stats in inspect(network)] == [
        f"blocks.1.{name}" for name in ("attn.qkv", "mlp.fc1", "mlp.fc2")
    ]
    assert call("export", f"checkpoint={tmp_path / 'p.ckpt'}").status == 0


def test_masks_that_stay_and_are_in_no_checkpoint_are_told(tmp_path):
    ended = fit(tmp_path / "run", "sparsity=frozen24", "trainer.max_epochs=1")
    assert "chosen from the weights that the run starts with" in ended.out


def test_retraining_goes_on_under_the_masks_of_the_checkpoint(trained, tmp_path):
    out = tmp_path / "pruned.ckpt"
    ended = pruned(trained, out, "method=magnitude", "selection=exact")
    command = shown(ended.out, "retrain").split()
    words = ["recipe=vit_tiny_retrain24", *TINY[1:], *command[command.index("recipe=…") + 1 :]]
    words = [word.strip('"') for word in words if not word.startswith("checkpoint=")]
    run = tmp_path / "run"
    ended = call("fit", *words, f"checkpoint={out}", f"hydra.run.dir={run}")
    assert ended.status == 0, ended.err
    assert shown(ended.out, "optimizer steps") == "8"
    before, after = (
        torch.load(path, weights_only=True) for path in (out, run / "checkpoints" / "last.ckpt")
    )
    states = [saved["sparsetrain_state"]["layers"] for saved in (before, after)]
    assert states[0].keys() == states[1].keys()
    for name in states[0]:
        assert torch.equal(states[0][name]["mask"], states[1][name]["mask"]), name
        weight = f"{name}.weight"
        assert not torch.equal(before["state_dict"][weight], after["state_dict"][weight])
    last = load_trained(str(run / "checkpoints" / "last.ckpt"))
    for name, layer in sparse_linears(last.network).items():
        mask = states[0][f"network.{name}"]["mask"]
        assert torch.equal(layer.current_mask(), mask), "an evaluation uses them too"


def test_two_of_four_dropout_is_pruned_and_other_activations_are_not_in_any_part():
    check_activations(Sparsity(weight=None, activation=ActivationDropout24()), "a.ckpt")
    sparsity = Sparsity(parts={"mlp": Part(activation=Activation24()), "head": Part(("*head",))})
    with pytest.raises(ValueError, match=r"checkpoint=a\.ckpt was trained with 2:4 activations"):
        check_activations(sparsity, "a.ckpt")


def test_an_interrupted_command_goes_on(trained, tmp_path, monkeypatch):
    out = tmp_path / "pruned.ckpt"
    words = ["method=sparsegpt", "images=64"]
    whole = tmp_path / "whole.ckpt"
    pruned(trained, whole, *words)
    from sparsetrain.pruning import finished

    save = finished.FinishedLayers.save

    def then_stop(self, number, *rest):
        save(self, number, *rest)
        if number == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(finished.FinishedLayers, "save", then_stop)
    ended = call("prune", f"checkpoint={trained.last}", f"out={out}", *words)
    assert ended.status == 130
    assert "pruned.ckpt.layers: the same command goes on" in ended.out
    assert [path.name for path in tmp_path.glob(".pruned*")] == [".pruned.ckpt.layers"]
    monkeypatch.undo()
    other = call("prune", f"checkpoint={trained.last}", f"out={out}", "method=wanda")
    assert "holds layers of another pruning" in other.complaint
    other = call("prune", f"checkpoint={trained.last}", f"out={out}", *words, "data.seed=1")
    assert "holds layers of another pruning" in other.complaint, "as many other images"
    pruned(trained, out, *words)
    states = [torch.load(path, weights_only=True)["state_dict"] for path in (whole, out)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pruned.ckpt", "whole.ckpt"]


MISTAKES = [
    (["method=wanda"], "checkpoint= is missing: give a file that `fit` wrote"),
    (["checkpoint=no.ckpt", "method=wanda"], "checkpoint=no.ckpt does not exist; found: "),
    (["checkpoint=C"], "method= is missing: there are magnitude, weightnorm, wanda, sparsegpt"),
    (["checkpoint=C", "method=sparsgpt"], "method='sparsgpt' is unknown: did you mean sparsegpt?"),
    (
        ["checkpoint=C", "method=wanda", "densty=1"],
        "densty= is no option of prune: did you mean de",
    ),
    (
        ["run.ckpt", "method=wanda"],
        "'run.ckpt' is not of the form key=value: write checkpoint=run.",
    ),
    (
        ["checkpoint=C", "method=magnitude", "pattern=unstructured", "density=0.3", "permute=true"],
        "permute=true with pattern=unstructured: fours of units are of 2:4; leave it out",
    ),
    (
        ["checkpoint=C", "method=magnitude", "density=0.3"],
        "density=0.3 with pattern=2:4: two of four is always half; leave it out",
    ),
    (
        ["checkpoint=C", "method=wanda", "pattern=vnm:64:2:8", "balanced=true"],
        "balanced=true with pattern=vnm:64:2:8: it is of blocks; leave it out",
    ),
    (["checkpoint=C", "method=wanda", "pattern=vnm:64:5:8"], "v:n:m = 64:5:8: n must be 1 to 3"),
    (
        ["checkpoint=C", "method=magnitude", "pattern=unstructured"],
        "density= is missing: pattern=unstructured wants the share of weights kept, as density=0.2",
    ),
    (
        ["checkpoint=C", "method=magnitude", "pattern=unstructured", "density=20"],
        "density=20: give the share of weights kept, as density=0.2, above 0 and at most 1",
    ),
    (["checkpoint=C", "method=magnitude", "pattern=1:4"], "pattern='1:4': give 2:4, block:64x64"),
    (["checkpoint=C", "method=magnitude", "refit=yes"], "refit='yes': give true or false"),
    (["checkpoint=C", "method=wanda", "images=some"], "images='some': give a whole number"),
    (["checkpoint=C", "method=wanda", "selection=rows"], "selection='rows': did you mean row?"),
    (
        ["checkpoint=C", "method=wanda", "pattern=block:8x8", "density=0.5", "selection=row"],
        "selection=row with pattern=block:8x8: it is of 2:4; leave it out",
    ),
    (
        ["checkpoint=C", "method=magnitude", "data=digits"],
        "data=digits with method=magnitude, which looks at weights alone: leave it out, or give",
    ),
    (["checkpoint=C", "method=wanda", "data=imagenet"], "data.root is not set; set data.root="),
    (["checkpoint=C", "method=wanda", "include=[*nothing*]"], "include: '*nothing*' matches no l"),
    (["checkpoint=C", "method=wanda", "out=C"], "is the checkpoint that is pruned: give another"),
]


@pytest.mark.parametrize(("words", "line"), MISTAKES, ids=lambda value: str(value)[:40])
def test_a_mistake_is_told_in_one_line_that_names_the_fix(trained, tmp_path, words, line):
    words = [word.replace("=C", f"={trained.last}") for word in words]
    if not any(word.startswith("out=") for word in words):
        words = [*words, f"out={tmp_path / 'out.ckpt'}"]
    assert line in call("prune", *words).complaint
    assert not list(tmp_path.iterdir())


def test_words_say_what_fit_composes_for_such_a_model():
    words = ["checkpoint=c", "method=weightnorm", "pattern=block:8x16", "density=0.25"]
    asked = prune_words([*words, "balanced=false", "include=[*a*,'b,c']"])
    node = asked.node(["*mlp*"], [])
    assert node["include"] == ["*a*", "b,c"]
    assert asked.overrides(node) == [
        "sparsity=frozen_block",
        "sparsity.pattern.rows=8",
        "sparsity.pattern.columns=16",
        "sparsity.pattern.density=0.25",
        "sparsity.pattern.balanced=false",
        "sparsity.include=['*a*','b,c']",
    ]
    both = prune_words([*words[:2], "pattern=block:8x8+2:4", "density=0.5", "selection=exact"])
    assert both.overrides(both.node(["*mlp*"], [])) == [
        "sparsity=frozen_block24",
        "sparsity.pattern.block.rows=8",
        "sparsity.pattern.block.columns=8",
        "sparsity.pattern.block.density=0.5",
        "sparsity.pattern.block.balanced=true",
        "sparsity.selection.solver=exact",
    ]
    plain = prune_words(["checkpoint=c", "method=magnitude"])
    assert plain.overrides(plain.node(["*mlp*"], [])) == [
        "sparsity=frozen24",
        "sparsity.selection.solver=row",
    ]
