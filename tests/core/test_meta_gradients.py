"""Derivatives of a training by the numbers of its configuration, against central differences."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from purejaxppo import MLP, Config, init, train
from purejaxppo.losses import standardize
from purejaxppo.optimizers import OPTIMIZERS, clip_by_global_norm, clipped, global_norm
from tests.support.small import quickly

KEY = jax.random.key(0)
NUMBERS = {
    "lr": 3e-3,
    "ent_coef": 0.3,
    "gamma": 0.9,
    "gae_lambda": 0.8,
    "clip_eps": 0.2,
    "vf_coef": 0.5,
    "max_grad_norm": 0.05,
}
STEP = 3e-4  # of the differences, as a share of each number


@pytest.fixture
def _wide():
    """With 64 bits, because Adam makes of a gradient almost its sign: differences must be small."""
    with jax.enable_x64(True):
        yield


@pytest.mark.usefixtures("_wide")
@pytest.mark.long
@pytest.mark.parametrize("env", ["GridWorld-treasure", "CartPole-v1", "Pendulum-v1"])
def test_derivatives_of_a_training_are_the_differences(env):
    config = Config(env=env, num_envs=4, num_steps=8, total_timesteps=32, num_epochs=2, network=MLP(hidden_sizes=(8,)))
    config = config.replace(lr_schedule="constant", num_minibatches=2)
    start = init(config, KEY).params
    weights = jax.tree.map(lambda leaf: np.random.default_rng(0).normal(size=leaf.shape), start)

    def moved(shares):
        """How far one update moves the parameters in some direction, by numbers as shares of themselves."""
        numbers = {name: share * NUMBERS[name] for name, share in shares.items()}
        params = train(config.replace(**numbers), KEY)[0].params
        return sum(
            map(jnp.sum, jax.tree.leaves(jax.tree.map(lambda w, new, old: w * (new - old), weights, params, start)))
        )

    at = dict.fromkeys(NUMBERS, jnp.ones((), jnp.float64))
    each = {name: jnp.eye(len(at))[i] for i, name in enumerate(at)}

    def derivatives(at):
        near = [jax.tree.map(lambda x, d, sign=sign: x + sign * STEP * d, at, each) for sign in (1, -1)]
        above, below = (jax.vmap(moved)(shares) for shares in near)
        forward = jax.jvp(moved, (at,), (jax.tree.map(jnp.ones_like, at),))[1]
        return (above - below) / (2 * STEP), jax.grad(moved)(at), forward

    differences, gradient, forward = quickly(derivatives, at)
    assert all(leaf.dtype == jnp.float64 for leaf in gradient.values())
    backward = np.array([gradient[name] for name in at])
    np.testing.assert_allclose(backward, differences, rtol=0.01, atol=1e-5)
    np.testing.assert_allclose(forward, backward.sum(), rtol=1e-4)
    assert [name for name, slope in gradient.items() if slope == 0] == ["clip_eps"]  # it decides, and scales nothing


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_numbers_that_were_never_moved_have_a_derivative(name):
    """Also where all of them are: a norm of 0 has no slope of its own."""
    params = {"w": jnp.ones((3, 2)), "b": jnp.ones(2)}

    def moved(lr, scale, max_norm):
        optimizer = clipped(name, lr, max_norm)
        gradient = {"w": scale * jnp.ones((3, 2)).at[1].set(0.0), "b": jnp.zeros(2)}
        changes, _ = optimizer.update(gradient, optimizer.init(params), params)
        return jnp.sum(changes["w"]) + jnp.sum(changes["b"])

    slope = jax.grad(moved, argnums=(0, 1, 2))
    for scale in (0.0, 1e-3, 1.0):
        assert np.all(np.isfinite(slope(0.1, scale, 0.5)))
    h = 1e-2
    for argnum in range(3):
        at = np.float32([0.1, 1.0, 0.5])
        step = h * at * np.eye(3, dtype=np.float32)[argnum]
        difference = (moved(*(at + step)) - moved(*(at - step))) / (2 * step[argnum])
        np.testing.assert_allclose(slope(*at)[argnum], difference, rtol=1e-2, atol=1e-4)


def test_a_gradient_of_0_and_of_nan_is_clipped_as_by_its_norm():
    assert global_norm({"a": jnp.zeros(3), "b": jnp.zeros(())}) == 0
    np.testing.assert_allclose(global_norm({"a": jnp.array([3.0, 0.0]), "b": jnp.array(4.0)}), 5, rtol=1e-6)
    assert np.isnan(global_norm(jnp.array([0.0, jnp.nan])))
    assert np.all(np.isnan(clip_by_global_norm(0.5).update(jnp.array([1.0, jnp.nan]), optax.EmptyState())[0]))
    np.testing.assert_array_equal(jax.grad(global_norm)(jnp.zeros(3)), np.zeros(3))


@pytest.mark.parametrize("weight", [(), jnp.array([2.0, 0.0, 1.0])])
def test_equal_advantages_have_a_derivative(weight):
    slope = jax.jacobian(lambda x: standardize(x, weight))(jnp.full(3, 0.7))
    assert np.all(np.isfinite(slope))
