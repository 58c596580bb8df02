"""Environments of other packages, as ours: an id such as "brax/ant" is a suite and a name that the suite knows.

Every adapter resets on the step that ends an episode, and gives the true successor, so no transition is a dummy.
"""

import importlib
from typing import Any

import jax

from purejaxppo.errors import ConfigError

SUITES = ("brax", "craftax", "jumanji", "navix", "pgx", "xminigrid")


def make(env_id: str) -> Any:
    """The environment of an id.

    Raises:
        ConfigError: the suite is not installed, or does not know the name.
    """
    suite, _, name = env_id.partition("/")
    try:
        # Suites make arrays as they are imported, which must not be tracers of a program that is being traced now.
        with jax.ensure_compile_time_eval():
            adapter = importlib.import_module(f"purejaxppo.environments.adapters.{suite}")
    except ImportError as error:
        raise ConfigError(f"env={env_id!r}: needs pip install 'purejaxppo[{suite}]' ({error})") from None
    return adapter.make(name)
