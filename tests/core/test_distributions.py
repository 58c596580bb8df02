"""Distributions against SciPy in float64, and the promise that masked actions have probability exactly 0."""

import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats
from gymnax.environments import spaces

from purejaxppo import ConfigError
from purejaxppo.distributions import (
    LOG_STD_RANGE,
    Categorical,
    DiagGaussian,
    Distribution,
    MultiCategorical,
    TanhGaussian,
    bounded,
    distribution_for,
)
from purejaxppo.environments import MultiDiscrete
from purejaxppo.optimizers import clipped

MASKS = np.array([mask for mask in itertools.product([False, True], repeat=4) if any(mask)])  # [15, 4]
BELOW_1 = np.nextafter(np.float32(1), np.float32(0))
# What jax.random.uniform gives for a word of ones: 23 random bits behind the point of 1.xxx, minus 1.
LARGEST_UNIFORM = np.uint32(0x3FFFFFFF).view(np.float32) - np.float32(1)


def random_logits(seed, *shape, scale=2.0):
    return np.float32(scale * np.random.default_rng(seed).normal(size=shape))


def masks_for(seed, rows, num_actions):
    """Random masks with at least one true entry, half of them with masked actions at the end."""
    rng = np.random.default_rng(seed)
    mask = rng.random((rows, num_actions)) < 0.6
    keep = rng.integers(0, num_actions, rows)
    mask[::2] &= np.arange(num_actions) <= keep[::2, None]
    mask[np.arange(rows), keep] = True
    return mask


def sample_all(dist, uniforms):
    """Every uniform at every member of a batch, `[batch, uniforms]`."""
    return jax.vmap(lambda dist: jax.vmap(dist.sample)(uniforms))(dist)


def test_log_prob_entropy_and_mode():
    logits = random_logits(0, 200, 5)
    dist = Categorical.from_logits(logits)
    expected = scipy.special.log_softmax(np.float64(logits), axis=-1)
    np.testing.assert_allclose(dist.log_probs, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(dist.entropy, scipy.stats.entropy(np.exp(expected), axis=-1), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(dist.cumulative, np.cumsum(np.exp(expected), axis=-1), atol=1e-6)
    for action in range(5):
        log_prob = dist.log_prob(jnp.full(200, action))
        np.testing.assert_allclose(log_prob, expected[:, action], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(dist.mode(), np.argmax(logits, axis=-1))
    assert dist.mode().dtype == dist.sample(jnp.zeros(200)).dtype == jnp.int32


def test_uniform_distribution():
    dist = Categorical.from_logits(jnp.full(7, 3.0))
    np.testing.assert_allclose(dist.entropy, np.log(7), rtol=1e-6)
    assert dist.mode() == 0  # the first of equals


@pytest.mark.parametrize("mask", [None, [True, False, True, True, False]])
def test_sampling_frequencies(mask):
    logits = random_logits(1, 5, scale=1.0)
    allowed = np.full(5, True) if mask is None else np.array(mask)
    dist = Categorical.from_logits(logits, None if mask is None else allowed)
    uniforms = jax.random.uniform(jax.random.key(0), (200_000,))
    counts = np.bincount(jax.vmap(dist.sample)(uniforms), minlength=5)
    expected = scipy.special.softmax(np.float64(logits)[allowed]) * 200_000
    assert counts[~allowed].sum() == 0
    assert scipy.stats.chisquare(counts[allowed], expected).pvalue > 1e-3


def test_sample_inverts_the_cumulative_distribution():
    dist = Categorical.from_logits(jnp.log(jnp.array([0.25, 0.5, 0.0, 0.25]) + 1e-30))
    uniforms = jnp.array([0.0, 0.249, 0.251, 0.749, 0.751, 0.999])
    np.testing.assert_array_equal(jax.vmap(dist.sample)(uniforms), [0, 0, 1, 1, 3, 3])


def test_sample_is_monotone():
    dist = Categorical.from_logits(random_logits(2, 300, 6), masks_for(2, 300, 6))
    actions = sample_all(dist, jnp.linspace(0, BELOW_1, 1001))
    assert np.all(np.diff(actions, axis=-1) >= 0)
    assert np.all(np.diff(dist.cumulative, axis=-1) >= 0)


@pytest.mark.parametrize("which_is_largest", range(4))
def test_masked_actions_have_probability_exactly_0(which_is_largest):
    logits = random_logits(3, 15, 4)
    logits[:, which_is_largest] += 50
    dist = Categorical.from_logits(logits, MASKS)
    probs = np.exp(dist.log_probs)
    assert np.all(probs[~MASKS] == 0)
    assert np.all(probs[MASKS] > 0)
    assert np.all(np.isfinite(dist.log_probs))
    assert np.all(np.take_along_axis(MASKS, np.asarray(dist.mode())[:, None], axis=1))
    for i, mask in enumerate(MASKS):
        expected = scipy.special.log_softmax(np.float64(logits[i, mask]))
        np.testing.assert_allclose(dist.log_probs[i][mask], expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(dist.entropy[i], scipy.stats.entropy(np.exp(expected)), rtol=1e-5, atol=1e-6)
        assert dist.mode()[i] == np.flatnonzero(mask)[np.argmax(logits[i, mask])]


def test_masked_actions_are_never_drawn():
    dist = Categorical.from_logits(random_logits(4, 15, 4), MASKS)
    draw = jax.jit(lambda dist, uniforms: jax.vmap(dist.sample)(uniforms))
    uniforms = jax.random.uniform(jax.random.key(1), (1_000_000,))
    for i, mask in enumerate(MASKS):
        counts = np.bincount(draw(jax.tree.map(lambda leaf: leaf[i], dist), uniforms), minlength=4)  # noqa: B023
        np.testing.assert_array_equal(counts > 0, mask)


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("num_actions", [2, 4, 7, 18])
def test_sampling_is_safe_at_every_edge(num_actions, jit):
    from_logits = jax.jit(Categorical.from_logits) if jit else Categorical.from_logits
    mask = masks_for(5, 6000, num_actions)
    logits = np.concatenate(
        [
            random_logits(6, 2000, num_actions),
            random_logits(7, 2000, num_actions, scale=1e4),
            np.float32(np.random.default_rng(8).choice([-1e4, 0, 1, 1e4], size=(2000, num_actions))),
        ]
    )
    dist = from_logits(logits, mask)
    assert np.all(np.isfinite(dist.log_probs))
    assert np.all(np.isfinite(dist.entropy))
    assert np.all(dist.cumulative[:, -1] == 1)
    possible = mask & (np.exp(dist.log_probs) > 0)
    assert LARGEST_UNIFORM < BELOW_1 < 1
    # Besides both ends, the edges of the actions' own intervals and their neighbours.
    edges = np.asarray(dist.cumulative)
    edges = np.concatenate([edges, np.nextafter(edges, np.float32(0)), np.nextafter(edges, np.float32(1))], axis=1)
    ends = np.broadcast_to(np.float32([0, 2**-24, LARGEST_UNIFORM, BELOW_1]), (6000, 4))
    uniforms = np.clip(np.concatenate([ends, edges], axis=1), 0, BELOW_1)
    actions = np.asarray(jax.vmap(lambda dist, uniforms: jax.vmap(dist.sample)(uniforms))(dist, uniforms))
    assert actions.min() >= 0
    assert actions.max() < num_actions
    assert np.all(np.take_along_axis(possible, actions, axis=1))


def test_extreme_logits():
    dist = Categorical.from_logits(jnp.array([[1e4, -1e4, 0.0], [-1e4, -1e4, -1e4], [1e4, 1e4, -1e4]]))
    np.testing.assert_array_equal(dist.log_probs[0], [0, -2e4, -1e4])
    np.testing.assert_allclose(dist.log_probs[1], np.full(3, -np.log(3)), rtol=1e-6)
    np.testing.assert_allclose(dist.entropy, [0, np.log(3), np.log(2)], atol=1e-6)


def test_gradients_are_those_of_the_restricted_distribution():
    logits = random_logits(9, 15, 4)

    def entropy(logits, mask):
        return Categorical.from_logits(logits, mask).entropy

    def log_prob(logits, mask, action):
        return Categorical.from_logits(logits, mask).log_prob(action)

    of_entropy = jax.jit(jax.vmap(jax.grad(entropy)))(logits, MASKS)
    of_log_prob = jax.jit(jax.vmap(jax.vmap(jax.grad(log_prob), (None, None, 0)), (0, 0, None)))(
        logits, MASKS, jnp.arange(4)
    )
    assert np.all(np.isfinite(of_log_prob))
    for i, mask in enumerate(MASKS):
        log_probs = scipy.special.log_softmax(np.where(mask, np.float64(logits[i]), -np.inf))
        probs = np.exp(log_probs)
        with np.errstate(invalid="ignore"):
            expected = np.where(mask, -probs * (log_probs + scipy.stats.entropy(probs)), 0)
        np.testing.assert_allclose(of_entropy[i], expected, atol=1e-6)
        assert np.all(of_entropy[i][~mask] == 0)
        assert np.all(of_log_prob[i][:, ~mask] == 0)
        for action in np.flatnonzero(mask):
            np.testing.assert_allclose(of_log_prob[i, action], (np.arange(4) == action) - probs, atol=1e-6)


@pytest.mark.parametrize("weight", [1e-3, 1.0, 2.0, 1e3])
def test_gradients_are_finite_whatever_their_weight(weight):
    def loss(logits, mask):
        dist = Categorical.from_logits(logits, mask)
        return weight * dist.entropy + weight * dist.log_prob(jnp.argmax(mask))

    gradient = jax.jit(jax.vmap(jax.grad(loss)))(random_logits(10, 15, 4), MASKS)
    assert np.all(np.isfinite(gradient))
    assert np.all(gradient[~MASKS] == 0)


def test_member_of_a_table_is_the_distribution_of_its_row():
    logits, mask = random_logits(11, 30, 4), masks_for(11, 30, 4)
    table = Categorical.from_logits(logits, mask)
    for i in (0, 13, 29):
        member = jax.tree.map(lambda leaf: leaf[i], table)  # noqa: B023
        for leaf, expected in zip(member, Categorical.from_logits(logits[i], mask[i]), strict=True):
            assert leaf.shape == expected.shape
            np.testing.assert_allclose(leaf, expected, rtol=1e-6, atol=1e-7)
    indices = jnp.array([[3, 3, 7], [0, 29, 7]])
    members = jax.tree.map(lambda leaf: leaf[indices], table)
    assert members.log_prob(jnp.zeros((2, 3), jnp.int32)).shape == members.mode().shape == (2, 3)
    np.testing.assert_array_equal(members.sample(jnp.full((2, 3), 0.5)), table.sample(jnp.full(30, 0.5))[indices])


@pytest.mark.parametrize("constant", [-1000.0, 64.0])
def test_adding_a_constant_to_the_logits_changes_nothing(constant):
    logits, mask = np.round(random_logits(12, 50, 4) * 64) / 64, masks_for(12, 50, 4)  # so that the sum is exact
    for a, b in zip(
        Categorical.from_logits(logits, mask), Categorical.from_logits(logits + np.float32(constant), mask), strict=True
    ):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_logits_of_half_precision_are_normalised_in_float32(dtype):
    logits = jnp.asarray(random_logits(17, 20, 18), dtype)
    dist = Categorical.from_logits(logits, masks_for(17, 20, 18))
    assert all(leaf.dtype == jnp.float32 for leaf in dist)
    np.testing.assert_allclose(np.exp(dist.log_probs).sum(axis=-1), 1, rtol=1e-5)


SIZES = 2, 5, 3


def multi_categorical(seed, rows=40):
    """`(logits, distribution)`; the logits of categories that do not exist are the largest."""
    logits = random_logits(seed, rows, 3, 5)
    for k, size in enumerate(SIZES):
        logits[:, k, size:] = 30
    return logits, MultiCategorical.from_logits(jnp.asarray(logits), SIZES)


def choice_masks(seed, rows=40):
    """Random masks `[rows, K, C]` with an existing category for each choice, true for those that do not exist."""
    mask = np.stack([masks_for(seed + k, rows, 5) for k in range(3)], axis=1)
    for k, size in enumerate(SIZES):
        mask[:, k, :size] = masks_for(seed + 9 + k, rows, size)
        mask[:, k, size:] = True
    return mask


def test_a_vector_of_choices_is_its_choices():
    logits, dist = multi_categorical(13)
    log_probs = [scipy.special.log_softmax(np.float64(logits[:, k, :size]), axis=-1) for k, size in enumerate(SIZES)]
    entropy = sum(scipy.stats.entropy(np.exp(one), axis=-1) for one in log_probs)
    np.testing.assert_allclose(dist.entropy, entropy, rtol=1e-5)
    total = np.zeros(40)
    for action in itertools.product(*map(range, SIZES)):
        expected = sum(one[:, a] for one, a in zip(log_probs, action, strict=True))
        log_prob = dist.log_prob(jnp.broadcast_to(jnp.array(action), (40, 3)))
        np.testing.assert_allclose(log_prob, expected, rtol=1e-5, atol=1e-5)
        total += np.exp(np.float64(log_prob))
    np.testing.assert_allclose(total, 1, rtol=1e-5)
    np.testing.assert_array_equal(dist.mode(), np.stack([np.argmax(one, axis=-1) for one in log_probs], axis=1))
    assert dist.mode().dtype == dist.sample(jnp.zeros((40, 3))).dtype == jnp.int32


def test_choices_are_drawn_apart_and_only_from_what_exists():
    logits, dist = multi_categorical(14, rows=1)
    one = jax.tree.map(lambda leaf: leaf[0], dist)
    drawn = np.asarray(jax.vmap(one.sample)(jax.random.uniform(jax.random.key(0), (60_000, 3))))
    probs = [scipy.special.softmax(np.float64(logits[0, k, :size])) for k, size in enumerate(SIZES)]
    counts = np.zeros(SIZES)
    np.add.at(counts, tuple(drawn.T), 1)
    expected = 60_000 * np.einsum("i,j,k->ijk", *probs)
    likely = expected > 5
    left = [[x[~likely].sum()] for x in (counts, expected)]
    observed, expected = (np.append(x[likely], rest) for x, rest in zip((counts, expected), left, strict=True))
    assert scipy.stats.chisquare(observed, expected).pvalue > 1e-3


@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_a_masked_vector_of_choices_at_every_edge(scale):
    mask = choice_masks(15)
    logits, _ = multi_categorical(15)
    dist = MultiCategorical.from_logits(jnp.asarray(scale * logits), SIZES).masked(jnp.asarray(mask))
    allowed = mask & (np.arange(5) < np.array(SIZES)[:, None])
    for uniform in (0, 2**-24, 0.3, 0.9, LARGEST_UNIFORM, BELOW_1):
        drawn = np.asarray(dist.sample(jnp.full((40, 3), uniform)))
        assert np.all(np.take_along_axis(allowed, drawn[..., None], axis=-1))
    assert np.all(np.take_along_axis(allowed, np.asarray(dist.mode())[..., None], axis=-1))
    assert np.all(np.isfinite(dist.entropy))
    expected = np.zeros(40)
    for i, k in np.ndindex(40, 3):
        one = scipy.special.log_softmax(scale * np.float64(logits[i, k, allowed[i, k]]))
        expected[i] += scipy.stats.entropy(np.exp(one))
        log_probs = np.asarray(dist.choices.log_probs[i, k])
        np.testing.assert_allclose(log_probs[allowed[i, k]], one, rtol=1e-4, atol=1e-4)
        assert np.all(np.exp(log_probs[~allowed[i, k]]) == 0)
    np.testing.assert_allclose(dist.entropy, expected, rtol=1e-4, atol=1e-4)


def test_gradients_of_masked_choices_are_finite_and_0_where_masked():
    mask, (logits, _) = choice_masks(16), multi_categorical(16)
    allowed = mask & (np.arange(5) < np.array(SIZES)[:, None])

    def loss(logits):
        dist = MultiCategorical.from_logits(logits, SIZES).masked(jnp.asarray(mask))
        return jnp.sum(dist.entropy + 1e3 * dist.log_prob(dist.mode()))

    gradient = np.asarray(jax.grad(loss)(jnp.asarray(logits)))
    assert np.all(np.isfinite(gradient))
    # Of categories that do not exist there is none; of masked ones, rounding leaves some: they were normalised before.
    assert np.all(gradient[np.broadcast_to(np.arange(5) >= np.array(SIZES)[:, None], allowed.shape)] == 0)
    np.testing.assert_allclose(gradient[~allowed], 0, atol=1e-3)
    alone = allowed.sum(axis=-1) == 1  # such a choice is no choice
    np.testing.assert_allclose(gradient[alone], 0, atol=1e-3)
    assert np.all(np.any(gradient[~alone] != 0, axis=-1))


def gaussian(seed, rows=50, size=3, scale=1.0):
    rng = np.random.default_rng(seed)
    mean, log_std = rng.normal(size=(2, rows, size)).astype(np.float32)
    return DiagGaussian(jnp.asarray(scale * mean), jnp.asarray(0.5 * log_std))


def as_scipy(normal):
    return scipy.stats.norm(np.float64(normal.mean), np.exp(np.float64(normal.log_std)))


def test_gaussian_log_prob_entropy_and_mode():
    dist = gaussian(0)
    action = np.float32(np.random.default_rng(1).normal(size=(50, 3)) * 3)
    np.testing.assert_allclose(dist.log_prob(action), as_scipy(dist).logpdf(action).sum(axis=-1), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(dist.entropy, as_scipy(dist).entropy().sum(axis=-1), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(dist.mode(), dist.mean)


@pytest.mark.parametrize("index", range(3))
def test_gaussian_samples_are_normal(index):
    dist = jax.tree.map(lambda leaf: leaf[index], gaussian(2))
    drawn = np.asarray(jax.vmap(dist.sample)(jax.random.uniform(jax.random.key(index), (20_000, 3))))
    for k in range(3):
        one = scipy.stats.norm(dist.mean[k], np.exp(dist.log_std[k]))
        assert scipy.stats.kstest(drawn[:, k], one.cdf).pvalue > 1e-3
    assert np.abs(np.corrcoef(drawn.T) - np.eye(3)).max() < 0.04


def test_gaussian_sample_inverts_the_cumulative_distribution():
    dist = gaussian(3)
    for uniform in (2**-23, 1e-5, 0.1, 0.5, 0.75, 0.99, 1 - 2**-20):
        expected = as_scipy(dist).ppf(np.float32(uniform))
        np.testing.assert_allclose(dist.sample(jnp.full((50, 3), uniform)), expected, rtol=2e-3, atol=1e-4)
    ends = [np.asarray(dist.sample(jnp.full((50, 3), x))) for x in (0.0, 2**-23, 1 - 2**-23, BELOW_1)]
    assert np.all(np.isfinite(ends))
    assert np.all(np.diff(ends, axis=0) > 0)


@pytest.mark.parametrize("squash", [False, True])
def test_extreme_gaussians_are_finite_and_so_are_their_gradients(squash):
    def numbers(mean, log_std, uniform):
        normal = DiagGaussian(mean, log_std)
        dist = TanhGaussian(normal) if squash else normal
        action = jax.lax.stop_gradient(dist.sample(uniform))
        return jnp.stack([dist.log_prob(action), dist.log_prob(dist.mode()), dist.entropy])

    extremes = itertools.product([0.0, -1e4, 1e4], [-20.0, 0.0, 20.0], [0.0, 0.5, BELOW_1])
    args = jnp.repeat(jnp.array(list(extremes)).T[..., None], 2, axis=-1)  # [3, 27, 2]
    assert np.all(np.isfinite(jax.vmap(numbers)(*args)))
    for gradient in jax.vmap(jax.jacobian(numbers, (0, 1)))(*args):
        assert gradient.shape == (27, 3, 2)
        assert np.all(np.isfinite(gradient))


def test_within_its_range_a_deviation_is_as_it_is():
    """To the last bit, and so is its gradient."""
    low, high = LOG_STD_RANGE
    x = jnp.float32(np.random.default_rng(8).uniform(low, high, 1000)).at[:2].set(jnp.array(LOG_STD_RANGE))
    np.testing.assert_array_equal(bounded(x, low, high), x)
    weight = jnp.float32(np.random.default_rng(9).normal(size=1000))
    np.testing.assert_array_equal(jax.grad(lambda x: jnp.vdot(weight, bounded(x, low, high)))(x), weight)


def test_beyond_its_range_a_deviation_is_bounded():
    low, high = LOG_STD_RANGE
    far = np.geomspace(1e-2, 1e3, 50)
    x = np.concatenate([low - far[::-1], [low, 0, high], high + far])
    outside = np.abs(x - np.clip(x, low, high))
    expected = np.clip(x, low, high) + np.sign(x) * outside / (1 + outside)
    dist = DiagGaussian(jnp.zeros((len(x), 1)), jnp.float32(x)[:, None])
    entropy = expected + 0.5 * np.log(2 * np.pi * np.e)
    np.testing.assert_allclose(dist.entropy, entropy, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(-dist.log_prob(dist.mode()), entropy - 0.5, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(dist.sample(jnp.full((len(x), 1), 0.8413447))[:, 0], np.exp(expected), rtol=1e-3)
    tanh = TanhGaussian(dist).entropy
    assert np.all(np.isfinite(tanh))
    assert np.all(np.diff(dist.entropy) >= 0)


@pytest.mark.parametrize("start", [-40.0, 40.0])
@pytest.mark.parametrize("squash", [False, True])
def test_a_deviation_that_ran_off_is_learned_back(start, squash):
    normal = DiagGaussian(jnp.zeros(1), jnp.full(1, 0.5))
    actions = jax.vmap(normal.sample)(jax.random.uniform(jax.random.key(0), (256, 1)))
    adam = clipped("adam", 0.2, 0.5)  # the gradient at a small deviation is enormous

    def loss(log_std):
        dist = DiagGaussian(jnp.zeros(1), log_std)
        return -jnp.mean(jax.vmap((TanhGaussian(dist) if squash else dist).log_prob)(actions))

    def step(carry, _):
        changes, opt_state = adam.update(jax.grad(loss)(carry[0]), carry[1])
        return (carry[0] + changes, opt_state), None

    log_std = jnp.full(1, start)
    (log_std, _), _ = jax.lax.scan(step, (log_std, adam.init(log_std)), length=1500)
    np.testing.assert_allclose(log_std, np.log(np.sqrt(np.mean(np.float64(actions) ** 2))), atol=0.02)


def log_density_of_tanh(y, mean, std):
    """By the change of variables, in float64."""
    return scipy.stats.norm.logpdf(np.arctanh(y), mean, std) - np.log1p(-(y**2))


def test_tanh_log_prob():
    dist = TanhGaussian(gaussian(4))
    x = np.float32(np.random.default_rng(5).normal(size=(50, 3)))
    mean, std = np.float64(dist.normal.mean), np.exp(np.float64(dist.normal.log_std))
    expected = log_density_of_tanh(np.tanh(np.float64(x)), mean, std).sum(axis=-1)
    np.testing.assert_allclose(dist.log_prob(x), expected, rtol=1e-4, atol=1e-4)
    # Where tanh is 1 in float32, and in float64: log(1 - tanh(x)^2) is 2 (log 2 - |x|) there.
    far = np.float32([[15.0, -15.0, 40.0]])
    at = jax.tree.map(lambda leaf: leaf[:1], dist)
    expected = scipy.stats.norm.logpdf(far, mean[:1], std[:1]) - 2 * (np.log(2) - np.abs(far))
    np.testing.assert_allclose(at.log_prob(far), expected.sum(axis=-1), rtol=1e-5)


@pytest.mark.parametrize("mean", [0.0, -0.7, 2.0, 6.0])
@pytest.mark.parametrize("log_std", [-4.0, -1.0, 0.0, 1.0])
def test_tanh_density_integrates_to_1_and_its_entropy_is_that_integral(mean, log_std):
    dist = TanhGaussian(DiagGaussian(jnp.full(1, mean), jnp.full(1, log_std)))
    std = np.exp(log_std)
    x = np.linspace(mean - 9 * std, mean + 9 * std, 20_001)
    log_prob = np.float64(jax.vmap(dist.log_prob)(jnp.asarray(x, jnp.float32)[:, None]))
    slope = np.exp(2 * (np.log(2) - x - np.logaddexp(0, -2 * x)))  # dy / dx
    density = np.exp(log_prob) * slope
    np.testing.assert_allclose(scipy.integrate.trapezoid(density, x), 1, rtol=1e-4)
    entropy = -scipy.integrate.trapezoid(density * log_prob, x)
    np.testing.assert_allclose(dist.entropy, entropy, atol=2e-3)


@pytest.mark.parametrize("index", range(2))
def test_tanh_samples_have_that_density(index):
    dist = TanhGaussian(jax.tree.map(lambda leaf: leaf[index, :1], gaussian(6)))
    drawn = jax.vmap(dist.sample)(jax.random.uniform(jax.random.key(1), (20_000, 1)))
    box = spaces.Box(-1, 1, (1,))
    y = np.float64(dist.to_env(drawn, box))[:, 0]
    mean, std = float(dist.normal.mean[0]), float(np.exp(dist.normal.log_std[0]))
    assert scipy.stats.kstest(y, lambda y: scipy.stats.norm.cdf(np.arctanh(y), mean, std)).pvalue > 1e-3
    np.testing.assert_allclose(dist.to_env(dist.mode(), box), np.tanh(dist.normal.mean), rtol=1e-5)


BOXES = {
    "one number": spaces.Box(-2.0, 3.0, ()),
    "scalars": spaces.Box(-1, 1, (2,)),
    "arrays": spaces.Box(np.array([-1.0, 0.0]), np.array([1.0, 0.25]), (2,)),
    "matrix": spaces.Box(-np.arange(1.0, 7.0).reshape(2, 3), jnp.ones((2, 3)), (2, 3)),
    "integers": spaces.Box(np.array([-1, 2]), np.array([4, 7]), (2,)),
    "a point": spaces.Box(0.1, 0.1, (2,)),
    "huge": spaces.Box(-3e38, 3e38, (2,)),
    "far off": spaces.Box(np.float32(1e7), np.float32(1e7 + 1), (2,)),
}


@pytest.mark.parametrize("box", BOXES.values(), ids=BOXES)
@pytest.mark.parametrize("squash", [False, True])
def test_actions_are_in_the_box(box, squash):
    size = int(np.prod(box.shape))
    low, high = (np.broadcast_to(np.float32(bound), box.shape).reshape(-1) for bound in (box.low, box.high))
    x = np.concatenate([np.linspace(-20, 20, 41), [-3e38, -1e4, 1e4, 3e38, 0]])
    x = np.broadcast_to(np.float32(x)[:, None], (46, size))
    normal = DiagGaussian(jnp.zeros((46, size)), jnp.zeros((46, size)))
    dist = TanhGaussian(normal) if squash else normal
    action = np.asarray(dist.to_env(jnp.asarray(x), box))
    assert action.shape == (46, *box.shape)
    assert action.dtype == np.float32
    action = action.reshape(46, -1)
    assert np.all((action >= low) & (action <= high))
    middle, half = (np.float64(low) + high) / 2, (np.float64(high) - low) / 2
    expected = middle + half * np.tanh(np.float64(x)) if squash else np.clip(x, low, high)
    np.testing.assert_allclose(action, expected, rtol=1e-6, atol=1e-6 * half.max())
    np.testing.assert_array_equal(action[[41, 44]], [low, high])
    assert dist.to_env(jnp.asarray(x[7]), box).shape == box.shape  # without a batch


def test_an_open_box_clips_nothing():
    x = jnp.array([[-1e30, 3.0]])
    box = spaces.Box(-np.inf, np.array([np.inf, 2.0]), (2,))
    np.testing.assert_array_equal(DiagGaussian(x, x).to_env(x, box), np.float32([[-1e30, 2.0]]))


def test_only_choices_can_be_masked():
    normal = gaussian(7)
    for dist in (normal, TanhGaussian(normal)):
        with pytest.raises(ValueError, match="only choices can be masked"):
            dist.masked(jnp.ones((50, 3), bool))


def test_all_are_distributions():
    normal = gaussian(8)
    every = Categorical.from_logits(jnp.zeros(3)), multi_categorical(8)[1], normal, TanhGaussian(normal)
    assert all(isinstance(dist, Distribution) for dist in every)
    assert not isinstance(jnp.zeros(3), Distribution)


KINDS = {"categorical": Categorical, "multi_categorical": MultiCategorical, "gaussian": DiagGaussian}
KINDS |= {"tanh_gaussian": TanhGaussian}
SUITABLE = [
    (spaces.Discrete(5), ["categorical"]),
    (MultiDiscrete((2, 5, 3)), ["multi_categorical"]),
    (spaces.Box(-1, 2, (2, 3)), ["gaussian", "tanh_gaussian"]),
    (spaces.Box(np.float32([-1, -np.inf]), np.float32([1, 1]), (2,)), ["gaussian"]),
]


@pytest.mark.parametrize(("space", "suitable"), SUITABLE, ids=lambda x: type(x).__name__)
def test_a_space_has_the_distributions_that_suit_it_the_first_by_default(space, suitable):
    assert distribution_for(space) is distribution_for(space, "auto") is KINDS[suitable[0]]
    for name, kind in KINDS.items():
        if name in suitable:
            assert distribution_for(space, name) is kind
            continue
        words = ", ".join(map(repr, ["auto", *suitable]))
        with pytest.raises(ConfigError, match=re.escape(f"distribution='{name}': must be one of {words}, for the ac")):
            distribution_for(space, name)


@pytest.mark.few(2)
@pytest.mark.parametrize(
    ("space", "name"), [(space, name) for space, suitable in SUITABLE for name in suitable], ids=lambda x: str(x)[:20]
)
def test_of_any_numbers_of_the_right_count_it_draws_actions_of_the_space(space, name):
    kind = distribution_for(space, name)
    rng = np.random.default_rng(0)
    params, free = (np.float32(rng.normal(size=n)) for n in ((50, kind.num_params(space)), kind.num_free(space)))
    distribution = kind.from_params(jnp.asarray(params), jnp.asarray(free) if free.size else None, space)
    event = distribution.mode().shape[1:]
    action = distribution.sample(jnp.float32(rng.random((50, *event))))
    assert distribution.entropy.shape == distribution.log_prob(action).shape == (50,)
    taken = distribution.to_env(action, space)
    assert taken.shape == (50, *space.shape)
    assert np.all(jax.vmap(space.contains)(taken))
    assert len(np.unique(np.asarray(taken).reshape(50, -1), axis=0)) > 4
    if free.size:  # the spread is the same for all observations
        normal = getattr(distribution, "normal", distribution)
        np.testing.assert_array_equal(normal.log_std, np.broadcast_to(free, (50, free.size)))
        np.testing.assert_array_equal(normal.mean, params)
