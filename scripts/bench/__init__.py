"""Benchmarks for developers, ours and the peers side by side in one run on one device.

    python -m scripts.bench.sparsify    what makes a matrix 2:4, against the peers and the copy
    python -m scripts.bench.matmul      2:4 products, against cuBLAS and the peers
    python -m scripts.bench.images      images/s from JPEG files to batches, with and without a GPU
    python -m scripts.bench.mlp         an MLP and its backward, against dense and the peers
    python -m scripts.bench.curve       COO, CSR, BSR and 2:4 over density, on a CPU or a GPU
    python -m scripts.bench.fit         whole runs of `fit`, recipe against recipe
    python -m scripts.bench.kernels     a step of `bench step`, kernel by kernel
    python -m scripts.bench.packed_mlp      the MLP of a packed model, part by part
    python -m scripts.bench.producers8      what writes 8-bit values, against passes apart
    python -m scripts.bench.grad_weight8    could gradients of 2:4 weights pay in fp8?

Run them in the root of a checkout. Each has a --help. Clocks, rounds, energy and the variants of a
model are those of sparsetrain/bench, which times whole steps and tunes products.

command.py            words, help and errors of a command
peers.py              what PyTorch and xFormers have to make a matrix 2:4, and the copy
candidate.py ours.py  what is timed, the bytes it has to move; our ops, held against their reference
quality.py            what a mask keeps, against the best of the 90 masks of each tile
sparsify_measure.py sparsify_report.py                  one matrix after the other; tables and JSON
matmul_measure.py matmul_peers.py matmul_report.py      one product after the other
matmul8.py matmul8_peers.py                             the same in fp8 and int8
choice.py matmul_auto.py             what should run a product; random ones against dense
images.py photos.py augment.py       the data: from files to augmented batches
curve.py curve_picture.py            speed over density; its picture
roofline.py           products under their roofline, as a picture
mlp_measure.py mlp_step.py mlp_rows.py mlp_report.py mlp_peers.py   one MLP after the other
"""
