"""Does it learn as well? Train variants over seeds, and compare each with its
dense twin.

    python scripts/study run --data cifar10 --root FOLDER \\
        --variants dense,w24 --seeds 0,1 --jobs 4
    python scripts/study merge ROWS.json ...   # into docs/results
    python scripts/study summary               # of all that is in docs/results
    python scripts/study decay                 # λ of SR-STE: flips and accuracy
    python scripts/study time --picture T.png  # seconds to dense accuracy

`run` leaves out what has a row already, here or in docs/results; it writes a
row for each run that ends into OUT/accuracy-DATA.json. With --choose it trains
on 90 % of the training images and validates on the rest: for choices. Without,
it trains on all and reads the test images once, at the end. variants.yaml,
beside this file, says what there is.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from pathlib import Path

import decay
import launch
import rows
import sooner
import verdict
from plan import Run, data_sets, recipe_digest, variants

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results"


def main() -> None:
    args = parse()
    if args.verb == "one":
        from one import train_one

        train_one(Run(**json.loads(args.run)), Path(args.folder), args.commit)
    elif args.verb == "run":
        sys.exit(run(args))
    elif args.verb == "merge":
        print(rows.merge([Path(path) for path in args.files], RESULTS))
    else:
        files = [Path(path) for path in args.files] or sorted(RESULTS.glob("accuracy-*.json"))
        found = [row for file in files for row in rows.read(file)]
        if args.verb == "decay":
            now = {row["recipe"]: recipe_digest(row["recipe"]) for row in found}
            found = [row for row in found if row["recipe_digest"] == now[row["recipe"]]]
            print(decay.table(found, variants()))
        elif args.verb == "time":
            print(sooner.table(found, variants()))
            if args.picture:
                try:
                    sooner.draw(args.picture, found, variants())
                except ValueError as error:
                    raise SystemExit(f"study: --picture: {error}") from None
        else:
            print(verdict.summary(found))


def run(args: argparse.Namespace) -> int:
    known, sets = variants(), data_sets()
    chosen = list(known) if args.variants == "all" else args.variants.split(",")
    for name in chosen:
        if name not in known:
            raise SystemExit(f"study: --variants {name} is unknown: there are {', '.join(known)}")
    default = sets[args.data].choose_epochs if args.choose else sets[args.data].epochs
    planned = [
        Run(
            data=args.data,
            recipe=sets[args.data].recipe,
            recipe_digest=recipe_digest(sets[args.data].recipe),
            variant=name,
            seed=seed,
            epochs=args.epochs or default,
            choose=args.choose,
            root=str(Path(args.root).resolve()),
            words=(*known[name].words, *args.words),
            checks=sets[args.data].checks,
        )
        for seed in map(int, args.seeds.split(","))
        for name in chosen
    ]
    file = Path(args.out) / f"accuracy-{args.data}.json"
    done = rows.read(file) + rows.read(RESULTS / file.name)
    # So that a study that is told to end takes its runs with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    return launch.launch(planned, done, file, args)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="study", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    run = verbs.add_parser("run")
    run.add_argument("--data", required=True, choices=list(data_sets()))
    run.add_argument("--root", required=True, help="folder of the Parquet files")
    run.add_argument("--variants", default="all", help="names with commas, or all")
    run.add_argument("--seeds", default="0", help="whole numbers with commas")
    run.add_argument("--epochs", type=int, help="instead of those of variants.yaml")
    run.add_argument("--choose", action="store_true", help="validate on training images held out")
    run.add_argument("--out", default="runs/study", help="folder of the rows")
    run.add_argument("--runs", default="runs/study", help="folder of the runs' own files")
    run.add_argument("--jobs", type=int, default=1, help="runs at a time on each GPU")
    run.add_argument("--gpus", type=int, help="how many, all that there are by default")
    run.add_argument("--budget-seconds", type=float, help="after which runs save and stop")
    run.add_argument("--commit", help="of the code, where the folder is no git checkout")
    run.add_argument("words", nargs="*", help="further overrides of each run, after --")
    merge = verbs.add_parser("merge")
    merge.add_argument("files", nargs="+")
    for verb in ("summary", "decay", "time"):
        verbs.add_parser(verb).add_argument("files", nargs="*")
    verbs.choices["time"].add_argument("--picture", type=Path, help="PNG of top-1 over seconds")
    one = verbs.add_parser("one")  # what `run` starts for each run
    one.add_argument("run")
    one.add_argument("folder")
    one.add_argument("--commit")
    return parser.parse_args()


if __name__ == "__main__":
    main()
