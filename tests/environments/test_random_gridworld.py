"""Gridworlds drawn at every reset: solvable, varied, and played by the rules of the docstring."""

import functools
from collections import deque

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from purejaxppo import ConfigError
from purejaxppo.environments import RandomGridWorld, RandomGridWorldParams, make
from purejaxppo.environments.random_gridworld import RandomGridWorldState
from tests.support.small import random_walk

STEPS = [(-1, 0), (0, 1), (1, 0), (0, -1)]  # up, right, down, left
MANY = 200_000
SIGNIFICANCE = 1e-4  # the keys are fixed: a test that passes once passes always
FULL = RandomGridWorldParams(wall_density=1.0)
CROWDED = RandomGridWorldParams(wall_density=0.5, dragon_density=0.5)
NO_WALLS = RandomGridWorldParams(wall_density=0.0, dragon_density=1.0)


@functools.partial(jax.jit, static_argnames=("env", "number"))
def resets(env, params, key, number):
    return jax.vmap(env.reset, (0, None))(jax.random.split(key, number), params)


def planes(obs):
    """Walls, dragons, goal and agent read off one observation, in plain Python."""
    rows, columns = range(obs.shape[0]), range(obs.shape[1])
    walls, dragons, goals, agents = (
        {(r, c) for r in rows for c in columns if layer[r][c]} for layer in np.moveaxis(obs, -1, 0).tolist()
    )
    assert len(goals) == len(agents) == 1
    return walls, dragons, goals.pop(), agents.pop()


def neighbours(cell, shape):
    """Where each of the four moves leads on a map without walls; off the map is None."""
    targets = [(cell[0] + r, cell[1] + c) for r, c in STEPS]
    return [(r, c) if 0 <= r < shape[0] and 0 <= c < shape[1] else None for r, c in targets]


def is_solvable(obs):
    """Whether a way leads from the agent to the goal, through neither walls nor dragons."""
    walls, dragons, goal, agent = planes(obs)
    seen, queue = {agent}, deque([agent])
    while queue:
        cell = queue.popleft()
        if cell == goal:
            return True
        for neighbour in neighbours(cell, obs.shape):
            if neighbour and neighbour not in seen | walls | dragons:
                seen.add(neighbour)
                queue.append(neighbour)
    return False


def assert_well_formed(obs):
    walls, dragons, goal, agent = planes(obs)
    assert goal != agent
    assert not walls & dragons
    assert not {goal, agent} & (walls | dragons)
    assert is_solvable(obs)


@pytest.mark.parametrize("shape", [(7, 7), (1, 9), (9, 1), (2, 2), (5, 9), (1, 2)])
def test_every_layout_is_solvable(shape):
    env = RandomGridWorld(*shape)
    for params, number in ((FULL, 1000), (CROWDED, 500), (NO_WALLS, 500), (env.default_params, 2000)):
        for obs in np.asarray(resets(env, params, jax.random.key(0), 2000)[0][:number]):
            assert_well_formed(obs)


@pytest.mark.parametrize("shape", [(7, 7), (1, 9), (5, 9)])
def test_planes_show_the_state(shape):
    env = RandomGridWorld(*shape)
    obs, state = jax.device_get(resets(env, CROWDED, jax.random.key(1), 2000))
    assert obs.dtype == np.float32
    assert obs.shape == (2000, *shape, 4)
    assert set(np.unique(obs)) == {0.0, 1.0}
    np.testing.assert_array_equal(obs[..., 0], state.walls)
    np.testing.assert_array_equal(obs[..., 1], state.dragons)
    np.testing.assert_array_equal(np.argwhere(obs[..., 2])[:, 1:], state.goal)
    np.testing.assert_array_equal(np.argwhere(obs[..., 3])[:, 1:], state.agent)
    assert not state.time.any()


@pytest.mark.parametrize(("shape", "number"), [((2, 3), 30_000), ((2, 2), 2000), ((1, 9), 2000)])
def test_start_and_goal_are_uniform_over_ordered_pairs(shape, number):
    cells = shape[0] * shape[1]
    _, state = jax.device_get(resets(RandomGridWorld(*shape), RandomGridWorldParams(), jax.random.key(2), number))
    start = state.agent @ [shape[1], 1]
    goal = state.goal @ [shape[1], 1]
    counts = np.zeros((cells, cells), int)
    np.add.at(counts, (start, goal), 1)
    assert not np.diagonal(counts).any()
    assert stats.chisquare(counts[~np.eye(cells, dtype=bool)]).pvalue > SIGNIFICANCE


def test_densities_off_the_way():
    # The same keys give the same way, and with walls everywhere else the way is what is left.
    env, key, number = RandomGridWorld(), jax.random.key(3), 2000
    off_way = np.asarray(resets(env, FULL, key, number)[1].walls)
    params = RandomGridWorldParams(wall_density=0.3, dragon_density=0.05)
    _, state = jax.device_get(resets(env, params, key, number))
    assert not np.any(state.walls & ~off_way)
    assert not np.any(state.dragons & ~off_way)
    walls, dragons, cells = int(state.walls.sum()), int(state.dragons.sum()), int(off_way.sum())
    expected = np.array([0.3, 0.05, 0.65]) * cells
    assert stats.chisquare([walls, dragons, cells - walls - dragons], expected).pvalue > SIGNIFICANCE


def test_densities_of_zero_are_exact():
    params = RandomGridWorldParams(wall_density=0.0, dragon_density=0.0)
    _, state = resets(RandomGridWorld(), params, jax.random.key(4), 2000)
    assert not state.walls.any()
    assert not state.dragons.any()


def test_layouts_differ_between_resets():
    _, state = jax.device_get(resets(RandomGridWorld(), RandomGridWorldParams(), jax.random.key(5), 2000))
    assert len({walls.tobytes() for walls in state.walls}) > 1990
    _, again = jax.device_get(resets(RandomGridWorld(), RandomGridWorldParams(), jax.random.key(5), 2000))
    jax.tree.map(np.testing.assert_array_equal, state, again)
    # The ways differ even between the same ends.
    _, full = jax.device_get(resets(RandomGridWorld(2, 2), FULL, jax.random.key(6), 2000))
    corners = np.all(full.agent == 0, axis=1) & np.all(full.goal == 1, axis=1)
    assert len({walls.tobytes() for walls in full.walls[corners]}) == 2


@pytest.mark.parametrize("shape", [(7, 7), (1, 9), (2, 2)])
def test_action_mask_offers_the_moves_that_lead_elsewhere(shape):
    env = RandomGridWorld(*shape)
    obs = resets(env, CROWDED, jax.random.key(7), 2000)[0][:500]
    mask = jax.vmap(env.action_mask, (0, None))(obs, CROWDED)
    assert mask.dtype == bool
    for observed, offered in zip(np.asarray(obs), mask.tolist(), strict=True):
        walls, _, _, agent = planes(observed)
        assert offered == [bool(cell) and cell not in walls for cell in neighbours(agent, shape)]
    assert RandomGridWorld(*shape, mask_blocked=False).action_mask(obs[0], CROWDED) is None


def test_shut_in_agent_is_offered_every_move():
    env = RandomGridWorld(3, 3)
    state = RandomGridWorldState(
        jnp.ones((3, 3), bool), jnp.zeros((3, 3), bool), jnp.array([0, 0]), jnp.array([1, 1]), jnp.int32(0)
    )
    assert env.action_mask(env.observe(None, state, None, FULL), FULL).all()


@pytest.mark.parametrize(("shape", "limit"), [((4, 4), 12), ((1, 6), 4)])
def test_step_agrees_with_simulator(shape, limit):
    params = RandomGridWorldParams(
        lots_of_money=2.5, dragon=-3.5, step_cost=0.25, dragon_density=0.2, max_steps_in_episode=limit
    )
    num_envs, num_steps = 8, 250
    walk = random_walk(RandomGridWorld(*shape), params, jax.random.key(8), num_envs, num_steps)
    first, actions, (obs, state, reward, terminated, truncated, info) = jax.device_get(walk)
    seen = dict.fromkeys(["bump", "edge", "goal", "dragon", "limit"], 0)
    for n in range(num_envs):
        before, steps = first[n], 0
        for t in range(num_steps):
            walls, dragons, goal, agent = planes(before)
            target = neighbours(agent, shape)[actions[t, n]]
            seen["edge"] += target is None
            seen["bump"] += target in walls
            agent = agent if target is None or target in walls else target
            steps += 1
            prize = 2.5 if agent == goal else -3.5 if agent in dragons else 0.0
            seen["goal"] += agent == goal
            seen["dragon"] += agent in dragons
            seen["limit"] += steps == limit

            after = info["final_observation"][t, n]
            assert planes(after) == (walls, dragons, goal, agent)
            assert reward[t, n] == prize - 0.25
            assert terminated[t, n] == (prize != 0.0)
            assert truncated[t, n] == (steps == limit)
            if terminated[t, n] or truncated[t, n]:
                assert_well_formed(obs[t, n])
                steps = 0
            else:
                np.testing.assert_array_equal(obs[t, n], after)
            assert state.time[t, n] == steps
            before = obs[t, n]
    assert min(seen.values()) > (0 if shape[0] == 1 else 20), seen


def test_entering_the_goal_at_the_limit_sets_both_flags():
    env, empty = RandomGridWorld(2, 2), jnp.zeros((2, 2), bool)
    state = RandomGridWorldState(empty, empty, jnp.array([0, 1]), jnp.array([0, 0]), jnp.int32(4))
    params = RandomGridWorldParams(max_steps_in_episode=5)
    _, state, reward, terminated, truncated, _ = env.step(jax.random.key(0), state, 1, params)
    assert reward == np.float32(5.0 - 0.1)
    assert terminated
    assert truncated
    assert state.time == 0


def slips(action, slip):
    """How often a move in the open goes each way relative to the action: straight, right, back, left."""
    env, empty = RandomGridWorld(5, 5), jnp.zeros((5, 5), bool)
    state = RandomGridWorldState(empty, empty, jnp.array([0, 0]), jnp.array([2, 2]), jnp.int32(0))
    agent = landing(env, jax.random.key(action), state, jnp.int32(action), RandomGridWorldParams(slip=slip))
    moves = np.asarray(agent) - 2
    counts = [int(np.all(moves == STEPS[(action + turn) % 4], axis=1).sum()) for turn in range(4)]
    assert sum(counts) == MANY
    return counts


@functools.partial(jax.jit, static_argnames="env")
def landing(env, key, state, action, params):
    keys = jax.random.split(key, MANY)
    return jax.vmap(lambda key: env.step(key, state, action, params)[1].agent)(keys)


@pytest.mark.parametrize("action", range(4))
def test_slip_frequencies(action):
    straight, right, back, left = slips(action, 0.3)
    assert back == 0
    assert stats.chisquare([straight, right, left], np.array([0.7, 0.15, 0.15]) * MANY).pvalue > SIGNIFICANCE
    assert slips(action, 0.0) == [MANY, 0, 0, 0]
    straight, right, back, left = slips(action, 1.0)
    assert straight == back == 0
    assert stats.chisquare([right, left]).pvalue > SIGNIFICANCE


def test_slip_of_zero_is_exact_for_the_smallest_draw(monkeypatch):
    monkeypatch.setattr(jax.random, "uniform", lambda key: jnp.float32(0))
    env, empty = RandomGridWorld(5, 5), jnp.zeros((5, 5), bool)
    state = RandomGridWorldState(empty, empty, jnp.array([0, 0]), jnp.array([2, 2]), jnp.int32(0))
    _, state, *_ = env.step_env(jax.random.key(0), state, 0, RandomGridWorldParams(slip=0.0))
    assert state.agent.tolist() == [1, 2]


@pytest.mark.parametrize(
    ("size", "field"),
    [
        ({"height": 0}, "height"),
        ({"width": -1}, "width"),
        ({"height": True}, "height"),
        ({"width": 2.5}, "width"),
        ({"width": 7.5}, "width"),
        ({"height": "7"}, "height"),
        ({"width": None}, "width"),
        ({"height": 1, "width": 1}, "width"),
    ],
)
def test_bad_sizes_are_refused(size, field):
    with pytest.raises(ConfigError, match=f"{field}="):
        RandomGridWorld(**size)


@pytest.mark.parametrize(
    ("field", "value"),
    [("wall_density", 1.5), ("dragon_density", -0.1), ("slip", 2), ("max_steps_in_episode", 0), ("dragon", np.nan)],
)
def test_params_are_validated(field, value):
    with pytest.raises(ConfigError, match=f"{field}="):
        RandomGridWorldParams(**{field: value})


def test_vmap_over_densities_equals_separate_calls():
    env, key, densities = RandomGridWorld(4, 5), jax.random.key(9), [0.0, 0.4, 1.0]

    def reset(density):
        return env.reset(key, RandomGridWorldParams(wall_density=density))

    separate = [reset(density) for density in densities]
    together = jax.vmap(reset)(jnp.array(densities))
    jax.tree.map(np.testing.assert_array_equal, together, jax.tree.map(lambda *leaves: np.stack(leaves), *separate))


def test_gymnax_contract():
    assert make("RandomGridWorld") == RandomGridWorld()
    env = RandomGridWorld(3, 4)
    params = env.default_params
    assert hash(env) == hash(RandomGridWorld(3, 4))
    assert env != RandomGridWorld(4, 3)
    assert env.num_actions == env.action_space(params).n == 4
    space = env.observation_space(params)
    obs, state = env.reset(jax.random.key(0))
    obs, state, reward, terminated, truncated, info = env.step(jax.random.key(1), state, 0)
    for value in (obs, info["final_observation"]):
        assert value.shape == space.shape == (3, 4, 4)
        assert value.dtype == space.dtype == jnp.float32
        assert space.contains(value)
    assert env.state_space(params).contains(state)
    assert reward.dtype == jnp.float32
    assert terminated.dtype == truncated.dtype == bool
    assert env.features(obs).shape == (5 * 7 * 3,)
    planes = RandomGridWorld(3, 4, features_as="planes")
    np.testing.assert_array_equal(planes.features(obs), np.asarray(obs).reshape(-1))


def test_egocentric_features_are_the_map_around_the_agent():
    env = RandomGridWorld(3, 4)
    for seed in range(20):
        obs, _ = env.reset(jax.random.key(seed))
        window = np.asarray(env.features(obs)).reshape(5, 7, 3)
        (row,), (column,) = np.nonzero(np.asarray(obs)[:, :, 3])
        for r in range(5):
            for c in range(7):
                y, x = row + r - 2, column + c - 3
                inside = 0 <= y < 3 and 0 <= x < 4
                expected = obs[y, x, :3] if inside else [1, 0, 0]
                np.testing.assert_array_equal(window[r, c], expected)


def test_unknown_features_are_refused():
    with pytest.raises(ConfigError, match="features_as='pixels': must be one of 'egocentric', 'planes'"):
        RandomGridWorld(features_as="pixels")
