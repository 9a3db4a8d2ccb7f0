"""Reading what W&B wrote: its record file (LevelDB's log format) of its own messages."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2

MESSAGES: Any = wandb_internal_pb2
_BLOCK, _HEADER = 32 * 1024, 7  # bytes
_FULL, _FIRST, _LAST = 1, 2, 4


@dataclass
class Written:
    """A run as its file says. history: each `log`, nested keys joined; summary: the last word."""

    run: Any = None
    config: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)  # by name or glob
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    artifacts: dict[str, Any] = field(default_factory=dict)  # by type
    alerts: list[Any] = field(default_factory=list)
    exit_code: int | None = None


def read_wandb(folder: Path, within: float = 30.0) -> Written:
    """The one run under `folder`/wandb, which has ended. W&B's process writes the last of it within
    seconds of that."""
    [path] = folder.glob("wandb/*run-*/*.wandb")
    end = time.monotonic() + within
    while (found := _read(path)).exit_code is None and time.monotonic() < end:
        time.sleep(0.1)
    assert found.exit_code is not None, f"{path} has no end"
    return found


def _read(path: Path) -> Written:
    found = Written()
    for data in _records(path.read_bytes()):
        record = MESSAGES.Record()
        record.ParseFromString(data)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            found.run = record.run
            found.config |= _items(record.run.config.update)
        elif kind == "config":
            found.config |= _items(record.config.update)
        elif kind == "metric":
            found.metrics[record.metric.name or record.metric.glob_name] = record.metric
        elif kind == "history":
            found.history.append(_items(record.history.item))
        elif kind == "summary":
            found.summary |= _items(record.summary.update)
        elif kind == "artifact":
            found.artifacts[record.artifact.type] = record.artifact
        elif kind == "alert":
            found.alerts.append(record.alert)
        elif kind == "exit":
            found.exit_code = record.exit.exit_code
    return found


def _items(items: Any) -> dict[str, Any]:
    return {
        "/".join(item.nested_key) or item.key: json.loads(
            item.value_json.replace("Infinity", "1e999")
        )
        for item in items
    }


def _records(data: bytes) -> Iterator[bytes]:
    """The records of a file. Each block of 32 KiB is a sequence of pieces."""
    assert data[:4] == b":W&B"
    place, record = _HEADER, b""
    while place + _HEADER <= len(data):
        left = _BLOCK - place % _BLOCK
        if left < _HEADER:
            place += left
            continue
        length, kind = struct.unpack("<HB", data[place + 4 : place + _HEADER])
        piece = data[place + _HEADER : place + _HEADER + length]
        if len(piece) < length:  # W&B's process is writing it
            return
        record = piece if kind in (_FULL, _FIRST) else record + piece
        place += _HEADER + length
        if kind in (_FULL, _LAST):
            yield record
