"""The adapter to xminigrid against the package itself."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purejaxppo import Config, evaluate, train
from purejaxppo.environments import Task, make, make_task
from tests.support.small import assert_trees_equal

xminigrid = pytest.importorskip("xminigrid")

from xminigrid.core.goals import AgentNearGoal  # noqa: E402

from purejaxppo.environments.adapters import xminigrid as adapter  # noqa: E402

pytestmark = pytest.mark.usefixtures("promoted_ranks")
FORWARD, RIGHT, LEFT = 0, 1, 2
EMPTY = "xminigrid/MiniGrid-Empty-5x5"  # from the top left, facing right, to the goal at the bottom right
TO_GOAL = [FORWARD, FORWARD, RIGHT, FORWARD, FORWARD]


def play(env, actions, params=None, key=0):
    """The start, and the `Step` of every action."""
    params = env.default_params if params is None else params
    keys = jax.random.split(jax.random.key(key), len(actions) + 1)
    obs, state = Task(env, params).reset(keys[-1])

    def step(state, x):
        result = Task(env, params).step(*(x[0], state, x[1], params))
        return result.state, result

    steps = jax.jit(lambda state: jax.lax.scan(step, state, (keys[:-1], jnp.array(actions)))[1])(state)
    return (obs, state), steps


@pytest.mark.parametrize("task", ["MiniGrid-DoorKey-5x5", "MiniGrid-MemoryS8", "XLand-MiniGrid-R4-9x9"])
def test_steps_are_those_of_the_package(task):
    env, (raw, params) = adapter.make(task), xminigrid.make(task)
    actions = jax.random.randint(jax.random.key(1), (12,), 0, env.num_actions)
    keys = jax.random.split(jax.random.key(2), 12)
    obs, state = env.reset_env(keys[0], env.default_params)
    timestep = jax.jit(lambda key: raw.reset(params, key))(keys[0])
    np.testing.assert_array_equal(obs, timestep.observation)
    raw_step = jax.jit(lambda timestep, action: raw.step(params, timestep, action))
    for key, action in zip(keys, actions, strict=True):
        timestep = raw_step(timestep, action)
        obs, state, reward, terminated, _ = jax.jit(env.step_env)(key, state, action, env.default_params)
        assert_trees_equal((state, obs, reward), (timestep, timestep.observation, timestep.reward))
        assert terminated == (timestep.last() & (timestep.discount == 0))
        assert env.is_truncated(state, env.default_params) == (timestep.last() & (timestep.discount == 1))


def test_goal_terminates_and_resets_on_the_same_step():
    env = make(EMPTY)
    (start, _), steps = play(env, [*TO_GOAL, FORWARD])
    np.testing.assert_array_equal(steps.terminated, [False] * 4 + [True, False])
    np.testing.assert_array_equal(steps.done, steps.terminated)
    np.testing.assert_allclose(steps.reward, [0] * 4 + [1 - 0.9 * 5 / 100, 0], rtol=1e-6)
    np.testing.assert_array_equal(steps.obs[4], start)
    np.testing.assert_array_equal(steps.state.state.step_num, [1, 2, 3, 4, 0, 1])
    # The true successor: on the goal, which the package's own steps show too.
    raw, params = xminigrid.make("MiniGrid-Empty-5x5")
    timestep = raw.reset(params, jax.random.key(0))
    for action in TO_GOAL:
        timestep = raw.step(params, timestep, jnp.int32(action))
    np.testing.assert_array_equal(steps.next_obs[4], timestep.observation)
    assert not np.array_equal(steps.next_obs[4], start)
    # The step after the end is a real one, from the start.
    np.testing.assert_array_equal(steps.next_obs[5], steps.next_obs[0])


def test_time_limit_truncates_and_can_be_set():
    env = make(EMPTY)
    params = env.default_params
    assert params.max_steps_in_episode == xminigrid.make("MiniGrid-Empty-5x5")[1].max_steps == 100
    _, steps = play(env, [LEFT] * 101)
    np.testing.assert_array_equal(np.flatnonzero(steps.done), [99])
    assert not steps.terminated.any()
    _, steps = play(env, [LEFT] * 7, params.replace(max_steps_in_episode=3))
    np.testing.assert_array_equal(np.flatnonzero(steps.done), [2, 5])
    # The reward is measured by the limit; on the last step of all, reaching the goal is a termination.
    _, steps = play(env, TO_GOAL, params.replace(max_steps_in_episode=5))
    assert steps.terminated[-1]
    np.testing.assert_allclose(steps.reward[-1], 0.1, rtol=1e-5)


def test_time_limit_is_traced():
    env = make(EMPTY)

    def ends(limit):
        return play(env, [LEFT] * 6, env.default_params.replace(max_steps_in_episode=limit))[1].done.sum()

    np.testing.assert_array_equal(jax.vmap(ends)(jnp.array([1, 2, 3, 7])), [6, 3, 2, 0])


def test_rulesets_of_xland():
    env = make("xminigrid/XLand-MiniGrid-R1-9x9")
    raw, own = xminigrid.make("XLand-MiniGrid-R1-9x9")
    ball = jnp.array([[3, 1]], jnp.uint8)  # a red one
    goal = AgentNearGoal(tile=ball[0]).encode()
    rules = own.ruleset.rules
    params = env.default_params.replace(goal=goal, rules=rules, init_tiles=ball)
    actions = jax.random.randint(jax.random.key(3), (150,), 0, 3)
    (start, state), steps = play(env, actions, params)
    assert np.any(np.all(np.asarray(state.state.grid) == ball[0], axis=-1))
    assert steps.terminated.any()
    assert np.all(steps.reward[steps.terminated] > 0)
    own = own.replace(ruleset=own.ruleset.replace(goal=goal, rules=rules, init_tiles=ball))
    np.testing.assert_array_equal(start, raw.reset(own, jax.random.split(jax.random.key(0), 151)[-1]).observation)
    # By default there is nothing to be reached.
    assert not play(env, actions)[1].terminated.any()


def test_features_are_one_hot_tiles_and_colours():
    env = make(EMPTY)
    obs, _ = Task(env, env.default_params).reset(jax.random.key(0))
    features = np.asarray(make_task(env).features(obs)).reshape(7, 7, 13 + 12)
    np.testing.assert_array_equal(features.sum(-1), 2)
    np.testing.assert_array_equal(features[..., :13].argmax(-1), obs[..., 0])
    np.testing.assert_array_equal(features[..., 13:].argmax(-1), obs[..., 1])
    assert env.observation_space().shape == obs.shape
    assert Task(env, env.default_params).action_mask(obs) is None


FIRST_USED_IN_A_TRACE = f"""
import jax
from purejaxppo.environments import make

jax.eval_shape(lambda: jax.numpy.ones(make({EMPTY!r}).num_actions))  # imports the package
env = make({EMPTY!r})
print(jax.jit(env.reset)(jax.random.key(0), env.default_params)[0].shape)
"""


def test_imported_while_a_program_is_traced():
    run = subprocess.run([sys.executable, "-c", FIRST_USED_IN_A_TRACE], capture_output=True, text=True)
    assert run.stdout == "(7, 7, 2)\n", run.stderr


@pytest.mark.slow
def test_learns_the_empty_room():
    config = Config(env=EMPTY, num_envs=32, num_steps=64, total_timesteps=32 * 64 * 64, lr=1e-3)
    state, metrics = train(config, jax.random.key(0))
    # A success in the fewest steps, 5, pays 0.955; a random walk succeeds late, or not within the 100 steps.
    assert metrics["episode_return"][0] < 0.8
    assert np.mean(metrics["episode_return"][-5:]) > 0.95
    # Greedily, every episode ends at the goal, long before the time limit.
    assert np.all(evaluate(config, state, jax.random.key(0), num_episodes=20).episode_return >= 0.95)
