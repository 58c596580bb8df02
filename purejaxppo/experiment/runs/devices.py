"""The device that rows are advanced on, and its memory."""

import os
from pathlib import Path
from typing import Any

import jax

from purejaxppo.errors import ConfigError


def default_device() -> jax.Device:
    """Choose JAX's first device, on which a run is trained and its checkpoints are placed."""
    return jax.devices()[0]


def available_bytes() -> int:
    """Measure the memory that is free on the device; all of the machine's where the system does not say."""
    stats = default_device().memory_stats()
    if stats is not None and "bytes_limit" in stats:
        return int(stats["bytes_limit"] - stats["bytes_in_use"])
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def needed_bytes(program: Any) -> int:
    """Ask XLA for the memory of a compiled program: of arguments, outputs and temporaries; 0 if it is not compiled."""
    if not hasattr(program, "memory_analysis"):
        return 0
    need = program.memory_analysis()
    whole = need.argument_size_in_bytes + need.output_size_in_bytes + need.temp_size_in_bytes
    return int(whole - need.alias_size_in_bytes)


def check_memory(num_agents: int, needed: int) -> None:
    """Refuse what does not fit into the memory: the system may end a process that takes more, without a word.

    Raises:
        ConfigError: it needs more than is free.
    """
    free = available_bytes()
    if needed > free:
        raise ConfigError(f"num_seeds={num_agents}: needs {needed:,} bytes of memory, but {free:,} are free")
