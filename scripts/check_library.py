"""Build the kernel library for one architecture, load it, and check what is in
it. Needs no GPU.

    python scripts/check_library.py [arch] [folder]

Without words it is sm_90a, in the cache of builds.

A build of the same sources, flags, CUDA and architecture is not compiled
again: its log, which tells registers and spills, lies beside it. An empty
folder has it compiled. Every op has a kernel for CUDA whose C++ signature is
its schema's, and no kernel spills registers or keeps an array in local memory
(a stack frame), but for what SPILLED allows. Of no kernel the compiler says
that it runs wgmma one after another. Prints a table of the kernels; ends with
status 1 and the reasons if something does not hold.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from help_text import answer_help

from sparsetrain import native, ops

REFERENCE_ONLY = ("pack24", "unpack24")
"""Ops that have no kernel: the reference serves CUDA tensors too."""

SPILLED = {"product": 8}
"""Bytes a thread that kernels may spill, by the start of their names. Of products it is a word or
two, outside their steps."""

KERNEL = re.compile(
    r"Compiling entry function '(?P<name>\w+)' for '(?P<arch>sm_\w+)'.*?"
    r"(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores.*?"
    r"Used (?P<registers>\d+) registers(?P<rest>[^\n]*)",
    re.S,
)
"""What `ptxas -v` says about a kernel."""

LOSS = re.compile(
    r"\(C\d+\) Potential Performance Loss: (?P<what>.+) in the function '(?P<name>\w+)'"
)
"""What `ptxas` says of a kernel that it makes slow, as it does where it cannot tell that registers
of a wgmma are left alone: it waits for each one then, with the same results."""

SIGNATURE = re.compile(
    r"detail::boxer<(?P<returns>.+?) \((?P<arguments>.*?)\), &\(?sparsetrain::(?P<name>\w+)"
)
"""The symbol that LibTorch's stable ABI makes of a registered function."""


@dataclass(frozen=True)
class Kernel:
    """What one kernel takes; spills and stack in bytes a thread, shared memory in bytes a block."""

    name: str
    arch: str
    registers: int
    spills: int
    stack: int
    shared: int


def kernels(log: str) -> list[Kernel]:
    """The kernels in a build's log, by name."""
    found = []
    for match in KERNEL.finditer(log):
        shared = re.search(r"(\d+) bytes smem", match["rest"])
        kernel = Kernel(
            _plain(match["name"]),
            match["arch"],
            int(match["registers"]),
            int(match["stores"]),
            int(match["stack"]),
            int(shared[1]) if shared else 0,
        )
        found.append(kernel)
    return sorted(found, key=lambda kernel: (kernel.name, kernel.arch))


def losses(log: str) -> list[str]:
    """What the compiler warns of in a build's log, one line each."""
    return [f"{_plain(match['name'])}: {match['what']}" for match in LOSS.finditer(log)]


def signatures(library: Path) -> dict[str, str]:
    """Signature of every function that a library registers, in the words of a schema."""
    found = {}
    for match in SIGNATURE.finditer(_run("nm", "-C", str(library))):
        returns = _words(match["returns"]).removeprefix("std::tuple<").removesuffix(">")
        returns = returns.removeprefix("void")
        found[match["name"]] = f"({_words(match['arguments'])}) -> ({returns})"
    return found


def schema(op: str) -> str:
    """The schema of an op without names and defaults: '(Tensor, str) -> (Tensor, Tensor)'."""
    text = str(getattr(torch.ops.sparsetrain, op).default._schema)
    arguments, _, returns = text.partition("(")[2].partition(") -> ")
    kinds = [re.sub(r"\(\w!\)", "", part.split()[0]) for part in arguments.split(", ")]
    results = [part.split()[0] for part in returns.strip("()").split(", ") if part]
    return f"({', '.join(kinds)}) -> ({', '.join(results)})"


def complaints(library: Path, table: list[Kernel]) -> list[str]:
    """What does not hold, one line each."""
    compiled = signatures(library)
    lines = []
    for op in sorted(name for name in ops.__all__ if hasattr(torch.ops.sparsetrain, name)):
        name = f"sparsetrain::{op}"
        has = torch._C._dispatch_has_kernel_for_dispatch_key(name, "CUDA")
        if has == (op in REFERENCE_ONLY):
            lines.append(f"{op}: {'has a' if has else 'no'} CUDA kernel; see REFERENCE_ONLY")
        elif has and compiled.get(op) != schema(op):
            lines.append(f"{op}: the schema is {schema(op)}, the kernel's {compiled.get(op)}")
    for k in table:
        allowed = SPILLED.get(re.split(r"\W", k.name.removeprefix("void "))[0], 0)
        if max(k.spills, k.stack) > allowed:
            lines.append(f"{k.name}, {k.arch}: spills {k.spills} bytes, {k.stack} in local memory")
    if not table:
        lines.append("no kernel found in the build's log")
    return lines


def main() -> None:
    answer_help(__doc__)
    arch = sys.argv[1].removeprefix("sm_") if len(sys.argv) > 1 else "90a"
    if arch not in native.ARCHS:
        sys.exit(f"arch={arch!r}: choose one of {', '.join(native.ARCHS)}")
    missing = [name for name in ("nm", "c++filt") if shutil.which(name) is None]
    if missing:
        sys.exit(f"no {' and no '.join(missing)} found: apt-get install binutils")
    try:
        folder = Path(sys.argv[2]) if len(sys.argv) > 2 else native.cache_folder()
        toolkit = native.find_toolkit(native.Machine((), (0, 0)), (arch,))
        built = native.build((arch,), toolkit, folder)
    except native.BuildError as error:
        sys.exit(str(error))
    print(f"{built.path}, {toolkit.nvcc}")
    torch.ops.load_library(str(built.path))
    log = built.log.read_text("utf-8")
    table = kernels(log)
    print("registers  spills  stack  shared  kernel")
    for k in table:
        print(f"{k.registers:9}  {k.spills:6}  {k.stack:5}  {k.shared:6}  {k.name}")
    lines = complaints(built.path, table) + losses(log)
    good = f"every op has its kernel; of {len(table)} none spills more than it may or is serialized"
    print("\n".join(lines) or good)
    sys.exit(bool(lines))


def _plain(symbol: str) -> str:
    name = _run("c++filt", "-p", symbol).strip().replace("sparsetrain::", "")
    return name.replace("(anonymous namespace)::", "")


def _words(text: str) -> str:
    """C++ types as those of a schema."""
    text = re.sub(r"std::(__cxx11::)?basic_string<char.*?> ?>", "str", text)
    text = re.sub(r"torch::stable::|torch::headeronly::|c10::| const&", "", text)
    text = re.sub(r"std::optional<(\w+)>", r"\1?", text)
    return text.replace("double", "float").replace("long", "int")


def _run(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    main()
