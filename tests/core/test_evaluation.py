"""Whole episodes and single actions with a given policy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purejaxppo import MLP, Config, ConfigError, GridWorld, GridWorldParams, act, evaluate, init, optimality, train
from purejaxppo.evaluation import EVALUATION, score
from purejaxppo.ppo import bind
from tests.support import probes

KEY = jax.random.key(3)
CONFIG = Config(num_envs=8, num_steps=16, total_timesteps=8 * 16 * 20, lr=1e-2, network=MLP(hidden_sizes=(16,)))


@pytest.fixture(scope="module")
def state():
    return train(CONFIG, KEY)[0]


class RandomLength(probes.Probe):
    """Each step pays 1 and ends the episode with probability 1/4: lengths are geometric with mean 4."""

    def step_env(self, key, state, action, params):
        obs, state, reward, _, info = super().step_env(key, state, action, params)
        return obs, state, reward, jax.random.uniform(key) < 0.25, info


def test_every_episode_counts_once_however_long():
    config = Config(env=RandomLength(), num_envs=2, num_steps=8, total_timesteps=16, network=MLP(hidden_sizes=()))
    episodes = evaluate(config, init(config, KEY), KEY, num_episodes=20_000)
    assert episodes.episode_return.shape == episodes.episode_length.shape == (20_000,)
    np.testing.assert_array_equal(episodes.episode_return, episodes.episode_length)
    # Standard deviation of a geometric number with p = 1/4 is sqrt(12): four standard errors are 0.1.
    assert abs(np.mean(episodes.episode_length) - 4) < 0.1
    np.testing.assert_allclose(np.mean(np.asarray(episodes.episode_length) == 1), 0.25, atol=0.015)


LIMITED = CONFIG.replace(num_envs=64, env_params=GridWorldParams(max_steps_in_episode=1))


def test_a_time_limit_ends_an_episode(state):
    config = LIMITED.replace(env_params=GridWorldParams(max_steps_in_episode=2))
    assert np.max(evaluate(config, state, KEY, num_episodes=64).episode_length) == 2


def test_random_numbers_differ_from_those_of_training(state):
    """Training splits its key; none of so many parts is the key that evaluation starts from."""
    parts = jax.random.key_data(jax.random.split(KEY, 100_000))
    own = jax.random.key_data(jax.random.fold_in(KEY, EVALUATION))
    assert not np.any(np.all(parts == own[None], axis=-1))
    # And so the first cells are others than those of as many training environments from the same key.
    trained_from = np.asarray(init(LIMITED, KEY).runners.obs)
    best = np.asarray(bind(LIMITED).table(state.agent).distribution.mode())
    prize = {"M": 5, "m": 4, "D": -5}
    env = GridWorld("treasure")
    first_rewards = [
        prize.get(str(env.map.symbol[env.map.next_cell[cell, best[cell]]]), 0) - 1 for cell in trained_from
    ]
    episodes = evaluate(LIMITED, state, KEY, num_episodes=64)
    assert np.any(np.asarray(episodes.episode_return) != first_rewards)


def test_vmapped_over_seeds_equals_single_calls():
    keys = jax.random.split(KEY, 2)
    states = jax.vmap(init, in_axes=(None, 0))(CONFIG, keys)
    together = jax.vmap(lambda state, key: evaluate(CONFIG, state, key, num_episodes=8, greedy=False))(states, keys)
    for i in range(2):
        alone = evaluate(CONFIG, jax.tree.map(lambda leaf: leaf[i], states), keys[i], num_episodes=8, greedy=False)  # noqa: B023
        np.testing.assert_array_equal(together.episode_return[i], alone.episode_return)


@pytest.mark.parametrize("num_episodes", [0, -1, 2.5, True])
def test_a_wrong_number_of_episodes_is_refused(state, num_episodes):
    with pytest.raises(ConfigError, match="num_episodes="):
        evaluate(CONFIG, state, KEY, num_episodes=num_episodes)


def test_act_takes_one_observation_or_any_batch(state):
    cells = jnp.arange(31)
    actions, memory = act(CONFIG, state, cells)
    assert memory == ()
    assert actions.shape == (31,)
    assert actions.dtype == jnp.int32
    assert act(CONFIG, state, 5)[0].shape == ()
    assert act(CONFIG, state, 5)[0] == actions[5]
    np.testing.assert_array_equal(act(CONFIG, state, cells[:30].reshape(5, 6))[0], actions[:30].reshape(5, 6))
    np.testing.assert_array_equal(actions, bind(CONFIG).table(state.agent).distribution.mode())


def test_act_with_a_key_samples_the_policy(state):
    distribution = bind(CONFIG).table(state.agent).distribution
    cell = int(np.argmax(distribution.entropy))
    actions = np.asarray(act(CONFIG, state, jnp.full(20_000, cell), key=KEY)[0])
    share = np.bincount(actions, minlength=4) / 20_000
    np.testing.assert_allclose(share, np.exp(distribution.log_probs[cell]), atol=0.02)


def test_act_on_boxes_and_wrong_shapes():
    config = Config(env="CartPole-v1", num_envs=2, num_steps=8, total_timesteps=16, network=MLP(hidden_sizes=(4,)))
    state = init(config, KEY)
    assert act(config, state, np.zeros(4))[0].shape == ()
    assert act(config, state, np.zeros((3, 2, 4)))[0].shape == (3, 2)
    with pytest.raises(ConfigError, match=r"obs: has shape \(3,\)"):
        act(config, state, np.zeros(3))


def test_the_state_of_many_agents_is_refused():
    states = jax.eval_shape(jax.vmap(init, in_axes=(None, 0)), CONFIG, jax.random.split(KEY, 3))
    said = r"state: must be of one agent, not of \[3\]; jax\.tree\.map\(.*\) is the first, jax\.vmap maps over all"
    calls = {
        "evaluate": lambda state: evaluate(CONFIG, state, KEY, num_episodes=2),
        "act": lambda state: act(CONFIG, state, jnp.arange(3)),
        "optimality": lambda state: optimality(CONFIG, state),
        "score": lambda state: score(CONFIG, state, KEY, num_episodes=2),
    }
    for call in calls.values():
        with pytest.raises(ConfigError, match=said):
            jax.eval_shape(call, states)
        jax.eval_shape(call, jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), states))
    optima = jax.eval_shape(jax.vmap(calls["optimality"]), states)
    assert optima.gap.shape == (3,)


def test_score_is_the_exact_return_where_it_is_known_and_else_the_mean_of_the_greedy_episodes(state):
    got = score(CONFIG, state, KEY, num_episodes=16)
    exact = optimality(CONFIG, state)
    assert got["score"] == got["expected_return"] == exact.expected_return
    assert {name: got[name] for name in exact._fields} == exact._asdict()
    config = Config(env="CartPole-v1", num_envs=2, num_steps=8, total_timesteps=16, network=MLP(hidden_sizes=(4,)))
    beginner = init(config, KEY)
    got = score(config, beginner, KEY, num_episodes=16)
    means = {"greedy_return", "greedy_length", "sampled_return", "sampled_length"}
    assert set(got) == {"score", "num_unfinished", *means}
    for name, key in zip(("greedy", "sampled"), jax.random.split(KEY), strict=True):
        episodes = evaluate(config, beginner, key, num_episodes=16, greedy=name == "greedy")
        np.testing.assert_allclose(got[f"{name}_return"], np.mean(episodes.episode_return))
        np.testing.assert_allclose(got[f"{name}_length"], np.mean(episodes.episode_length))
    assert got["score"] == got["greedy_return"] != got["sampled_return"]


def test_episodes_that_do_not_end_are_left_after_so_many_steps(state):
    """The others are whole, and the same as without a bound; of these, what was played counts."""
    whole = evaluate(CONFIG, state, KEY, num_episodes=16, greedy=False)
    assert np.all(whole.is_finished)
    longest = int(whole.episode_length.max())
    bound = longest - 1
    cut = evaluate(CONFIG, state, KEY, num_episodes=16, greedy=False, max_steps=bound)
    is_whole = np.asarray(whole.episode_length) <= bound
    assert 0 < is_whole.sum() < 16
    np.testing.assert_array_equal(cut.is_finished, is_whole)
    np.testing.assert_array_equal(cut.episode_length, np.minimum(whole.episode_length, bound))
    np.testing.assert_array_equal(np.asarray(cut.episode_return)[is_whole], np.asarray(whole.episode_return)[is_whole])
    for steps in (0, -1, 2.5, 2**31, True):
        with pytest.raises(ConfigError, match=r"^max_steps=.*: must be an integer >= 1 and < 2"):
            evaluate(CONFIG, state, KEY, max_steps=steps)


class Endless(RandomLength):
    """Ends no episode."""

    def step_env(self, key, state, action, params):
        obs, state, reward, _, info = super().step_env(key, state, action, params)
        return obs, state, reward, False, info

    def is_truncated(self, state, params):
        return False


def test_an_environment_that_never_ends_an_episode_is_evaluated():
    config = Config(env=Endless(), num_envs=2, num_steps=4, total_timesteps=8, network=MLP(hidden_sizes=(4,)))
    beginner = init(config, KEY)
    episodes = evaluate(config, beginner, KEY, num_episodes=3, max_steps=50)
    np.testing.assert_array_equal(episodes.episode_length, 50)
    np.testing.assert_array_equal(episodes.episode_return, 50)
    assert not np.any(episodes.is_finished)


def test_what_is_no_index_of_an_observation_is_refused(state):
    for obs in ([2.0, 3.0], jnp.zeros(4), [True]):
        with pytest.raises(ConfigError, match=r"obs: has dtype .*; must be indices of observations, integers"):
            act(CONFIG, state, jnp.asarray(obs))
