"""`Categorical` against SciPy in float64, and the promise that masked actions have probability exactly 0."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from purejaxppo.distributions import Categorical

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
