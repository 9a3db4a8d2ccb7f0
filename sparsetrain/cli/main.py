"""`python -m sparsetrain VERB …`: find the verb, run it, say what went wrong in one line."""

from __future__ import annotations

import os
import sys

import sparsetrain
from sparsetrain.cli.explain import explained, stop, terminable
from sparsetrain.cli.help import overview, verb_help
from sparsetrain.cli.streams import lasting_streams

VERBS = (
    "fit",
    "validate",
    "export",
    "prune",
    "report",
    "dashboard",
    "doctor",
    "build",
    "bench",
    "tune",
    "complete",
)


def main() -> None:
    """Entry point. Exit status 0; 1 for an error, wrong words after the command among them; 2 for
    a command that does not exist; 130 after Ctrl-C, 143 after SIGTERM."""
    args = sys.argv[1:]
    if not args or args[0] in ("-h", "--help", "help"):
        _show(overview())
        return
    if args[0] == "--version":
        _show(f"sparsetrain {sparsetrain.__version__}")
        return
    verb, rest = args[0], args[1:]
    if verb not in VERBS:
        from sparsetrain.cli.synonyms import verb_for
        from sparsetrain.recipe import nearest

        other = verb_for(verb)
        fix = f"write python -m sparsetrain {other}" if other else nearest(verb, VERBS[:-1])
        stop(f"{verb!r} is no command: {fix}", 2)
    if any(arg in ("-h", "--help") for arg in rest):
        _show(verb_help(verb))
        return
    _wait_asleep()
    with lasting_streams(), terminable(), explained():
        _run(verb, rest)


def _wait_asleep() -> None:
    """Have OpenMP's threads sleep while they wait for each other, unless the user decided.

    They spin by default. On cores that others use too they then hold up the thread they wait for:
    on 2 cores with a load of 7 a step of vit_tiny_24 took 4 s, and 1.4 s with threads that sleep.
    """
    if "torch" not in sys.modules:  # which loads OpenMP, and that reads it once
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def _show(text: str) -> None:
    try:
        print(text, flush=True)
    except BrokenPipeError:  # its reader has seen enough, as `| head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(verb: str, rest: list[str]) -> None:
    if verb == "fit":
        from sparsetrain.cli.run import run_fit

        run_fit(rest)
    elif verb == "validate":
        from sparsetrain.cli.validate import validate

        validate(rest)
    elif verb == "export":
        from sparsetrain.cli.export import export

        export(rest)
    elif verb == "prune":
        from sparsetrain.cli.prune import prune_checkpoint

        prune_checkpoint(rest)
    elif verb == "report":
        from sparsetrain.cli.report import report

        report(rest)
    elif verb == "dashboard":
        from sparsetrain.cli.dashboard import dashboard

        dashboard(rest)
    elif verb == "bench":
        from sparsetrain.cli.bench import bench

        bench(rest)
    elif verb == "tune":
        from sparsetrain.cli.tune import tune

        tune(rest)
    elif verb == "build":
        from sparsetrain.cli.build import build

        build(rest)
    elif verb == "complete":
        from sparsetrain.cli.complete import complete

        complete(rest)
    else:
        from sparsetrain.cli.doctor import doctor

        doctor(rest)
