"""What the environment and the config file say about the servers."""

from __future__ import annotations

import json
import os
import tomllib
from pathlib import Path
from typing import Any

from keras_tl.storage.home import home


def configured() -> dict[str, Any]:
    """What the environment and the config file say: `mongodb`, `kafka`, `project`."""
    named = os.environ.get("KERAS_TL_CONFIG")
    path = Path(named) if named else home() / "config.toml"
    config: dict[str, Any] = {}
    if named or path.exists():
        try:
            config = tomllib.loads(path.read_text())
        except (OSError, tomllib.TOMLDecodeError) as error:
            raise ValueError(
                f"The config file must be TOML that can be read. Received: {path.name}: {error}"
            ) from error
        unknown = set(config) - {"mongodb", "kafka", "project"}
        if unknown:
            raise ValueError(
                "The config file must hold `mongodb`, `kafka` and `project` only. "
                f"Received: {sorted(unknown)}"
            )
        for name, value in config.items():
            if not isinstance(value, (str, dict) if name == "kafka" else str):
                raise ValueError(
                    f"The config file must hold `{name}` as a string. "
                    f"Received: {type(value).__name__}"
                )
    for name in ("mongodb", "kafka", "project"):
        value = os.environ.get(f"KERAS_TL_{name.upper()}")
        if value:
            config[name] = value
    kafka = config.get("kafka")
    if isinstance(kafka, str) and kafka.startswith("{"):
        try:
            config["kafka"] = json.loads(kafka)
        except json.JSONDecodeError as error:
            raise ValueError(
                "`KERAS_TL_KAFKA` must be bootstrap servers, or options as a JSON object. "
                f"Received: text that is no JSON ({error})"
            ) from None
    return config
