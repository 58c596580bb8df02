"""Navix's environments as ours, against navix itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purejaxppo import Config, evaluate, train
from purejaxppo.environments import Task, make, make_task

navix = pytest.importorskip("navix")
adapter = pytest.importorskip("purejaxppo.environments.adapters.navix")

pytestmark = pytest.mark.usefixtures("promoted_ranks")
EMPTY = "Navix-Empty-5x5-v0"
TO_GOAL = (2, 2, 1, 2, 2)  # forward twice, turn right, forward twice: the shortest way


def played(name, actions, limit=None, seed=0):
    """Actions from one key: `(state, Step)` of the adapter, and the timesteps of navix, which resets a step later."""
    env, raw = adapter.make(name), navix.make(name, **({} if limit is None else {"max_steps": limit}))
    params = env.default_params if limit is None else env.default_params.replace(max_steps_in_episode=limit)

    def ours(state, inputs):
        step = Task(env, params).step(inputs[0], state, inputs[1])
        return step.state, step

    def theirs(timestep, action):
        timestep = raw.step(timestep, action)
        return timestep, timestep.replace(state=None)

    def both(key, actions):
        first, raw_first = Task(env, params).reset(key), raw.reset(key)
        keys = jax.random.split(key, len(actions))
        steps = jax.lax.scan(ours, first[1], (keys, actions))[1]
        return first[0], steps, raw_first.observation, jax.lax.scan(theirs, raw_first, actions)[1]

    return jax.device_get(jax.jit(both)(jax.random.key(seed), jnp.array(actions, jnp.int32)))


@pytest.mark.parametrize("name", [EMPTY, "Navix-DoorKey-Random-6x6-v0", "Navix-Dynamic-Obstacles-6x6-Random-v0"])
def test_steps_are_those_of_navix(name):
    actions = np.random.default_rng(0).choice([0, 1, 2, 2, 2, 3, 5], 40)
    obs, steps, raw_obs, raw = played(name, actions)
    end = int(np.argmax(raw.step_type > 0)) + 1 if np.any(raw.step_type > 0) else len(actions)
    assert end > 1
    np.testing.assert_array_equal(obs, raw_obs)
    np.testing.assert_array_equal(steps.next_obs[:end], raw.observation[:end])
    np.testing.assert_array_equal(steps.reward[:end], raw.reward[:end])
    np.testing.assert_array_equal(steps.terminated[:end], raw.step_type[:end] == 2)
    np.testing.assert_array_equal(steps.done[:end], raw.step_type[:end] > 0)
    assert np.any(steps.next_obs[:end] != obs)


def test_the_goal_terminates_and_resets_on_the_same_step():
    obs, steps, _, raw = played(EMPTY, 3 * TO_GOAL)
    ends = np.arange(1, 16) % 5 == 0
    # No step is lost between episodes: the next one begins with the next action.
    np.testing.assert_array_equal(steps.terminated, ends)
    np.testing.assert_array_equal(steps.done, ends)
    np.testing.assert_array_equal(steps.reward, ends)
    np.testing.assert_array_equal(steps.state.t, np.arange(1, 16) % 5)
    np.testing.assert_array_equal(steps.next_obs[4], raw.observation[4])
    np.testing.assert_array_equal(steps.obs[4], obs)
    assert np.any(steps.next_obs[4] != obs)
    # Navix by itself takes the sixth action for its reset.
    np.testing.assert_array_equal(raw.t[:7], [1, 2, 3, 4, 5, 0, 1])


def test_a_time_limit_truncates():
    obs, steps, _, raw = played(EMPTY, (2, 0, 2) * 2, limit=3)
    assert raw.step_type[2] == 1
    np.testing.assert_array_equal(steps.done, [False, False, True] * 2)
    assert not steps.terminated.any()
    np.testing.assert_array_equal(steps.next_obs[2], raw.observation[2])
    np.testing.assert_array_equal(steps.obs[2], obs)
    assert np.any(steps.next_obs[2] != obs)


def test_the_goal_on_the_last_step_is_a_termination():
    _, steps, _, raw = played(EMPTY, TO_GOAL, limit=5)
    assert raw.step_type[4] == 2
    np.testing.assert_array_equal(steps.terminated, np.arange(5) == 4)
    np.testing.assert_array_equal(steps.done, np.arange(5) == 4)


def test_time_limits_are_those_of_navix():
    for name in (EMPTY, "Navix-MultiRoom-N2-S4-v0"):
        assert make(f"navix/{name}").default_params.max_steps_in_episode == navix.make(name).max_steps


@pytest.mark.parametrize("name", [EMPTY, "Navix-MultiRoom-N6-v0"])
def test_pictures_are_not_carried(name):
    env = adapter.make(name)
    state = jax.eval_shape(Task(env, env.default_params).reset, jax.random.key(0))[1]
    assert state.state.cache.patches.size == 0


@pytest.mark.parametrize("name", [EMPTY, "Navix-ObstructedMaze-1Q-v0", "Navix-Playground-v0", "Navix-LavaGapS5-v0"])
def test_features_are_one_hot(name):
    env = adapter.make(name)
    obs, steps, _, _ = played(name, (2, 1, 2, 0))
    for observation in (obs, *steps.next_obs):
        features = np.asarray(make_task(env).features(observation)).reshape(*observation.shape[:2], 21)
        for part, layer in zip(np.split(features, [11, 17], axis=-1), np.moveaxis(observation, -1, 0), strict=True):
            np.testing.assert_array_equal(part.sum(axis=-1), 1)
            np.testing.assert_array_equal(part.argmax(axis=-1), layer)


@pytest.mark.slow
def test_the_empty_room_is_learned():
    """The goal pays 1 whenever it is reached; the shortest way takes five steps, a random one about forty."""
    config = Config(env=f"navix/{EMPTY}", total_timesteps=2**17, num_envs=32, num_steps=64, lr=1e-3)
    state, _ = train(config, jax.random.key(0))
    episodes = evaluate(config, state, jax.random.key(1), num_episodes=64, greedy=False)
    assert np.mean(episodes.episode_return) >= 0.98
    assert np.mean(episodes.episode_length) <= 6
