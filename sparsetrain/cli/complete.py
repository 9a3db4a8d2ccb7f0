"""Tab completion in bash: verbs ours, keys and values Hydra's."""

from __future__ import annotations

import os
import sys

import hydra

from sparsetrain.recipe import data_folder, store_recipes

_SCRIPT = """\
_sparsetrain_complete() {
  local line="${COMP_LINE:0:$COMP_POINT}"
  COMPREPLY=($(compgen -W "$(COMP_LINE="$line" "${COMP_WORDS[0]}" complete query 2>/dev/null)" \\
    -- "${line##* }"))
}
COMP_WORDBREAKS=${COMP_WORDBREAKS//=}
complete -o nospace -o default -F _sparsetrain_complete sparsetrain"""

_VERBS = ("complete", "doctor", "export", "fit", "validate")


def complete(args: list[str]) -> None:
    """Print the script to evaluate, or (`query`) the words that continue COMP_LINE."""
    if args != ["query"]:
        print(_SCRIPT)
        return
    words = os.environ["COMP_LINE"].split(" ")[1:]
    if len(words) <= 1:
        print(" ".join(f"{verb} " for verb in _VERBS))
    elif words[0] == "export":
        print("checkpoint= format=safetensors format=onnx out= prune=true")
    elif words[0] in ("fit", "validate"):
        _ask_hydra(words[1:])


def _ask_hydra(words: list[str]) -> None:
    store_recipes()

    @hydra.main(version_base="1.3", config_path=str(data_folder("configs")), config_name="config")
    def task(config: object) -> None:
        """Never runs: Hydra answers the query instead."""

    os.environ["COMP_LINE"] = " ".join([sys.argv[0], *words])
    sys.argv = [sys.argv[0], "-sc", "query=bash"]
    task()
