"""What many tests share: above all trainings of two updates, which run for a moment but take long to compile."""

from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest

from purejaxppo import MLP, ConfigError, ppo, train

ROOT = Path(__file__).parents[2]
# Of a process that spends its time compiling: the compiler may do a poor job of it.
FAST_COMPILING = {"XLA_FLAGS": "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"}

SMALL = {
    "total_timesteps": 16,  # two updates
    "num_envs": 2,
    "num_steps": 4,
    "num_epochs": 1,
    "num_minibatches": 2,
    "network": MLP(hidden_sizes=(4,)),
}
QUICK_COMPILE: dict[str, int | bool] = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
if jax.__version_info__ < (0, 11):  # later ones refuse it
    QUICK_COMPILE["xla_cpu_use_fusion_emitters"] = False


def refused(cls, **values):
    """The message with which one field's value is refused, after a check that it names field and value."""
    with pytest.raises(ConfigError) as error:
        cls(**values)
    ((name, value),) = values.items()
    assert str(error.value).startswith(f"{name}={value!r}: must be "), str(error.value)
    return str(error.value).partition(": must be ")[2]


def quickly(function, *args):
    """`function(*args)` in one program."""
    options = QUICK_COMPILE if jax.default_backend() == "cpu" else None
    return jax.jit(function, compiler_options=options)(*args)


def collect(config, state):
    """What `update` learns from: the state after a rollout, its transitions, and the batch."""
    return quickly(_collect, config, state)


def _collect(config, state):
    return ppo.collect(config, state, jax.random.split(state.key, 3)[0])


def objective(config, agent, batch):
    """`(loss, metrics)` of PPO on samples, before the first update."""
    return quickly(_objective, config, agent, batch)


def _objective(config, agent, batch):
    return ppo.ppo_objective(config, ppo.bind(config), agent, batch, ppo.rates_at(config, 0))


def gradient_of(config, state, batch):
    """`(gradient, metrics)` of the loss by the parameters."""
    return quickly(_gradient_of, config, state, batch)


def _gradient_of(config, state, batch):
    networks, rates = ppo.bind(config), ppo.rates_at(config, state.num_updates)

    def loss(params):
        return ppo.ppo_objective(config, networks, state.agent._replace(params=params), batch, rates)

    return jax.grad(loss, has_aux=True)(state.params)


@partial(jax.jit, static_argnames=("env", "num_envs", "num_steps"))
def random_walk(env, params, key, num_envs, num_steps):
    """First observations `[N]`, actions and results of random steps `[T, N]`."""
    key_reset, key_action, key_step = jax.random.split(key, 3)
    first, state = jax.vmap(env.reset, (0, None))(jax.random.split(key_reset, num_envs), params)
    actions = jax.random.randint(key_action, (num_steps, num_envs), 0, env.num_actions)

    def step(state, inputs):
        key, action = inputs
        obs, state, *result = env.step(key, state, action, params)
        return state, (obs, state, *result)

    keys = jax.random.split(key_step, (num_steps, num_envs))
    return first, actions, jax.lax.scan(jax.vmap(step), state, (keys, actions))[1]


def names(directory):
    """What is in a directory, sorted."""
    return sorted(path.name for path in directory.iterdir())


def leaves_of(tree, i):
    return jax.tree.map(lambda leaf: leaf[i], tree)


def assert_trees_close(actual, expected, **tolerance):
    jax.tree.map(partial(np.testing.assert_allclose, **tolerance), as_numbers(actual), as_numbers(expected))


def assert_trees_equal(actual, expected):
    """Leaf by leaf, whatever holds them."""
    for a, b in zip(*(jax.tree.leaves(as_numbers(tree)) for tree in (actual, expected)), strict=True):
        np.testing.assert_array_equal(a, b)


def as_numbers(tree):
    """The tree with the data of its keys."""
    is_key = lambda leaf: jax.dtypes.issubdtype(jax.dtypes.result_type(leaf), jax.dtypes.prng_key)  # noqa: E731
    return jax.tree.map(lambda leaf: jax.random.key_data(leaf) if is_key(leaf) else leaf, tree)


def assert_trains(config):
    """Two updates: finite, complete, and the networks change."""
    state, metrics = quickly(train, config, jax.random.key(0))
    for name in ("policy_loss", "value_loss", "entropy", "approx_kl", "clip_fraction", "grad_norm", "num_episodes"):
        assert metrics[name].shape == (2,)
        assert np.all(np.isfinite(metrics[name])), name
    assert np.all(metrics["num_skipped"] == 0)
    assert np.all(metrics["entropy"] != 0)
    assert np.all(metrics["grad_norm"] > 0)
    assert state.num_updates == 2
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(state.params))
    return state, metrics
