"""Tab completion in bash: verbs, keys, values and files.

Hydra's own completion composes the config once for each group, which takes seconds.
"""

from __future__ import annotations

import os

from sparsetrain.cli.ranges import choices_of
from sparsetrain.recipe import data_folder, recipe_names

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
    "format=csr format=bsr format=semi_structured format=packed block= dtype= out= prune=true "
    "tensorrt=true",
    "prune": "checkpoint= method=magnitude method=weightnorm method=wanda method=sparsegpt "
    "pattern=2:4 pattern=block:64x64 pattern=block:64x64+2:4 "
    "pattern=vnm:64:2:8 pattern=unstructured density= selection=row selection=exact "
    "include= exclude= refit=true permute=true sequential=false images= data= out=",
    "report": "out=",
    "dashboard": "entity= project= runs= out=",
    "doctor": "",
    "bench": "step mode=train mode=inference models= variants= batch= rounds= compile= json= "
    "picture=",
    "tune": "recipe= shapes= dtype=bfloat16 dtype=float16 dtype=fp8 rounds=",
    "build": "arch=native arch= output=",
    "complete": "",
}
"""The verbs, and what each takes that Hydra does not know."""

_WHOLE = ("recipe", "demo")
"""Groups whose files set keys of the whole config."""


def complete(args: list[str]) -> None:
    """Print the script to evaluate, or (`query`) the words that continue COMP_LINE."""
    if args in ([], ["bash"]):
        print(_SCRIPT)
        return
    if args != ["query"]:
        raise ValueError(f"complete {' '.join(args)}: there is completion for bash alone")
    words = os.environ["COMP_LINE"].split(" ")[1:]
    if len(words) <= 1:
        print(" ".join(_WORDS))
        return
    print(_WORDS.get(words[0], ""))
    if words[0] in ("fit", "validate"):
        print(" ".join(_continued(words[1:-1], words[-1])))


def _continued(words: list[str], word: str) -> list[str]:
    """Groups, keys and values of the config that `words` compose which begin with `word`."""
    key, equals, _ = word.partition("=")
    groups = _groups()
    if equals and key in groups:
        return [f"{key}={name}" for name in groups[key] if f"{key}={name}".startswith(word)]
    if equals:
        return [f"{key}={value}" for value in choices_of(key) if f"{key}={value}".startswith(word)]
    found = [f"{group}=" for group in groups] + _keys(words, word.rpartition(".")[0])
    return sorted({name for name in found if name.startswith(word)})


def _groups() -> dict[str, list[str]]:
    """The config groups, and what each can be."""
    folders = [path for path in data_folder("configs").iterdir() if path.is_dir()]
    groups = {path.name: sorted(file.stem for file in path.glob("*.yaml")) for path in folders}
    return {**groups, "recipe": recipe_names()}


def _keys(words: list[str], parent: str) -> list[str]:
    """The keys right below `parent` of the config: `a.b.` where it holds keys, else `a.b=`."""
    return _keys_below(words, parent) if parent else _top_keys()


def _top_keys() -> list[str]:
    """Those of the config itself. No recipe adds one, and composing takes six times as long."""
    import yaml

    config = yaml.safe_load((data_folder("configs") / "config.yaml").read_text("utf-8"))
    del config["defaults"], config["hydra"]
    held = {group: {} for group in _groups() if group not in _WHOLE} | config
    return [name + ("." if isinstance(value, dict) else "=") for name, value in held.items()]


def _keys_below(words: list[str], parent: str) -> list[str]:
    from hydra.errors import HydraException
    from omegaconf import DictConfig, OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from sparsetrain.cli.overrides import with_quotes, with_recipe_file
    from sparsetrain.recipe import compose

    words = [word for word in words if "=" in word or word[:1] == "~"]
    if not any(word.startswith("recipe=") for word in words):
        words = [*words, f"recipe={recipe_names()[0]}"]  # any: keys are the same but for few
    try:
        config = compose(with_quotes(with_recipe_file(words)))
        node = OmegaConf.select(config, parent)
    except (ValueError, HydraException, OmegaConfBaseException):  # `fit` will say what is wrong
        return []
    if not isinstance(node, DictConfig):
        return []
    return [
        f"{parent}.{key}" + ("." if OmegaConf.is_dict(value) else "=")
        for key, value in node.items_ex(resolve=False)
        if key != "_target_"  # says which class the keys beside it are of
    ]
