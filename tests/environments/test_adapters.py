"""What the adapters to all suites do alike; what is each one's own is in `test_adapters_<suite>.py`."""

import importlib
import re

import jax
import pytest

from purejaxppo import Config, ConfigError
from purejaxppo.environments import Task, make, make_task

pytestmark = pytest.mark.usefixtures("promoted_ranks")

# Of each suite: two environments, and what nearly is the name of the first.
SUITES = {
    "brax": ("ant", "hopper", "Ant"),
    "craftax": ("Craftax-Classic-Symbolic-v1", "Craftax-Symbolic-v1", "Craftax-Classic-Symbolic"),
    "jumanji": ("Snake-v1", "Maze-v0", "Snake-v0"),
    "navix": ("Navix-Empty-5x5-v0", "Navix-Empty-8x8-v0", "Navix-Empty-5x5"),
    "pgx": ("2048", "minatar-breakout", "204"),
    "xminigrid": ("MiniGrid-Empty-5x5", "MiniGrid-Empty-6x6", "MiniGrid-Empt-5x5"),
}


@pytest.fixture(params=SUITES)
def suite(request):
    pytest.importorskip(request.param)
    return request.param


def adapter_of(suite):
    return importlib.import_module(f"purejaxppo.environments.adapters.{suite}")


# The first one: what is loaded, or compiled, before hides what this looks for.
def test_what_is_loaded_while_a_program_is_traced_is_good_for_the_next(suite):
    adapter = adapter_of(suite)
    cached = [function for function in vars(adapter).values() if hasattr(function, "cache_info")]
    for function in cached:
        function.cache_clear()

    name = SUITES[suite][0]
    for _ in range(2):
        # Another function each time: a trace that is remembered would not ask again.
        jax.eval_shape(lambda x: x if adapter.make(name).action_space() else 0, 1.0)
    env = adapter.make(name)
    if hasattr(env, "suite"):
        assert not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(vars(env.suite)))
    else:
        Task(env, env.default_params).reset(jax.random.key(0))
    assert max(function.cache_info().misses for function in cached) == 1

    def play(key):  # the package's own modules must not have kept tracers either
        _, state = Task(env, env.default_params).reset(key)
        action = make_task(env).action_space.sample(key)
        return Task(env, env.default_params).step(key, state, action).reward

    constants = jax.make_jaxpr(play)(jax.random.key(0)).consts
    assert not any(isinstance(constant, jax.core.Tracer) for constant in constants)


def test_equal_environments_share_a_program(suite):
    name, other, _ = SUITES[suite]
    env, same = make(f"{suite}/{name}"), adapter_of(suite).make(name)
    assert env is not same
    assert env == same
    assert hash(env) == hash(same)
    assert env != make(f"{suite}/{other}")
    assert env.name == f"{suite}/{name}"


def test_unknown_names_are_refused(suite):
    near, _, wrong = SUITES[suite]
    match = rf"unknown {suite} environment '{wrong}'; did you mean '{re.escape(near)}'"
    with pytest.raises(ConfigError, match=match):
        Config(env=f"{suite}/{wrong}")
