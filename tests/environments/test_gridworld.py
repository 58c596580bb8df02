"""The gridworld against a simulator in plain Python, and the distributions of what it draws."""

import functools
import random

import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from purejaxppo import ConfigError, GridWorld, GridWorldParams
from purejaxppo.environments import gridworld, ids, make, make_task
from tests.support.reference import parsed
from tests.support.small import random_walk

UP, RIGHT, DOWN, LEFT = range(4)
OPEN = "\n".join(["......M", ".......", "...S...", ".......", "......."])  # wide open around the start
CENTRE = 17  # of OPEN
MANY = 200_000
SIGNIFICANCE = 1e-4  # the keys are fixed: a test that passes once passes always


class Simulator:
    """The rules as the docstring of GridWorld states them, without slip."""

    def __init__(self, text, prizes, step_cost, limit):
        self.rows = [list(line) for line in text.split("\n")]
        self.cells = [(r, c) for r, row in enumerate(self.rows) for c, symbol in enumerate(row) if symbol != "#"]
        self.index = {cell: i for i, cell in enumerate(self.cells)}
        symbols = {cell: self.rows[cell[0]][cell[1]] for cell in self.cells}
        starts = [cell for cell in self.cells if symbols[cell] == "S"]
        self.starts = starts or [cell for cell in self.cells if symbols[cell] == "."]
        self.prizes, self.step_cost, self.limit = prizes, step_cost, limit

    def begin(self, obs):
        self.cell, self.time = self.cells[obs], 0
        assert self.cell in self.starts

    def step(self, action):
        """`(obs, reward, terminated, truncated)` of one move."""
        row, column = self.cell
        target = {UP: (row - 1, column), RIGHT: (row, column + 1), DOWN: (row + 1, column), LEFT: (row, column - 1)}
        if target[action] in self.index:
            self.cell = target[action]
        self.time += 1
        symbol = self.rows[self.cell[0]][self.cell[1]]
        reward = self.prizes.get(symbol, 0.0) - self.step_cost
        return self.index[self.cell], reward, symbol in self.prizes, self.time >= self.limit


def random_map(seed):
    """A valid random map: no 'S' for even seeds, several for odd ones."""
    rng = random.Random(seed)
    alphabet = "......##MmD" if seed % 2 == 0 else ".....SSS##MmD"
    while True:
        rows, columns = rng.randint(2, 6), rng.randint(2, 7)
        text = "\n".join("".join(rng.choices(alphabet, k=columns)) for _ in range(rows))
        _, _, starts, shut_in = parsed(text)
        if len(starts) > 1 and not shut_in:
            return text


@pytest.mark.parametrize("seed", range(5))
def test_step_agrees_with_simulator(seed):
    text = random_map(seed)
    prizes = {"M": 5.25, "m": -0.5, "D": -7.0}
    limit = [3, 20, 1, 6, 10][seed]
    params = GridWorldParams(lots_of_money=5.25, money=-0.5, dragon=-7.0, step_cost=0.25, max_steps_in_episode=limit)
    num_envs, num_steps = 8, 250  # 2,000 steps on each of 5 maps
    first, actions, results = jax.device_get(random_walk(GridWorld(text), params, jax.random.key(seed), 8, num_steps))
    obs, state, reward, terminated, truncated, info = results
    for n in range(num_envs):
        simulator = Simulator(text, prizes, 0.25, limit)
        simulator.begin(first[n])
        for t in range(num_steps):
            expected = simulator.step(actions[t, n])
            got = info["final_observation"][t, n], reward[t, n], terminated[t, n], truncated[t, n]
            assert got == expected, f"step {t} of environment {n} on\n{text}"
            if terminated[t, n] or truncated[t, n]:
                simulator.begin(obs[t, n])
            assert obs[t, n] == simulator.index[simulator.cell] == state.cell[t, n]
            assert state.time[t, n] == simulator.time
    np.testing.assert_array_equal(info["terminated"], terminated)
    np.testing.assert_array_equal(info["truncated"], truncated)
    assert truncated.any()


def test_default_params_pay_what_they_say():
    params = GridWorldParams()
    for symbol, reward in {"M": 5.0 - 1.0, "m": 4.0 - 1.0, "D": -5.0 - 1.0, ".": -1.0}.items():
        env = GridWorld("M.S" + symbol)
        _, state = env.reset(jax.random.key(0))
        *_, got, terminated, truncated, _ = env.step(jax.random.key(0), state, RIGHT)
        assert got == reward
        assert terminated == (symbol != ".")
        assert not truncated
    assert params == GridWorld("SM").default_params


def follow(env, params, actions):
    """The results of an action sequence from the start."""
    _, state = env.reset(jax.random.key(0), params)
    results = []
    for i, action in enumerate(actions):
        obs, state, reward, terminated, truncated, info = env.step(jax.random.key(i), state, action, params)
        results.append((int(obs), float(reward), bool(terminated), bool(truncated), int(info["final_observation"])))
    return results


@pytest.mark.parametrize(("symbol", "prize"), [("M", 5.0), ("m", 4.0), ("D", -5.0)])
def test_entering_a_special_cell_exactly_at_the_limit_sets_both_flags(symbol, prize):
    env = GridWorld(f"S.{symbol}\n#M#")
    results = follow(env, GridWorldParams(max_steps_in_episode=2), [RIGHT, RIGHT])
    assert results == [(1, -1.0, False, False, 1), (0, prize - 1.0, True, True, 2)]


def test_truncation_comes_exactly_at_the_limit_and_the_clock_restarts():
    env = GridWorld("S.......M")
    results = follow(env, GridWorldParams(max_steps_in_episode=3), [RIGHT] * 7)
    assert [truncated for *_, truncated, _ in results] == [False, False, True, False, False, True, False]
    assert [final for *_, final in results] == [1, 2, 3, 1, 2, 3, 1]
    assert [obs for obs, *_ in results] == [1, 2, 0, 1, 2, 0, 1]
    assert not any(terminated for _, _, terminated, _, _ in results)


def test_limit_of_one_truncates_every_step():
    results = follow(GridWorld("S.M"), GridWorldParams(max_steps_in_episode=1), [RIGHT, LEFT, UP])
    assert [truncated for *_, truncated, _ in results] == [True, True, True]
    assert [final for *_, final in results] == [1, 0, 0]


@functools.partial(jax.jit, static_argnames=("env", "number"))
def many_steps(env, state, action, params, key, number):
    """`(final_observation, obs)` of many independent steps from one state, `[number]` each."""
    keys = jax.random.split(key, number)
    obs, *_, info = jax.vmap(env.step, (0, None, None, None))(keys, state, action, params)
    return info["final_observation"], obs


def slips(action, slip, number=MANY, limit=100):
    """How often a move in the open goes each way relative to the action: straight, right, back, left."""
    params = GridWorldParams(slip=slip, max_steps_in_episode=limit)
    state = gridworld.GridWorldState(jnp.int32(CENTRE), jnp.int32(0))
    final, _ = many_steps(GridWorld(OPEN), state, jnp.int32(action), params, jax.random.key(action), number)
    goes = [CENTRE - 7, CENTRE + 1, CENTRE + 7, CENTRE - 1]
    counts = [int(np.sum(final == goes[(action + turn) % 4])) for turn in range(4)]
    assert sum(counts) == number  # one cell in one of the four directions, always
    return counts


@pytest.mark.parametrize("action", [UP, RIGHT, DOWN, LEFT])
@pytest.mark.parametrize("slip", [0.3, 0.02])
def test_slip_frequencies(action, slip):
    straight, right, back, left = slips(action, slip)
    assert back == 0
    expected = np.array([1 - slip, slip / 2, slip / 2]) * MANY
    assert stats.chisquare([straight, right, left], expected).pvalue > SIGNIFICANCE


@pytest.mark.parametrize("action", [UP, RIGHT, DOWN, LEFT])
def test_slip_of_zero_and_one_is_exact(action):
    assert slips(action, 0.0) == [MANY, 0, 0, 0]
    straight, right, back, left = slips(action, 1.0)
    assert straight == back == 0
    assert stats.chisquare([right, left]).pvalue > SIGNIFICANCE


@pytest.mark.parametrize(
    ("slip", "bits", "lands"), [(0.0, 0, [CENTRE - 7]), (1.0, 2**32 - 1, [CENTRE - 1, CENTRE + 1])]
)
def test_slip_of_zero_and_one_is_exact_for_the_most_extreme_draw(slip, bits, lands, monkeypatch):
    monkeypatch.setattr(jax.random, "bits", lambda key: jnp.uint32(bits))
    state = gridworld.GridWorldState(jnp.int32(CENTRE), jnp.int32(0))
    obs, *_ = GridWorld(OPEN).step_env(jax.random.key(0), state, UP, GridWorldParams(slip=slip))
    assert obs in lands


def test_slip_against_a_wall_stays():
    env = GridWorld("S.M")
    _, state = env.reset(jax.random.key(0))
    params = GridWorldParams(slip=1.0)
    final, _ = many_steps(env, state, jnp.int32(RIGHT), params, jax.random.key(0), 1000)
    assert np.all(final == 0)  # blown up or down, off the map
    final, _ = many_steps(env, state, jnp.int32(UP), params, jax.random.key(0), 1000)
    assert set(final.tolist()) == {0, 1}


STARTS = {
    "floor": ("..M\n.#D\n.m.\n...", [0, 1, 3, 5, 7, 8, 9, 10]),
    "floor seven": ("..M\n..#\n..m\n#.#", [0, 1, 3, 4, 5, 6, 8]),
    "one": ("...M\n.S..", [5]),
    "three": ("S.S\n.M.\n..S", [0, 2, 8]),
    "wide": ("." * 299 + "M", list(range(299))),
}


@pytest.mark.parametrize("case", sorted(STARTS))
def test_starts_are_uniform(case):
    text, starts = STARTS[case]
    env = GridWorld(text)
    number = 60_000
    keys = jax.random.split(jax.random.key(5), number)
    obs, state = jax.vmap(env.reset)(keys)
    np.testing.assert_array_equal(obs, state.cell)
    assert not state.time.any()
    assert_uniform(obs, starts)
    # Starts after a reset inside of step, whatever the slip.
    for slip in (0.0, 0.4):
        params = GridWorldParams(max_steps_in_episode=1, slip=slip)
        first = jax.tree.map(lambda leaf: leaf[0], state)
        _, obs = many_steps(env, first, jnp.int32(DOWN), params, jax.random.key(6), number)
        assert_uniform(obs, starts)


def assert_uniform(obs, starts):
    counts = np.bincount(obs, minlength=max(starts) + 1)
    assert counts.sum() == counts[starts].sum()
    if len(starts) > 1:
        assert stats.chisquare(counts[starts]).pvalue > SIGNIFICANCE


@pytest.mark.parametrize("slip", [0.5, 0.05])
@pytest.mark.parametrize(
    "text",
    [
        OPEN.replace("S", "."),
        "SSS\nSSS\nSSM",
        "S.S\n...\nS.M",
        "\n".join(["." * 16] * 15 + ["." * 15 + "M"]),
    ],
    ids=["34 starts", "8 starts", "3 starts", "255 starts"],
)
def test_slip_tells_nothing_of_the_next_start(text, slip):
    env = GridWorld(text)
    columns = env.map.shape[1]
    centre = columns + 1  # the second row's second cell: no walls in these maps
    state = gridworld.GridWorldState(jnp.int32(centre), jnp.int32(0))
    params = GridWorldParams(slip=slip, max_steps_in_episode=1)
    final, obs = many_steps(env, state, jnp.int32(UP), params, jax.random.key(8), MANY)
    ways = [centre - columns, centre - 1, centre + 1]
    starts = env.map.starts.tolist()
    table = np.array([[np.sum((final == way) & (obs == start)) for start in starts] for way in ways])
    assert table.sum() == MANY
    assert stats.chi2_contingency(table).pvalue > SIGNIFICANCE


MAPS = ["treasure", "dragons", "maze", "four-rooms", "cliff", "SM", "S\nM", "SM#.", "SM#D\n.D##"]


@pytest.mark.parametrize("layout", MAPS)
def test_action_mask_offers_the_moves_that_lead_elsewhere(layout):
    env = GridWorld(layout)
    cells, leads_to, _, _ = parsed(env.layout)
    mask = jax.vmap(env.action_mask, (0, None))(jnp.arange(len(cells)), env.default_params)
    assert mask.dtype == bool
    for cell, offered in zip(cells, mask.tolist(), strict=True):
        is_open = [target != cell for target in leads_to[cell]]
        assert offered == (is_open if any(is_open) else [True] * 4)
    assert GridWorld(layout, mask_blocked=False).action_mask(jnp.int32(0), env.default_params) is None


@pytest.mark.parametrize("layout", MAPS)
def test_features(layout):
    env = GridWorld(layout)
    for obs in (0, len(env.map.symbol) - 1):
        assert env.features(jnp.int32(obs)) == obs
        assert jnp.issubdtype(env.features(jnp.int32(obs)).dtype, jnp.integer)
    env = GridWorld(layout, features_as="coordinates")
    cells, _, _, _ = parsed(env.layout)
    lines = env.layout.split("\n")
    features = jax.vmap(make_task(env).features)(jnp.arange(len(cells)))
    assert features.dtype == jnp.float32
    assert features.shape == (len(cells), 2)
    for axis, extent in enumerate((len(lines), len(lines[0]))):
        if extent > 1:
            expected = [-1 + 2 * cell[axis] / (extent - 1) for cell in cells]
            np.testing.assert_allclose(features[:, axis], expected, atol=1e-6)
        else:
            assert np.all(np.abs(features[:, axis]) <= 1)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("slip", 2),
        ("max_steps_in_episode", 0),
        ("lots_of_money", float("nan")),
        ("money", float("inf")),
        ("dragon", float("nan")),
        ("step_cost", -float("inf")),
    ],
)
def test_params_are_validated(field, value):
    with pytest.raises(ConfigError, match=f"{field}="):
        GridWorldParams(**{field: value})


@pytest.mark.parametrize("values", [{"slip": 0}, {"slip": 1}, {"max_steps_in_episode": 1}, {"dragon": 5, "money": -3}])
def test_values_at_the_bounds_are_allowed(values):
    params = GridWorldParams(**values)
    assert all(getattr(params, name) == value for name, value in values.items())


@pytest.mark.parametrize(
    ("field", "values"),
    [("slip", [0.0, 0.5, 1.0]), ("lots_of_money", [-2.0, 0.0, 9.0]), ("max_steps_in_episode", [1, 2, 9])],
)
def test_vmap_over_params_equals_separate_calls(field, values):
    env = GridWorld("S.M\n.D.")
    states = gridworld.GridWorldState(jnp.array([0, 1, 1, 3]), jnp.zeros(4, jnp.int32))
    keys, actions = jax.random.split(jax.random.key(1), 4), jnp.array([RIGHT, RIGHT, DOWN, UP])

    def steps(value):
        return jax.vmap(env.step, (0, 0, 0, None))(keys, states, actions, GridWorldParams(**{field: value}))

    together = jax.vmap(steps)(jnp.array(values))
    separate = [steps(value) for value in values]
    jax.tree.map(np.testing.assert_array_equal, together, jax.tree.map(lambda *leaves: np.stack(leaves), *separate))


def test_vmap_over_a_pytree_of_params():
    env = GridWorld("SM")
    params = jax.tree.map(
        lambda *leaves: jnp.stack(leaves), *[GridWorldParams(lots_of_money=v) for v in (1.0, 2.0, 3.0)]
    )
    _, state = env.reset(jax.random.key(0))
    step = jax.vmap(env.step, (None, None, None, 0))
    np.testing.assert_array_equal(step(jax.random.key(0), state, RIGHT, params)[2], [0.0, 1.0, 2.0])


def test_gymnax_contract():
    env = make("GridWorld-treasure")
    params = env.default_params
    assert isinstance(env, GridWorld)
    assert env == GridWorld("treasure")
    assert params == env.default_params == GridWorldParams()
    assert "GridWorld-treasure" in ids()
    assert "GridWorld-treasure" not in gymnax.registered_envs  # nothing of ours is in another package's registry
    assert env.num_actions == env.action_space(params).n == 4
    first, _, (obs, state, reward, terminated, truncated, info) = random_walk(env, params, jax.random.key(2), 8, 50)
    space = env.observation_space(params)
    for values in (first, obs, info["final_observation"]):
        assert values.dtype == space.dtype == jnp.int32
        assert space.contains(values).all()
    assert jax.vmap(jax.vmap(env.state_space(params).contains))(state).all()
    assert reward.dtype == jnp.float32
    assert terminated.dtype == truncated.dtype == bool
    assert obs.shape == reward.shape == terminated.shape == truncated.shape == (50, 8)


def test_ids_of_coordinates():
    assert make("GridWorld-maze-coordinates") == GridWorld("maze", features_as="coordinates")
    assert make("GridWorld-maze-coordinates") is make("GridWorld-maze-coordinates")


@pytest.mark.parametrize("slip", [0.0, 0.6])
def test_step_is_step_env_then_reset_env_where_done(slip):
    env, params = GridWorld("..M\n.D.\n..m"), GridWorldParams(slip=slip, max_steps_in_episode=3)
    number = 500
    keys = jax.random.split(jax.random.key(3), number)
    rng = np.random.default_rng(0)
    states = gridworld.GridWorldState(
        jnp.array(rng.choice([0, 1, 3, 5, 6, 7], number)), jnp.array(rng.integers(0, 3, number))
    )
    actions = jnp.array(rng.integers(0, 4, number))
    obs, state, reward, terminated, truncated, info = jax.vmap(env.step, (0, 0, 0, None))(keys, states, actions, params)
    obs_st, state_st, reward_st, terminated_st, _ = jax.vmap(env.step_env, (0, 0, 0, None))(
        keys, states, actions, params
    )
    obs_re, state_re = jax.vmap(env.reset_env, (0, None))(keys, params)
    np.testing.assert_array_equal(reward, reward_st)
    np.testing.assert_array_equal(terminated, terminated_st)
    np.testing.assert_array_equal(info["final_observation"], obs_st)
    np.testing.assert_array_equal(truncated, state_st.time >= 3)
    done = np.asarray(terminated | truncated)
    assert 0 < done.sum() < number
    np.testing.assert_array_equal(obs, np.where(done, obs_re, obs_st))
    jax.tree.map(
        lambda got, new, old: np.testing.assert_array_equal(got, np.where(done, new, old)), state, state_re, state_st
    )


def test_step_and_reset_take_default_params():
    env, key = GridWorld("treasure"), jax.random.key(4)
    with_params, without = env.reset(key, env.default_params), env.reset(key)
    jax.tree.map(np.testing.assert_array_equal, with_params, without)
    with_params, without = env.step(key, without[1], 1, env.default_params), env.step(key, without[1], 1)
    jax.tree.map(np.testing.assert_array_equal, with_params, without)


def test_equal_environments_share_one_program(monkeypatch, tmp_path):
    traces = []
    move = GridWorld._move
    monkeypatch.setattr(GridWorld, "_move", lambda self, *args: traces.append(self) or move(self, *args))
    text = "S...\n.#DM\n#..."  # of this test alone
    path = tmp_path / "map.txt"
    path.write_text(text)
    state = gridworld.GridWorldState(jnp.int32(0), jnp.int32(0))
    for layout in (text, text + "\n", path, str(path)):
        for slip in (0.0, 0.5):
            GridWorld(layout).step(jax.random.key(0), state, jnp.int32(1), GridWorldParams(slip=slip))
    assert len(traces) == 1
    GridWorld(text.replace("D", "m")).step(jax.random.key(0), state, jnp.int32(1), GridWorldParams())
    assert len(traces) == 2
