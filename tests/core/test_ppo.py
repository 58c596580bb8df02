"""What holds of every update, whatever is learned."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from purejaxppo import MLP, Config, GridWorld, GridWorldParams, acting, gae, init, policies, ppo, train, update
from purejaxppo.environments import RandomGridWorld
from tests.support import probes
from tests.support.small import assert_trees_close, collect, quickly

SMALL: dict[str, Any] = {
    "num_envs": 8,
    "num_steps": 16,
    "total_timesteps": 8 * 16 * 4,
    "network": MLP(hidden_sizes=(16,)),
    "lr": 2.5e-3,
}
KINDS = {
    "table": Config(**SMALL),
    "table, unmasked": Config(env=GridWorld("treasure", mask_blocked=False), **SMALL),
    "table, coordinates": Config(env=GridWorld("treasure", features_as="coordinates"), **SMALL),
    "per sample": Config(env="CartPole-v1", **SMALL),
    "per sample, masked": Config(env=RandomGridWorld(4, 4), **SMALL),
}
KEY = jax.random.key(7)


@pytest.fixture(scope="module", params=KINDS)
def run(request):
    """A configuration, and its states before each of a few updates."""
    config = KINDS[request.param]
    states = [init(config, KEY)]
    for _ in range(3):
        states.append(update(config, states[-1])[0])
    return config, states


learn, rollout = jax.jit(ppo.learn), jax.jit(acting.rollout)


def batch_of(config, state):
    return collect(config, state)[-1]


def test_ratio_is_one_at_the_first_minibatch_of_every_update(run):
    config, states = run
    for state in states:
        first = jax.tree.map(lambda leaf: leaf[: config.minibatch_size], batch_of(config, state))
        _, metrics = ppo._loss(config, state.agent, first)
        assert abs(metrics["approx_kl"]) < 1e-6
        assert metrics["clip_fraction"] == 0


def test_after_learning_the_ratio_is_not_one(run):
    config, states = run
    batch = batch_of(config, states[0])
    _, metrics = ppo._loss(config, states[1].agent, batch)
    assert metrics["approx_kl"] > 1e-5


def test_table_gives_the_loss_and_gradient_of_the_networks(monkeypatch):
    for config in (KINDS["table"], KINDS["table, coordinates"]):
        state = init(config, KEY)
        batch = batch_of(config, state)
        params = jax.tree.map(lambda leaf: leaf + 0.1 * jax.random.normal(KEY, leaf.shape), state.params)

        def loss(params, batch):
            return ppo._loss(config, state.agent._replace(params=params), batch)  # noqa: B023, called below

        gradient = jax.value_and_grad(loss, has_aux=True)
        config_uses_table = policies.uses_table(config, config.minibatch_size)
        assert config_uses_table
        with_table = gradient(params, batch)
        with monkeypatch.context() as patch:
            patch.setattr(policies, "uses_table", lambda config, num_rows: False)
            per_sample = gradient(params, batch)
        assert_trees_close(with_table, per_sample, rtol=1e-4, atol=1e-6)


def test_chunked_gradient_equals_the_whole(monkeypatch):
    config = KINDS["per sample"].replace(num_minibatches=1)
    state = init(config, KEY)
    batch = batch_of(config, state)
    assert policies.rows_at_once(config, state.params) == config.minibatch_size
    whole = ppo._gradient(config, state.agent, batch)
    monkeypatch.setattr(policies, "CACHED_ACTIVATIONS", 16 * config.minibatch_size // 4)
    assert policies.rows_at_once(config, state.params) == config.minibatch_size // 4
    assert_trees_close(ppo._gradient(config, state.agent, batch), whole, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("size", "limit", "chunks"), [(96, 96, 1), (96, 95, 2), (96, 20, 6), (97, 20, 1), (97, 1, 97)])
def test_chunks_are_equal_and_not_much_smaller_than_they_may_be(size, limit, chunks, monkeypatch):
    config = Config(env="CartPole-v1", num_envs=size, num_steps=1, num_minibatches=1, total_timesteps=size)
    monkeypatch.setattr(policies, "CACHED_ACTIVATIONS", 64 * limit)
    assert policies.rows_at_once(config, {"kernel": np.zeros((64, 4))}) == size // chunks


def test_next_value_is_that_of_the_true_successor():
    env = GridWorld("treasure", mask_blocked=False)
    config = Config(env=env, env_params=GridWorldParams(max_steps_in_episode=3), **SMALL)
    state = init(config, KEY)
    runners, t = acting.rollout(config, state.agent, state.runners, KEY)
    seen, next_value = map(np.asarray, acting.values(config, state.agent, runners, t))
    assert np.sum(t.done & ~t.terminated) > 5
    assert np.sum(t.terminated) > 5
    successor = env.map.next_cell[np.asarray(t.obs), np.asarray(t.action)]
    value = np.asarray(policies.policy_table(config, state.agent).value)
    np.testing.assert_array_equal(t.next_obs, successor)
    goes_on = ~np.asarray(t.terminated)
    np.testing.assert_allclose(next_value[goes_on], value[successor][goes_on], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(seen, value[np.asarray(t.obs)], rtol=1e-5, atol=1e-6)
    # Where no episode ended, the successor is what is seen next.
    stays = ~np.asarray(t.done)[:-1]
    np.testing.assert_array_equal(successor[:-1][stays], np.asarray(t.obs)[1:][stays])


def test_values_in_pieces_are_those_of_every_sample(monkeypatch):
    config = Config(env="CartPole-v1", num_envs=3, num_steps=7, num_minibatches=1, total_timesteps=21)
    state = init(config, KEY)
    runners, t = acting.rollout(config, state.agent, state.runners, KEY)
    t = t._replace(done=t.done.at[2].set(True))  # as if a time limit cut all three
    monkeypatch.setattr(policies, "CACHED_ACTIVATIONS", 64 * 4)
    assert policies.rows_at_once(config, state.params) == 3
    value, next_value = acting.values(config, state.agent, runners, t)
    for i, j in np.ndindex(7, 3):
        (expected,) = policies.evaluate_networks(config, state.agent, t.obs[i, j][None])[0].value
        np.testing.assert_allclose(value[i, j], expected, rtol=1e-5, atol=1e-6)
        (expected,) = policies.evaluate_networks(config, state.agent, t.next_obs[i, j][None])[0].value
        np.testing.assert_allclose(next_value[i, j], expected, rtol=1e-5, atol=1e-6)


def test_one_gradient_step_is_adam_behind_a_global_norm_clip():
    config = KINDS["per sample"].replace(num_epochs=1, num_minibatches=1, max_grad_norm=0.01, lr=3e-3)
    state = init(config, KEY)
    batch = batch_of(config, state)
    new, _, metrics = ppo.learn(config, state, batch, KEY)
    everything = jnp.arange(config.batch_size)
    gradient, _ = ppo._gradient(config, state.agent, ppo._minibatch(config, batch, everything))
    leaves = [np.float64(leaf) for leaf in jax.tree.leaves(gradient)]
    norm = np.sqrt(sum(np.sum(leaf**2) for leaf in leaves))
    assert norm > 0.05
    np.testing.assert_allclose(metrics["grad_norm"], norm, rtol=1e-4)
    for old, leaf, actual in zip(jax.tree.leaves(state.params), leaves, jax.tree.leaves(new), strict=True):
        clipped = leaf * 0.01 / norm
        # The first step of Adam: both moments are corrected to the gradient and its square.
        np.testing.assert_allclose(actual, old - 3e-3 * clipped / (np.abs(clipped) + 1e-5), rtol=1e-3, atol=2e-6)


def test_learning_rate_is_annealed_to_zero():
    config = KINDS["table"]
    last = init(config, KEY)._replace(num_updates=jnp.int32(config.num_updates))
    annealed, _ = update(config, last)
    assert_trees_close(annealed.params, last.params, rtol=0, atol=0)
    constant, _ = update(config.replace(lr_schedule="constant"), last)
    first, _ = update(config, init(config, KEY))
    assert_trees_close(constant.params, first.params, rtol=0, atol=1e-6)


def test_same_key_same_bits_and_other_key_other_bits():
    config = KINDS["table"]
    one, two, other = train(config, KEY), train(config, KEY), train(config, jax.random.key(8))
    assert_trees_close(one, two, rtol=0, atol=0)
    assert np.any(one[1]["policy_loss"] != other[1]["policy_loss"])


@pytest.mark.parametrize("kind", ["table", "per sample"])
def test_train_is_init_and_updates(kind):
    config = KINDS[kind]
    state, metrics = train(config, KEY)
    by_hand, rows = init(config, KEY), []
    for _ in range(config.num_updates):
        by_hand, row = update(config, by_hand)
        rows.append(row)
    assert state.num_updates == by_hand.num_updates == config.num_updates
    assert_trees_close(by_hand, state, rtol=2e-4, atol=1e-5)
    assert "num_stopped" not in metrics  # without a `target_kl`
    for name, values in metrics.items():
        assert values.shape == (config.num_updates,)
        np.testing.assert_allclose(values, [row[name] for row in rows], rtol=2e-3, atol=1e-5)


@pytest.mark.parametrize("kind", ["table", "per sample"])
def test_seeds_under_vmap_equal_single_runs(kind):
    config = KINDS[kind]
    keys = jax.random.split(KEY, 3)
    together = jax.vmap(train, in_axes=(None, 0))(config, keys)
    for i, key in enumerate(keys):
        alone = train(config, key)
        assert_trees_close(jax.tree.map(lambda leaf: leaf[i], together), alone, rtol=1e-3, atol=1e-5)  # noqa: B023


def test_vmap_over_hyperparameters_equals_single_runs():
    config = KINDS["table"].replace(total_timesteps=8 * 16 * 2)
    lrs, slips = jnp.array([1e-4, 1e-2]), jnp.array([0.0, 0.3])

    def final_loss(lr, slip, key):
        changed = config.replace(lr=lr, env_params=GridWorldParams(slip=slip))
        return train(changed, key)[1]["value_loss"][-1]

    keys = jax.random.split(KEY, 2)
    over_keys = jax.vmap(final_loss, in_axes=(None, None, 0))
    over_slips = jax.vmap(over_keys, in_axes=(None, 0, None))
    losses = jax.vmap(over_slips, in_axes=(0, None, None))(lrs, slips, keys)
    assert losses.shape == (2, 2, 2)
    assert len(np.unique(losses)) == 8
    single = [[[final_loss(lr, slip, key) for key in keys] for slip in slips] for lr in lrs]
    np.testing.assert_allclose(losses, single, rtol=1e-3)


def test_configurations_that_differ_in_traced_values_share_one_program(monkeypatch):
    traces = []

    def counted_gae(*args, **kwargs):
        traces.append(1)
        return gae(*args, **kwargs)

    monkeypatch.setattr(ppo, "gae", counted_gae)
    config = Config(**SMALL | {"num_envs": 3, "num_minibatches": 2, "total_timesteps": 100})
    train(config, KEY)
    assert len(traces) == 1
    train(config.replace(lr=0.1, gamma=1, gae_lambda=np.float64(0.5), clip_eps=jnp.float32(0.3)), KEY)
    train(config.replace(ent_coef=0, vf_coef=1.0, max_grad_norm=1e9), jax.random.key(1))
    assert len(traces) == 1
    train(config.replace(num_epochs=2), KEY)
    assert len(traces) == 2


CHANGES: list[dict[str, Any]] = [
    {"lr": 1e-2},
    {"gamma": 0.5},
    {"gae_lambda": 0.1},
    {"clip_eps": 1e-3},
    {"vf_coef": 2.0},
    {"ent_coef": 0.5},
    {"max_grad_norm": 1e-3},
    {"env_params": GridWorldParams(money=1.0)},
    {"num_epochs": 1},
    {"num_minibatches": 2},
    {"num_steps": 8},
    {"num_envs": 4},
    {"network": MLP(hidden_sizes=(16, 16))},
    {"activation": "relu"},
    {"lr_schedule": "constant"},
    {"normalize_advantage": False},
    {"clip_value": False},
    {"network": "gru"},
    {"layer_norm": True},
    {"shared_torso": True},
    {"dtype": "bfloat16"},
    {"channels": (2,)},
    {"squash_actions": True},
    {"normalize_obs": True},
    {"normalize_reward": True},
    {"lr_end": 5e-3},
    {"clip_eps_schedule": "linear"},
    {"clip_eps_end": 0.01},
    {"ent_coef_schedule": "cosine"},
    {"ent_coef_end": 1.0},
    {"target_kl": 1e-5},
    {"dual_clip": 1.001},
    {"huber_delta": 0.01},
    {"reset_pool": 2},
]
# What some options need in order to make a difference.
NEEDS: dict[str, dict[str, Any]] = {
    "channels": {"env": "Breakout-MinAtar", "network": "cnn"},
    "squash_actions": {"env": "Pendulum-v1"},
    "normalize_obs": {"env": "CartPole-v1"},
    "ent_coef_schedule": {"ent_coef": 0.5},
    "clip_eps_end": {"clip_eps_schedule": "linear"},
    "ent_coef_end": {"ent_coef_schedule": "linear"},
}


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: next(iter(change)))
def test_every_option_changes_the_result(change):
    needs = NEEDS.get(next(iter(change)), {})
    config = Config(**SMALL | {"total_timesteps": 8 * 16 * 2, "lr": 1e-2} | {"clip_eps": 0.05} | needs)
    if "lr" in change:
        change = {"lr": 1e-3}
    assert last_value_loss(config) != last_value_loss(config.replace(**change))


@functools.cache
def last_value_loss(config):
    return float(quickly(train, config, KEY)[1]["value_loss"][-1])


def test_every_option_is_among_the_changes():
    names = {field.name for field in dataclasses.fields(Config)}
    others = {"env", "total_timesteps", "exact_return"}  # another problem, more of the same, and a diagnostic
    assert {name for change in CHANGES for name in change} == names - others


def test_defaults_are_those_of_cleanrl_and_every_addition_is_off():
    """Those of its `ppo.py`."""
    values = {field.name: getattr(Config(), field.name) for field in dataclasses.fields(Config)}
    cleanrl = {
        "total_timesteps": 500_000,
        "num_envs": 4,
        "num_steps": 128,
        "num_epochs": 4,
        "num_minibatches": 4,
        "network": "mlp",
        "network": MLP(hidden_sizes=(64, 64)),
        "activation": "tanh",
        "normalize_advantage": True,
        "clip_value": True,
        "lr": 2.5e-4,
        "lr_schedule": "linear",
        "gamma": 0.99,
        "gae_lambda": 0.95,
        "clip_eps": 0.2,
        "vf_coef": 0.5,
        "ent_coef": 0.01,
        "max_grad_norm": 0.5,
    }
    off = {"clip_eps_schedule": "constant", "ent_coef_schedule": "constant", "dtype": "float32", "channels": (16,)}
    assert values.pop("env") == "GridWorld-treasure"
    for name, value in (cleanrl | off).items():
        assert values.pop(name) == value, name
    assert not any(values.values()), values


def test_stopping_leaves_out_the_first_step_whose_kl_is_too_large_and_all_later_ones():
    config = KINDS["per sample"].replace(lr=2e-2, lr_schedule="constant")
    state = init(config, KEY)
    batch = batch_of(config, state)
    gradient = jax.jit(ppo._gradient)
    step = jax.jit(lambda config, *args: ppo._optimizer(config).update(*args))
    keys = jax.random.split(KEY, config.num_epochs)
    minibatches = [row for key in keys for row in np.asarray(ppo._shuffled(config, key)).reshape(4, -1)]
    all_params, kls = [(state.params, state.opt_state)], []
    for indices in minibatches:
        params, opt_state = all_params[-1]
        minibatch = ppo._minibatch(config, batch, jnp.asarray(indices))
        grad, metrics = gradient(config, state.agent._replace(params=params), minibatch)
        kls.append(float(metrics["approx_kl"]))
        changes, opt_state = step(config, grad, opt_state)
        all_params.append((jax.tree.map(jnp.add, params, changes), opt_state))
    assert kls[0] < 1e-6 < max(kls)
    targets = [1e-6, *np.quantile(kls[1:], [0.3, 0.6, 0.9]), 2 * max(kls)]
    num_stopped = set()
    for target in targets:
        first = next((i for i, kl in enumerate(kls) if kl > target), 16)
        params, opt_state, metrics = learn(config.replace(target_kl=float(target)), state, batch, KEY)
        assert metrics["num_stopped"] == 16 - first
        num_stopped.add(16 - first)
        assert_trees_close((params, opt_state), all_params[first], rtol=1e-3, atol=1e-5)
    assert {0, 15} < num_stopped


def test_each_update_begins_anew_after_stopping():
    _, metrics = quickly(train, KINDS["table"].replace(target_kl=1e-6, lr=1e-2, lr_schedule="constant"), KEY)
    np.testing.assert_array_equal(metrics["num_stopped"], np.full(4, 15))  # the ratio is 1 at the first step


class Numbered(probes.RandomEnds):
    """Every episode observes its own random number."""

    def reset_env(self, key, params):
        state = probes.State(jnp.zeros((), jnp.int32), jax.random.normal(key))
        return self.observe(key, state, None, params), state


def test_a_pool_gives_every_new_episode_one_of_its_beginnings():
    config = Config(env=Numbered(), reset_pool=3, **SMALL | {"num_steps": 64, "total_timesteps": 8 * 64 * 4})
    state, used = init(config, KEY), []
    seen = set(np.asarray(state.runners.obs[:, 0]))
    assert len(seen) == 8  # the very first episodes are fresh
    for i in range(2):
        key = jax.random.key(i)
        runners, t = rollout(config, state.agent, state.runners, key)
        pool = set(np.asarray(acting.fresh_episodes(config, jax.random.split(key, 3)[2])[0][:, 0]))
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
        state = state._replace(runners=runners)
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
        assert np.nanmean(metrics["episode_return"][-5:]) > 120


def test_a_gradient_that_is_not_finite_is_counted_and_harms_no_other_seed():
    class Poison(probes.Probe):
        """Its reward is the time limit's sign of ill: NaN where the parameter says so."""

        def step_env(self, key, state, action, params):
            obs, state, reward, terminated, info = super().step_env(key, state, action, params)
            return obs, state, jnp.where(params.max_steps_in_episode == 13, jnp.nan, reward), terminated, info

    env = Poison()
    config = Config(env=env, **SMALL)

    def run(limit, key):
        return train(config.replace(env_params=env.default_params.replace(max_steps_in_episode=limit)), key)

    (state, metrics), (healthy, _) = jax.vmap(run, in_axes=(0, None))(jnp.array([100, 13]), KEY), run(100, KEY)
    steps = config.num_epochs * config.num_minibatches
    np.testing.assert_array_equal(metrics["num_skipped"], [[0] * config.num_updates, [steps] * config.num_updates])
    assert_trees_close(jax.tree.map(lambda leaf: leaf[0], state.params), healthy.params, rtol=1e-3, atol=1e-5)
    untouched = init(config, KEY).params
    assert_trees_close(jax.tree.map(lambda leaf: leaf[1], state.params), untouched, rtol=1e-6, atol=1e-7)


def test_episode_metrics_are_means_over_the_episodes_that_ended():
    config = KINDS["table"]
    state = init(config, KEY)
    episodes, running = [], np.zeros((8, 2))
    for _ in range(3):
        _, t = acting.rollout(config, state.agent, state.runners, jax.random.split(state.key, 3)[0])
        ended = []
        for reward, done in zip(np.float64(t.reward), np.asarray(t.done), strict=True):
            running += np.stack([reward, np.ones(8)], axis=1)
            ended += list(running[done])
            running[done] = 0
        episodes.append(ended)
        state, metrics = update(config, state)
        assert metrics["num_episodes"] == len(ended) > 0
        expected = np.mean(ended, axis=0)
        np.testing.assert_allclose([metrics["episode_return"], metrics["episode_length"]], expected, rtol=1e-5)


def test_no_episode_ended_is_nan():
    config = Config(env="MountainCar-v0", **SMALL)
    _, metrics = update(config, init(config, KEY))
    assert metrics["num_episodes"] == 0
    assert np.isnan(metrics["episode_return"])
    assert np.isnan(metrics["episode_length"])


def test_no_key_is_used_twice():
    config = KINDS["table"]
    with jax.debug_key_reuse(True):
        state = jax.jit(ppo.init.__wrapped__)(config, KEY)
        jax.jit(ppo.update.__wrapped__)(config, state)
