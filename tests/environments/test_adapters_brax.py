"""Brax's environments as ours, against brax itself."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purejaxppo import Config, ConfigError, train
from purejaxppo.environments import Task
from tests.support.small import SMALL, assert_trains

envs = pytest.importorskip("brax.envs")
adapter = pytest.importorskip("purejaxppo.environments.adapters.brax")

pytestmark = pytest.mark.usefixtures("promoted_ranks")
PENDULUM = "inverted_pendulum"  # falls within a few steps of a constant push


@functools.cache
def played(push, limit, num_steps=12):
    """The pendulum under a constant push, from one key: the steps of the adapter and those of brax by itself."""
    env, raw = adapter.make(PENDULUM), envs.get_environment(PENDULUM)
    params = env.default_params.replace(max_steps_in_episode=limit)
    action = jnp.full((1,), push, jnp.float32)

    def ours(carry, key):
        step = Task(env, params).step(key, carry[1], action)
        return (step.obs, step.state), step

    def theirs(state, _):
        state = raw.step(state, action)
        return state, (state.obs, state.reward, state.done)

    def both(key):
        start = Task(env, params).reset(key)
        steps = jax.lax.scan(ours, start, jax.random.split(key, num_steps))[1]
        first = jax.tree.map(jnp.asarray, raw.reset(key))
        return start, steps, first.obs, jax.lax.scan(_strong(theirs), first, None, num_steps)[1]

    return jax.device_get(jax.jit(both)(jax.random.key(0)))


def _strong(function):
    """Brax's states cannot be carried as they are: some of their leaves are Python numbers."""

    def run(state, x):
        new, y = function(state, x)
        return jax.tree.map(lambda new, old: jnp.asarray(new, old.dtype), new, state), y

    return run


def end_of(flags):
    return int(np.argmax(flags)) + 1


def test_steps_are_those_of_brax():
    (obs, _), steps, raw_obs, (raw_obs_after, raw_reward, raw_done) = played(1.0, 1000)
    end = end_of(raw_done)
    assert 1 < end < 12
    np.testing.assert_array_equal(obs, raw_obs)
    np.testing.assert_allclose(steps.next_obs[:end], raw_obs_after[:end], rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(steps.reward[:end], raw_reward[:end])
    np.testing.assert_array_equal(steps.terminated[:end], raw_done[:end] > 0)


def test_a_fall_terminates_and_resets_on_the_same_step():
    _, steps, _, (raw_obs, _, raw_done) = played(1.0, 1000)
    end = end_of(raw_done)
    assert steps.terminated[end - 1]
    assert steps.done[end - 1]
    np.testing.assert_allclose(steps.next_obs[end - 1], raw_obs[end - 1], rtol=1e-6, atol=1e-6)
    assert abs(steps.next_obs[end - 1][1]) > 0.2  # fallen
    assert np.all(np.abs(steps.obs[end - 1]) <= 0.01 + 1e-6)  # where brax starts episodes
    np.testing.assert_array_equal(steps.state.time[end - 1 : end + 1], [0, 1])
    np.testing.assert_array_equal(steps.state.suite.done[end - 1 : end + 1], [0, 0])
    assert not steps.done[end]


def test_a_time_limit_truncates():
    _, steps, _, (raw_obs, _, _) = played(0.0, 3)
    np.testing.assert_array_equal(steps.done, np.arange(1, 13) % 3 == 0)
    assert not steps.terminated.any()
    np.testing.assert_allclose(steps.next_obs[2], raw_obs[2], rtol=1e-6, atol=1e-6)
    assert np.any(steps.obs[2] != steps.next_obs[2])


def test_a_fall_on_the_last_step_is_a_termination():
    end = end_of(played(1.0, 1000)[3][2])
    _, steps, _, _ = played(1.0, end)
    assert steps.terminated[end - 1]
    assert steps.done[end - 1]
    assert not steps.done[: end - 1].any()


@pytest.mark.parametrize("name", adapter.names())
def test_actions_in_the_box_span_the_actuators(name):
    """Brax scales [-1, 1] to an actuator's range, or the range is [-1, 1]."""
    scaled = {"humanoid", "humanoidstandup", PENDULUM, "pusher"}
    limits = np.asarray(adapter.make(name).suite.sys.actuator.ctrl_range)
    assert (name in scaled) == bool(np.any(limits != [-1, 1]))


def test_a_step_leaves_its_argument_as_it_was():
    env = adapter.make("reacher")

    def unchanged(key):
        _, state = env.reset_env(key, env.default_params)
        before = dict(state.suite.metrics)
        env.step_env(key, state, jnp.zeros(2), env.default_params)
        assert all(state.suite.metrics[name] is before[name] for name in before)

    jax.eval_shape(unchanged, jax.random.key(0))


def test_other_physics_make_another_environment():
    assert adapter.BraxEnv("ant") != adapter.BraxEnv("ant", "spring")
    assert adapter.BraxEnv("ant", "spring").suite.backend == "spring"
    assert adapter.BraxEnv("ant").suite is adapter.BraxEnv("ant").suite


def test_other_physics_can_be_trained_on():
    assert_trains(Config(env=adapter.BraxEnv(PENDULUM, "mjx"), **SMALL))


def test_what_cannot_be_trained_on_is_refused():
    with pytest.raises(ConfigError, match="unknown brax environment"):
        adapter.make("fast")
    with pytest.raises(ConfigError, match="backend='bullet'"):
        adapter.BraxEnv("ant", "bullet")


@pytest.mark.slow
def test_the_pendulum_is_learned():
    """A step upright pays 1, so 1000 is the best return; a random policy falls within 10 steps."""
    config = Config(env=f"brax/{PENDULUM}", total_timesteps=2**18, num_envs=64, num_steps=32, lr=3e-3)
    _, metrics = train(config, jax.random.key(0))
    assert metrics["episode_return"][0] <= 20
    assert np.nanmean(metrics["episode_return"][-10:]) >= 950
