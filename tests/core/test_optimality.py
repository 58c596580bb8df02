"""How far from the best a policy is: against plain NumPy, against episodes, and against what the critic learns."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purejaxppo import (
    MLP,
    Config,
    ConfigError,
    GridWorld,
    GridWorldParams,
    evaluate,
    init,
    optimality,
    planning,
    train,
    update,
)
from purejaxppo.ppo import bind
from tests.support import reference
from tests.support.small import leaves_of

KEY = jax.random.key(4)
MAP = "S..m\n.#D.\n...M\n###.\n.m#."  # two cells at the bottom are out of reach
SLIP = GridWorldParams(slip=0.2, max_steps_in_episode=12)
CONFIG = Config(
    env=GridWorld(MAP),
    env_params=SLIP,
    num_envs=8,
    num_steps=16,
    total_timesteps=8 * 16 * 12,
    lr=1e-2,
    gamma=0.9,
    network=MLP(hidden_sizes=(16,)),
)
LAKE = CONFIG.replace(env="FrozenLake-misc", env_params=None)
FIELDS = ("optimal_return", "expected_return", "gap", "success", "value_error", "optimal_fraction")


@functools.cache
def trained(config):
    return train(config, KEY)


@pytest.fixture
def state():
    # Not for the module: that would come before the settings that every test compiles with.
    return trained(CONFIG)[0]


def expected_optimality(config, state, greedy):
    """All fields in double precision, from a table of what the networks say."""
    model = reference.in_numpy(bind(config).task.tabular_model())
    table = bind(config).table(state.agent)
    policy, critic = np.exp(np.float64(table.distribution.log_probs)), np.float64(table.value)
    mode = policy.argmax(axis=1)
    horizon = bind(config).task.horizon
    returned, _, success = reference.played(model, [np.eye(4)[mode] if greedy else policy] * horizon)
    best = reference.best_return(model, horizon)
    counts = reference.visited(model)
    error = critic - reference.solved(model, policy, config.gamma)
    is_optimal = reference.best_actions(model, reference.best_solved(model, config.gamma)[1])
    fraction = np.mean(is_optimal[np.arange(len(mode)), mode][counts])
    return best, returned, best - returned, success, np.sqrt(np.mean(error[counts] ** 2)), fraction


@pytest.mark.few(2)
@pytest.mark.parametrize("greedy", [True, False])
@pytest.mark.parametrize("config", [CONFIG, LAKE], ids=["map", "lake"])
def test_every_field_is_what_numpy_says(state, config, greedy):
    state = state if config is CONFIG else init(config, KEY)
    got = optimality(config, state, greedy=greedy)
    assert got._fields == FIELDS
    np.testing.assert_allclose(got, expected_optimality(config, state, greedy), rtol=1e-4, atol=1e-5)


def test_some_states_are_out_of_reach_and_some_choices_are_wrong(state):
    model = bind(CONFIG).task.tabular_model()
    assert 0 < np.sum(planning.reachable(model)) < len(model.start) - 3
    early = optimality(CONFIG, init(CONFIG, KEY), greedy=False)
    late = optimality(CONFIG, state, greedy=False)
    assert early.optimal_fraction < 1
    assert early.gap > late.gap > 0
    assert early.success < late.success
    assert optimality(CONFIG, state, greedy=True).expected_return > late.expected_return


@pytest.mark.parametrize("greedy", [True, False])
@pytest.mark.parametrize("config", [CONFIG, LAKE], ids=["map", "lake"])
def test_episodes_return_what_is_expected(state, config, greedy):
    state = state if config is CONFIG else init(config, KEY)
    model = bind(config).task.tabular_model()
    policy, _ = bind(config).in_model(state.agent, model)
    if greedy:
        policy = jax.nn.one_hot(jnp.argmax(policy, axis=1), 4)
    exact = planning.expected_return(model, policy, bind(config).task.horizon)
    num_episodes = 20_000
    episodes = jax.device_get(evaluate(config, state, jax.random.key(5), num_episodes=num_episodes, greedy=greedy))
    for sample, mean in (
        (episodes.episode_return, exact.episode_return),
        (episodes.episode_length, exact.episode_length),
    ):
        assert abs(sample.mean() - mean) <= 4.5 * sample.std() / num_episodes**0.5 + 1e-5
    got = optimality(config, state, greedy=greedy)
    assert got.expected_return == pytest.approx(float(exact.episode_return), abs=1e-5)
    if config is LAKE:  # which pays 1 for success and nothing else
        np.testing.assert_allclose(got.success, got.expected_return, rtol=1e-5)


def test_vmapped_over_seeds_equals_single_calls():
    states = jax.vmap(init, in_axes=(None, 0))(CONFIG, jax.random.split(KEY, 3))
    together = jax.vmap(lambda state: optimality(CONFIG, state, greedy=False))(states)
    for i in range(3):
        alone = optimality(CONFIG, leaves_of(states, i), greedy=False)
        np.testing.assert_allclose([leaf[i] for leaf in together], alone, rtol=1e-5, atol=1e-6)
    assert len(set(np.asarray(together.value_error).tolist())) == 3


@pytest.mark.parametrize(
    ("of", "numbers", "changes"),
    [
        (lambda x: CONFIG.replace(gamma=x), [0.0, 0.5, 0.99], {"value_error", "optimal_fraction"}),
        (lambda x: CONFIG.replace(env_params=SLIP.replace(slip=x)), [0.0, 0.2, 0.9], set(FIELDS)),
        (lambda x: CONFIG.replace(env_params=SLIP.replace(max_steps_in_episode=x)), [1, 5, 100], set(FIELDS[:4])),
    ],
    ids=["gamma", "slip", "limit"],
)
def test_vmapped_over_fields_equals_single_calls(state, of, numbers, changes):
    together = jax.vmap(lambda x: optimality(of(x), state, greedy=True))(jnp.array(numbers))
    for i, number in enumerate(numbers):
        alone = optimality(of(number), state, greedy=True)
        np.testing.assert_allclose([leaf[i] for leaf in together], alone, rtol=1e-5, atol=1e-5)
    changed = {name for name, leaf in together._asdict().items() if np.ptp(leaf) > 1e-5}
    assert changed <= changes
    assert len(changed) >= len(changes) - 1


def test_gap_is_never_negative(state):
    # Also of random policies, of which some are near the best.
    for greedy in (True, False):

        def gap(key):
            return optimality(CONFIG, state._replace(params=noisy(state.params, key)), greedy=greedy).gap  # noqa: B023

        gaps = jax.vmap(gap)(jax.random.split(KEY, 32))
        assert np.min(gaps) >= -1e-4
        assert np.ptp(gaps) > 0.1


def noisy(params, key):
    return jax.tree.map(lambda leaf: leaf + 0.5 * jax.random.normal(key, leaf.shape), params)


# One row of a table per cell: the networks can then be any policy and any critic.
TABLE = CONFIG.replace(
    network=MLP(hidden_sizes=()), gamma=1.0, env_params=GridWorldParams(money=1.0, max_steps_in_episode=30)
)


def drawn(config, logits, value):
    """A state whose networks say just this of each cell."""
    state = init(config, KEY)
    networks = state.params["params"]["networks"]
    assert networks.policy.kernel.shape == logits.shape
    policy = networks.policy._replace(kernel=jnp.asarray(logits, jnp.float32))
    critic = networks.value._replace(kernel=jnp.asarray(value, jnp.float32)[:, None])
    return state._replace(params={"params": {"networks": networks._replace(policy=policy, value=critic)}})


def test_the_best_policy_and_its_critic_are_faultless():
    model = bind(TABLE).task.tabular_model()
    best = planning.value_iteration(model, 1.0)
    logits, reached = 50.0 * np.asarray(best.is_optimal.at[:, :].set(first(best.is_optimal))), visited_of(model)
    for greedy in (True, False):
        got = optimality(TABLE, drawn(TABLE, logits, best.value), greedy=greedy)
        np.testing.assert_allclose(got, [got.optimal_return, got.optimal_return, 0, 1, 0, 1], atol=1e-4)

    # The critic is off by 2 at one cell of those that count, or at one that does not.
    here, beyond = int(np.argmax(reached)), int(np.argmin(reached))
    off = best.value.at[here].add(2.0).at[beyond].add(1e3)
    got = optimality(TABLE, drawn(TABLE, logits, off))
    np.testing.assert_allclose(got.value_error, 2 / np.sqrt(reached.sum()), rtol=1e-4)

    # So with a wrong action.
    wrong = logits.copy()
    for cell in (here, beyond):
        wrong[cell] = 50.0 * np.asarray(model.mask & ~best.is_optimal)[cell]
        assert wrong[cell].any()
    got = optimality(TABLE, drawn(TABLE, wrong, best.value))
    np.testing.assert_allclose(got.optimal_fraction, 1 - 1 / reached.sum(), rtol=1e-5)


def test_what_is_optimal_depends_on_the_discount():
    prizes = GridWorldParams(money=4.0, lots_of_money=10.0, step_cost=0.1)
    config = TABLE.replace(env=GridWorld("m.S...M"), env_params=prizes)
    rightwards = drawn(config, 50.0 * np.eye(4)[[1] * 7], np.zeros(7))
    # The impatient take the small prize nearby from the first two of the five cells that they can be in.
    assert optimality(config.replace(gamma=0.99), rightwards).optimal_fraction == 1
    assert optimality(config.replace(gamma=0.1), rightwards).optimal_fraction == pytest.approx(0.6)


def first(is_optimal):
    return jax.nn.one_hot(jnp.argmax(is_optimal, axis=1), is_optimal.shape[1], dtype=bool)


def visited_of(model):
    return reference.visited(reference.in_numpy(model))


def test_training_closes_the_gap():
    config = CONFIG.replace(
        env=GridWorld("S.m\n..D\n..M"),
        env_params=None,
        total_timesteps=8 * 16 * 80,
        network=MLP(hidden_sizes=()),
        lr=0.03,
        clip_value=False,
    )
    state, metrics = train(config.replace(exact_return=True), KEY)
    got = optimality(config, state)
    assert abs(got.gap) < 1e-4
    assert got.optimal_fraction > 0.8  # not every cell is on the way
    assert got.success == pytest.approx(1, abs=1e-5)
    assert got.optimal_return == pytest.approx(2)  # two steps to 4
    assert metrics["expected_return"][0] < 0.5 < metrics["expected_return"][-1] <= got.optimal_return + 1e-4


@pytest.mark.parametrize("env", ["CartPole-v1", "RandomGridWorld"])
def test_environments_without_a_model_are_refused(env):
    config = Config(env=env, num_envs=2, num_steps=8, total_timesteps=16, network=MLP(hidden_sizes=()))
    with pytest.raises(ConfigError, match=f"env='{env}': must be an environment whose model is known"):
        optimality(config, init(config, KEY))
    with pytest.raises(ConfigError, match="exact_return=True"):
        config.replace(exact_return=True)
    with pytest.raises(ConfigError, match="exact_return=True"):
        Config(env=env, exact_return=True)
    assert not Config(env=env).exact_return


def test_exact_return_is_that_of_the_sampled_policy_after_each_update():
    config = CONFIG.replace(exact_return=True)
    final, metrics = trained(config)
    assert metrics["expected_return"].shape == (config.num_updates,)
    model = bind(config).task.tabular_model()
    state = init(config, KEY)
    for i in range(config.num_updates):
        state, now = update(config, state)
        policy, _ = bind(config).in_model(state.agent, model)
        expected = planning.expected_return(model, policy, SLIP.max_steps_in_episode).episode_return
        np.testing.assert_allclose(now["expected_return"], expected, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(metrics["expected_return"][i], expected, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(
        metrics["expected_return"][-1], optimality(config, final, greedy=False).expected_return, rtol=1e-5, atol=1e-5
    )
    assert np.ptp(metrics["expected_return"]) > 0.5


def test_exact_return_changes_nothing_else():
    without, with_it = trained(CONFIG), trained(CONFIG.replace(exact_return=True))
    (state, metrics), (same_state, more_metrics) = without, with_it
    assert set(more_metrics) - set(metrics) == {"expected_return"}
    same_metrics = {name: more_metrics[name] for name in metrics}
    jax.tree.map(np.testing.assert_array_equal, metrics, same_metrics)
    jax.tree.map(np.testing.assert_array_equal, state.params, same_state.params)


class OneWay(GridWorld):
    """One action per cell: to the right up to the money; behind it, to the right and back for ever."""

    def action_mask(self, obs, params):
        cells = np.arange(len(self.map.symbol))
        money = int(np.argmax(self.map.symbol == "M"))
        goes_right = (cells < money) | ((cells - money) % 2 == 1)
        right, left = 1, 3
        only = np.where(goes_right, right, left)
        return jnp.asarray(np.eye(4, dtype=bool)[only])[obs]


LIMIT = 3
CORRIDOR = OneWay("......M....")
ACTED_IN = np.array([0, 1, 2, 3, 4, 5, 7, 8, 9, 10])
ENDLESS = Config(
    env=CORRIDOR,
    env_params=GridWorldParams(lots_of_money=10.0, step_cost=1.0, max_steps_in_episode=LIMIT),
    num_envs=16,
    num_steps=16,
    total_timesteps=16 * 16 * 250,
    gamma=0.9,
    lr=0.05,
    network=MLP(hidden_sizes=()),
)


def discounted_until(model, policy, horizon, gamma):
    """What a critic that counts a time limit as an end would learn of a fresh episode."""
    value = np.zeros(len(model.start))
    for _ in range(horizon):
        value = np.sum(policy * reference.backed_up(model, value, gamma), axis=1)
    return value


def test_corridor_has_one_policy_and_two_values():
    model = bind(ENDLESS).task.tabular_model()
    policy = np.float64(model.mask)
    np.testing.assert_array_equal(policy.sum(axis=1), 1)
    infinite = reference.solved(reference.in_numpy(model), policy, 0.9)
    np.testing.assert_allclose(infinite[[5, 4, 7, 10]], [9, 7.1, -10, -10])
    finite = discounted_until(reference.in_numpy(model), policy, LIMIT, 0.9)
    np.testing.assert_allclose(finite[[5, 4, 0, 10]], [9, 7.1, -2.71, -2.71])


def test_critic_converges_to_the_value_without_a_time_limit():
    state, model = trained(ENDLESS)[0], bind(ENDLESS).task.tabular_model()
    policy, critic = bind(ENDLESS).in_model(state.agent, model)
    value = planning.policy_evaluation(model, policy, ENDLESS.gamma)
    np.testing.assert_allclose(critic[ACTED_IN], value[ACTED_IN], rtol=0.03, atol=0.05)
    finite = discounted_until(reference.in_numpy(model), np.float64(policy), LIMIT, ENDLESS.gamma)
    beyond = np.array([0, 1, 2, 7, 8, 9, 10])  # three steps do not lead from there to money
    assert np.all(np.abs(critic - finite)[beyond] > 1)
    assert optimality(ENDLESS, state).value_error < 0.2
