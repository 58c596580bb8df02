"""The models of finite environments against what the environments do when they are stepped."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnax.environments.bsuite.catch import Catch
from gymnax.environments.bsuite.catch import EnvState as CatchState
from gymnax.environments.misc.frozen_lake import EnvState as FrozenLakeState
from gymnax.environments.misc.frozen_lake import FrozenLake
from gymnax.environments.misc.rooms import EnvState as FourRoomsState
from gymnax.environments.misc.rooms import FourRooms

from purejaxppo import ConfigError, Environment, GridWorld, GridWorldParams
from purejaxppo.environments import RandomGridWorld, Task, TokenTree, is_tabular, make, make_task, tabulate
from purejaxppo.environments.gridworld import GridWorldState
from purejaxppo.environments.token_tree import TokenTreeState
from purejaxppo.planning import TabularModel
from tests.support import probes

MANY = 20_000
SIGMAS = 5
WALLED = "S.#M\n..D.\nm#.."
HALL = "SM"  # shut in by the border on all sides but one
ISLAND = "S.M\n###\n.#m"  # a cell without any way out
PARAMS = GridWorldParams(lots_of_money=3.5, money=-2.0, dragon=-7.0, step_cost=0.25)
START_ANYWHERE = {"resample_init_pos": True}
GOAL_ANYWHERE = {"resample_goal_pos": True}


def four_rooms(**params):
    env = FourRooms()
    return env, env.default_params.replace(**params)


def states_of(env, params):
    """Every state of an environment, made by hand from what its state says, `[S]`."""
    match env:
        case GridWorld():
            cells = np.arange(len(env.map.symbol), dtype=np.int32)
            return GridWorldState(cells, np.zeros_like(cells))
        case FrozenLake():
            tiles = np.arange(env.nrow * env.ncol, dtype=np.int32)
            return FrozenLakeState(position=tiles, time=np.zeros_like(tiles))
        case FourRooms():
            places = np.argwhere(np.asarray(env.env_map)).astype(np.int32)
            goals = places if params.resample_goal_pos else np.asarray(env.goal_fixed, np.int32)[None]
            pos, goal = np.tile(places, (len(goals), 1)), np.repeat(goals, len(places), axis=0)
            return FourRoomsState(pos=pos, goal=goal, time=np.zeros(len(pos), np.int32))
        case Catch():
            ball_y, ball_x, paddle_x = np.indices((env.rows, env.columns, env.columns), np.int32).reshape(3, -1)
            return CatchState(
                ball_x=ball_x,
                ball_y=ball_y,
                paddle_x=paddle_x,
                paddle_y=np.full_like(ball_x, env.rows - 1),
                prev_done=np.zeros(ball_x.shape, bool),
                time=np.zeros_like(ball_x),
            )
        case TokenTree():
            prefixes = [p for n in range(env.length) for p in itertools.product(range(1, env.num_tokens), repeat=n)]
            tokens = np.array([p + (0,) * (env.length - len(p)) for p in prefixes], np.int32)
            sizes = np.array([len(p) for p in prefixes], np.int32)
            return TokenTreeState(tokens, np.arange(len(prefixes), dtype=np.int32), sizes)


def goes_on_from(env, model):
    """States that an episode may go on from; the others are never stepped from."""
    if isinstance(env, Catch):
        return np.arange(len(model.start)) < (env.rows - 1) * env.columns**2
    return np.ones(len(model.start), bool)


@functools.partial(jax.jit, static_argnums=(0, 4))
def stepped(env, params, states, keys, num_actions):
    """The results of every action in every state with every key, `[keys, S, A]`."""

    def step(key, state, action):
        result = Task(env, params).step(key, jax.tree.map(jnp.asarray, state), action)
        return result.next_obs, result.reward, result.terminated, result.done

    over_actions = jax.vmap(step, in_axes=(None, None, 0))
    over_states = jax.vmap(over_actions, in_axes=(None, 0, None))
    return jax.vmap(over_states, in_axes=(0, None, None))(keys, states, jnp.arange(num_actions))


@functools.partial(jax.jit, static_argnums=(0,))
def begun(env, params, keys):
    return jax.vmap(lambda key: Task(env, params).reset(key)[0])(keys)


def row_of(model, obs):
    """Number of the state that shows each of `obs` `[N, ...]`."""
    known = {np.asarray(shown).tobytes(): s for s, shown in reversed(list(enumerate(np.asarray(model.obs))))}
    return np.array([known[shown.tobytes()] for shown in np.asarray(obs)])


def model_of(env, params):
    model = tabulate(env, params)
    return model._replace(obs=make_task(env).typed(model.obs))


def likely(model, s, a):
    """`{next state: (probability, reward, terminated)}` of one action, by the model."""
    result = {}
    columns = (np.asarray(leaf[s, a]).tolist() for leaf in model[:4])
    for after, p, reward, terminated in zip(*columns, strict=True):
        result[after] = result.get(after, (0,))[0] + p, reward, terminated
    return result


def assert_likely(seen, p, where):
    p = np.minimum(p, 1)  # sums in single precision may end just above
    assert np.all(seen[p == 0] == 0), where
    assert np.all(np.abs(seen - p) <= SIGMAS * np.sqrt(p * (1 - p) / MANY) + 1e-6), f"{where}: {seen} for {p}"


def assert_exact(env, params):
    """Without chance, every action in every state does what the model says, whatever the key."""
    model = jax.device_get(model_of(env, params))
    keys = jax.random.split(jax.random.key(0), 3)
    obs, reward, terminated, _ = jax.device_get(stepped(env, params, states_of(env, params), keys, model.mask.shape[1]))
    counts = goes_on_from(env, model)
    sure = model.probability.argmax(axis=-1)[..., None]
    next_state, probability, its_reward, its_end = (np.take_along_axis(x, sure, axis=-1)[..., 0] for x in model[:4])
    np.testing.assert_array_equal(probability, 1)
    for i in range(len(keys)):
        np.testing.assert_array_equal(obs[i, counts], model.obs[next_state[counts]])
        np.testing.assert_array_equal(reward[i, counts], its_reward[counts])
        np.testing.assert_array_equal(terminated[i, counts], its_end[counts])


def assert_frequent(env, params, only=slice(None)):
    """Each outcome comes as often as the model says, and nothing else comes."""
    model = jax.device_get(model_of(env, params))
    num_states, num_actions = model.mask.shape
    chosen = np.arange(num_states)[only]
    keys = jax.random.split(jax.random.key(1), MANY)
    states = jax.tree.map(lambda leaf: leaf[chosen], states_of(env, params))
    obs, reward, terminated, _ = jax.device_get(stepped(env, params, states, keys, num_actions))
    for n, s in enumerate(chosen):
        for a in range(num_actions):
            results, times = np.unique(
                np.column_stack([obs[:, n, a].reshape(MANY, -1), reward[:, n, a], terminated[:, n, a]]),
                axis=0,
                return_counts=True,
            )
            count = {tuple(result): number / MANY for result, number in zip(results.tolist(), times, strict=True)}
            expected = {
                (*model.obs[after].reshape(-1).tolist(), its_reward, its_end): p
                for after, (p, its_reward, its_end) in likely(model, s, a).items()
            }
            assert set(count) <= set(expected), f"state {s}, action {a}"
            seen = np.array([count.get(result, 0) for result in expected])
            assert_likely(seen, np.array(list(expected.values())), f"state {s}, action {a}")


def assert_starts(env, params):
    model = model_of(env, params)
    first = begun(env, params, jax.random.split(jax.random.key(2), MANY))
    seen = np.bincount(row_of(model, first), minlength=len(model.start)) / MANY
    p = np.asarray(model.start, np.float64)
    assert np.all(seen[p == 0] == 0)
    if len(p) > 1000:  # each is too rare to count: by goal and by position
        square = (104, 104)
        for axis in (0, 1):
            assert_likely(seen.reshape(square).sum(axis), p.reshape(square).sum(axis), f"axis {axis}")
    else:
        assert_likely(seen, p, "start")


EXACT = {
    "walls": (GridWorld(WALLED), PARAMS),
    "walls, bumping": (GridWorld(WALLED, mask_blocked=False), PARAMS),
    "hall": (GridWorld(HALL), PARAMS),
    "island": (GridWorld(ISLAND), PARAMS),
    "treasure": (make("GridWorld-treasure"), GridWorldParams()),
    "many starts": (GridWorld("S.S\n.#.\nS.M", features_as="coordinates"), PARAMS),
    "tokens": (TokenTree(), TokenTree().default_params),
    "FrozenLake": (FrozenLake(is_slippery=False, reward_schedule=(1.0, -0.5, -0.125)), FrozenLake().default_params),
    "FrozenLake 8x8": (FrozenLake(map_name="8x8", is_slippery=False), FrozenLake().default_params),
    "FrozenLake oblong": (FrozenLake(desc=("FFS", "GHF"), is_slippery=False), FrozenLake().default_params),
    "FourRooms": four_rooms(fail_prob=0.0),
    "FourRooms, any start": four_rooms(fail_prob=0.0, **START_ANYWHERE),
    "FourRooms, any goal": four_rooms(fail_prob=0.0, **GOAL_ANYWHERE),
    "Catch": (make("Catch-bsuite"), make("Catch-bsuite").default_params),
    "Catch 4x3": (Catch(rows=4, columns=3), Catch().default_params),
}


@pytest.mark.few(4)
@pytest.mark.parametrize("name", EXACT)
def test_model_is_what_step_does(name):
    assert_exact(*EXACT[name])


@pytest.mark.few(5)
@pytest.mark.parametrize("name", EXACT)
def test_a_time_limit_is_not_in_the_model(name):
    env, params = EXACT[name]
    short = params.replace(max_steps_in_episode=1)
    jax.tree.map(np.testing.assert_array_equal, tabulate(env, params), tabulate(env, short))
    model = model_of(env, params)
    keys = jax.random.split(jax.random.key(0), 3)
    _, _, terminated, done = stepped(env, short, states_of(env, params), keys, model.mask.shape[1])
    assert np.all(done)
    assert not np.all(terminated)


@pytest.mark.long
def test_wind_is_in_the_model():
    for mask_blocked in (True, False):
        assert_frequent(GridWorld(WALLED, mask_blocked=mask_blocked), PARAMS.replace(slip=0.3))
    assert_frequent(GridWorld(WALLED), PARAMS.replace(slip=1.0))


@pytest.mark.few(1)
@pytest.mark.parametrize("success_rate", [1 / 3, 0.8, 0.0])
def test_ice_is_in_the_model(success_rate):
    env = FrozenLake(success_rate=success_rate, reward_schedule=(1.0, -0.5, -0.125))
    assert_frequent(env, env.default_params)


def test_ice_that_is_not_slippery_ignores_the_rate():
    calm = tabulate(FrozenLake(is_slippery=False, success_rate=0.1), FrozenLake().default_params)
    np.testing.assert_array_equal(calm.probability, np.broadcast_to(np.eye(4), (16, 4, 4)))


@pytest.mark.parametrize("fail_prob", [1 / 3, *(pytest.param(p, marks=pytest.mark.long) for p in (0.1, 0.75, 0.9))])
def test_failures_are_in_the_model(fail_prob):
    env, params = four_rooms(fail_prob=fail_prob)
    assert_frequent(env, params, only=slice(None, None, 9))
    # Beside the goal, and where a door leads through a wall.
    places = np.asarray(env.coords).tolist()
    assert_frequent(env, params, only=[places.index([7, 9]), places.index([8, 10]), places.index([3, 6])])


def test_failures_are_in_the_model_whatever_the_goal():
    env, params = four_rooms(**GOAL_ANYWHERE)
    num_places = len(env.coords)
    assert_frequent(env, params, only=[0, 1, num_places, 50 * num_places + 49, num_places**2 - 1])


STARTS = {
    **EXACT,
    "FourRooms, any of both": four_rooms(**START_ANYWHERE, **GOAL_ANYWHERE),
    "FourRooms, fixed elsewhere": (FourRooms(goal_fixed=[1, 1], pos_fixed=[11, 11]), FourRooms().default_params),
}


@pytest.mark.parametrize("name", STARTS)
def test_episodes_start_where_the_model_says(name):
    assert_starts(*STARTS[name])


@pytest.mark.parametrize("name", STARTS)
def test_models_are_well_formed(name):
    env, params = STARTS[name]
    model = tabulate(env, params)
    num_states, num_actions, _ = model.next_state.shape
    assert num_actions == env.num_actions
    assert model.next_state.dtype == jnp.int32
    assert model.probability.dtype == model.reward.dtype == model.start.dtype == jnp.float32
    assert model.terminated.dtype == model.mask.dtype == bool
    assert model.start.shape == model.obs.shape[:1] == (num_states,)
    np.testing.assert_allclose(np.sum(model.start), 1, rtol=1e-5)
    np.testing.assert_allclose(np.sum(model.probability, axis=-1), 1, rtol=1e-6)
    assert np.min(model.next_state) >= 0
    assert np.max(model.next_state) < num_states


@pytest.mark.parametrize("name", STARTS)
def test_observations_are_those_of_the_environment_and_differ(name):
    env, params = STARTS[name]
    model = model_of(env, params)
    states = states_of(env, params)
    own = jax.vmap(lambda state: make_task(env).typed(env.observe(jax.random.key(0), state, 0, params)))(states)
    np.testing.assert_array_equal(model.obs, own)
    assert model.obs.dtype == own.dtype
    # Where the ball of Catch is down, ball and paddle look alike; no one acts there.
    counts = goes_on_from(env, model)
    different = np.unique(np.asarray(model.obs)[counts].reshape(counts.sum(), -1), axis=0)
    assert len(different) == counts.sum()
    np.testing.assert_array_equal(Task(env, params).tabular_model().obs, own)


@pytest.mark.parametrize("name", STARTS)
def test_mask_is_that_of_the_environment(name):
    env, params = STARTS[name]
    model = model_of(env, params)
    for s in range(0, len(model.start), max(1, len(model.start) // 40)):
        mask = Task(env, params).action_mask(model.obs[s])
        np.testing.assert_array_equal(model.mask[s], True if mask is None else mask)
    assert np.all(np.any(model.mask, axis=1))


def test_rewards_may_be_mapped_over():
    env = GridWorld(WALLED)
    slips, money = jnp.array([0.0, 0.3, 1.0]), jnp.array([1.0, 2.0, -3.0])
    models = jax.vmap(lambda slip, money: tabulate(env, PARAMS.replace(slip=slip, money=money)))(slips, money)
    np.testing.assert_allclose(np.sum(models.probability, axis=-1), 1, rtol=1e-6)
    for i in range(3):
        alone = tabulate(env, PARAMS.replace(slip=float(slips[i]), money=float(money[i])))
        for got, expected in zip(models, alone, strict=True):
            np.testing.assert_array_equal(got[i], expected)


def test_failures_and_starts_of_four_rooms_may_be_mapped_over():
    env, params = four_rooms()
    fails, anywhere = jnp.array([0.0, 1 / 3, 0.9]), jnp.array([False, True, True])
    models = jax.vmap(lambda p, any_: tabulate(env, params.replace(fail_prob=p, resample_init_pos=any_)))(
        fails, anywhere
    )
    np.testing.assert_allclose(np.sum(models.probability, axis=-1), 1, rtol=1e-6)
    for i in range(3):
        alone = tabulate(env, params.replace(fail_prob=fails[i], resample_init_pos=bool(anywhere[i])))
        for got, expected in zip(models, alone, strict=True):
            np.testing.assert_allclose(got[i], expected, atol=1e-7)


def test_a_traced_number_of_states_is_refused():
    env, params = four_rooms()
    with pytest.raises(ConfigError, match="resample_goal_pos: must be concrete"):
        jax.vmap(lambda anywhere: tabulate(env, params.replace(resample_goal_pos=anywhere)).start)(jnp.array([True]))


def test_four_rooms_has_a_state_for_each_goal_where_goals_move():
    assert len(tabulate(*four_rooms()).start) == 104
    assert len(tabulate(*four_rooms(**GOAL_ANYWHERE)).start) == 104**2


class TwoRooms(Environment):
    """A user's own environment: go to the other room, or stay."""

    num_actions = 2

    @property
    def default_params(self):
        return probes.EnvParams(max_steps_in_episode=3)

    def tabular_model(self, params):
        next_state = jnp.array([[[0], [1]], [[1], [0]]])
        ones = jnp.ones(next_state.shape)
        return TabularModel(
            next_state, ones, ones, ones > 1, jnp.array([1.0, 0.0]), jnp.ones((2, 2), bool), jnp.arange(2)
        )


class Unknown(TwoRooms):
    def tabular_model(self, params):
        return None


def test_an_environment_of_ones_own_is_tabular_if_it_knows_itself():
    env = TwoRooms()
    assert is_tabular(env)
    assert tabulate(env, env.default_params).next_state.shape == (2, 2, 1)
    assert not is_tabular(Unknown())
    assert tabulate(Unknown(), env.default_params) is None


@pytest.mark.parametrize("env_id", ["GridWorld-treasure", "FrozenLake-misc", "FourRooms-misc", "Catch-bsuite"])
def test_finite_environments_are_tabular(env_id):
    assert is_tabular(make(env_id))


@pytest.mark.parametrize("env_id", ["CartPole-v1", "RandomGridWorld", "Breakout-MinAtar", "Acrobot-v1"])
def test_others_are_not_tabular(env_id):
    env = make(env_id)
    assert not is_tabular(env)
    assert tabulate(env, env.default_params) is None


def test_a_changed_subclass_is_not_taken_for_what_it_derives_from():
    class Icier(FrozenLake):
        pass

    assert not is_tabular(Icier())
    assert not is_tabular(RandomGridWorld(height=2, width=2))
    assert not is_tabular(probes.ConstantReward())
