"""Benchmarks: ours and the peers side by side, in one run on one device.

timing.py       clocks, and rounds that time every candidate once
rounds.py       the same of work in parts: a step, an MLP and its backward
gauges.py energy.py   what is read while it runs: times, memory, energy
candidate.py    what is timed, and the bytes it has to move
ours.py         the ops of sparsetrain, held against their reference before they are timed
peers.py        what PyTorch and xFormers have for the same job, and the copy
quality.py      what a mask keeps, against the best of the 90 masks of each tile
environment.py  where a number was measured
sparsify.py     `bench sparsify`: one matrix after the other
report.py       a result as a table and as JSON

products.py       the six products of an MLP: problems, operands, and the error of a result
matmul.py         `bench matmul`: one product after the other
matmul_peers.py   cuSPARSELt, torch's CUTLASS op and xFormers on the operands of a product
matmul_auto.py    random products: what `choose` picks against dense
matmul_report.py  products as tables, in words and as JSON
roofline.py       products under their roofline, as a picture
tune.py           `tune`: configs of the kernel, cuBLAS and cuSPARSELt on one product

variants.py       what `bench mlp` and `bench step` compare: dense, and what is 2:4
mlp.py mlp_step.py mlp_rows.py mlp_report.py mlp_peers.py   `bench mlp`
step.py train_step.py step_rows.py step_report.py           `bench step`
bars.py           both as pictures
"""
