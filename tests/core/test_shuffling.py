"""`random_permutation`: always a bijection, and as random as `jax.random.permutation` by the statistics used here."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import example, given, settings
from hypothesis import strategies as st

from purejaxppo.shuffling import random_permutation

GRIDS = [(8, 8), (128, 4), (4, 128), (16, 6), (2, 32), (3, 50), (4, 4)]
NUM_GROUPS = 25

permutation = functools.partial(jax.jit, static_argnums=(1, 2))(random_permutation)


@settings(max_examples=6, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**31 - 1))
@example(1, 1, 0)
@example(1, 40, 0)
@example(40, 1, 0)
@example(2, 2, 0)
@example(2, 37, 1)
def test_is_a_bijection(rows, columns, seed):
    keys = jax.random.split(jax.random.key(seed), 4)
    permutations = jax.jit(jax.vmap(lambda key: random_permutation(key, rows, columns)))(keys)
    assert permutations.dtype == jnp.int32
    expected = np.broadcast_to(np.arange(rows * columns), (4, rows * columns))
    np.testing.assert_array_equal(np.sort(permutations, axis=1), expected)


@pytest.mark.parametrize("grid", [(8, 8), (1, 64), (64, 1), (3, 20)])
def test_the_key_decides(grid):
    first = permutation(jax.random.key(0), *grid)
    np.testing.assert_array_equal(permutation(jax.random.key(0), *grid), first)
    others = [tuple(permutation(jax.random.key(seed), *grid).tolist()) for seed in range(50)]
    assert len(set(others)) == 50


@pytest.mark.parametrize("grid", [(2, 2), (2, 3)])
def test_every_permutation_of_a_small_grid_is_equally_likely(grid):
    size = grid[0] * grid[1]
    draws = positions(*grid, 40_000)
    _, counts = np.unique(draws, axis=0, return_counts=True)
    assert len(counts) == np.prod(np.arange(1, size + 1))
    assert scipy.stats.chisquare(counts).pvalue > 1e-4


def inverse(permutation):
    return jnp.zeros_like(permutation).at[permutation].set(jnp.arange(permutation.size, dtype=permutation.dtype))


def num_keys(size):
    return 4000 if size > 200 else 15_000


@functools.cache
def positions(rows, columns, number):
    """Where each sample lands under each of many keys, `[keys, size]`."""
    draw = jax.jit(jax.vmap(lambda key: inverse(random_permutation(key, rows, columns))))
    return np.asarray(draw(jax.random.split(jax.random.key(1), number)))


@functools.cache
def control(size):
    """The same of JAX's own permutation."""
    draw = jax.jit(jax.vmap(lambda key: inverse(jax.random.permutation(key, size).astype(jnp.int32))))
    return np.asarray(draw(jax.random.split(jax.random.key(2), num_keys(size))))


def pairs(rows, columns):
    """Pairs of samples, `{name: (first [P], second [P])}`."""
    grid = np.arange(rows * columns).reshape(rows, columns)
    rng = np.random.default_rng(0)
    first = rng.permutation(rows * columns)
    return {
        "neighbours in a row": (grid[:, :-1].ravel(), grid[:, 1:].ravel()),
        "neighbours in a column": (grid[:-1].ravel(), grid[1:].ravel()),
        "random pairs": (first, np.roll(first, 1)),
    }


def position_statistic(where):
    """Pearson's statistic of how often each sample lands in each position, per `where` `[keys, size]`."""
    number, size = where.shape
    counts = np.bincount((where + size * np.arange(size)).ravel(), minlength=size**2)
    expected = number / size
    # Rows and columns of a permutation matrix sum to 1, which leaves (size - 1)^2 degrees of freedom.
    return (size - 1) / size * np.sum((counts - expected) ** 2 / expected)


def difference_statistic(where, first, second):
    """Pearson's statistic of the difference of the positions of pairs, modulo the size."""
    size = where.shape[1]
    counts = np.bincount(((where[:, second] - where[:, first]) % size).ravel(), minlength=size)
    assert counts[0] == 0
    return np.sum((counts[1:] - counts.sum() / (size - 1)) ** 2) / (counts.sum() / (size - 1))


def together(where, first, second, num_minibatches):
    """The share of pairs that land in the same minibatch, per key."""
    minibatch = where // (where.shape[1] // num_minibatches)
    return np.mean(minibatch[:, first] == minibatch[:, second], axis=1)


def z_score(x, expected):
    return (np.mean(x) - expected) / (np.std(x) / np.sqrt(len(x)))


@pytest.mark.few(3)
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_every_sample_lands_everywhere(grid):
    size = grid[0] * grid[1]
    for where in (positions(*grid, num_keys(size)), control(size)):
        assert 1e-4 < scipy.stats.chi2.sf(position_statistic(where), (size - 1) ** 2) < 1 - 1e-4


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_pairs_land_as_in_a_sorted_shuffle(grid):
    size = grid[0] * grid[1]
    ours, theirs = positions(*grid, num_keys(size)), control(size)
    for name, (first, second) in pairs(*grid).items():
        # One pair, so that draws are independent and the statistic is exact.
        for where in (ours, theirs):
            statistic = difference_statistic(where, first[:1], second[:1])
            assert scipy.stats.chi2.sf(statistic, size - 2) > 1e-4, name
        # All pairs, which sees more, but whose statistic has a distribution that only the control tells.
        statistics = [
            [difference_statistic(group, first, second) for group in np.array_split(where, NUM_GROUPS)]
            for where in (ours, theirs)
        ]
        assert scipy.stats.mannwhitneyu(*statistics).pvalue > 1e-4, name


@pytest.mark.parametrize("grid", [grid for grid in GRIDS if grid[0] * grid[1] % 4 == 0], ids=str)
def test_pairs_share_a_minibatch_as_often_as_chance_has_it(grid):
    size = grid[0] * grid[1]
    expected = (size // 4 - 1) / (size - 1)
    for where in (positions(*grid, num_keys(size)), control(size)):
        for name, pair in pairs(*grid).items():
            assert abs(z_score(together(where, *pair, num_minibatches=4), expected)) < 4.5, name


@pytest.mark.parametrize("grid", [(2, 32), (3, 50), (8, 8)], ids=str)
def test_neighbours_stay_together_hardly_more_often_than_by_chance(grid):
    size, number = grid[0] * grid[1], 40_000
    where = positions(*grid, number)
    first, second = np.arange(size), np.roll(np.arange(size).reshape(grid), -1, axis=1).ravel()
    stay = np.mean((where[:, second] - where[:, first]) % size == 1, axis=1)
    excess = np.mean(stay) * (size - 1) - 1
    noise = np.std(stay) * (size - 1) / np.sqrt(number)
    assert noise < 0.006
    assert excess < 0.01 + 4 * noise  # `_num_rounds` promises a hundredth
