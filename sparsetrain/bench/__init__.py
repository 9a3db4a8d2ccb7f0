"""`bench step` and `tune`, and what the benchmarks in scripts/bench share with them.

timing.py       clocks, and rounds that time every candidate once
rounds.py       the same of work in parts: a step, an MLP and its backward
gauges.py energy.py   what is read while it runs: times, memory, energy
gpu_trace.py    a step from the profiler's events
environment.py  where a number was measured
refusal.py      why a candidate is not timed
json_file.py bars.py  results as a file and as a picture

variants.py     what is compared: dense, and what is 2:4
step.py train_step.py step_rows.py step_report.py   `bench step`
inference.py inference_report.py   `bench step mode=inference`

products.py     the six products of an MLP: problems, operands, and the error of a result
cusparselt.py   a product in cuSPARSELt
tune.py         `tune`: configs of the kernel, cuBLAS and cuSPARSELt on one product
"""
