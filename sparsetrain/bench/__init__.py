"""Benchmarks: ours and the peers side by side, in one run on one device.

timing.py       clocks, and rounds that time every candidate
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
matmul_auto.py    random products: what `auto` picks against dense
matmul_report.py  products as tables, in words and as JSON
roofline.py       products under their roofline, as a picture
tune.py           `tune`: configs of the kernel, cuBLAS and cuSPARSELt on one product
"""
