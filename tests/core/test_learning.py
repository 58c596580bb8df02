"""Minimising any loss: against a plain loop in float64 over the same minibatches."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from purejaxppo import minimize
from purejaxppo.losses import standardize
from tests.support.small import assert_trees_close, assert_trees_equal, quickly

KEY = jax.random.key(2)
RNG = np.random.default_rng(0)
NUM_SAMPLES, NUM_EPOCHS, NUM_MINIBATCHES = 24, 3, 4
BATCH = {"x": np.float32(RNG.normal(size=(NUM_SAMPLES, 3))), "y": np.float32(RNG.normal(size=NUM_SAMPLES))}
PARAMS = {"w": jnp.array([0.5, -1.0, 2.0]), "b": jnp.float32(0.25)}
OPTIMIZER = optax.sgd(0.1, momentum=0.9)
STEPS = {"num_epochs": NUM_EPOCHS, "num_minibatches": NUM_MINIBATCHES}


def loss(params, batch):
    """A linear regression."""
    error = batch["x"] @ params["w"] + params["b"] - batch["y"]
    return 0.5 * jnp.mean(error**2), {"error": jnp.mean(error), "largest": jnp.max(batch["y"])}


def learned(loss=loss, optimizer=OPTIMIZER, params=PARAMS, batch=BATCH, **options):
    """`(params, opt_state, metrics)`."""
    options = STEPS | options
    return quickly(lambda key: minimize(loss, optimizer, params, optimizer.init(params), batch, key, **options), KEY)


def minibatches():
    """The indices of each minibatch, as `minimize` draws them."""
    orders = [jax.random.permutation(key, NUM_SAMPLES) for key in jax.random.split(KEY, NUM_EPOCHS)]
    return np.concatenate(orders).reshape(NUM_EPOCHS * NUM_MINIBATCHES, -1)


def looped(batch=BATCH, prepare=lambda minibatch: minibatch, leave_out=()):
    """In NumPy: the parameters after every step, and the metrics of every step."""
    w, b = (np.float64(PARAMS[name]) for name in ("w", "b"))
    path, metrics, momentum = [{"w": w, "b": b}], [], 0.0
    for i, indices in enumerate(minibatches()):
        part = prepare({name: np.float64(leaf[indices]) for name, leaf in batch.items()})
        error = part["x"] @ w + b - part["y"]
        gradient = np.append(part["x"].T @ error, error.sum()) / len(error)
        norm = np.linalg.norm(gradient)
        metrics.append({"error": error.mean(), "largest": part["y"].max(), "grad_norm": norm})
        if i not in leave_out:
            momentum = 0.9 * momentum + gradient
            w, b = w - 0.1 * momentum[:3], b - 0.1 * momentum[3]
        path.append({"w": w, "b": b})
    return path, {name: np.array([row[name] for row in metrics]) for name in metrics[0]}


def test_is_a_loop_over_minibatches():
    params, opt_state, metrics = learned()
    path, expected = looped()
    assert_trees_close(params, path[-1], rtol=1e-4, atol=1e-5)
    assert_trees_close(opt_state[0].trace, jax.tree.map(lambda a, b: (a - b) / 0.1, *path[-2:]), rtol=1e-3, atol=1e-4)
    assert set(metrics) == {*expected, "num_skipped"}
    for name in expected:
        np.testing.assert_allclose(metrics[name], expected[name].mean(), rtol=1e-4, atol=1e-5, err_msg=name)
    assert metrics["num_skipped"] == 0


def test_one_step_on_everything_by_default():
    params, *_ = quickly(lambda key: minimize(loss, OPTIMIZER, PARAMS, OPTIMIZER.init(PARAMS), BATCH, key), KEY)
    gradient = jax.grad(loss, has_aux=True)(PARAMS, BATCH)[0]
    assert_trees_close(params, jax.tree.map(lambda p, g: p - 0.1 * g, PARAMS, gradient), rtol=1e-4, atol=1e-6)


def test_any_order_of_samples():
    """Every epoch gets a key of its own, and the order that the function says."""
    seen = []

    def backwards(key, num_samples):
        return jnp.roll(jnp.arange(num_samples)[::-1], jax.random.randint(key, (), 0, num_samples))

    def watching(params, batch):
        jax.debug.callback(lambda number: seen.append(np.asarray(number)), batch["number"], ordered=True)
        return loss(params, batch)

    learned(watching, batch=BATCH | {"number": jnp.arange(NUM_SAMPLES)}, permutation=backwards)
    jax.effects_barrier()
    shifts = [int(jax.random.randint(key, (), 0, NUM_SAMPLES)) for key in jax.random.split(KEY, NUM_EPOCHS)]
    expected = [np.roll(np.arange(NUM_SAMPLES)[::-1], shift).reshape(NUM_MINIBATCHES, -1) for shift in shifts]
    assert len(set(shifts)) == NUM_EPOCHS
    np.testing.assert_array_equal(seen, np.concatenate(expected))


def test_the_optimizer_gets_the_parameters():
    """Where no loss says anything, AdamW decays them."""
    params, _, metrics = learned(lambda params, batch: (0.0 * params["b"], {}), optax.adamw(0.5, weight_decay=0.2))
    decayed = jax.tree.map(lambda leaf: leaf * (1 - 0.5 * 0.2) ** (NUM_EPOCHS * NUM_MINIBATCHES), PARAMS)
    assert_trees_close(params, decayed, rtol=1e-5)
    assert metrics["grad_norm"] == 0


def standardized(minibatch):
    return minibatch | {"y": standardize(minibatch["y"])}


@pytest.mark.parametrize("microbatch_size", [None, 6, 3, 2, 1])
def test_pieces_change_nothing_and_what_is_prepared_is_the_whole_minibatch(microbatch_size):
    params, _, metrics = learned(prepare=standardized, microbatch_size=microbatch_size)
    path, expected = looped(prepare=lambda part: part | {"y": (part["y"] - part["y"].mean()) / part["y"].std()})
    assert_trees_close(params, path[-1], rtol=1e-4, atol=1e-5)
    for name in ("error", "grad_norm"):
        np.testing.assert_allclose(metrics[name], expected[name].mean(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("microbatch_size", [None, 2])
def test_steps_that_are_not_finite_are_left_out_and_counted(bad, microbatch_size):
    batch = BATCH | {"y": np.where(np.arange(NUM_SAMPLES) == 5, np.float32(bad), BATCH["y"])}
    with_it = [i for i, indices in enumerate(minibatches()) if 5 in indices]
    assert len(with_it) == NUM_EPOCHS
    params, opt_state, metrics = learned(batch=batch, microbatch_size=microbatch_size)
    path, _ = looped(leave_out=with_it)
    assert_trees_close(params, path[-1], rtol=1e-4, atol=1e-5)
    assert np.all(np.isfinite(opt_state[0].trace["w"]))
    assert metrics["num_skipped"] == NUM_EPOCHS


@pytest.mark.parametrize("share", [0.0, 0.4, 0.9, 1.0])
def test_stopping_leaves_out_that_step_and_all_later_ones(share):
    path, expected = looped()
    limit = np.quantile(expected["grad_norm"], share)
    first = int(np.argmax(expected["grad_norm"] > limit)) if share < 1 else NUM_EPOCHS * NUM_MINIBATCHES
    params, _, metrics = learned(stop=lambda metrics: metrics["grad_norm"] > limit + 1e-4)
    assert_trees_close(params, path[first], rtol=1e-4, atol=1e-5)
    assert metrics["num_stopped"] == NUM_EPOCHS * NUM_MINIBATCHES - first
    assert metrics["num_skipped"] == 0
    # They are computed all the same, at the parameters that stay.
    np.testing.assert_allclose(metrics["largest"], expected["largest"].mean(), rtol=1e-5)


def test_what_is_stopped_and_what_is_not_finite_are_counted_apart():
    batch = BATCH | {"y": np.where(np.arange(NUM_SAMPLES) == 5, np.float32(np.nan), BATCH["y"])}
    _, _, metrics = learned(batch=batch, stop=lambda metrics: metrics["error"] > 1e9)
    assert (metrics["num_skipped"], metrics["num_stopped"]) == (NUM_EPOCHS, 0)  # NaN stops nothing
    params, opt_state, metrics = learned(batch=batch, stop=lambda metrics: jnp.array(True))
    assert (metrics["num_skipped"], metrics["num_stopped"]) == (NUM_EPOCHS, NUM_EPOCHS * NUM_MINIBATCHES)
    assert_trees_equal((params, opt_state), (PARAMS, OPTIMIZER.init(PARAMS)))
