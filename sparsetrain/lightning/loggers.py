"""Weights & Biases that never asks, never hangs and never stops a run from starting."""

from __future__ import annotations

import configparser
import netrc
import os
from collections.abc import Sequence
from configparser import ConfigParser
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from lightning_utilities.core.rank_zero import rank_zero_only

from sparsetrain.lightning.flavour import WandbLogger

Mode = Literal["online", "offline", "disabled"]

MODES: dict[str, Mode] = {
    "online": "online",
    "run": "online",
    "shared": "online",
    "offline": "offline",
    "dryrun": "offline",
    "disabled": "disabled",
}
"""What WANDB_MODE may be, and what it stands for here."""

STEP = "trainer/global_step"
BEST = {
    "val/top1": "max,last",
    "val/top5": "max,last",
    "val/loss": "min,last",
    "train/loss": "min,last",
    "train/grad_norm": "max,last",
    "perf/images_per_s": "max,mean",
    "perf/memory_gib": "max",
    "perf/elapsed_s": "max",
}
"""What the summary of a run has of a metric beside, or instead of, its last value."""

BY_LAYER = ("sparsity/kept_energy/*", "sparsity/flip_rate/*")
"""Metrics of single layers: they are logged, and have no panel of their own."""

_SERVER = "https://api.wandb.ai"
_ANSWER_TIMEOUT = 6  # seconds
_START_TIMEOUT = 20.0  # seconds
_FINISH_TIMEOUT = 300.0  # seconds; what is not uploaded by then stays for `wandb sync`


def wandb_logger(
    project: str,
    name: str,
    save_dir: str,
    entity: str | None = None,
    group: str | None = None,
    job_type: str | None = None,
    tags: str | Sequence[str] | None = None,
    notes: str | None = None,
    id: str | None = None,  # as wandb.init names it
) -> WandbLogger:
    """A W&B logger with its run, started: online with a key that the server takes, else offline.

    Offline runs lie under `save_dir`/wandb and go up later with `wandb sync`. Whatever keeps a run
    from being online (no network, a refused key, a WANDB_* variable that cannot be read) is said in
    one line. Runs of the same `id` are one run to W&B.
    """
    arguments = {
        "project": project,
        "name": name,
        "entity": entity,
        "group": group,
        "job_type": job_type,
        "tags": [*([tags] if isinstance(tags, str) else tags or ()), *_tags_of_environment()],
        "notes": notes,
        "id": id,
    }
    if rank_zero_only.rank != 0:  # set by Lightning; only the first process logs
        return WandbLogger(**arguments, save_dir=save_dir)
    _prepare()
    mode, why = mode_of_environment()
    if mode == "online":
        mode, why = _checked(mode)
    if why is not None:
        _tell(why)
    run = _start(mode, arguments | {"dir": save_dir})
    _define(run)
    return WandbLogger(project=project, name=name, save_dir=save_dir, experiment=run)


def _tags_of_environment() -> list[str]:
    return [tag for tag in os.environ.get("WANDB_TAGS", "").split(",") if tag]


def mode_of_environment() -> tuple[Mode, str | None]:
    """What WANDB_MODE, `wandb offline`, `wandb disabled` and the keys of this machine ask for, and
    why it is not what they say."""
    given = os.environ.get("WANDB_MODE")
    if given and given not in MODES:
        known = ", ".join(dict.fromkeys(MODES.values()))
        del os.environ["WANDB_MODE"]  # W&B refuses it in any mode
        return "offline", f"WANDB_MODE={given} is no mode ({known})"
    mode = MODES.get(given or stored_settings().get("mode", ""), "online")
    if mode == "online" and not has_key():
        no_key = f"WANDB_MODE={given}, but there is no key (WANDB_API_KEY, `wandb login`)"
        return "offline", no_key if given else None
    return mode, None


def online_or_why_not() -> str | None:
    """None where W&B can be reached with this machine's key, else why it cannot, in words."""
    _prepare()
    mode, why = mode_of_environment()
    if mode == "online":
        mode, why = _checked(mode)
    if mode == "online":
        return None
    return why or ("no key (WANDB_API_KEY, `wandb login`)" if not has_key() else f"W&B is {mode}")


def _prepare() -> None:
    """Have W&B print nothing of its own and wait for seconds, unless the environment says else."""
    forget_unreadable()
    os.environ.setdefault("WANDB_SILENT", "true")
    os.environ.setdefault("WANDB_HTTP_TIMEOUT", str(_ANSWER_TIMEOUT))
    os.environ.setdefault("WANDB_FINISH_TIMEOUT", str(_FINISH_TIMEOUT))


def stored_settings() -> dict[str, str]:
    """What `wandb login --host`, `wandb offline` and `wandb disabled` have written: for this user,
    and over it for this folder. Nothing where a file cannot be read."""
    user = Path(os.environ.get("WANDB_CONFIG_DIR", "~/.config/wandb")).expanduser()
    here = Path(os.environ.get("WANDB_DIR", "."), "wandb")
    parser = ConfigParser(interpolation=None)
    try:
        parser.read([user / "settings", here / "settings"], encoding="utf-8")
    except (configparser.Error, UnicodeDecodeError, OSError):
        return {}
    return dict(parser["default"]) if parser.has_section("default") else {}


def has_key() -> bool:
    """Whether W&B can log in: WANDB_API_KEY, an identity token, a key in W&B's own settings, or an
    entry for its server in ~/.netrc."""
    stored = stored_settings()
    names = ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE")
    if any(os.environ.get(name) for name in names) or stored.get("api_key"):
        return True
    path = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    if not path.is_file():
        return False
    # W&B's own server has had several names; a key for the first serves all.
    given = os.environ.get("WANDB_BASE_URL") or stored.get("base_url")
    hosts = (given,) if given else (_SERVER, _default_server())
    try:
        entries = netrc.netrc(path)
        found = [entries.authenticators(urlsplit(host).netloc) for host in hosts]
    except (netrc.NetrcParseError, OSError):
        return False
    return any(entry is not None and bool(entry[2]) for entry in found)


def forget_unreadable() -> None:
    """Take WANDB_* variables that W&B cannot read out of this process's environment, with a line
    each: it would refuse to start in any mode."""
    import wandb
    from wandb.errors import Error

    for name, value in list(os.environ.items()):
        if not name.startswith("WANDB_") or name == "WANDB_MODE":
            continue
        try:
            wandb.Settings().update_from_env_vars({name: value})
        except (ValueError, TypeError, Error):
            del os.environ[name]
            shown = "" if "KEY" in name else f"={value}"
            _tell(f"{name}{shown} cannot be read and is ignored", None)


def _default_server() -> str:
    import wandb

    return str(wandb.Settings().base_url)


def _checked(mode: Mode) -> tuple[Mode, str | None]:
    """Online if the server takes the key, within seconds; else why not."""
    import wandb
    from wandb.errors import Error

    try:
        wandb.login(verify=True)
    except (Error, ValueError, OSError) as error:
        return "offline", _first_line(error)
    return mode, None


def _start(mode: Mode, arguments: dict[str, Any]) -> Any:
    """The run: offline where it cannot be online, and disabled where it cannot be offline."""
    import wandb
    from wandb.errors import Error

    settings = wandb.Settings(init_timeout=_START_TIMEOUT)
    try:
        return wandb.init(
            **arguments,
            mode=mode,
            resume="allow" if mode == "online" else None,
            settings=settings,
            reinit="finish_previous",
        )
    except (Error, ValueError, OSError) as error:
        if mode == "disabled":
            raise
        less: Mode = "offline" if mode == "online" else "disabled"
        _tell(_first_line(error), less)
        return _start(less, arguments)


def _define(run: Any) -> None:
    """Steps as the x axis, the best and last values as the summary, one metric a layer unseen."""
    run.define_metric(STEP)
    run.define_metric("*", step_metric=STEP, step_sync=True)
    for name, summary in BEST.items():
        run.define_metric(name, step_metric=STEP, step_sync=True, summary=summary)
    for name in BY_LAYER:
        run.define_metric(name, step_metric=STEP, step_sync=True, hidden=True, summary="none")


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if lines and "did not respond in time" in lines[0]:
        given = os.environ.get("WANDB_BASE_URL") or stored_settings().get("base_url")
        return f"no answer from {given or _default_server()}"
    return lines[0] if lines else type(error).__name__


def _tell(why: str, then: Mode | None = "offline") -> None:
    what = {"offline": "; this run is logged offline", "disabled": "; this run is not logged there"}
    print(f"wandb: {why.rstrip('.')}{what.get(then or '', '')}", flush=True)
