"""The loss of PPO against the paper's formula in float64, and its gradients against the policy gradient."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purejaxppo.losses import Batch, explained_variance, normalize_weight, ppo_loss, standardize

SIZE = 32
SIZES = 1, 7, 128, 1000
COEFFICIENTS = {"clip_eps": 0.2, "vf_coef": 0.5, "ent_coef": 0.01}

loss_of = partial(jax.jit, static_argnames="clip_value")(ppo_loss)


@partial(jax.jit, static_argnames="clip_value")
def gradients(*args, **kwargs):
    return jax.grad(lambda *now: ppo_loss(*now, args[3], **kwargs)[0], argnums=(0, 1, 2))(*args[:3])


def batch_of(log_prob=0.0, value=0.0, advantage=0.0, target=0.0, size=SIZE):
    fields = [jnp.broadcast_to(jnp.asarray(x, jnp.float32), (size,)) for x in (log_prob, value, advantage, target)]
    return Batch(None, jnp.zeros(size, jnp.int32), *fields)


def random_inputs(seed, spread=0.3):
    rng = np.random.default_rng(seed)
    old, value, advantage, target, new_value = rng.normal(size=(5, SIZE))
    old = -np.abs(old)
    entropy = rng.random(SIZE)
    log_prob = old + spread * rng.normal(size=SIZE)
    now = [jnp.asarray(x, jnp.float32) for x in (log_prob, entropy, new_value)]
    return *now, batch_of(old, value, advantage, target)


def reference(
    log_prob, entropy, value, batch, *, clip_eps, vf_coef, ent_coef, clip_value, dual_clip=None, huber_delta=None
):
    """The papers' formulas, sample by sample, in float64."""

    def error_of(difference):
        size = abs(difference)
        if huber_delta is not None and size > huber_delta:
            return huber_delta * (size - huber_delta / 2)
        return size**2 / 2

    surrogate = value_error = total_entropy = kl = clipped = 0.0
    for i in range(len(log_prob)):
        new, old, v, v_old, advantage, target = (
            float(x[i]) for x in (log_prob, batch.log_prob, value, batch.value, batch.advantage, batch.target)
        )
        ratio = np.exp(new - old)
        one = min(ratio * advantage, min(max(ratio, 1 - clip_eps), 1 + clip_eps) * advantage)
        if dual_clip is not None and advantage < 0:
            one = max(one, dual_clip * advantage)
        weight = 1.0 if isinstance(batch.weight, tuple) else float(batch.weight[i])
        surrogate += weight * one
        error = error_of(v - target)
        if clip_value:
            error = max(error, error_of(v_old + min(max(v - v_old, -clip_eps), clip_eps) - target))
        value_error += error
        total_entropy += weight * float(entropy[i])
        kl += weight * (np.expm1(new - old) - (new - old))
        clipped += weight * (not 1 - clip_eps <= ratio <= 1 + clip_eps)
    n = len(log_prob)
    policy_loss, value_loss, mean_entropy = -surrogate / n, value_error / n, total_entropy / n
    loss = policy_loss + vf_coef * value_loss - ent_coef * mean_entropy
    return loss, {
        "policy_loss": policy_loss,
        "value_loss": value_loss,
        "entropy": mean_entropy,
        "approx_kl": kl / n,
        "clip_fraction": clipped / n,
    }


@pytest.mark.parametrize("clip_value", [False, True])
@pytest.mark.parametrize("spread", [0.1, 0.3, 2.0])
def test_is_the_formula_of_the_paper(clip_value, spread):
    for seed, (clip_eps, vf_coef, ent_coef) in enumerate([(0.2, 0.5, 0.01), (0.05, 0.0, 0.0), (0.7, 3.0, 2.0)] * 4):
        inputs = random_inputs(seed, spread)
        kwargs = {"clip_eps": clip_eps, "vf_coef": vf_coef, "ent_coef": ent_coef, "clip_value": clip_value}
        loss, metrics = loss_of(*inputs, **kwargs)
        expected_loss, expected_metrics = reference(*inputs, **kwargs)
        np.testing.assert_allclose(loss, expected_loss, rtol=1e-5, atol=1e-5)
        assert metrics.keys() == expected_metrics.keys()
        for name, value in metrics.items():
            assert value.shape == ()
            np.testing.assert_allclose(value, expected_metrics[name], rtol=1e-5, atol=2e-6, err_msg=name)


@pytest.mark.parametrize("clip_value", [False, True])
@pytest.mark.parametrize(("dual_clip", "huber_delta"), [(1.5, None), (None, 0.7), (3.0, 0.1), (1.01, 1e3)])
def test_dual_clip_and_huber_are_their_formulas(clip_value, dual_clip, huber_delta):
    for seed in range(8):
        inputs = random_inputs(seed, spread=1.0)
        kwargs = {**COEFFICIENTS, "clip_value": clip_value, "dual_clip": dual_clip, "huber_delta": huber_delta}
        loss, metrics = loss_of(*inputs, **kwargs)
        expected_loss, expected_metrics = reference(*inputs, **kwargs)
        np.testing.assert_allclose(loss, expected_loss, rtol=1e-5, atol=1e-5)
        for name, value in metrics.items():
            np.testing.assert_allclose(value, expected_metrics[name], rtol=1e-5, atol=2e-6, err_msg=name)
    # Where they bind, they change the loss, and far enough away they do not.
    plain, _ = loss_of(*inputs, **COEFFICIENTS, clip_value=clip_value)
    assert loss != plain or (dual_clip, huber_delta) == (None, None)
    far, _ = loss_of(*inputs, **COEFFICIENTS, clip_value=clip_value, dual_clip=1e4, huber_delta=1e4)
    np.testing.assert_array_equal(far, plain)


WEIGHT = np.float32(np.random.default_rng(9).random(SIZE) * (np.arange(SIZE) % 3 > 0))
WEIGHT /= WEIGHT.mean()


@pytest.mark.parametrize("clip_value", [False, True])
@pytest.mark.parametrize(("dual_clip", "huber_delta"), [(None, None), (1.5, 0.7)])
def test_weights_multiply_every_part_but_the_value_loss(clip_value, dual_clip, huber_delta):
    kwargs = {**COEFFICIENTS, "clip_value": clip_value, "dual_clip": dual_clip, "huber_delta": huber_delta}
    for seed in range(4):
        *now, batch = random_inputs(seed, spread=1.0)
        weighted = batch._replace(weight=jnp.asarray(WEIGHT))
        loss, metrics = loss_of(*now, weighted, **kwargs)
        expected_loss, expected_metrics = reference(*now, weighted, **kwargs)
        np.testing.assert_allclose(loss, expected_loss, rtol=1e-5, atol=1e-5)
        _, plain = loss_of(*now, batch, **kwargs)
        for name, value in metrics.items():
            np.testing.assert_allclose(value, expected_metrics[name], rtol=1e-5, atol=2e-6, err_msg=name)
            assert (value == plain[name]) == (name == "value_loss")
        ones, _ = loss_of(*now, batch._replace(weight=jnp.ones(SIZE)), **kwargs)
        np.testing.assert_allclose(ones, loss_of(*now, batch, **kwargs)[0], rtol=1e-6, atol=1e-6)


def test_a_sample_of_weight_0_teaches_the_value_alone():
    *now, batch = random_inputs(6, spread=1.0)
    of_log_prob, of_entropy, of_value = gradients(*now, batch._replace(weight=jnp.asarray(WEIGHT)), **COEFFICIENTS)
    plain = gradients(*now, batch, **COEFFICIENTS)
    np.testing.assert_allclose(of_log_prob, plain[0] * WEIGHT, rtol=1e-5)
    np.testing.assert_allclose(of_entropy, plain[1] * WEIGHT, rtol=1e-5)
    assert np.any(plain[0][WEIGHT == 0] != 0)
    assert np.all(of_log_prob[WEIGHT == 0] == 0)
    np.testing.assert_array_equal(of_value, plain[2])
    assert np.all(of_value[WEIGHT == 0] != 0)


@pytest.mark.parametrize("shift", [0.0, -3.0, 100.0])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_standardize_by_weights(shift, scale):
    x = np.float32(scale * (np.random.default_rng(1).normal(size=SIZE) + shift))
    mean = np.average(np.float64(x), weights=WEIGHT)
    spread = np.sqrt(np.average((np.float64(x) - mean) ** 2, weights=WEIGHT))
    np.testing.assert_allclose(standardize(x, jnp.asarray(WEIGHT)), (x - mean) / spread, rtol=2e-3, atol=2e-3)
    # It is the standardising of the samples that count, each as often as it does.
    times = np.repeat(x, 2 * (np.arange(SIZE) % 3))
    of_many = np.unique(standardize(times))
    counts = np.float32(np.arange(SIZE) % 3)
    actual = standardize(x, normalize_weight(jnp.asarray(counts)))
    np.testing.assert_allclose(np.unique(actual[counts > 0]), of_many, rtol=2e-3, atol=2e-3)


def test_weights_of_mean_1():
    counts = jnp.array([0.0, 1.0, 3.0, 0.0])
    np.testing.assert_allclose(normalize_weight(counts), [0, 1, 3, 0])
    np.testing.assert_allclose(normalize_weight(1e-3 * counts), [0, 1, 3, 0], rtol=1e-6)
    np.testing.assert_array_equal(normalize_weight(jnp.zeros(4)), np.zeros(4))


def test_where_nothing_counts_only_the_value_is_taught():
    *now, batch = random_inputs(7, spread=1.0)
    zeros = jnp.zeros(SIZE)
    advantage = batch.advantage.at[0].set(1e35)  # which a division by next to nothing would make infinite
    nothing = batch._replace(weight=zeros, advantage=standardize(advantage, zeros))
    of_log_prob, of_entropy, of_value = gradients(*now, nothing, **COEFFICIENTS)
    assert np.all(of_log_prob == 0)
    assert np.all(of_entropy == 0)
    np.testing.assert_array_equal(of_value, gradients(*now, batch, **COEFFICIENTS)[2])


def test_dual_clip_cuts_the_gradient_of_large_ratios_only_where_the_advantage_is_negative():
    log_ratio = np.tile(np.float32([-1.0, 0.1, 0.5, 0.8, 3.0, 30.0]), 2)
    advantage = np.repeat(np.float32([-1.5, 1.5]), 6)
    ratio, zeros = np.exp(np.float64(log_ratio)), jnp.zeros(12)
    batch = batch_of(advantage=jnp.asarray(advantage), size=12)
    gradient, _, _ = gradients(log_ratio, zeros, zeros, batch, **COEFFICIENTS, dual_clip=2.0)
    cut = np.where(advantage > 0, ratio > 1.2, (ratio < 0.8) | (ratio > 2))
    np.testing.assert_allclose(gradient, np.where(cut, 0, -advantage * ratio / 12), rtol=1e-5)


def test_huber_bounds_the_gradient():
    log_prob, entropy, value, batch = random_inputs(4)
    _, _, gradient = gradients(log_prob, entropy, value, batch, **COEFFICIENTS, huber_delta=0.3)
    error = np.float64(value) - np.float64(batch.target)
    assert 0 < np.sum(np.abs(error) > 0.3) < SIZE
    np.testing.assert_allclose(gradient, 0.5 * np.clip(error, -0.3, 0.3) / SIZE, rtol=1e-4, atol=1e-8)


def test_bounds_may_be_traced():
    inputs = random_inputs(5, spread=1.0)
    many = jax.vmap(lambda bound: ppo_loss(*inputs, **COEFFICIENTS, dual_clip=1 + bound, huber_delta=bound)[0])
    bounds = jnp.array([0.1, 0.5, 2.0])
    for bound, actual in zip(bounds, many(bounds), strict=True):
        kwargs = {**COEFFICIENTS, "clip_value": False, "dual_clip": 1 + float(bound), "huber_delta": float(bound)}
        np.testing.assert_allclose(actual, reference(*inputs, **kwargs)[0], rtol=1e-5)


def test_at_ratio_1_it_is_the_policy_gradient():
    _, entropy, value, batch = random_inputs(0)
    _, metrics = loss_of(batch.log_prob, entropy, value, batch, **COEFFICIENTS)
    assert metrics["approx_kl"] == 0
    assert metrics["clip_fraction"] == 0
    np.testing.assert_allclose(metrics["policy_loss"], -np.mean(batch.advantage), rtol=1e-6)
    gradient, _, _ = gradients(batch.log_prob, entropy, value, batch, **COEFFICIENTS)
    np.testing.assert_allclose(gradient, -batch.advantage / SIZE, rtol=1e-6)


def test_gradient_is_cut_only_where_a_sample_is_clipped_and_improving():
    log_ratio = np.tile([-20.0, -1.0, -0.3, -0.1, 0.1, 0.3, 1.0, 20.0], 4).astype(np.float32)
    advantage = np.repeat([1.5, -1.5, 1e-3, -1e-3], 8).astype(np.float32)
    ratio = np.exp(np.float64(log_ratio))
    improving = (ratio > 1.2) & (advantage > 0) | (ratio < 0.8) & (advantage < 0)
    assert 0 < improving.sum() < ((ratio > 1.2) | (ratio < 0.8)).sum()
    zeros = jnp.zeros(SIZE)
    gradient, _, _ = gradients(log_ratio, zeros, zeros, batch_of(advantage=advantage), **COEFFICIENTS)
    assert np.all(np.asarray(gradient)[improving] == 0)
    assert np.all(np.asarray(gradient)[~improving] != 0)
    np.testing.assert_allclose(gradient, np.where(improving, 0, -advantage * ratio / SIZE), rtol=1e-5)


def test_gradient_of_the_value_loss():
    log_prob, entropy, value, batch = random_inputs(1)
    _, _, gradient = gradients(log_prob, entropy, value, batch, **COEFFICIENTS)
    np.testing.assert_allclose(gradient, 0.5 * (value - batch.target) / SIZE, rtol=1e-5, atol=1e-8)
    # Clipped: no gradient where moving by at most epsilon is worse than the value is.
    near = batch.value + np.clip(value - batch.value, -0.2, 0.2)
    near_is_worse = np.abs(near - batch.target) > np.abs(value - batch.target)
    assert 0 < near_is_worse.sum() < SIZE
    _, _, clipped = gradients(log_prob, entropy, value, batch, **COEFFICIENTS, clip_value=True)
    np.testing.assert_allclose(clipped, np.where(near_is_worse, 0, gradient), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("advantage", [2.0, -2.0])
def test_following_the_advantage_lowers_the_loss(advantage):
    batch = batch_of(log_prob=-1.0, advantage=advantage)
    zeros = jnp.zeros(SIZE)
    change = np.float32(0.1 * np.sign(advantage))
    towards, at, away = (loss_of(zeros - 1 + d, zeros, zeros, batch, **COEFFICIENTS)[0] for d in (change, 0, -change))
    assert towards < at < away


def test_entropy_lowers_the_loss_by_its_coefficient():
    log_prob, entropy, value, batch = random_inputs(2)
    loss, _ = loss_of(log_prob, entropy, value, batch, **COEFFICIENTS)
    more, _ = loss_of(log_prob, entropy + 1, value, batch, **COEFFICIENTS)
    np.testing.assert_allclose(loss - more, 0.01, rtol=1e-3)
    _, gradient, _ = gradients(log_prob, entropy, value, batch, **COEFFICIENTS)
    np.testing.assert_allclose(gradient, np.full(SIZE, -0.01 / SIZE), rtol=1e-6)


def test_terms_do_not_touch_each_other():
    log_prob, entropy, value, batch = random_inputs(3)
    loss, metrics = loss_of(log_prob, entropy, value, batch, clip_eps=0.2, vf_coef=0.0, ent_coef=0.0)
    np.testing.assert_array_equal(loss, metrics["policy_loss"])
    no_advantage = batch._replace(advantage=jnp.zeros(SIZE))
    loss, metrics = loss_of(log_prob, entropy, value, no_advantage, clip_eps=0.2, vf_coef=1.0, ent_coef=0.0)
    np.testing.assert_array_equal(loss, metrics["value_loss"])


@pytest.mark.parametrize("scale", [1e-6, 1e-4, 1e-2, 1.0, 10.0])
def test_approx_kl_is_never_negative(scale):
    log_ratio = (scale * np.random.default_rng(0).normal(size=2000)).astype(np.float32)

    @jax.vmap
    def kl_of_one(log_prob):
        zero = jnp.zeros(1)
        return ppo_loss(log_prob[None], zero, zero, batch_of(size=1), **COEFFICIENTS)[1]["approx_kl"]

    kl = kl_of_one(log_ratio)
    assert np.all(kl >= 0), f"{np.mean(kl < 0):.0%} negative, down to {np.min(kl)}"
    exact = np.mean(np.expm1(np.float64(log_ratio)) - log_ratio)
    np.testing.assert_allclose(np.mean(np.asarray(kl, np.float64)), exact, rtol=1e-2, atol=1e-13)


@pytest.mark.parametrize("shift", [0.0, -3.0, 100.0])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_standardize(shift, scale):
    x = np.random.default_rng(0).normal(size=257)
    x = np.float32(scale * (x + shift))
    y = np.asarray(standardize(x), np.float64)
    np.testing.assert_allclose(y.mean(), 0, atol=1e-4)
    np.testing.assert_allclose(y.std(), 1, rtol=1e-3)
    np.testing.assert_allclose(y, (np.float64(x) - np.float64(x).mean()) / np.float64(x).std(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("constant", [0.0, 1.0, 0.1, 3.3, -123.456, 1e6])
def test_standardize_of_a_constant_is_0(constant):
    for size in SIZES:
        expected = np.zeros(size) if size > 1 else constant
        np.testing.assert_allclose(standardize(jnp.full(size, constant, jnp.float32)), expected, atol=1e-3)


def test_what_stands_alone_is_not_standardized():
    x = jnp.array([[2.5, -3.0, 4.0]])
    assert standardize(x[:, :1]) == 2.5
    np.testing.assert_array_equal(standardize(x, jnp.array([[0.0, 3.0, 0.0]])), x)
    assert not np.any(standardize(x, jnp.array([[1.5, 1.5, 0.0]])) == x)


def test_explained_variance():
    rng = np.random.default_rng(0)
    target, noise = rng.normal(size=(2, 500)).astype(np.float32)
    np.testing.assert_array_equal(explained_variance(target, target), 1)
    np.testing.assert_allclose(explained_variance(target + 7, target), 1, atol=1e-5)  # an offset is not counted
    np.testing.assert_allclose(explained_variance(jnp.full(500, 2.5), target), 0, atol=1e-5)
    for value in (target + noise, -target, 0.3 * target, noise):
        residual = np.float64(target) - np.float64(value)
        expected = 1 - np.mean((residual - residual.mean()) ** 2) / np.mean(
            (target - target.mean(dtype=np.float64)) ** 2
        )
        np.testing.assert_allclose(explained_variance(value, target), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(explained_variance(-target, target), -3, rtol=1e-5)


@pytest.mark.parametrize("constant", [0.0, 1.0, 0.1, 3.3, -123.456])
def test_explained_variance_of_a_constant_target_is_nan(constant):
    for size in SIZES:
        assert np.isnan(explained_variance(jnp.linspace(0, 1, size), jnp.full(size, constant, jnp.float32)))
