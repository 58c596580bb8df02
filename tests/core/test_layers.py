"""The initialisation is orthogonal and uniform among orthogonal matrices; the layers are their equations in NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from purejaxppo.networks.layers import Dense, LayerNorm, orthogonal, orthogonal_kernels, product
from tests.support.reference import gram_error

NUM_DRAWS = 4000


@functools.cache
def draws(rows, columns, number=NUM_DRAWS):
    """`[number, rows, columns]`, drawn under vmap."""
    keys = jax.random.split(jax.random.key(0), number)
    return np.asarray(jax.jit(jax.vmap(lambda key: kernel(key, (rows, columns))))(keys))


def kernel(key, shape):
    """One kernel among others, which are padded to a common shape."""
    return orthogonal_kernels(key, [(5, 6), shape, (9, 2)])[1]


def haar(number, size):
    """Uniform orthogonal matrices by another way: the QR decomposition with the signs of R's diagonal put right."""
    q, r = np.linalg.qr(np.random.default_rng(0).normal(size=(number, size, size)))
    return q * np.sign(np.diagonal(r, axis1=1, axis2=2))[:, None, :]


def test_columns_or_rows_are_orthonormal():
    shapes = ((1, 1), (8, 8), (64, 64), (400, 64), (64, 4), (4, 64), (64, 1), (1, 64), (7, 6))
    kernels = jax.jit(orthogonal_kernels, static_argnums=1)(jax.random.key(0), shapes)
    assert tuple(x.shape for x in kernels) == shapes
    for x in kernels:
        assert x.dtype == jnp.float32
        assert gram_error(x) < 1e-5


def test_is_the_product_of_reflections():
    """Of each column's part from the diagonal down onto the axis, with the sign that keeps the part's direction."""
    normal = np.random.default_rng(0).normal(size=(12, 5)).astype(np.float32)
    expected = np.eye(12)
    for k in range(5):
        part = np.where(np.arange(12) >= k, np.float64(normal[:, k]), 0)
        mirror = part + np.copysign(np.linalg.norm(part), part[k]) * np.eye(12)[k]
        reflection = np.eye(12) - 2 * np.outer(mirror, mirror) / (mirror @ mirror)
        expected = expected @ reflection
    expected = expected[:, :5] * -np.sign(np.diagonal(normal))
    np.testing.assert_allclose(orthogonal(jnp.asarray(normal)), expected, atol=1e-5)
    padded = orthogonal(jnp.pad(normal, ((0, 3), (0, 2))))[:12, :5]
    np.testing.assert_allclose(padded, expected, atol=1e-5)
    np.testing.assert_allclose(orthogonal(jnp.asarray(1e3 * normal)), expected, atol=1e-5)
    np.testing.assert_allclose(expected[:, 0], normal[:, 0] / np.linalg.norm(normal[:, 0]), atol=1e-6)


def test_under_vmap():
    assert gram_error(draws(64, 64, 16)) < 1e-4
    assert gram_error(draws(8, 8)) < 1e-4
    assert gram_error(draws(8, 3)) < 1e-4
    one = kernel(jax.random.split(jax.random.key(0), NUM_DRAWS)[17], (8, 3))
    np.testing.assert_allclose(draws(8, 3)[17], one, atol=1e-5)


@pytest.mark.parametrize("shape", [(8, 8), (8, 3), (3, 8)])
@pytest.mark.parametrize("entry", [(0, 0), (-1, 0), (2, 1)])
def test_entries_are_distributed_as_those_of_a_uniform_unit_vector(shape, entry):
    x = draws(*shape)[:, *entry]
    # (x + 1) / 2 of a coordinate of a uniform unit vector of n dimensions is Beta((n - 1) / 2, (n - 1) / 2).
    assert scipy.stats.kstest((x + 1) / 2, scipy.stats.beta(3.5, 3.5).cdf).pvalue > 1e-3


def test_square_matrices_are_uniform_over_the_orthogonal_group():
    ours, theirs = draws(8, 8), haar(NUM_DRAWS, 8)
    statistics = {
        "entry": lambda x: x[:, 3, 5],
        "trace": lambda x: np.trace(x, axis1=1, axis2=2),
        "antitrace": lambda x: np.trace(x[:, ::-1], axis1=1, axis2=2),
        "trace of the square": lambda x: np.trace(x @ x, axis1=1, axis2=2),
        "minor": lambda x: np.linalg.det(x[:, :2, :2]),
    }
    for name, statistic in statistics.items():
        assert scipy.stats.ks_2samp(statistic(ours), statistic(theirs)).pvalue > 1e-3, name
    # Uniform also means that turning by a fixed matrix changes nothing.
    turned = haar(1, 8)[0] @ ours
    assert scipy.stats.ks_2samp(np.trace(turned, axis1=1, axis2=2), np.trace(theirs, axis1=1, axis2=2)).pvalue > 1e-3


def test_reflections_are_as_frequent_as_rotations():
    determinants = np.linalg.det(np.float64(draws(8, 8)))
    np.testing.assert_allclose(np.abs(determinants), 1, atol=1e-4)
    assert scipy.stats.binomtest(int(np.sum(determinants > 0)), NUM_DRAWS).pvalue > 1e-3


def test_dense():
    layer = Dense(jnp.arange(6.0).reshape(3, 2), jnp.array([10.0, 20.0]))
    np.testing.assert_array_equal(layer(jnp.array(2)), [14, 25])
    np.testing.assert_array_equal(layer(jnp.array(2, jnp.uint8)), [14, 25])
    np.testing.assert_array_equal(layer(jnp.array([1.0, 0.0, -1.0])), [6, 16])


@pytest.mark.parametrize("shape", [(7, 5), (300, 5), (2, 3, 5), (5,)])
def test_product_and_its_derivatives_are_those_of_numpy(shape):
    rng = np.random.default_rng(0)
    x, dx, cotangent = rng.normal(size=shape), rng.normal(size=shape), rng.normal(size=(*shape[:-1], 3))
    kernel, dkernel = rng.normal(size=(2, 5, 3))
    value, pull = jax.vjp(product, jnp.float32(x), jnp.float32(kernel))
    np.testing.assert_allclose(value, x @ kernel, rtol=1e-5, atol=1e-5)
    by_x, by_kernel = pull(jnp.float32(cotangent))
    np.testing.assert_allclose(by_x, cotangent @ kernel.T, rtol=1e-5, atol=1e-5)
    expected = x.reshape(-1, 5).T @ cotangent.reshape(-1, 3)
    np.testing.assert_allclose(by_kernel, expected, rtol=1e-5, atol=1e-5)
    # Forward, and twice.
    _, push = jax.jvp(product, (jnp.float32(x), jnp.float32(kernel)), (jnp.float32(dx), jnp.float32(dkernel)))
    np.testing.assert_allclose(push, dx @ kernel + x @ dkernel, rtol=1e-5, atol=1e-5)
    twice = jax.grad(lambda k: jnp.sum(jax.grad(lambda k: jnp.sum(product(jnp.float32(x), k) ** 3))(k)))
    rows = x.reshape(-1, 5)
    # d/dk of sum_ij d/dk_ij sum (x k)^3, with every row's sum over the inputs in front.
    expected = 6 * rows.T @ (rows.sum(axis=1)[:, None] * (rows @ kernel))
    np.testing.assert_allclose(twice(jnp.float32(kernel)), expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_layer_norm_is_that_of_numpy(offset):
    x = offset + np.random.default_rng(0).normal(size=(2, 3, 16))
    x = np.float64(np.float32(x))
    scale, bias = np.linspace(0.5, 2, 16), np.linspace(-1, 1, 16)
    expected = (x - x.mean(axis=-1, keepdims=True)) / np.sqrt(x.var(axis=-1, keepdims=True) + 1e-6) * scale + bias
    normed = LayerNorm(jnp.float32(scale), jnp.float32(bias))(jnp.float32(x))
    np.testing.assert_allclose(normed, expected, rtol=1e-4, atol=1e-5 if offset == 0 else 5e-3)
