"""Words that other trainers have for keys of this config, and for options of its groups."""

from __future__ import annotations

_WANDB = "logger=csv, which leaves W&B out, or WANDB_MODE=offline before the command"

_KEYS = {
    "checkpoint={}": ("resume", "resume_from", "ckpt", "ckpt_path", "weights", "load"),
    "data.root={}": ("path", "folder", "data_dir", "data_path", "dataset"),
    "data.batch_size={}": ("bs", "batch"),
    "data.num_workers={}": ("j", "threads"),
    "hydra.run.dir={}": ("out", "output", "output_dir", "outdir", "out_dir", "save_dir"),
    "model.img_size={}": ("image_size", "input_size", "resolution", "size"),
    "model.name={}": ("arch", "network"),
    "+model.options.checkpoint_path={}": ("checkpoint_path",),
    "+model.options.pretrained={}": ("pretrained",),
    "optimizer.weight_decay={}": ("wd",),
    "recipe={}": ("config", "cfg_file"),
    "sparsity=NAME: 2:4 is weights24, a share of the weights unstructured90": (
        "density",
        "sparsity_ratio",
        "nm",
    ),
    "sparsity=fp8_24, or sparsity=fp8_all24 with 2:4 activations": ("fp8", "float8"),
    "trainer.accelerator={}": ("device",),
    "trainer.devices={}": ("gpus", "n_gpus", "num_gpus", "ngpus"),
    "trainer.max_epochs={}": ("n_epochs", "num_epochs", "num_train_epochs"),
    "trainer.precision=16-mixed": ("amp", "fp16", "half"),
    "trainer.precision=bf16-mixed": ("bf16", "bfloat16"),
    _WANDB: ("wandb", "no_wandb", "offline", "mode"),
}

_OPTIONS = {
    ("sparsity", "weights24"): ("2:4", "24", "nm", "sparse", "true"),
    ("sparsity", "dense"): ("none", "null", "off", "no", "false", "0", ""),
    ("logger", "csv"): ("none", "off", "no", "false"),
}


_VERBS = {
    "fit": ("train", "training", "run", "finetune", "retrain"),
    "validate": ("eval", "evaluate", "test", "val"),
    "export": ("convert", "save"),
    "doctor": ("info", "env", "check", "version"),
    "bench": ("benchmark", "profile"),
    "build": ("compile",),
}


def verb_for(word: str) -> str | None:
    """The command that other trainers call by another name; `fit` for a word of its own."""
    if "=" in word:
        return f"fit {word}"
    return next((verb for verb, words in _VERBS.items() if word in words), None)


def key_for(word: str, value: str) -> str | None:
    """What to write for a key or a flag of another trainer, with its value."""
    said = word.rpartition(".")[2].lower().replace("-", "_")
    return next((key.format(value or "…") for key, words in _KEYS.items() if said in words), None)


def option_for(group: str, value: str) -> str | None:
    """What to write for an option of a group that it has under another name."""
    if group == "data" and ("/" in value or "." in value):
        return f"data.root={value}; data= names the kind of data set"
    known = (option for (of, option), words in _OPTIONS.items() if of == group and value in words)
    option = next(known, None)
    return option and f"{group}={option}"
