"""Optimisers by name against their formulas in float64, where their small constants show."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

from purejaxppo.optimizers import OPTIMIZERS, clipped
from tests.support.small import assert_trees_close, quickly

LR, MAX_NORM, NUM_STEPS = 0.01, 0.5, 4
RNG = np.random.default_rng(0)
# Large parameters, so that a weak decay shows.
PARAMS = {"w": jnp.float32(300 * RNG.normal(size=(3, 2))), "b": jnp.float32(300 * RNG.normal(size=2))}


def gradients(scale):
    shapes = {name: (NUM_STEPS, *leaf.shape) for name, leaf in PARAMS.items()}
    return {name: np.float32(scale * RNG.normal(size=shape)) for name, shape in shapes.items()}


# One below every epsilon, one between, and one that is clipped.
GRADIENTS = {scale: gradients(scale) for scale in (1e-6, 1e-3, 10.0)}


def adam(t, g, x, memory, decay=0.0):
    first, second = memory if memory else (0.0, 0.0)
    first, second = 0.9 * first + 0.1 * g, 0.999 * second + 0.001 * g**2
    change = first / (1 - 0.9**t) / (np.sqrt(second / (1 - 0.999**t)) + 1e-5)
    return x - LR * (change + decay * x), (first, second)


def adamw(t, g, x, memory):
    return adam(t, g, x, memory, decay=1e-4)


def rmsprop(t, g, x, memory):
    second = 0.99 * (memory or [0.0])[0] + 0.01 * g**2
    return x - LR * g / np.sqrt(second + 1e-5), (second,)


def sgd(t, g, x, memory):
    return x - LR * g, ()


def looped(rule, scale):
    """What becomes of the parameters, by one rule for every number."""
    params = {name: np.float64(leaf) for name, leaf in PARAMS.items()}
    memory = dict.fromkeys(params, ())
    for t in range(1, NUM_STEPS + 1):
        gradient = {name: np.float64(leaf[t - 1]) for name, leaf in GRADIENTS[scale].items()}
        norm = np.sqrt(sum(np.sum(leaf**2) for leaf in gradient.values()))
        for name, leaf in gradient.items():
            clip = min(1.0, MAX_NORM / norm)
            params[name], memory[name] = rule(t, leaf * clip, params[name], memory[name])
    return {name: leaf - np.float64(PARAMS[name]) for name, leaf in params.items()}


def stepped(optimizer, scale):
    """How far the parameters are moved, summed up apart from them: they are large."""

    def step(carry, gradient):
        moved, opt_state = carry
        changes, opt_state = optimizer.update(gradient, opt_state, jax.tree.map(jnp.add, PARAMS, moved))
        return (jax.tree.map(jnp.add, moved, changes), opt_state), None

    start = jax.tree.map(jnp.zeros_like, PARAMS), optimizer.init(PARAMS)
    return quickly(lambda gradients: jax.lax.scan(step, start, gradients)[0][0], GRADIENTS[scale])


RULES = {"adam": adam, "adamw": adamw, "rmsprop": rmsprop, "sgd": sgd}


@pytest.mark.parametrize("scale", GRADIENTS)
@pytest.mark.parametrize("name", RULES)
def test_a_name_is_its_formula_behind_the_clip(name, scale):
    expected = looped(RULES[name], scale)
    assert_trees_close(stepped(clipped(name, LR, MAX_NORM), scale), expected, rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize("scale", GRADIENTS)
def test_muon_is_that_of_optax(scale):
    expected = stepped(optax.chain(optax.clip_by_global_norm(MAX_NORM), optax.contrib.muon(LR)), scale)
    assert_trees_close(stepped(clipped("muon", LR, MAX_NORM), scale), expected, rtol=1e-4, atol=1e-9)


def test_a_function_gets_the_learning_rate_and_stands_behind_the_clip():
    def doubled(lr):
        return optax.scale(-2 * lr)

    moved = stepped(clipped(doubled, LR, MAX_NORM), 10.0)
    assert_trees_close(moved, jax.tree.map(lambda leaf: 2 * leaf, looped(sgd, 10.0)), rtol=1e-3, atol=1e-9)


def test_every_name_is_tested():
    assert {*RULES, "muon"} == set(OPTIMIZERS)
    moved = [np.ravel(stepped(clipped(name, LR, MAX_NORM), 1e-3)["w"]) for name in OPTIMIZERS]
    for i, a in enumerate(moved):
        assert not any(np.allclose(a, b, rtol=0.01, atol=1e-9) for b in moved[:i])
