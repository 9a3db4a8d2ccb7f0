"""Tab completion in bash: verbs and files ours, keys and values Hydra's."""

from __future__ import annotations

import os
import sys

import hydra

from sparsetrain.recipe import data_folder, store_recipes

_SCRIPT = """\
_sparsetrain_complete() {
  local line="${COMP_LINE:0:$COMP_POINT}" word file
  word="${line##* }"
  COMPREPLY=()
  case "$word" in
    checkpoint=*|out=*|output=*|data.root=*|recipe=*/*)
      while IFS= read -r file; do
        [[ -d "$file" ]] && file+=/
        COMPREPLY+=("${word%%=*}=$file")
      done < <(compgen -f -- "${word#*=}") ;;
    *)
      COMPREPLY=($(compgen -W "$(COMP_LINE="$line" "${COMP_WORDS[0]}" complete query \\
        2>/dev/null)" -- "$word")) ;;
  esac
  [[ ${#COMPREPLY[@]} == 1 && "${COMPREPLY[0]}" != *[=./] ]] && COMPREPLY[0]+=" "
}
COMP_WORDBREAKS=${COMP_WORDBREAKS//=}
complete -o nospace -F _sparsetrain_complete sparsetrain"""

_WORDS = {
    "fit": "",
    "validate": "checkpoint=",
    "export": "checkpoint= format=safetensors format=onnx format=dense format=coo "
    "format=csr format=bsr format=semi_structured block= dtype= out= prune=true tensorrt=true",
    "prune": "checkpoint= method=magnitude method=weightnorm method=wanda method=sparsegpt "
    "pattern=2:4 pattern=block:64x64 pattern=block:64x64+2:4 "
    "pattern=vnm:64:2:8 pattern=unstructured density= selection=row selection=exact "
    "include= exclude= refit=true permute=true sequential=false images= data= out=",
    "report": "out=",
    "dashboard": "entity= project= runs= out=",
    "doctor": "",
    "bench": "step models= variants= batch= rounds= compile= json= picture=",
    "tune": "recipe= shapes= dtype=bfloat16 dtype=float16 rounds=",
    "build": "arch=native arch= output=",
    "complete": "",
}
"""The verbs, and what each takes that Hydra does not know."""


def complete(args: list[str]) -> None:
    """Print the script to evaluate, or (`query`) the words that continue COMP_LINE."""
    if args != ["query"]:
        print(_SCRIPT)
        return
    words = os.environ["COMP_LINE"].split(" ")[1:]
    if len(words) <= 1:
        print(" ".join(_WORDS))
        return
    print(_WORDS.get(words[0], ""))
    if words[0] in ("fit", "validate"):
        _ask_hydra(words[1:])


def _ask_hydra(words: list[str]) -> None:
    store_recipes()

    @hydra.main(version_base="1.3", config_path=str(data_folder("configs")), config_name="config")
    def task(config: object) -> None:
        """Never runs: Hydra answers the query instead."""

    os.environ["COMP_LINE"] = " ".join([sys.argv[0], *words])
    sys.argv = [sys.argv[0], "-sc", "query=bash"]
    task()
