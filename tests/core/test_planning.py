"""Dynamic programming against plain loops in double precision, enumeration, and numbers that others report."""

import functools
import itertools
from collections import deque
from types import SimpleNamespace

import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnax.environments.misc.frozen_lake import FrozenLake
from scipy import sparse
from scipy.sparse.linalg import spsolve

from purejaxppo import ConfigError, GridWorld, GridWorldParams, planning
from purejaxppo.environments import TabularModel, tabulate
from purejaxppo.planning import values
from tests.support.reference import (
    available,
    best_actions,
    best_return,
    best_solved,
    in_numpy,
    outcomes,
    played,
    solved,
    visited,
)
from tests.support.small import assert_trees_close, leaves_of

S, A, K = 7, 3, 2
GAMMA = 0.9
SEEDS = range(8)
HORIZONS = [1, 3, 50]


@functools.cache
def random_model(seed, terminates=0.15, start_share=0.6):
    rng = np.random.default_rng(seed)
    start = rng.random(S) * (rng.random(S) < start_share)
    start[rng.integers(S)] += 0.5
    mask = rng.random((S, A)) < 0.6
    mask[np.arange(S), rng.integers(A, size=S)] = True
    model = TabularModel(
        next_state=rng.integers(S, size=(S, A, K)),
        probability=rng.dirichlet(np.ones(K), (S, A)),
        reward=rng.normal(size=(S, A, K)),
        terminated=rng.random((S, A, K)) < terminates,
        start=start / start.sum(),
        mask=mask,
        obs=np.arange(S),
    )
    return jax.tree.map(jnp.asarray, model)


def random_policy(model, seed):
    weight = np.random.default_rng(seed).random(model.mask.shape) * np.asarray(model.mask)
    return jnp.asarray(weight / weight.sum(axis=1, keepdims=True), jnp.float32)


def uniform_policy(model):
    return jnp.asarray(model.mask / model.mask.sum(axis=1, keepdims=True))


def one_hot(action, num_actions):
    return np.eye(num_actions, dtype=np.float32)[np.asarray(action)]


def on_map(text, mask_blocked=True, **params):
    return GridWorld(text, mask_blocked=mask_blocked).tabular_model(GridWorldParams(**params))


def tiny(next_state, reward, terminated, probability=None, start=None, mask=None):
    """A model from nested lists `[S, A]`, one outcome each."""
    next_state, reward, terminated = (np.array(x)[..., None] for x in (next_state, reward, terminated))
    num_states = len(next_state)
    return TabularModel(
        next_state=jnp.asarray(next_state, jnp.int32),
        probability=jnp.ones(next_state.shape),
        reward=jnp.asarray(reward, jnp.float32),
        terminated=jnp.asarray(terminated, bool),
        start=jnp.eye(num_states)[0] if start is None else jnp.asarray(start, jnp.float32),
        mask=jnp.ones(next_state.shape[:2], bool) if mask is None else jnp.asarray(mask, bool),
        obs=jnp.arange(num_states),
    )


@pytest.mark.parametrize("seed", SEEDS)
def test_optimal_values_are_those_of_policy_iteration(seed):
    model = random_model(seed)
    exact = in_numpy(model)
    value, q = best_solved(exact, GAMMA)
    got = planning.value_iteration(model, GAMMA)
    np.testing.assert_allclose(got.value, value, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(got.action_value, q, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(got.is_optimal, best_actions(exact, q))
    assert 0 <= got.residual < 1e-5


@pytest.mark.parametrize("slip", [0.0, 0.2])
def test_no_deterministic_policy_is_better(slip):
    model = on_map("S.m\n..D", mask_blocked=False, slip=slip)
    exact = in_numpy(model)
    policies = np.array(list(itertools.product(range(4), repeat=6)))  # all 4,096
    moves, rewards = np.zeros((6, 4, 6)), np.zeros((6, 4))
    for s, a, p, r, after in outcomes(exact):
        rewards[s, a] += p * r
        if after is not None:
            moves[s, a, after] += p
    cells = np.arange(6)
    matrices = np.eye(6)[None] - GAMMA * moves[cells, policies]
    values = np.linalg.solve(matrices, rewards[cells, policies][..., None])[..., 0]
    np.testing.assert_allclose(planning.value_iteration(model, GAMMA).value, values.max(axis=0), rtol=1e-5)


def test_undiscounted_value_is_the_prize_less_the_way():
    text = "..#m..\n.##.#.\n....#.\n.#.##.\n.D...M"
    env = GridWorld(text)
    prize, cost = {"M": 9.0, "m": 2.0, "D": -30.0}, 0.5
    symbols, expected = env.map.symbol, []
    for cell in range(len(symbols)):
        worth, distance, queue = [], {cell: 0}, deque([cell])
        while queue:
            here = queue.popleft()
            for there in set(env.map.next_cell[here].tolist()) - {here}:
                if symbols[there] in prize:
                    worth.append(prize[symbols[there]] - cost * (distance[here] + 1))
                elif there not in distance:
                    distance[there] = distance[here] + 1
                    queue.append(there)
        expected.append(max(worth))
    model = on_map(text, lots_of_money=9.0, money=2.0, dragon=-30.0, step_cost=cost)
    got = planning.value_iteration(model, 1.0)
    np.testing.assert_allclose(got.value, expected, atol=1e-5)
    assert got.residual == 0
    assert len({round(x, 3) for x in expected}) > 8


def test_values_that_never_end_leave_a_large_residual():
    endless = tiny([[0]], [[-1.0]], [[False]])
    got = planning.value_iteration(endless, 1.0)
    assert got.residual == 1
    assert got.value[0] == -planning.MAX_SWEEPS


def test_zero_discount_is_the_best_reward():
    model = random_model(0)
    exact = in_numpy(model)
    expected = available(exact, (exact.probability * exact.reward).sum(axis=-1)).max(axis=1)
    np.testing.assert_allclose(planning.value_iteration(model, 0).value, expected, atol=1e-6)


def test_equally_good_actions_are_all_optimal():
    env = GridWorld("S..\n...\n..M")
    best = np.asarray(planning.value_iteration(on_map(env.layout), GAMMA).is_optimal)
    for cell, (row, column) in enumerate(env.map.position[:-1]):
        assert best[cell].tolist() == [False, column < 2, row < 2, False]


def test_ties_are_told_from_differences():
    model = tiny([[0, 0, 0]], [[10.0, 10.0 + 1e-5, 10.1]], [[True, True, True]])
    assert planning.value_iteration(model, GAMMA).is_optimal.tolist() == [[False, False, True]]
    best_masked = model._replace(mask=jnp.array([[True, True, False]]))
    assert planning.value_iteration(best_masked, GAMMA).is_optimal.tolist() == [[True, True, False]]


def test_masked_actions_are_valued_but_never_taken():
    model = tiny([[0, 1], [0, 1]], [[1.0, 100.0], [2.0, 3.0]], [[True, True], [True, True]], mask=[[1, 0], [1, 1]])
    got = planning.value_iteration(model, GAMMA)
    np.testing.assert_allclose(got.value, [1, 3])
    np.testing.assert_allclose(got.action_value, [[1, 100], [2, 3]])
    assert got.is_optimal.tolist() == [[True, False], [False, True]]
    assert planning.optimal_return(model, 5) == 1
    assert planning.reachable(tiny([[0, 1], [1, 1]], [[0, 0]] * 2, [[0, 0]] * 2)).tolist() == [True, True]
    shut = tiny([[0, 1], [1, 1]], [[0, 0]] * 2, [[0, 0]] * 2, mask=[[1, 0], [1, 1]])
    assert planning.reachable(shut).tolist() == [True, False]


def test_large_map_is_solved():
    rng = np.random.default_rng(0)
    grid = rng.choice(list("..........D"), size=(64, 64))
    grid[0, 0], grid[-1, -1], grid[20, 40] = "S", "M", "m"
    grid[0], grid[:, -1] = np.where(grid[0] == "D", ".", grid[0]), np.where(grid[:, -1] == "D", ".", grid[:, -1])
    model = on_map("\n".join("".join(row) for row in grid), slip=0.1, lots_of_money=50.0, step_cost=0.1)
    got = jax.device_get(planning.value_iteration(model, 0.99))
    assert got.value.shape == (4096,)
    assert np.isfinite(got.value).all()
    assert got.residual < 1e-4
    exact = in_numpy(model)
    goes_on = np.where(exact.terminated, 0, got.value[exact.next_state].astype(np.float64))
    q = (exact.probability * (exact.reward + 0.99 * goes_on)).sum(axis=-1)
    np.testing.assert_allclose(got.action_value, q, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(got.value, available(exact, q).max(axis=1), atol=1e-4)
    # The greedy policy is worth what the values say.
    best = available(exact, q).argmax(axis=1)
    greedy = planning.policy_evaluation(model, jnp.asarray(one_hot(best, 4)), 0.99)
    np.testing.assert_allclose(greedy, got.value, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("gamma", [0.0, GAMMA, 0.999])
def test_value_of_a_policy_solves_its_equations(seed, gamma):
    model = random_model(seed)
    policy = random_policy(model, seed)
    got = planning.policy_evaluation(model, policy, gamma)
    np.testing.assert_allclose(got, solved(in_numpy(model), np.float64(policy), gamma), rtol=1e-4, atol=1e-5)


def test_sweeps_give_the_value_that_matrices_give(monkeypatch):
    monkeypatch.setattr(values, "SOLVED_DENSELY", 0)
    by_sweeps = jax.jit(values._policy_evaluation.__wrapped__)
    for seed in SEEDS:
        model = random_model(seed)
        policy = random_policy(model, seed)
        swept, direct = by_sweeps(model, policy, GAMMA), values._policy_evaluation(model, policy, GAMMA)
        np.testing.assert_allclose(swept, direct, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(swept, solved(in_numpy(model), np.float64(policy), GAMMA), rtol=1e-5, atol=1e-5)


def test_many_states_are_evaluated_without_a_matrix():
    text = "\n".join(["S" + "." * 23] + ["." * 24] * 22 + ["D" + "." * 22 + "M"])
    model = on_map(text, slip=0.2)
    num_states = len(model.start)
    assert num_states == 576 > planning.SOLVED_DENSELY
    assert f"{num_states},{num_states}" not in str(jax.make_jaxpr(values._policy_evaluation)(model, model.mask, 0.9))
    policy = uniform_policy(model)
    exact = in_numpy(model)
    weight = np.float64(policy)[..., None] * exact.probability
    going = np.where(exact.terminated, 0, weight)
    rows = np.broadcast_to(np.arange(num_states)[:, None, None], going.shape)
    matrix = sparse.csc_matrix((going.ravel(), (rows.ravel(), exact.next_state.ravel())), (num_states, num_states))
    for gamma in (0.9, 0.99):
        expected = spsolve(
            sparse.identity(num_states, format="csc") - gamma * matrix, (weight * exact.reward).sum((1, 2))
        )
        np.testing.assert_allclose(planning.policy_evaluation(model, policy, gamma), expected, rtol=1e-4, atol=1e-4)


def test_a_sure_policy_may_stay_for_ever():
    model = tiny([[0, 1], [1, 1]], [[-1.0, 0.0], [2.0, 2.0]], [[False, False], [False, False]])
    got = planning.policy_evaluation(model, jnp.asarray(one_hot([0, 0], 2)), GAMMA)
    np.testing.assert_allclose(got, [-10, 20], rtol=1e-5)
    np.testing.assert_allclose(planning.value_iteration(model, GAMMA).value, [18, 20], rtol=1e-5)


@pytest.mark.parametrize("seed", SEEDS)
def test_expected_return_follows_the_agent_forward(seed):
    model = random_model(seed)
    policy = random_policy(model, seed)
    for horizon in HORIZONS:
        got = planning.expected_return(model, policy, horizon)
        expected = played(in_numpy(model), [np.float64(policy)] * horizon)
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def test_only_a_termination_that_pays_is_success():
    # Pays on the way, at a bad end and at a good end; the last by a quarter of the uniform policy's choices.
    paying = tiny([[0, 0, 0, 0]], [[1.0, -1.0, 0.0, 2.0]], [[False, True, True, True]])
    got = planning.expected_return(paying, jnp.full((1, 4), 0.25), 1)
    np.testing.assert_allclose(got, [0.5, 1, 0.25])
    got = planning.expected_return(paying, jnp.full((1, 4), 0.25), 1000)
    np.testing.assert_allclose(got, [0.5 * 4 / 3, 4 / 3, 1 / 3], rtol=1e-5)


def test_a_longer_episode_takes_longer_and_succeeds_more():
    model = on_map("S..\n.D.\n..M", slip=0.1)
    policy = uniform_policy(model)
    results = [planning.expected_return(model, policy, horizon) for horizon in (1, 2, 4, 8, 1000, 2000)]
    lengths, successes = np.array([[r.episode_length, r.success] for r in results]).T
    np.testing.assert_allclose([lengths[0], successes[0]], [1, 0], atol=1e-6)
    assert np.all(np.diff(lengths)[:4] > 0)
    assert np.all(np.diff(successes) >= 0)
    assert successes[4] > successes[3] > successes[2] > 0
    assert_trees_close(results[4], results[5], rtol=1e-5)
    # Without an end by time, the return is the undiscounted value and the length its count of steps.
    exact = in_numpy(model)
    value = solved(exact, np.float64(policy), 1.0)
    steps = solved(SimpleNamespace(**vars(exact) | {"reward": np.ones_like(exact.reward)}), np.float64(policy), 1.0)
    np.testing.assert_allclose(results[5][:2], [exact.start @ value, exact.start @ steps], rtol=1e-4)
    best = planning.value_iteration(model, 1.0).value
    np.testing.assert_allclose(planning.optimal_return(model, 1000), exact.start @ np.asarray(best), rtol=1e-4)


@pytest.mark.parametrize("seed", SEEDS)
def test_optimal_return_is_that_of_backward_induction(seed):
    model = random_model(seed)
    for horizon in HORIZONS:
        expected = best_return(in_numpy(model), horizon)
        np.testing.assert_allclose(planning.optimal_return(model, horizon), expected, rtol=1e-4, atol=1e-5)


def test_no_policy_of_the_time_is_better():
    model = tiny([[0, 1], [0, 1]], [[0.3, -0.4], [2.0, 0.9]], [[False, False], [True, False]], start=[0.7, 0.3])
    policies = [one_hot(actions, 2) for actions in itertools.product(range(2), repeat=2)]
    for horizon in (1, 2, 3, 4):
        returns = [played(in_numpy(model), plan)[0] for plan in itertools.product(policies, repeat=horizon)]
        np.testing.assert_allclose(planning.optimal_return(model, horizon), max(returns), rtol=1e-5)


def test_knowing_the_time_can_pay():
    # One state: earn 1 and stay, or take 3 and go. The best is to stay twice and then go.
    model = tiny([[0, 0]], [[1.0, 3.0]], [[False, True]])
    assert planning.optimal_return(model, 3) == 5
    share = np.linspace(0, 1, 101)
    timeless = jax.vmap(lambda p: planning.expected_return(model, jnp.stack([p, 1 - p])[None], 3).episode_return)
    assert np.max(timeless(jnp.asarray(share))) < 4


@pytest.mark.parametrize("seed", SEEDS)
def test_no_policy_returns_more_than_the_best(seed):
    model = random_model(seed)
    policies = jnp.stack([random_policy(model, i) for i in range(10)])
    deterministic = [one_hot(np.asarray(policy).argmax(axis=1), A) for policy in policies]
    policies = jnp.concatenate([policies, jnp.asarray(np.array(deterministic))])
    for horizon in HORIZONS:
        returns = jax.vmap(lambda policy: planning.expected_return(model, policy, horizon).episode_return)(policies)  # noqa: B023
        assert np.max(returns) <= planning.optimal_return(model, horizon) + 1e-4


def test_values_and_returns_answer_different_questions():
    # Three steps to a prize of 5, each for 1: with discounting -1 - 0.9 + 0.81 * 4 at the first cell.
    model = on_map("S..M", step_cost=1.0, lots_of_money=5.0)
    policy = jnp.asarray(one_hot([1, 1, 1, 3], 4))
    np.testing.assert_allclose(planning.policy_evaluation(model, policy, 0.9)[:3], [1.34, 2.6, 4.0], rtol=1e-5)
    np.testing.assert_allclose(planning.value_iteration(model, 0.9).value[:3], [1.34, 2.6, 4.0], rtol=1e-5)
    for horizon, expected in {1: (-1, 1, 0), 2: (-2, 2, 0), 3: (2, 3, 1), 9: (2, 3, 1)}.items():
        np.testing.assert_allclose(planning.expected_return(model, policy, horizon), expected, atol=1e-6)
        # With too little time for the way, each step costs the same whatever one does.
        np.testing.assert_allclose(planning.optimal_return(model, horizon), expected[0], atol=1e-6)


@pytest.mark.parametrize("seed", range(20))
def test_reachable_states_are_those_of_a_search(seed):
    model = random_model(seed, terminates=0.7, start_share=0.0)
    np.testing.assert_array_equal(planning.reachable(model), visited(in_numpy(model)))


def test_search_finds_some_and_not_all():
    shares = [np.mean(visited(in_numpy(random_model(seed, terminates=0.7, start_share=0.0)))) for seed in range(20)]
    assert min(shares) < 0.4
    assert max(shares) > 0.6


def test_cells_behind_dragons_and_ends_are_not_acted_in():
    model = on_map("S.D..M\nm##.D.\n...D..")
    expected = visited(in_numpy(model))
    np.testing.assert_array_equal(planning.reachable(model), expected)
    assert expected.tolist() == [True, True] + [False] * 14


def test_impossible_outcomes_lead_nowhere():
    # Without slip, the outcomes of being blown away are there with probability 0.
    calm, windy = on_map("S..M\n....", mask_blocked=False), on_map("S..M\n####\n....", slip=0.5)
    only_right = calm._replace(mask=jnp.zeros_like(calm.mask).at[:, 1].set(True))
    assert planning.reachable(only_right).tolist() == [True] * 3 + [False] * 5
    assert planning.reachable(windy).tolist() == [True] * 3 + [False] * 5
    blown = only_right._replace(probability=on_map("S..M\n....", mask_blocked=False, slip=0.5).probability)
    assert planning.reachable(blown).tolist() == [True] * 3 + [False] + [True] * 4


@pytest.mark.parametrize(("map_name", "best", "uniform"), [("4x4", 0.7442, 0.0139), ("8x8", 0.9132, 0.0019)])
def test_frozen_lake(map_name, best, uniform):
    env = FrozenLake(map_name=map_name)
    model = tabulate(env, env.default_params)
    horizon = env.default_params.max_steps_in_episode
    assert horizon == {"4x4": 100, "8x8": 200}[map_name]
    np.testing.assert_allclose(planning.optimal_return(model, horizon), best, atol=5e-4)
    played = planning.expected_return(model, uniform_policy(model), horizon)
    np.testing.assert_allclose(played.success, uniform, atol=5e-4)
    np.testing.assert_allclose(played.success, played.episode_return, rtol=1e-5)


@pytest.mark.long
def test_four_rooms_takes_27_steps():
    env, params = gymnax.make("FourRooms-misc")
    model = tabulate(env, params)
    assert not params.resample_init_pos
    assert not params.resample_goal_pos
    # Its reward is 1 at the goal, whenever; the fewest steps are the best return of a cost of 1 for each.
    costly = model._replace(reward=-jnp.ones_like(model.reward))
    np.testing.assert_allclose(planning.optimal_return(costly, 3000), -26.71, atol=0.01)
    best = planning.value_iteration(costly, 1.0).is_optimal.argmax(axis=1)
    played = planning.expected_return(model, jnp.asarray(one_hot(best, 4)), 3000)
    np.testing.assert_allclose(played, [1, 26.71, 1], atol=0.01)


def everything(params, gamma):
    model = GridWorld("S.m\n..D\n..M").tabular_model(params)
    policy = jnp.where(model.mask, 1.0, 0.0) / jnp.sum(model.mask, axis=1, keepdims=True)
    return (
        planning.value_iteration(model, gamma),
        planning.policy_evaluation(model, policy, gamma),
        planning.expected_return(model, policy, 10),
        planning.optimal_return(model, 10),
        planning.reachable(model),
    )


@pytest.mark.parametrize(
    ("of", "numbers"),
    [
        (lambda x: everything(GridWorldParams(slip=x), GAMMA), [0.0, 0.1, 0.7]),
        (lambda x: everything(GridWorldParams(money=x), GAMMA), [-3.0, 2.0, 8.0]),
        (lambda x: everything(GridWorldParams(), x), [0.0, 0.5, 0.99]),
    ],
    ids=["slip", "money", "gamma"],
)
def test_vmapped_equals_single_calls(of, numbers):
    together = jax.vmap(of)(jnp.array(numbers))
    for i, number in enumerate(numbers):
        got = leaves_of(together, i)
        expected = of(number)
        # The sweeps of a batch go on until the last is done, but a result that is ready stays as it is.
        assert_trees_close(got, expected, rtol=1e-5, atol=1e-5)
    assert not np.allclose(leaves_of(together, 0)[1], leaves_of(together, 2)[1])


def test_vmapped_horizons_equal_single_calls():
    model = random_model(0)
    policy = random_policy(model, 0)
    together = jax.vmap(lambda n: (planning.expected_return(model, policy, n), planning.optimal_return(model, n)))(
        jnp.array(HORIZONS)
    )
    for i, horizon in enumerate(HORIZONS):
        expected = planning.expected_return(model, policy, horizon), planning.optimal_return(model, horizon)
        assert_trees_close(leaves_of(together, i), expected, rtol=1e-5, atol=1e-6)


def test_models_and_policies_may_be_traced():
    model = random_model(0)
    policy = random_policy(model, 0)
    jitted = jax.jit(lambda *args: (planning.expected_return(*args, 3), planning.policy_evaluation(*args, GAMMA)))
    expected = planning.expected_return(model, policy, 3), planning.policy_evaluation(model, policy, GAMMA)
    assert_trees_close(jitted(model, policy), expected, rtol=1e-5, atol=1e-6)


def changed(name, where, value):
    """A random model with one number changed."""
    array = np.array(getattr(random_model(0), name))
    array[where] = value
    return {name: array}


MALFORMED = {
    "next_state of two axes": ({"next_state": np.zeros((S, A), int)}, r"model\.next_state: has shape \(7, 3\)"),
    "no states": ({"next_state": np.zeros((0, A, K), int)}, r"model\.next_state: has shape \(0, 3, 2\)"),
    "no actions": ({"next_state": np.zeros((S, 0, K), int)}, r"model\.next_state: has shape \(7, 0, 2\)"),
    "no outcomes": ({"next_state": np.zeros((S, A, 0), int)}, r"model\.next_state: has shape \(7, 3, 0\)"),
    "probability of another shape": ({"probability": np.ones((S, A, 1))}, r"model\.probability: has shape"),
    "reward of another shape": ({"reward": np.zeros((S, A))}, r"model\.reward: has shape"),
    "terminated of another shape": ({"terminated": np.zeros((S, 1, K), bool)}, r"model\.terminated: has shape"),
    "start of another shape": ({"start": np.ones(S + 1) / (S + 1)}, r"model\.start: has shape \(8,\).*\(7,\)"),
    "mask of another shape": ({"mask": np.ones((S, A + 1), bool)}, r"model\.mask: has shape \(7, 4\).*\(7, 3\)"),
    "fewer observations": ({"obs": np.zeros((S - 1, 4))}, r"model\.obs: has shape \(6, 4\); .* 7 states"),
    "one observation": ({"obs": np.zeros(())}, r"model\.obs: has shape \(\); .* 7 states"),
    "next state beyond the last": (changed("next_state", (2, 1, 0), S), r"model\.next_state: at \[2, 1, 0\] it is 7"),
    "next state before the first": (
        changed("next_state", (2, 1, 0), -1),
        r"model\.next_state: .* it is -1; .*\[0, 6\]",
    ),
    "reward NaN": (changed("reward", (0, 2, 1), np.nan), r"model\.reward: at \[0, 2, 1\] it is nan; must be finite"),
    "reward infinite": (changed("reward", (0, 2, 1), np.inf), r"model\.reward: .*must be finite"),
    "reward minus infinite": (changed("reward", (0, 2, 1), -np.inf), r"model\.reward: .*must be finite"),
    "probability negative": (changed("probability", (1, 1, 1), -0.1), r"model\.probability: at \[1, 1, 1\].*\[0, 1\]"),
    "probability above 1": (changed("probability", (1, 1, 1), 1.1), r"model\.probability: at \[1, 1, 1\]"),
    "probability NaN": (changed("probability", (1, 1, 1), np.nan), r"model\.probability: at \[1, 1, 1\] it is nan"),
    "probabilities below 1": (changed("probability", (1, 1), 0.4), r"model\.probability: at \[1, 1\].*sum to 1"),
    "start negative": (changed("start", 3, -0.5), r"model\.start: at \[3\]"),
    "start NaN": (changed("start", 3, np.nan), r"model\.start: at \[3\] it is nan"),
    "start below 1": ({"start": np.full(S, 0.1)}, r"model\.start: .*sum to 1"),
    "state without an action": (changed("mask", 4, False), r"model\.mask: at \[4\].*at least one action"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_models_are_refused_by_all(name):
    change, message = MALFORMED[name]
    good = random_model(0)
    model, policy = good._replace(**change), random_policy(good, 0)
    calls = [
        lambda: planning.value_iteration(model, GAMMA),
        lambda: planning.policy_evaluation(model, policy, GAMMA),
        lambda: planning.expected_return(model, policy, 3),
        lambda: planning.optimal_return(model, 3),
        lambda: planning.reachable(model),
    ]
    for call in calls:
        with pytest.raises(ConfigError, match=message):
            call()


def bad_policy(name):
    model = random_model(0)
    policy = np.array(random_policy(model, 0))
    state, action = np.argwhere(~np.asarray(model.mask))[0]
    free = np.asarray(model.mask)[state].argmax()
    match name:
        case "shape":
            return policy[:-1]
        case "NaN":
            policy[state, free] = np.nan
        case "negative":
            policy[2, 0] = -0.2
        case "above 1":
            policy[2, 0] = 1.2
        case "sum":
            policy[2] *= 0.9
        case "masked":
            policy[state] = 0
            policy[state, [free, action]] = 0.5
    return policy


@pytest.mark.parametrize(
    ("name", "message"),
    {
        "shape": r"policy: has shape \(6, 3\); must be \[S, A\] = \(7, 3\)",
        "NaN": r"policy: at .* nan; must be in \[0, 1\]",
        "negative": r"policy: at \[2, 0\].*must be in \[0, 1\]",
        "above 1": r"policy: at \[2, 0\].*must be in \[0, 1\]",
        "sum": r"policy: at \[2\].*sum to 1",
        "masked": r"policy: at .* it is 0\.5; must be 0 where model\.mask is false",
    }.items(),
)
def test_malformed_policies_are_refused(name, message):
    policy = bad_policy(name)
    with pytest.raises(ConfigError, match=message):
        planning.policy_evaluation(random_model(0), policy, GAMMA)
    with pytest.raises(ConfigError, match=message):
        planning.expected_return(random_model(0), policy, 3)


@pytest.mark.parametrize("gamma", [-0.1, 1.1, np.nan, np.inf, "0.9", None, True, jnp.float32(2)])
def test_impossible_discounts_are_refused(gamma):
    model = random_model(0)
    with pytest.raises(ConfigError, match="gamma="):
        planning.value_iteration(model, gamma)
    with pytest.raises(ConfigError, match="gamma="):
        planning.policy_evaluation(model, random_policy(model, 0), gamma)


@pytest.mark.parametrize("horizon", [0, -3, 2.5, np.nan, np.inf, "3", None, True, jnp.int32(0)])
def test_impossible_horizons_are_refused(horizon):
    model = random_model(0)
    with pytest.raises(ConfigError, match="horizon="):
        planning.optimal_return(model, horizon)
    with pytest.raises(ConfigError, match="horizon="):
        planning.expected_return(model, random_policy(model, 0), horizon)


WRONG_KIND = {
    "two discounts": (lambda m, p: planning.value_iteration(m, jnp.array([0.1, 0.9])), "gamma"),
    "two discounts, of a policy": (lambda m, p: planning.policy_evaluation(m, p, jnp.array([0.1, 0.9])), "gamma"),
    "one discount in an array": (lambda m, p: planning.value_iteration(m, np.array([0.9])), "gamma"),
    "two horizons": (lambda m, p: planning.optimal_return(m, jnp.array([1, 2])), "horizon"),
    "two horizons, of a policy": (lambda m, p: planning.expected_return(m, p, jnp.array([1, 2])), "horizon"),
    "next states as floats": (
        lambda m, p: planning.value_iteration(m._replace(next_state=m.next_state + 0.0), GAMMA),
        r"model\.next_state",
    ),
    "mask of integers": (lambda m, p: planning.value_iteration(m._replace(mask=m.mask + 0), GAMMA), r"model\.mask"),
    "terminated NaN": (
        lambda m, p: planning.value_iteration(m._replace(terminated=m.terminated * jnp.nan), GAMMA),
        r"model\.terminated",
    ),
}


@pytest.mark.parametrize("name", WRONG_KIND)
def test_input_of_the_wrong_kind_is_refused(name):
    call, message = WRONG_KIND[name]
    model = random_model(0)
    # As users have it: two discounts are then broadcast along the axis of the two outcomes, without a word.
    with jax.numpy_rank_promotion("allow"), pytest.raises(ConfigError, match=message):
        call(model, random_policy(model, 0))


def test_a_good_model_passes_in_numpy_and_in_jax():
    model = random_model(0)
    same = planning.value_iteration(jax.tree.map(np.asarray, model), np.float32(GAMMA))
    assert_trees_close(same, planning.value_iteration(model, jnp.float32(GAMMA)), rtol=1e-6)


@pytest.mark.parametrize("horizon", [1, 2, 7, 200, 2**20])
def test_nothing_is_lost_by_ending_at_a_fixed_point(horizon):
    """Rounding makes it one long before the horizon; up to it, sweep by sweep is the reference."""
    model, policy = random_model(0), random_policy(random_model(0), 1)
    goes_on = jnp.where(model.terminated, 0.0, policy[..., None] * model.probability)
    per_step = jnp.sum(policy[..., None] * model.probability * model.reward, axis=(1, 2))
    sweep = jax.jit(lambda total: per_step + jnp.sum(goes_on * total[model.next_state], axis=(1, 2)))
    expected = functools.reduce(lambda total, _: sweep(total), range(min(horizon, 2000)), jnp.zeros_like(per_step))
    found = planning.expected_return(model, policy, horizon).episode_return
    np.testing.assert_allclose(found, jnp.sum(model.start * expected), rtol=1e-6)


def test_a_sweep_that_changes_something_goes_on_to_the_horizon():
    for horizon in (1, 9, 300):
        assert values._repeated(lambda x: jnp.where(x < 250, x + 1, x), jnp.zeros(2), horizon)[0] == min(horizon, 250)


@pytest.mark.parametrize("horizon", [0, 2**20 + 1, 2**31 - 1, 2**31, 1.5])
def test_a_horizon_that_cannot_be_planned_is_refused(horizon):
    model = random_model(0)
    for plan in (planning.optimal_return, lambda model, n: planning.expected_return(model, random_policy(model, 1), n)):
        with pytest.raises(ConfigError, match=r"horizon=.*: must be an integer in \[1, 2\*\*20\]"):
            plan(model, horizon)
