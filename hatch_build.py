"""A wheel that carries a compiled kernel library is tagged for the platform it was compiled on."""

import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class TagPlatform(BuildHookInterface):
    """The library knows no Python, so the tag is py3-none-PLATFORM; without one, py3-none-any."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if any(Path(self.root, "sparsetrain", "prebuilt").rglob("*.so")):
            platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
            build_data["pure_python"] = False
            build_data["tag"] = f"py3-none-{platform}"
