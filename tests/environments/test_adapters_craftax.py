"""Craftax's environments as ours, against craftax itself."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purejaxppo import Config, train
from purejaxppo.environments import Task

craftax_env = pytest.importorskip("craftax.craftax_env")
adapter = pytest.importorskip("purejaxppo.environments.adapters.craftax")

pytestmark = pytest.mark.usefixtures("promoted_ranks")
CLASSIC = "Craftax-Classic-Symbolic-v1"
NUM_STEPS = 8


@functools.cache
def program():
    """Some steps of the adapter from a first state with a given health, and on the same keys those of craftax."""
    env = adapter.make(CLASSIC)
    raw = craftax_env.make_craftax_env_from_name(CLASSIC, auto_reset=False)

    def ours(params, state, inputs):
        step = Task(env, params).step(*_in_order(state, inputs))
        return step.state, step

    def theirs(state, inputs):
        key, action = inputs
        # gymnax's `step` gives half of its key to the step, and half to the reset.
        obs, state, reward, done, _ = raw.step_env(jax.random.split(key)[0], state, action, raw.default_params)
        return state, (obs, reward, done)

    @jax.jit
    def run(params, health, key, actions):
        obs, state = Task(env, params).reset(key)
        state = state.replace(player_health=jnp.where(health < 0, state.player_health, health))
        raw_obs, raw_state = raw.reset_env(key, raw.default_params)
        inputs = jax.random.split(key, NUM_STEPS), actions
        steps = jax.lax.scan(functools.partial(ours, params), state, inputs)[1]
        return obs, steps, raw_obs, jax.lax.scan(theirs, raw_state, inputs)[1]

    return run


def _in_order(state, inputs):
    key, action = inputs
    return key, state, action


def played(limit=10_000, health=-1):
    """`(obs, Step, obs of craftax, (obs, reward, done) of craftax)`; a health below 0 leaves it as it is."""
    params = adapter.make(CLASSIC).default_params.replace(max_steps_in_episode=limit)
    actions = jnp.array([1, 3, 5, 2, 4, 6, 5, 1], jnp.int32)
    return jax.device_get(program()(params, jnp.int32(health), jax.random.key(0), actions))


def test_steps_are_those_of_craftax():
    obs, steps, raw_obs, (raw_obs_after, raw_reward, raw_done) = played()
    assert not raw_done.any()
    np.testing.assert_allclose(obs, raw_obs, rtol=1e-6)
    np.testing.assert_allclose(steps.next_obs, raw_obs_after, rtol=1e-6)
    np.testing.assert_array_equal(steps.reward, raw_reward)
    np.testing.assert_array_equal(steps.done, raw_done)
    assert np.any(steps.next_obs[0] != obs)
    np.testing.assert_array_equal(steps.state.timestep, np.arange(1, NUM_STEPS + 1))


def test_a_time_limit_truncates_and_resets_on_the_same_step():
    _, steps, _, (raw_obs, _, _) = played(limit=3)
    np.testing.assert_array_equal(steps.done, np.arange(1, NUM_STEPS + 1) % 3 == 0)
    assert not steps.terminated.any()
    np.testing.assert_allclose(steps.next_obs[2], raw_obs[2], rtol=1e-6)
    np.testing.assert_array_equal(steps.state.timestep, np.arange(1, NUM_STEPS + 1) % 3)
    assert np.any(steps.obs[2] != steps.next_obs[2])  # another world


def test_death_terminates_and_resets_on_the_same_step():
    _, steps, _, _ = played(health=0)
    np.testing.assert_array_equal(steps.terminated, np.arange(NUM_STEPS) == 0)
    np.testing.assert_array_equal(steps.done, np.arange(NUM_STEPS) == 0)
    np.testing.assert_array_equal(steps.state.timestep, np.arange(NUM_STEPS))
    assert np.all(steps.state.player_health > 0)
    assert np.any(steps.obs[0] != steps.next_obs[0])


def test_death_on_the_last_step_is_a_termination():
    _, steps, _, _ = played(limit=1, health=0)
    np.testing.assert_array_equal(steps.terminated, np.arange(NUM_STEPS) == 0)
    assert steps.done.all()


def test_every_parameter_reaches_the_game():
    env = adapter.make(CLASSIC)
    rules = env._rules(adapter.CraftaxParams(max_steps_in_episode=1, day_length=2, mob_despawn_distance=3))
    assert (rules.max_timesteps, rules.day_length, rules.mob_despawn_distance) == (1, 2, 3)
    assert env._rules(env.default_params) == env.suite.default_params


@pytest.mark.slow
def test_the_classic_game_is_learned_in_part():
    """A random policy gathers about 1.3 in an episode (of 22 achievements, each worth 1)."""
    config = Config(env=f"craftax/{CLASSIC}", total_timesteps=2**15, num_envs=32, num_steps=32, lr=1e-3)
    _, metrics = train(config, jax.random.key(0))
    assert np.nanmean(metrics["episode_return"][:6]) <= 1.6
    assert np.nanmean(metrics["episode_return"][-8:]) >= 2.4
