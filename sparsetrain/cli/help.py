"""What `--help` prints."""

from __future__ import annotations

from textwrap import wrap

from sparsetrain.recipe import data_folder

_WIDTH = 80
"""Columns of a terminal that nobody widened; a test holds every text to it."""

_OVERVIEW = """\
2:4 sparse training of vision transformers.

  python -m sparsetrain fit recipe=vit_tiny_24   train; 1 to 2 minutes, CPU
  python -m sparsetrain validate checkpoint=…    accuracy, density, throughput
  python -m sparsetrain export checkpoint=… format=safetensors
  python -m sparsetrain prune checkpoint=… method=wanda     a trained model
  python -m sparsetrain report runs/A runs/B     dense and sparse on one page
  python -m sparsetrain dashboard                W&B: a workspace and a report
  python -m sparsetrain doctor                   what this machine can run
  python -m sparsetrain build                    compile the GPU kernels
  python -m sparsetrain bench step               training steps against dense
  python -m sparsetrain tune recipe=vit_b_24     fastest kernels for it
  python -m sparsetrain complete                 tab completion for bash

`python -m sparsetrain fit --help` lists recipes and data sets; every command
has a --help."""

_FIT = """\
Train a recipe:  python -m sparsetrain fit recipe=NAME [key=value …]

  python -m sparsetrain fit recipe=vit_tiny_24
  python -m sparsetrain fit recipe=vit_b_24 data=imagenet \\
    data.root=/data/imagenet trainer.devices=8
  python -m sparsetrain fit recipe=vit_b_24 data=parquet \\
    data.root=/data/cifar10 model.img_size=64
  torchrun --nproc_per_node 8 -m sparsetrain fit recipe=vit_b_24 \\
    data.root=/data/imagenet

  python -m sparsetrain fit recipe=./mine.yaml                  your own recipe
  python -m sparsetrain fit recipe=vit_tiny_24 sparsity=dense   the same, dense
  python -m sparsetrain fit recipe=vit_tiny_24 sparsity.weight.decay=1e-4
  python -m sparsetrain fit recipe=vit_tiny_24 permute=true     masks keep more
  python -m sparsetrain fit -m recipe=vit_tiny_24 seed=0,1,2    a run for each
  python -m sparsetrain fit recipe=vit_tiny_24 checkpoint=runs/…/last.ckpt
  python -m sparsetrain fit recipe=vit_l_24 trainer.strategy=fsdp2 \\
    callbacks=default                                           in shards

recipes
{recipes}

data sets (data=NAME)
{data}

sparsity (sparsity=NAME)
{sparsity}

Without data= and IMAGENET_DIR, recipes for ImageNet run on embedded digits
(demo=digits), and without a GPU they are cut to what a CPU does in minutes
(demo=cpu), both under a banner. Their batches are for 8 GPUs; with fewer,
trainer.accumulate_grad_batches= keeps the global batch.
Classes of your own in a recipe file or --config-dir=FOLDER:
allow_targets=[my.module.Thing].
Ctrl-C, SIGTERM, SIGHUP or SIGUSR1 saves a checkpoint after the step, or amid a
validation, and prints the command that goes on from it; within epochs
callbacks.last.every_n_steps= or callbacks.last.every_minutes= save one. A SLURM
job that is queued again (sbatch --requeue --signal=USR1@90) goes on by itself.
`fit recipe=NAME --cfg job` prints every key, and each can be set. A run leaves
its checkpoints, metrics.csv, report.html and W&B files in runs/RECIPE/TIME.
Tab completion in bash:  eval "$(sparsetrain complete)\""""

_VALIDATE = """\
Accuracy, density and throughput of a checkpoint:

  python -m sparsetrain validate checkpoint=runs/…/checkpoints/best.ckpt
  python -m sparsetrain validate checkpoint=… data=parquet data.root=/cifar10
  python -m sparsetrain validate checkpoint=… recipe=vit_b_24 \\
    data.root=/data/imagenet

Model, sparsity and data are those of the run that wrote it; further key=value
change them."""

_EXPORT = """\
Write a checkpoint's model for other tools: dense, with exact zeros where it is
2:4.

  python -m sparsetrain export checkpoint=runs/…/best.ckpt format=safetensors
  python -m sparsetrain export checkpoint=… format=onnx out=vit.onnx
  python -m sparsetrain export checkpoint=… format=bsr block=64x64
  python -m sparsetrain export checkpoint=… format=packed dtype=fp8

format= safetensors or onnx: a file; dense, coo, csr, bsr, semi_structured or
packed: a folder with weights, config.json and sparsity.json (docs/export.md).
dtype=bfloat16 rounds a folder's weights; packed ones, for inference, are
dtype=fp8 (the default), int8, bf16 or fp16 with their metadata.
tensorrt=true first checks that TensorRT's sparse kernels take every sparse
layer.

The file is read back, and every group of four of every sparse layer is
verified. `out` defaults to the checkpoint's name with another ending. A run
that ended in its dense tail has dense weights; prune=true applies the masks to
them."""

_PRUNE = """\
Prune a trained checkpoint, layer by layer, into one that validates, exports and
retrains:

  python -m sparsetrain prune checkpoint=runs/…/best.ckpt method=magnitude
  python -m sparsetrain prune checkpoint=… method=wanda data.root=/data/imagenet
  python -m sparsetrain prune checkpoint=… method=sparsegpt refit=true
  python -m sparsetrain prune checkpoint=… method=magnitude \\
    pattern=block:64x64 density=0.2
  python -m sparsetrain prune checkpoint=… method=magnitude selection=exact \\
    out=pruned.ckpt
  python -m sparsetrain fit recipe=vit_tiny_retrain24 checkpoint=pruned.ckpt

method= magnitude, weightnorm (torch.ao's), wanda or sparsegpt; refit=true fits
the kept weights to each layer's output again. pattern= 2:4 (the default),
block:64x64, block:64x64+2:4, vnm:64:2:8 or unstructured; density= the share
kept (of blocks, where there are some). selection= row, or exact: 2:4 in both
orientations, to train on sparse products. include=, exclude= globs over layers,
those of the run if not given. permute=true reorders hidden units and channels
of heads before, so that 2:4 masks keep more.
wanda, sparsegpt and refit read images= (512) training images of the run's data,
or of what data= and data.root= say. sequential=false collects all layers'
inputs in one pass: faster, less exact. Finished layers are kept beside out=
until it is written: the same command goes on from them."""

_REPORT = """\
One page of a run, or of several side by side: accuracy over epochs and
wall-clock, speed, memory.

  python -m sparsetrain report runs/vit_b_24/2026-11-29_10-00-00
  python -m sparsetrain report runs/A runs/B
  python -m sparsetrain report dense=runs/A sparse=runs/B out=page.html
  python -m sparsetrain report runs/sweep/2026-11-29_10-00-00

One run's page is its report.html; that of several, or of a folder of a sweep,
is comparison.html. It is one file that needs no network. Runs are compared with
the first dense one, else with the first. A run that stopped, or still runs, has
a page too."""

_DASHBOARD = """\
Save a workspace and a report for the runs of a W&B project: accuracy over steps
and wall-clock, images/s, memory, flip rate, phases, maps of layers, what
differs.

  python -m sparsetrain dashboard
  python -m sparsetrain dashboard entity=lab project=sparsetrain \\
    runs=vit_b_dense,vit_b_24

Without a key that the server takes, both are written to out= (dashboard/)
instead, and checked. It needs pip install 'sparsetrain[dashboard]'."""

_DOCTOR = "What this machine can run, and why not:  python -m sparsetrain doctor"

_BENCH = """\
Whole training steps of vision transformers, dense and 2:4, on one batch that
stays on the device:

  python -m sparsetrain bench step
  python -m sparsetrain bench step json=step.json picture=step.png
  python -m sparsetrain bench step models=vit_l variants=weights,all+attn \\
    batch=64 rounds=20
  python -m sparsetrain bench step mode=inference

models= vit_b (batch 256), vit_l (128), vit_h (64); variants= dense-eager,
dense-relu2, weights, activations, all, and with qkv and proj weights+attn,
all+attn, fp8 (all+attn in fp8), dense-fp8 and, only where it is named,
torchao-fp8 (pip install --no-deps torchao==0.18.0); dense, compiled, is always
timed, and variants without kernels here are skipped with the reason; batch= for
every model; rounds= timed rounds; compile= default, reduce-overhead,
max-autotune or max-autotune-no-cudagraphs (of torch.compile); json= the file
for every number; picture= a PNG of bars. The energy is read where nvidia-ml-py
is installed.
mode=inference times forwards of packed models: models= vit_b, vit_l, vit_h and
sam_h (Segment Anything's encoder, 8 images of 1024 pixels); variants= bf16-24,
fp8-24 and int8-24 (2:4, st.quantize), dense-fp8 and dense-fp8-tensor (by row
and by tensor), dense-int8 (by row), dense (bfloat16, compiled as all are).

Kernels, products and MLPs against their peers: scripts/bench of a checkout."""

_TUNE = """\
Measure what runs each 2:4 product fastest on this GPU, and keep it for every
later run:

  python -m sparsetrain tune                   five MLPs, the largest of an LLM
  python -m sparsetrain tune recipe=vit_b_24   layers and batch size of a recipe
  python -m sparsetrain tune recipe=./mine.yaml rounds=50
  python -m sparsetrain tune dtype=float16 \\
    shapes=25216x1024x4096,16384x1280x5120

shapes= TOKENSxFEATURESxHIDDEN with commas; dtype= bfloat16, float16 or fp8 (a
recipe says itself what is in fp8); rounds= timed calls of the fastest.
Candidates are configs of the kernel, cuBLAS and, in 16 bits, cuSPARSELt; one
that is more than twice as far from float64 of its operands as a dense product
of them is not timed. The table lies in ~/.cache/sparsetrain, like the kernels,
for this GPU, driver, CUDA, torch and library. If you stop it, finished products
stay."""

_BUILD = """\
Compile the GPU kernels. The first `sparsify` on a GPU does it by itself.

  python -m sparsetrain build                 for this machine's GPUs, else all
  python -m sparsetrain build arch=80,90a     80, 89, 90a, 100a, 120 or native
  python -m sparsetrain build output=sparsetrain/prebuilt     for its wheel

It needs g++ and nvcc: that of CUDA_HOME, CUDA_PATH, PATH or /usr/local/cuda, or
pip install 'sparsetrain[build]'.
The library is kept in ~/.cache/sparsetrain (SPARSETRAIN_CACHE or
XDG_CACHE_HOME: elsewhere) and is compiled again only for other sources, another
CUDA or other GPUs. It serves every torch >= 2.10."""

_COMPLETE = 'Tab completion in bash:  eval "$(sparsetrain complete)"'


def overview() -> str:
    return _OVERVIEW


def verb_help(verb: str) -> str:
    if verb == "fit":
        groups = {name: _titles(name) for name in ("recipes", "configs/data", "configs/sparsity")}
        return _FIT.format(
            recipes=groups["recipes"],
            data=groups["configs/data"],
            sparsity=groups["configs/sparsity"],
        )
    texts = {
        "validate": _VALIDATE,
        "export": _EXPORT,
        "prune": _PRUNE,
        "report": _REPORT,
        "dashboard": _DASHBOARD,
        "doctor": _DOCTOR,
        "build": _BUILD,
        "bench": _BENCH,
        "tune": _TUNE,
        "complete": _COMPLETE,
    }
    return texts[verb]


def _titles(folder: str) -> str:
    """The first sentence of each file's header."""
    lines = []
    first, _, rest = folder.partition("/")
    paths = sorted((data_folder(first) / rest).glob("*.yaml"))
    wide = max(len(path.stem) for path in paths)
    for path in paths:
        comments = [
            line[1:].strip() for line in path.read_text("utf-8").splitlines() if line[:1] == "#"
        ]
        title = next((text for text in comments if text and not text.startswith("@package")), "")
        lines += wrap(
            title,
            _WIDTH,
            initial_indent=f"  {path.stem:<{wide}}  ",
            subsequent_indent=" " * (wide + 4),
        )
    return "\n".join(lines)
