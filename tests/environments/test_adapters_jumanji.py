"""The adapter to jumanji against the package itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnax.environments import spaces

from purejaxppo import Config, ConfigError, train
from purejaxppo.environments import MultiDiscrete, Task, make, make_task
from tests.support.small import assert_trees_equal

jumanji = pytest.importorskip("jumanji")

from purejaxppo.environments.adapters import jumanji as adapter  # noqa: E402

pytestmark = pytest.mark.usefixtures("promoted_ranks")
DOWNLOADS = ["Sokoban-v0"]  # left out: it downloads its data when it is made
REFUSED = ["MultiCVRP-v0"]
TASKS = sorted(jumanji.registered_environments() - set(DOWNLOADS + REFUSED))
SNAKE = "jumanji/Snake-v1"


def play(env, num_steps, params=None, action=None, seed=0):
    """The start, the actions, and the `Step` of each; the actions are random, or always the same."""
    params = env.default_params if params is None else params
    key_reset, *keys = jax.random.split(jax.random.key(seed), num_steps + 1)
    obs, state = Task(env, params).reset(key_reset)

    def step(carry, key):
        obs, state = carry
        key_action, key_step = jax.random.split(key)
        move = available(env, key_action, obs, params) if action is None else jnp.asarray(action)
        result = Task(env, params).step(key_step, state, move)
        return (result.obs, result.state), (move, result)

    _, (actions, steps) = jax.jit(lambda carry, keys: jax.lax.scan(step, carry, keys))((obs, state), jnp.stack(keys))
    return (obs, state), actions, steps


def available(env, key, obs, params):
    """A random action among those available."""
    mask, space = Task(env, params).action_mask(obs), make_task(env).action_space
    return space.sample(key) if mask is None else jax.random.categorical(key, jnp.log(mask), axis=-1)


def as_dict(value):
    """The package's named tuples and dataclasses, nested, as dicts; written apart from the adapter."""
    if isinstance(value, tuple):
        return {name: as_dict(part) for name, part in zip(value._fields, value, strict=True)}
    if isinstance(value, jax.Array):
        return value
    return {name: as_dict(part) for name, part in vars(value).items()}


@pytest.mark.parametrize("task", TASKS)
def test_steps_are_those_of_the_package(task):
    env, raw = adapter.make(task), jumanji.make(task)
    params = env.default_params
    raw_reset, raw_step, step = jax.jit(raw.reset), jax.jit(raw.step), jax.jit(env.step_env)
    obs, state = jax.jit(env.reset_env)(jax.random.key(1), params)
    raw_state, timestep = raw_reset(jax.random.key(1))
    joint = task.partition("-")[0] in ("BinPack", "FlatPack", "Minesweeper", "Sudoku", "Tetris")
    for key in jax.random.split(jax.random.key(2), 3):
        if "action_mask" in obs:
            mask = np.asarray(timestep.observation.action_mask)
            assert mask.any(axis=None if joint else -1).all()
            np.testing.assert_array_equal(env.action_mask(obs, params), mask.reshape(-1) if joint else mask)
        action = available(env, key, make_task(env).typed(obs), params)
        obs, state, reward, terminated, info = step(key, state, action, params)
        if joint:  # one number for a combination
            action = np.array(np.unravel_index(action, np.asarray(raw.action_spec.num_values)))
        raw_state, timestep = raw_step(raw_state, jnp.asarray(action, raw.action_spec.dtype))
        assert_trees_equal(state.inner, raw_state)
        assert_trees_equal(obs, as_dict(timestep.observation))
        assert_trees_equal(info, timestep.extras)
        np.testing.assert_allclose(reward, np.sum(timestep.reward), rtol=1e-6)
        assert bool(terminated) == bool(timestep.last() and not np.any(timestep.discount))
        if timestep.last():
            break


@pytest.mark.parametrize("task", TASKS)
def test_environments_step_reset_and_fit_their_spaces(task):
    env = make(f"jumanji/{task}")
    (obs, state), actions, steps = play(env, 12)
    space, action_space = env.observation_space(), env.action_space()
    assert jax.tree.map(jnp.shape, obs) == shapes(space)
    assert actions.shape[1:] == action_space.shape
    features = jax.vmap(lambda obs: make_task(env).features(obs))(steps.obs)
    assert features.ndim == 2
    assert features.dtype == jnp.float32
    assert np.isfinite(features).all()
    assert np.all(np.abs(features) < 10)
    for before, after in zip(jax.tree.leaves(state), jax.tree.leaves(steps.state), strict=True):
        assert (before.dtype, before.shape) == (after.dtype, after.shape[1:])
    mask = Task(env, env.default_params).action_mask(obs)
    if mask is not None:
        choices = action_space.num_categories if isinstance(action_space, MultiDiscrete) else (action_space.n,)
        expected = (len(choices), max(choices)) if isinstance(action_space, MultiDiscrete) else choices
        assert mask.shape == expected
        assert mask.any(-1).all()


def shapes(space):
    if isinstance(space, spaces.Dict):
        return {name: shapes(part) for name, part in space.spaces.items()}
    return space.shape


def test_termination_resets_on_the_same_step():
    env, raw = make(SNAKE), jumanji.make("Snake-v1")
    (_, start), _, steps = play(env, 30, action=0)  # up, until the wall
    end = np.flatnonzero(steps.done)[0]
    assert steps.terminated[end]
    np.testing.assert_array_equal(steps.terminated, steps.done)
    # The true successor is the package's last observation, and the next step starts afresh.
    state = start.inner
    for _ in range(end + 1):
        state, timestep = raw.step(state, jnp.int32(0))
    assert timestep.last()
    final = jax.tree.map(lambda leaf: leaf[end], steps.next_obs)
    assert_trees_equal(final, jax.tree.map(lambda leaf: leaf.astype(jnp.float32), as_dict(timestep.observation)))
    assert steps.obs["step_count"][end] == 0
    assert steps.state.time[end] == steps.state.inner.step_count[end] == 0
    assert steps.next_obs["step_count"][end + 1] == 1


def test_discount_above_0_on_the_last_step_is_a_truncation():
    env = make("jumanji/LevelBasedForaging-v0")
    _, _, steps = play(env, 205, action=[0, 0])  # nobody moves: the package truncates after 100 steps
    np.testing.assert_array_equal(np.flatnonzero(steps.done), [99, 199])
    assert not steps.terminated.any()
    np.testing.assert_array_equal(steps.obs["step_count"][99:101], [0, 1])
    assert steps.next_obs["step_count"][99] == 100


def test_discount_0_at_a_time_limit_is_a_termination():
    env = make("jumanji/RubiksCube-partly-scrambled-v0")
    _, _, steps = play(env, 25, action=[0, 0, 0])
    np.testing.assert_array_equal(np.flatnonzero(steps.terminated), [19])


def test_time_limit_of_ours_truncates():
    env = make("jumanji/RubiksCube-v0")

    def ends(limit):
        steps = play(env, 6, env.default_params.replace(max_steps_in_episode=limit), [0, 0, 0])[2]
        return steps.done.sum(), steps.terminated.sum()

    done, terminated = jax.vmap(ends)(jnp.array([1, 2, 3, 7]))
    np.testing.assert_array_equal(done, [6, 3, 2, 0])
    assert not terminated.any()


@pytest.mark.parametrize(
    ("task", "space"),
    [
        ("Snake-v1", "Discrete(4, dtype=int32)"),
        ("Tetris-v0", "Discrete(40, dtype=int32)"),  # 4 rotations, 10 columns, masked together
        ("Minesweeper-v0", "Discrete(100, dtype=int32)"),
        ("Sudoku-v0", "Discrete(729, dtype=int32)"),
        ("Cleaner-v0", "MultiDiscrete((4, 4, 4))"),  # masked each
        ("JobShop-v0", f"MultiDiscrete({(21,) * 10})"),
        ("RubiksCube-v0", "MultiDiscrete((6, 1, 3))"),  # not masked
        ("SearchAndRescue-v0", "Box(low=-1.0, high=1.0, shape=(2, 2), dtype=float32)"),
    ],
)
def test_action_spaces(task, space):
    assert repr(adapter.make(task).action_space()) == space


def test_where_nothing_is_available_everything_is_offered():
    env = make("jumanji/Cleaner-v0")
    mask = np.array([[True, False, False, True], [False] * 4, [True] * 4])
    offered = env.action_mask({"action_mask": jnp.asarray(mask, jnp.float32)}, env.default_params)
    np.testing.assert_array_equal(offered, [mask[0], [True] * 4, mask[2]])
    env = make("jumanji/Tetris-v0")
    assert env.action_mask({"action_mask": jnp.zeros((4, 10))}, env.default_params).all()


def test_features():
    obs, _ = Task(make(SNAKE), make(SNAKE).default_params).reset(jax.random.key(0))
    features = np.asarray(make_task(make(SNAKE)).features(obs))
    assert features.shape == (12 * 12 * 5 + 1,)  # the grid and the scaled step count, without the mask
    np.testing.assert_array_equal(features[:-1], obs["grid"].reshape(-1))
    later = make_task(make(SNAKE)).features(obs | {"step_count": jnp.float32(2000)})
    np.testing.assert_allclose(later[-1], 2000 / 3999, rtol=1e-6)

    env = make("jumanji/Game2048-v1")
    obs, _ = Task(env, env.default_params).reset(jax.random.key(0))
    features = np.asarray(make_task(env).features(obs)).reshape(4, 4, 18)
    np.testing.assert_array_equal(features.argmax(-1), obs["board"])

    env = make("jumanji/Sudoku-v0")  # an empty cell is -1
    obs, _ = Task(env, env.default_params).reset(jax.random.key(0))
    features = np.asarray(make_task(env).features(obs)).reshape(9, 9, 11)
    np.testing.assert_array_equal(features.argmax(-1) - 1, obs["board"])


def test_unsupported_actions_are_refused():
    with pytest.raises(ConfigError, match="jumanji/MultiCVRP-v0"):
        Config(env="jumanji/MultiCVRP-v0")


@pytest.mark.slow
def test_learns_snake():
    # Without the limit an episode takes thousands of steps, in which even a random walk meets some fruits.
    params = adapter.JumanjiParams(max_steps_in_episode=200)
    config = Config(env=SNAKE, env_params=params, num_envs=64, num_steps=64, total_timesteps=819_200, lr=1e-3)
    _, metrics = train(config, jax.random.key(0))
    assert np.nanmean(metrics["episode_return"][:8]) < 1  # fruits eaten, at random
    assert np.nanmean(metrics["episode_return"][-20:]) > 3
