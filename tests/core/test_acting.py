"""Rollouts: of any policy in any task, with resets from a pool, and with what the environment tells."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from purejaxppo import MLP, Categorical, Config, ConfigError, Policy, init, ppo, rollout, train, update
from purejaxppo.acting import start
from purejaxppo.environments import make_task
from tests.support import probes
from tests.support.odd import FiveValues, SixValues
from tests.support.small import SMALL, assert_trees_equal, collect, quickly

KEY = jax.random.key(7)


def test_a_scripted_policy_acts_with_a_memory_that_begins_anew_with_every_episode():
    task = make_task(probes.RandomEnds())

    def count(obs, memory):
        action = jax.nn.one_hot(memory % 2, 2)
        return Policy(Categorical.from_logits(99.0 * action), obs[:, 1]), memory + 1

    def play(key):
        runners = jax.vmap(lambda key: start(task, key, memory=jnp.int32(0)))(jax.random.split(key, 4))
        first, t = rollout(task, count, runners, key, num_steps=5, initial_memory=jnp.int32(0))
        second, more = rollout(task, count, first, key, num_steps=6, initial_memory=jnp.int32(0))
        return second, jax.tree.map(lambda *parts: jnp.concatenate(parts), t, more)

    runners, t = quickly(play, KEY)
    times = np.zeros(4, int)
    assert np.sum(t.done) > 5
    for i in range(11):
        np.testing.assert_array_equal(t.obs[i, :, 1], times)
        np.testing.assert_array_equal(t.action[i], times % 2)
        np.testing.assert_array_equal(t.log_prob[i], 0)
        np.testing.assert_array_equal(t.episode_length[i], times + 1)
        times = np.where(t.done[i], 0, times + 1)
    np.testing.assert_array_equal(runners.memory, times)
    assert t.info == {}


class Telling(probes.RandomEnds):
    """Its info says `sign * time` after the step, in several kinds."""

    def step_env(self, key, state, action, params):
        obs, state, reward, terminated, info = super().step_env(key, state, action, params)
        x = state.sign * state.time
        inner = {"is late": state.time > 2, "deeper": {"x": jnp.int32(2 * x)}}
        return obs, state, reward, terminated, info | {"x": x, "inner": inner, "discount": 0.5, "vector": x[None]}


TOLD = ("x", "inner/is late", "inner/deeper/x", "discount", "truncated")
TELLING = Config(
    env=Telling(),
    info=TOLD,
    num_envs=1,
    num_steps=2,
    num_minibatches=1,
    total_timesteps=24,
    network=MLP(hidden_sizes=()),
)


@pytest.mark.parametrize("reset_pool", [0, 2])
def test_info_is_the_mean_of_what_was_told_at_the_end_of_episodes(reset_pool):
    config = TELLING.replace(reset_pool=reset_pool)
    state, expected, num_without = init(config, KEY), dict.fromkeys(TOLD, np.nan), 0
    for _ in range(config.num_updates):
        after, t, _ = collect(config, state)
        ended = []
        for i, env in np.argwhere(t.done):
            sign, time = np.float64(t.next_obs[i, env])
            ended.append((sign * time, time > 2, 2 * sign * time, 0.5, time >= 5))
        if ended:
            expected = dict(zip(TOLD, np.mean(ended, axis=0), strict=True))
        num_without += not ended
        state, metrics = quickly(ppo.finish, config, after._replace(key=jax.random.split(state.key)[0]), t, {})
        for name in TOLD:
            np.testing.assert_allclose(metrics[name], expected[name], rtol=1e-5, err_msg=name)
    assert 0 < num_without < config.num_updates


def test_info_is_among_the_metrics_of_training():
    _, metrics = quickly(train, TELLING, KEY)
    assert set(TOLD) < set(metrics)
    known = metrics["num_episodes"].cumsum() > 0
    assert not known[0]
    for name in TOLD:
        np.testing.assert_array_equal(np.isnan(metrics[name]), ~known)
    _, without = quickly(train, TELLING.replace(info=()), KEY)
    assert_trees_equal({name: metrics[name] for name in without}, without)


def test_numbers_told_by_the_older_interface():
    state = init(Config(env=FiveValues(), info=["discount"], **SMALL), KEY)
    assert set(state.episodes) == {"episode_return", "episode_length", "discount"}
    _, metrics = quickly(update, Config(env=FiveValues(), info=["discount"], **SMALL), state)
    assert metrics["discount"] == 1


@pytest.mark.parametrize(
    ("env", "name", "said"),
    [
        (Telling(), "y", "unknown info 'y'; known: discount, inner/deeper/x, inner/is late, terminated, truncated, x"),
        (Telling(), "inner/is lat", "unknown info 'inner/is lat'; did you mean 'inner/is late'"),
        (Telling(), "vector", "unknown info 'vector'"),
        (Telling(), "inner", "unknown info 'inner'"),
        (Telling(), "final_observation", "unknown info 'final_observation'"),
        (SixValues(), "x", "holds no numbers"),
    ],
)
def test_what_no_info_says_is_refused(env, name, said):
    with pytest.raises(ConfigError, match=said):
        Config(env=env, info=(name,))


class Numbered(probes.RandomEnds):
    """Every episode observes its own random number."""

    def reset_env(self, key, params):
        state = probes.State(jnp.zeros((), jnp.int32), jax.random.normal(key))
        return self.observe(key, state, None, params), state


def test_a_pool_gives_every_new_episode_one_of_its_beginnings():
    config = Config(
        env=Numbered(),
        reset_pool=3,
        num_envs=8,
        num_steps=64,
        total_timesteps=8 * 64 * 4,
        network=MLP(hidden_sizes=(4,)),
    )
    state, used = init(config, KEY), []
    seen = set(np.asarray(state.runners.obs[:, 0]))
    assert len(seen) == 8  # the very first episodes are fresh
    for i in range(2):
        key = jax.random.key(i)
        after, t, _ = quickly(ppo.collect, config, state, key)
        keys = jax.random.split(jax.random.split(key, 3)[2], 3)
        pool = set(np.asarray(jax.vmap(make_task(config.env).reset)(keys)[0][:, 0]))
        number, time = np.asarray(t.obs[..., 0]), np.asarray(t.obs[..., 1])
        done = np.asarray(t.done)
        assert np.any(t.terminated)
        assert np.any(done & ~np.asarray(t.terminated))
        # What goes on goes on, and what begins begins at time 0 with a number of the pool.
        np.testing.assert_array_equal(number[1:][~done[:-1]], number[:-1][~done[:-1]])
        np.testing.assert_array_equal(time[1:], np.where(done[:-1], 0, time[:-1] + 1))
        assert set(number[1:][done[:-1]]) == pool
        np.testing.assert_array_equal(t.next_obs[..., 0], number)  # the successor is of the same episode
        np.testing.assert_array_equal(t.next_obs[..., 1], time + 1)
        _, counts = np.unique(number[1:][done[:-1]], return_counts=True)
        assert scipy.stats.chisquare(counts).pvalue > 1e-4
        used.append(pool)
        state = after
    assert not used[0] & used[1]


@pytest.mark.slow
def test_a_pool_is_as_good_as_resets():
    settings = {
        "num_envs": 32,
        "num_steps": 32,
        "total_timesteps": 32 * 32 * 60,
        "lr": 5e-3,
        "network": MLP(hidden_sizes=(32,)),
    }
    config = Config(env="CartPole-v1", **settings)
    for pool in (0, 16):
        metrics = train(config.replace(reset_pool=pool), KEY)[1]
        assert np.mean(metrics["episode_return"][:2]) < 40
        assert np.mean(metrics["episode_return"][-5:]) > 120
