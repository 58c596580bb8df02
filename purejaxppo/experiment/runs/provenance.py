"""Where a result comes from: versions, devices, the state of the code, the command, the key."""

import datetime
import importlib.metadata
import logging
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax

# Settings of JAX on which the bits of a result depend.
SETTINGS = (
    "jax_default_matmul_precision",
    "jax_default_prng_impl",
    "jax_enable_x64",
    "jax_numpy_dtype_promotion",
    "jax_threefry_partitionable",
)
PACKAGES = ("purejaxppo", "jax", "jaxlib", "flax", "optax", "gymnax", "numpy", "orbax-checkpoint")

log = logging.getLogger("purejaxppo")


def provenance() -> dict[str, Any]:
    """Collect all of it, ready for JSON; `git` is that of the working directory, null outside of a repository."""
    return {
        "versions": versions(),
        "devices": devices(),
        "settings": settings(),
        "git": _git(),
        "command": shlex.join(sys.argv),
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def versions() -> dict[str, str]:
    """List the versions on which the bits of a result depend."""
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in PACKAGES}


def settings() -> dict[str, Any]:
    """Look up the settings of JAX and XLA on which the bits of a result depend."""
    return {name: getattr(jax.config, name) for name in SETTINGS} | {"XLA_FLAGS": os.environ.get("XLA_FLAGS", "")}


def devices() -> list[str]:
    """List the kinds of JAX's devices."""
    return [device.device_kind for device in jax.devices()]


def warn_of_changes(directory: Path, description: dict[str, Any]) -> None:
    """Say where bits may differ from those of a process that never stopped."""
    for name, now in (("versions", versions()), ("devices", devices()), ("settings", settings())):
        if description.get(name) != now:
            log.warning("%s: was started with other %s, %s; these are %s", directory, name, description.get(name), now)


def _git() -> dict[str, Any] | None:
    try:
        commit, status = (
            subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=5, check=True).stdout
            for arguments in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit.strip(), "dirty": bool(status)}
