"""Run the commands of a build, several at a time."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO


@dataclass(frozen=True)
class Command:
    """A program and its arguments, run in `folder`. title: what the log and a terminal call it."""

    title: str
    words: tuple[str, ...]
    folder: Path


def run_all(commands: Sequence[Command], jobs: int, total: int, log: TextIO, done: int = 0) -> bool:
    """Run commands, `jobs` at a time, until one fails; whether all ended well.

    What they print goes to `log`, each command's together under its title; a terminal is told how
    many of `total` are through. done: how many were before.
    """
    running: list[subprocess.Popen[str]] = []

    def run(command: Command) -> tuple[str, bool]:
        process = _start(command)
        running.append(process)
        said, _ = process.communicate()
        return said, process.returncode == 0

    shown = sys.stderr.isatty()
    pool = ThreadPoolExecutor(jobs)
    try:
        waited = {pool.submit(run, command): command for command in commands}
        for number, ended in enumerate(as_completed(waited), done + 1):
            title, (said, well) = waited[ended].title, ended.result()
            log.write(f"[{number}/{total}] {title}\n{said}")
            if shown:
                line = f"\r\033[Ksparsetrain: [{number}/{total}] {title}"
                print(line, end="", file=sys.stderr, flush=True)
            if not well:
                return False
        return True
    finally:  # also where the user interrupts
        pool.shutdown(wait=False, cancel_futures=True)
        for process in running:
            process.kill()
        pool.shutdown()
        if shown:
            print("\r\033[K", end="", file=sys.stderr, flush=True)


def _start(command: Command) -> subprocess.Popen[str]:
    # Flags that the build's name does not tell.
    hidden = ("NVCC_PREPEND_FLAGS", "NVCC_APPEND_FLAGS")
    return subprocess.Popen(
        command.words,
        cwd=command.folder,
        env={name: value for name, value in os.environ.items() if name not in hidden},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
    )
