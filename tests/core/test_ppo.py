"""What holds of every update, whatever is learned."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from purejaxppo import (
    MLP,
    Config,
    ConfigError,
    GridWorld,
    GridWorldParams,
    gae,
    init,
    ppo,
    random_permutation,
    train,
    update,
)
from purejaxppo.environments import RandomGridWorld, make
from purejaxppo.losses import standardize
from tests.support import probes
from tests.support.small import assert_trees_close, assert_trees_equal, collect, gradient_of, objective, quickly

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


learn = partial(quickly, ppo.learn)


def batch_of(config, state):
    return collect(config, state)[-1]


@pytest.mark.few(2)
def test_ratio_is_one_at_the_first_minibatch_of_every_update(run):
    config, states = run
    for state in states:
        first = jax.tree.map(lambda leaf: leaf[: config.minibatch_size], batch_of(config, state))
        _, metrics = objective(config, state.agent, first)
        assert abs(metrics["approx_kl"]) < 1e-6
        assert metrics["clip_fraction"] == 0


@pytest.mark.few(2)
def test_after_learning_the_ratio_is_not_one(run):
    config, states = run
    batch = batch_of(config, states[0])
    _, metrics = objective(config, states[1].agent, batch)
    assert metrics["approx_kl"] > 1e-5


def test_one_gradient_step_is_adam_behind_a_global_norm_clip():
    config = KINDS["per sample"].replace(num_epochs=1, num_minibatches=1, max_grad_norm=0.01, lr=3e-3)
    state = init(config, KEY)
    batch = batch_of(config, state)
    new, metrics = learn(config, state, batch, KEY)
    gradient, _ = gradient_of(config, state, batch._replace(advantage=standardize(batch.advantage)))
    leaves = [np.float64(leaf) for leaf in jax.tree.leaves(gradient)]
    norm = np.sqrt(sum(np.sum(leaf**2) for leaf in leaves))
    assert norm > 0.05
    np.testing.assert_allclose(metrics["grad_norm"], norm, rtol=1e-4)
    for old, leaf, actual in zip(jax.tree.leaves(state.params), leaves, jax.tree.leaves(new.params), strict=True):
        clipped = leaf * 0.01 / norm
        # The first step of Adam: both moments are corrected to the gradient and its square.
        np.testing.assert_allclose(actual, old - 3e-3 * clipped / (np.abs(clipped) + 1e-5), rtol=1e-3, atol=2e-6)


def test_samples_learn_by_their_weights():
    config = KINDS["per sample"]
    state = init(config, KEY)
    batch = batch_of(config, state)
    weight = jnp.float32(np.arange(config.batch_size) % 3)
    learned, metrics = learn(config, state, batch._replace(weight=weight), KEY)
    scaled, _ = learn(config, state, batch._replace(weight=7 * weight), KEY)
    assert_trees_close(scaled.params, learned.params, rtol=1e-3, atol=1e-5)
    # What is said of samples that do not count is never read, but for their values.
    other = batch._replace(weight=weight, advantage=jnp.where(weight == 0, 1e3, batch.advantage))
    assert_trees_equal(learn(config, state, other, KEY)[0].params, learned.params)
    other = batch._replace(weight=weight, target=jnp.where(weight == 0, 0, batch.target))
    assert learn(config, state, other, KEY)[1]["value_loss"] != metrics["value_loss"]
    alike, _ = learn(config, state, batch._replace(weight=jnp.ones(config.batch_size)), KEY)
    without, _ = learn(config, state, batch, KEY)
    assert_trees_close(alike.params, without.params, rtol=1e-3, atol=1e-5)


def policy_gradient(config, networks, agent, batch, rates):
    """The loss of the plainest policy gradient (Williams, 1992), times the clip range, to see that rates arrive."""
    log_prob, _, _ = networks.evaluate_actions(agent, batch.obs, batch.action)
    loss = -rates.clip_eps * jnp.mean(log_prob * batch.advantage)
    return loss, {"reinforce": loss}


def test_an_objective_of_ones_own_is_what_is_minimised():
    config = KINDS["per sample"].replace(num_epochs=1, num_minibatches=1, optimizer="sgd", max_grad_norm=1e9, lr=0.5)
    config = config.replace(clip_eps=0.8, clip_eps_schedule="linear", clip_eps_end=0.4, lr_schedule="constant")
    state = init(config, KEY)._replace(num_updates=jnp.int32(2))  # half of the way, so that the factor is 0.6
    after, t, batch = collect(config, state)
    advantage = standardize(batch.advantage)

    def loss(params):
        distribution, _ = ppo.bind(config).module.apply(params, batch.obs)
        chosen = jnp.take_along_axis(distribution.log_probs, batch.action[:, None], axis=1)[:, 0]
        return -0.6 * jnp.mean(chosen * advantage)

    value, gradient = quickly(jax.value_and_grad(loss), state.params)
    expected = jax.tree.map(lambda leaf, g: leaf - 0.5 * g, state.params, gradient)
    key = jax.random.split(state.key, 3)[1]
    learned, of_learning = quickly(partial(ppo.learn, objective=policy_gradient), config, after, batch, key)
    updated, of_update = update(config, state, objective=policy_gradient)
    for new, metrics in [(learned, of_learning), (updated, of_update)]:
        assert_trees_close(new.params, expected, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(metrics["reinforce"], value, rtol=1e-3, atol=1e-6)
        assert not {"policy_loss", "value_loss"} & metrics.keys()
        assert_trees_equal(networks_of(new).value, networks_of(state).value)  # no loss of the value's
    assert np.any(networks_of(updated).policy.kernel != networks_of(state).policy.kernel)
    assert of_update["num_episodes"] == np.sum(t.done)
    assert np.any(networks_of(update(config, state)[0]).value.kernel != networks_of(state).value.kernel)


def networks_of(state):
    return state.params["params"]["networks"]


def position(transitions):
    """A reward of one's own: where the cart of CartPole gets to."""
    return transitions.next_obs[..., 0]


def test_rewards_of_ones_own_are_those_to_learn_from():
    config = KINDS["per sample"].replace(gamma=0.9, gae_lambda=0.8)
    state = init(config, KEY)
    key = jax.random.split(state.key, 3)[0]
    plain, t, batch = collect(config, state)
    after, same, other = quickly(partial(ppo.collect, reward=position), config, state, key)
    for name in ("action", "reward", "terminated", "done", "episode_return", "episode_length"):  # as they were
        np.testing.assert_array_equal(getattr(same, name), getattr(t, name), err_msg=name)
    rest = [row._replace(advantage=(), target=()) for row in (other, batch)]
    assert_trees_close((after, same, rest[0]), (plain, t, rest[1]), rtol=1e-5, atol=1e-6)
    assert np.any(t.done[:-1])
    # The estimate is linear in the rewards.
    difference, following = np.zeros((16, 8)), np.zeros(8)
    for i in reversed(range(16)):
        following = np.float64(t.next_obs[i, :, 0]) - t.reward[i] + 0.72 * np.where(t.done[i], 0, following)
        difference[i] = following
    np.testing.assert_allclose((other.advantage - batch.advantage).reshape(16, 8), difference, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose((other.target - batch.target).reshape(16, 8), difference, rtol=1e-4, atol=1e-4)


def tenfold(transitions):
    return 10 * transitions.reward


def test_rewards_of_ones_own_are_normalised_like_others():
    config = KINDS["per sample"].replace(normalize_reward=True)
    state = init(config, KEY)
    key = jax.random.split(state.key, 3)[0]
    plain, _, batch = collect(config, state)
    after, _, same = quickly(partial(ppo.collect, reward=tenfold), config, state, key)
    np.testing.assert_allclose(
        after.reward_scale.moments.variance, 100 * plain.reward_scale.moments.variance, rtol=1e-4
    )
    np.testing.assert_allclose(after.reward_scale.discounted, 10 * plain.reward_scale.discounted, rtol=1e-5)
    assert_trees_close((same.advantage, same.target), (batch.advantage, batch.target), rtol=1e-4, atol=1e-5)


def test_learning_rate_is_annealed_to_zero():
    config = KINDS["table"]
    last = init(config, KEY)._replace(num_updates=jnp.int32(config.num_updates))
    annealed, _ = update(config, last)
    assert_trees_close(annealed.params, last.params, rtol=0, atol=0)
    constant, _ = update(config.replace(lr_schedule="constant"), last)
    first, _ = update(config, init(config, KEY))
    assert_trees_close(constant.params, first.params, rtol=0, atol=1e-6)


def test_training_begins_from_the_parameters_it_is_given():
    config = KINDS["table"].replace(total_timesteps=8 * 16)
    fresh, other = init(config, KEY), init(config, jax.random.key(8))
    given = init(config, KEY, other.params)
    assert_trees_equal(given, fresh._replace(params=other.params))
    trained, metrics = quickly(train, config, KEY, other.params)
    after, expected = quickly(update, config, given)
    assert_trees_close((trained.params, metrics), (after.params, jax.tree.map(lambda x: x[None], expected)), rtol=1e-4)
    _, without = quickly(train, config, KEY)
    assert np.all(without["value_loss"] != metrics["value_loss"])
    as_numpy = jax.tree.map(np.float64, jax.device_get(other.params))
    assert_trees_equal(init(config, KEY, as_numpy), given)


def changed(params, of):
    """The parameters with a function applied to the layers of the value network."""
    networks = params["params"]["networks"]
    return {"params": {"networks": networks._replace(value=of(networks.value))}}


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (
            lambda params: changed(params, lambda layer: layer._replace(kernel=layer.kernel[:-1])),
            r"params: must have an array \['params'\]\['networks'\]\.value\.kernel of shape \(16, 1\) and dtype float",
        ),
        (
            lambda params: changed(params, lambda layer: layer._replace(bias=layer.bias.astype(jnp.bfloat16))),
            r"params: .*\.value\.bias of shape \(1,\) and dtype float32",
        ),
        (
            lambda params: jax.tree.map(lambda leaf: jnp.stack([leaf] * 2), params),
            r"params: .*\.torsos\[0\]\.layers\[0\]\.kernel of shape \(31, 16\)",
        ),
        (
            lambda params: params | {"more": jnp.zeros(3)},
            r"params: must be the 8 arrays .* no more, not .*'more': \*",
        ),
        (lambda params: changed(params, lambda layer: (layer.kernel,)), r"params: must have .*\.value\.kernel"),
        (lambda params: (), r"params: must have an array \['params'\]\['networks'\]\.torsos"),
        (lambda params: params | {"more": ()}, r"params: must be the 8 arrays .* no more, not .*'more': \(\)"),
    ],
    ids=["shape", "dtype", "many", "more", "fewer", "none", "structure"],
)
def test_parameters_that_do_not_fit_are_refused(wrong, said):
    config = KINDS["table"]
    params = wrong(init(config, KEY).params)
    for begin in (init, train):
        with pytest.raises(ConfigError, match=said):
            jax.eval_shape(begin, config, KEY, params)


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


def test_configurations_that_differ_in_traced_values_share_one_program():
    traces = []

    def counted_gae(*args, **kwargs):
        traces.append(1)
        return gae(*args, **kwargs)

    changes = {"num_envs": 3, "num_minibatches": 2, "total_timesteps": 100, "advantage": counted_gae}
    config = Config(**SMALL | changes)
    train(config, KEY)
    assert len(traces) == 1
    train(config.replace(lr=0.1, gamma=1, gae_lambda=np.float64(0.5), clip_eps=jnp.float32(0.3)), KEY)
    train(config.replace(ent_coef=0, vf_coef=1.0, max_grad_norm=1e9), jax.random.key(1))
    assert len(traces) == 1
    train(config.replace(num_epochs=2), KEY)
    assert len(traces) == 2


def test_stopping_leaves_out_the_first_step_whose_kl_is_too_large_and_all_later_ones():
    config = KINDS["per sample"].replace(lr=2e-2, lr_schedule="constant")
    state = init(config, KEY)
    batch = batch_of(config, state)
    optimizer = optax.chain(optax.clip_by_global_norm(config.max_grad_norm), optax.adam(config.lr, eps=1e-5))
    step = jax.jit(optimizer.update)
    orders = [random_permutation(key, 16, 8) for key in jax.random.split(KEY, config.num_epochs)]
    states, kls = [state], []
    for indices in np.concatenate(orders).reshape(16, -1):
        minibatch = jax.tree.map(lambda leaf: leaf[indices], batch)  # noqa: B023, called at once
        minibatch = minibatch._replace(advantage=standardize(minibatch.advantage))
        grad, metrics = gradient_of(config, states[-1], minibatch)
        kls.append(float(metrics["approx_kl"]))
        changes, opt_state = step(grad, states[-1].opt_state)
        params = jax.tree.map(jnp.add, states[-1].params, changes)
        states.append(states[-1]._replace(params=params, opt_state=opt_state))
    assert kls[0] < 1e-6 < max(kls)
    targets = [1e-6, *np.quantile(kls[1:], [0.3, 0.6, 0.9]), 2 * max(kls)]
    num_stopped = set()
    for target in targets:
        first = next((i for i, kl in enumerate(kls) if kl > target), 16)
        stopped, metrics = learn(config.replace(target_kl=float(target)), state, batch, KEY)
        assert metrics["num_stopped"] == 16 - first
        num_stopped.add(16 - first)
        of_state = [(state.params, state.opt_state) for state in (stopped, states[first])]
        assert_trees_close(*of_state, rtol=1e-3, atol=1e-5)
    assert {0, 15} < num_stopped


def test_each_update_begins_anew_after_stopping():
    _, metrics = quickly(train, KINDS["table"].replace(target_kl=1e-6, lr=1e-2, lr_schedule="constant"), KEY)
    np.testing.assert_array_equal(metrics["num_stopped"], np.full(4, 15))  # the ratio is 1 at the first step


def test_a_gradient_that_is_not_finite_is_counted_and_harms_no_other_seed():
    config = Config(env=probes.RewardByAction(), **SMALL)

    def run(vf_coef, key):
        return train(config.replace(vf_coef=vf_coef), key)

    (state, metrics), (healthy, _) = jax.vmap(run, in_axes=(0, None))(jnp.array([0.5, jnp.nan]), KEY), run(0.5, KEY)
    steps = config.num_epochs * config.num_minibatches
    np.testing.assert_array_equal(metrics["num_skipped"], [[0] * config.num_updates, [steps] * config.num_updates])
    assert_trees_close(jax.tree.map(lambda leaf: leaf[0], state.params), healthy.params, rtol=1e-3, atol=1e-5)
    untouched = init(config, KEY).params
    assert_trees_close(jax.tree.map(lambda leaf: leaf[1], state.params), untouched, rtol=1e-6, atol=1e-7)


def test_episode_metrics_are_means_over_the_episodes_that_ended():
    config = KINDS["table"]
    state = init(config, KEY)
    running = np.zeros((8, 2))
    for _ in range(3):
        _, t, _ = collect(config, state)
        ended = []
        for reward, done in zip(np.float64(t.reward), np.asarray(t.done), strict=True):
            running += np.stack([reward, np.ones(8)], axis=1)
            ended += list(running[done])
            running[done] = 0
        state, metrics = update(config, state)
        assert metrics["num_episodes"] == len(ended) > 0
        expected = np.mean(ended, axis=0)
        np.testing.assert_allclose([metrics["episode_return"], metrics["episode_length"]], expected, rtol=1e-5)


def test_where_no_episode_ended_the_last_known_means_stay():
    """Three steps per update, of episodes that are cut after seven: none ends in most updates."""
    config = Config(env="MountainCar-v0", **SMALL | {"num_envs": 4, "num_steps": 3, "total_timesteps": 3 * 4 * 8})
    config = config.replace(env_params=make("MountainCar-v0").default_params.replace(max_steps_in_episode=7))
    _, metrics = quickly(train, config, KEY)
    np.testing.assert_array_equal(metrics["num_episodes"], [0, 0, 4, 0, 4, 0, 4, 0])
    np.testing.assert_array_equal(metrics["episode_return"], [np.nan] * 2 + [-7] * 6)
    np.testing.assert_array_equal(metrics["episode_length"], [np.nan] * 2 + [7] * 6)


def test_the_last_known_means_are_carried_to_the_next_update():
    config = KINDS["table"]
    state, metrics = update(config, init(config, KEY))
    assert state.episodes == {name: metrics[name] for name in ("episode_return", "episode_length")}
    for kept in (metrics["episode_return"], jnp.float32(-123)):
        before = state._replace(episodes=state.episodes | {"episode_return": kept})
        none_ended = jax.tree.map(jnp.zeros_like, collect(config, state)[1])
        _, after = quickly(ppo.finish, config, before, none_ended, {})
        assert after["episode_return"] == kept
        assert after["num_episodes"] == 0


def test_no_key_is_used_twice():
    config = KINDS["table"]
    with jax.debug_key_reuse(True):
        state = jax.jit(ppo.init.__wrapped__)(config, KEY)
        jax.jit(ppo.update.__wrapped__)(config, state)
