"""The initialisation is orthogonal and uniform among orthogonal matrices; the networks are their equations in NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal
import scipy.special
import scipy.stats
from gymnax.environments import spaces

from purejaxppo import MLP, DiagGaussian, MultiCategorical, TanhGaussian
from purejaxppo.environments import MultiDiscrete
from purejaxppo.networks import (
    ActorCritic,
    Layer,
    Norm,
    RecurrentActorCritic,
    Shape,
    initial_networks,
    orthogonal,
    orthogonal_kernels,
    product,
)
from tests.support.reference import gru

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


def gram_error(x, gain=1.0):
    """How far the columns, or the rows of wide matrices, are from orthonormal."""
    x = np.float64(x) if x.shape[-2] >= x.shape[-1] else np.float64(x).swapaxes(-1, -2)
    return np.max(np.abs(x.swapaxes(-1, -2) @ x - gain**2 * np.eye(x.shape[-1])))


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


PLAIN = Shape(
    action_space=spaces.Discrete(4),
    num_categories=10,
    channels=(),
    network=MLP(hidden_sizes=(16, 8)),
    activation="tanh",
    layer_norm=False,
    is_recurrent=False,
    shared_torso=False,
    squash_actions=False,
    dtype="float32",
)


def network(network=MLP(hidden_sizes=(16, 8)), **changes):
    return ActorCritic(PLAIN._replace(hidden_sizes=hidden_sizes, **changes))


def init(module, x=0, seed=0):
    return jax.jit(module.init)(jax.random.key(seed), jnp.asarray(x))


def outputs(module, params, x):
    """`(log_probs, value)`."""
    distribution, value = module.apply(params, x)
    return distribution.log_probs, value


def randomized(params):
    """`params` with random biases, so that no bias hides."""
    return jax.tree.map(lambda x: x if x.ndim == 2 else jnp.sin(1.0 + jnp.arange(x.size)), params)


def towers(params):
    """The layers of both networks, from the input to the head."""
    networks = params["params"]["networks"]
    heads = {"policy": networks.policy, "value": networks.value}
    return {name: [*torso.hidden, head] for (name, head), torso in zip(heads.items(), networks.torsos, strict=True)}


def test_initial_kernels_are_independent():
    kernels = [
        np.ravel(leaf) for seed in (0, 1) for leaf in jax.tree.leaves(init(network(), seed=seed)) if leaf.ndim == 2
    ]
    for i, a in enumerate(kernels):
        for b in kernels[:i]:
            size = min(a.size, b.size)
            cosine = a[:size] @ b[:size] / np.linalg.norm(a[:size]) / np.linalg.norm(b[:size])
            assert abs(cosine) < min(0.99, 5 / size**0.5)


def test_initial_kernels_are_uniform():
    net = network((8,), num_categories=8)
    keys = jax.random.split(jax.random.key(0), NUM_DRAWS)
    params = towers(jax.jit(jax.vmap(lambda key: net.init(key, jnp.array(0))))(keys))
    for name, last_gain in [("policy", 0.01), ("value", 1.0)]:
        for layer, gain in zip(params[name], [2**0.5, last_gain], strict=True):
            x = np.asarray(layer.kernel)[:, 1, 0] / gain
            assert scipy.stats.kstest((x + 1) / 2, scipy.stats.beta(3.5, 3.5).cdf).pvalue > 1e-3


@pytest.mark.parametrize("hidden_sizes", [(), (16,), (16, 8)])
def test_an_integer_stands_for_a_one_hot_vector(hidden_sizes):
    net = network(hidden_sizes)
    for a, b in zip(jax.tree.leaves(init(net, 3)), jax.tree.leaves(init(net, jnp.zeros(10))), strict=True):
        np.testing.assert_array_equal(a, b)
    params = randomized(init(net))
    for x in range(10):
        for a, b in zip(outputs(net, params, jnp.array(x)), outputs(net, params, jax.nn.one_hot(x, 10)), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "x", [np.arange(6).reshape(2, 3), np.float32(np.random.default_rng(0).normal(size=(2, 3, 10)))]
)
def test_a_batch_is_its_samples(x):
    net = network()
    params = randomized(init(net))
    with jax.numpy_rank_promotion("allow"):
        logits, value = outputs(net, params, jnp.asarray(x))
    assert (logits.shape, value.shape) == ((2, 3, 4), (2, 3))
    for index in np.ndindex(2, 3):
        one_logits, one_value = outputs(net, params, jnp.asarray(x[index]))
        assert (one_logits.shape, one_value.shape) == ((4,), ())
        np.testing.assert_allclose(logits[index], one_logits, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(value[index], one_value, rtol=1e-5, atol=1e-6)


def test_is_the_composition_of_its_layers():
    net = network()
    params = randomized(init(net))
    x = np.random.default_rng(1).normal(size=10)
    log_probs, value = outputs(net, params, jnp.asarray(x, jnp.float32))
    for name, output, finish in [("policy", log_probs, scipy.special.log_softmax), ("value", value[None], lambda x: x)]:
        (k0, b0), (k1, b1), (k2, b2) = jax.tree.map(np.float64, towers(params)[name])
        hidden = np.tanh(np.tanh(x @ k0 + b0) @ k1 + b1)
        np.testing.assert_allclose(output, finish(hidden @ k2 + b2), rtol=1e-5, atol=1e-6)


def test_without_hidden_layers_it_is_a_table():
    net = network(())
    params = randomized(init(net))
    (policy,), (critic,) = towers(params)["policy"], towers(params)["value"]
    for x in range(10):
        log_probs, value = outputs(net, params, jnp.array(x))
        np.testing.assert_allclose(log_probs, jax.nn.log_softmax(policy.kernel[x] + policy.bias), rtol=1e-5)
        np.testing.assert_array_equal(value, critic.kernel[x, 0] + critic.bias[0])


def test_layer():
    layer = Layer(jnp.arange(6.0).reshape(3, 2), jnp.array([10.0, 20.0]))
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


# The other kinds of networks

IMAGE = {"num_categories": None, "channels": (3, 2), "network": MLP(hidden_sizes=(8,))}
ACTIONS = spaces.Discrete(4)
BOX = spaces.Box(-1, 1, (3,))
CHOICES = MultiDiscrete((2, 5, 3))
KINDS = {
    "mlp": ({}, 0),
    "mlp of vectors": ({"num_categories": None}, jnp.ones(10)),
    "one layer": ({"network": MLP(hidden_sizes=(16,))}, 0),
    "no layers": ({"network": MLP(hidden_sizes=())}, 0),
    "layer norm": ({"layer_norm": True}, 0),
    "shared": ({"shared_torso": True}, 0),
    "continuous": ({"action_space": BOX}, 0),
    "choices": ({"action_space": CHOICES}, 0),
    "cnn": (IMAGE, jnp.ones((7, 6, 2))),
    "cnn without hidden layers": (IMAGE | {"network": MLP(hidden_sizes=())}, jnp.ones((7, 6, 2))),
    "cnn, shared": (IMAGE | {"shared_torso": True}, jnp.ones((7, 6, 2))),
    "gru": ({"is_recurrent": True}, 0),
    "gru, shared": ({"is_recurrent": True, "shared_torso": True}, 0),
}


def shape_of(kind):
    return PLAIN._replace(**KINDS[kind][0])


@functools.cache
def initial(kind):
    return initial_networks(jax.random.key(0), shape_of(kind), jnp.asarray(KINDS[kind][1]))


@pytest.mark.parametrize("kind", KINDS)
def test_initial_kernels_are_orthogonal_with_their_gains(kind):
    networks, shape = initial(kind), shape_of(kind)
    assert len(networks.torsos) == (1 if shape.shared_torso else 2)
    for torso in networks.torsos:
        assert len(torso.convolutions) == len(shape.channels)
        assert tuple(layer.kernel.shape[1] for layer in torso.hidden) == shape.hidden_sizes
        for layer in [*torso.convolutions, *torso.hidden]:
            assert gram_error(layer.kernel, 2**0.5) < 3e-5
        assert (torso.gates is not None) == shape.is_recurrent
        for layer in torso.gates or ():
            for gate in np.split(np.asarray(layer.kernel), 3, axis=1):
                assert gram_error(gate) < 1e-5
    num_outputs = {"continuous": 3, "choices": 15}.get(kind, 4)
    assert (networks.policy.kernel.shape[1], networks.value.kernel.shape[1]) == (num_outputs, 1)
    assert gram_error(networks.policy.kernel, 0.01) < 1e-6
    assert gram_error(networks.value.kernel) < 1e-5
    layers = jax.tree.leaves(networks, is_leaf=lambda x: isinstance(x, Layer))
    assert all(np.all(layer.bias == 0) for layer in layers if isinstance(layer, Layer))
    assert (networks.log_std is None) == (kind != "continuous")
    if networks.log_std is not None:
        np.testing.assert_array_equal(networks.log_std, np.zeros(3))
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(networks))


@pytest.mark.parametrize("kind", KINDS)
def test_all_initial_kernels_differ(kind):
    kernels = [np.ravel(leaf)[:9] for leaf in jax.tree.leaves(initial(kind)) if leaf.ndim == 2]
    for i, a in enumerate(kernels):
        assert not any(np.allclose(a[: b.size], b[: a.size], rtol=1e-2) for b in kernels[:i])


def convolved(image, kernel, bias):
    """Every filter of 3x3 patches, by SciPy, `[H - 2, W - 2, outputs]`."""
    filters = kernel.reshape(3, 3, image.shape[-1], -1)
    maps = [
        sum(
            scipy.signal.correlate(image[..., c], filters[..., c, out], mode="valid", method="direct")
            for c in range(image.shape[-1])
        )
        for out in range(filters.shape[-1])
    ]
    return np.stack(maps, axis=-1) + bias


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("shared_torso", [False, True])
def test_cnn_is_its_convolutions(activation, shared_torso):
    net = ActorCritic(PLAIN._replace(**IMAGE, activation=activation, shared_torso=shared_torso))
    images = np.random.default_rng(0).normal(size=(3, 7, 6, 2))
    params = randomized(net.init(jax.random.key(0), jnp.float32(images[0])))
    distribution, values = net.apply(params, jnp.float32(images))
    assert distribution.log_probs.shape == (3, 4)
    assert values.shape == (3,)
    networks = jax.tree.map(np.float64, params["params"]["networks"])
    activate = {"tanh": np.tanh, "relu": lambda x: np.maximum(x, 0)}[activation]
    for image, log_probs, value in zip(images, distribution.log_probs, values, strict=True):
        ends = []
        for torso in networks.torsos:
            x = image
            for kernel, bias in torso.convolutions:
                x = activate(convolved(x, kernel, bias))
            assert x.shape == (3, 2, 2)
            for kernel, bias in torso.hidden:
                x = activate(x.reshape(-1) @ kernel + bias)
            ends.append(x)
        logits = ends[0] @ networks.policy.kernel + networks.policy.bias
        np.testing.assert_allclose(log_probs, scipy.special.log_softmax(logits), rtol=1e-4, atol=1e-5)
        expected = ends[-1] @ networks.value.kernel + networks.value.bias
        np.testing.assert_allclose(value, expected[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shared_torso", [False, True])
def test_gru_is_its_equations(shared_torso):
    net = RecurrentActorCritic(PLAIN._replace(num_categories=None, is_recurrent=True, shared_torso=shared_torso))
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(5, 10))
    memory = net.initial_memory()
    assert len(memory) == (1 if shared_torso else 2)
    assert all(leaf.shape == (8,) and np.all(leaf == 0) for leaf in memory)
    params = randomized(net.init(jax.random.key(0), jnp.float32(inputs[0]), memory))
    networks = jax.tree.map(np.float64, params["params"]["networks"])
    expected = [np.zeros(8) for _ in memory]
    for x in inputs:
        distribution, value, memory = net.apply(params, jnp.float32(x), memory)
        for i, torso in enumerate(networks.torsos):
            hidden = x
            for kernel, bias in torso.hidden:
                hidden = np.tanh(hidden @ kernel + bias)
            expected[i] = gru(hidden, expected[i], torso.gates)
            np.testing.assert_allclose(memory[i], expected[i], rtol=1e-4, atol=1e-5)
        logits = expected[0] @ networks.policy.kernel + networks.policy.bias
        np.testing.assert_allclose(distribution.log_probs, scipy.special.log_softmax(logits), rtol=1e-4, atol=1e-5)
        of_value = expected[-1] @ networks.value.kernel[:, 0] + networks.value.bias[0]
        np.testing.assert_allclose(value, of_value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_layer_norm_is_that_of_numpy(offset):
    x = offset + np.random.default_rng(0).normal(size=(2, 3, 16))
    x = np.float64(np.float32(x))
    scale, bias = np.linspace(0.5, 2, 16), np.linspace(-1, 1, 16)
    expected = (x - x.mean(axis=-1, keepdims=True)) / np.sqrt(x.var(axis=-1, keepdims=True) + 1e-6) * scale + bias
    normed = Norm(jnp.float32(scale), jnp.float32(bias))(jnp.float32(x))
    np.testing.assert_allclose(normed, expected, rtol=1e-4, atol=1e-5 if offset == 0 else 5e-3)


def test_layer_norm_stands_before_the_activation():
    net = network(layer_norm=True, num_categories=None)
    params = randomized(init(net, jnp.ones(10)))
    x = np.random.default_rng(0).normal(size=10)
    _, value = outputs(net, params, jnp.float32(x))
    networks = jax.tree.map(np.float64, params["params"]["networks"])
    for (kernel, bias), (scale, shift) in zip(networks.torsos[1].hidden, networks.torsos[1].norms, strict=True):
        x = x @ kernel + bias
        x = np.tanh((x - x.mean()) / np.sqrt(x.var() + 1e-6) * scale + shift)
    np.testing.assert_allclose(value, x @ networks.value.kernel[:, 0] + networks.value.bias[0], rtol=1e-4)


@pytest.mark.parametrize("kind", ["mlp", "shared", "cnn, shared"])
def test_each_output_has_a_gradient_in_its_torso_and_head_alone(kind):
    net, x = ActorCritic(shape_of(kind)), jnp.asarray(KINDS[kind][1])
    params = randomized({"params": {"networks": initial(kind)}})
    of_policy = jax.grad(lambda params: outputs(net, params, x)[0][1])(params)["params"]["networks"]
    of_value = jax.grad(lambda params: outputs(net, params, x)[1])(params)["params"]["networks"]
    for own, other, head, torso in [(of_policy, of_value, "policy", 0), (of_value, of_policy, "value", -1)]:
        assert all(np.any(leaf != 0) for leaf in jax.tree.leaves((own.torsos[torso], getattr(own, head))))
        others = getattr(other, head), () if "shared" in kind else other.torsos[torso]
        assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(others))


@pytest.mark.parametrize("kind", ["mlp", "mlp of vectors", "layer norm", "shared", "cnn", "no layers"])
def test_bfloat16_is_near_float32_and_another(kind):
    params = jax.tree.map(lambda leaf: leaf / 4, randomized({"params": {"networks": initial(kind)}}))
    x = KINDS[kind][1]
    x = jnp.asarray(x) if isinstance(x, int) else jnp.sin(jnp.arange(x.size, dtype=jnp.float32)).reshape(x.shape)
    exact, rough = (
        outputs(ActorCritic(shape_of(kind)._replace(dtype=dtype)), params, x) for dtype in ("float32", "bfloat16")
    )
    for a, b in zip(exact, rough, strict=True):
        assert a.dtype == b.dtype == jnp.float32
        np.testing.assert_allclose(a, b, atol=0.03)
    looked_up = kind == "no layers"  # there is nothing to compute before the heads
    assert bool(np.any(exact[1] != rough[1])) != looked_up
    gradient = jax.grad(lambda params: outputs(ActorCritic(shape_of(kind)._replace(dtype="bfloat16")), params, x)[1])
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(gradient(params)))


def test_bfloat16_memory_is_float32():
    net = RecurrentActorCritic(shape_of("gru")._replace(dtype="bfloat16"))
    params = randomized({"params": {"networks": initial("gru")}})
    _, value, memory = net.apply(params, jnp.array(3), net.initial_memory())
    assert all(leaf.dtype == jnp.float32 for leaf in (value, *memory))


@pytest.mark.parametrize(("kind", "cls"), [("continuous", DiagGaussian), ("choices", MultiCategorical)])
def test_outputs_stand_for_the_distribution_that_the_actions_need(kind, cls):
    params = randomized({"params": {"networks": initial(kind)}})
    x = jnp.arange(6).reshape(2, 3)
    distribution, value = ActorCritic(shape_of(kind)).apply(params, x)
    assert isinstance(distribution, cls)
    assert distribution.sample(jnp.zeros((2, 3, 3))).shape == (2, 3, 3)
    assert value.shape == distribution.entropy.shape == (2, 3)
    if cls is DiagGaussian:
        networks = params["params"]["networks"]
        np.testing.assert_array_equal(distribution.log_std[1, 2], networks.log_std)
        squashed, _ = ActorCritic(shape_of(kind)._replace(network=MLP(distribution="tanh_gaussian"))).apply(params, x)
        assert isinstance(squashed, TanhGaussian)
        np.testing.assert_array_equal(squashed.normal.mean, distribution.mean)
    else:
        exists = np.exp(distribution.choices.log_probs) > 0
        np.testing.assert_array_equal(exists.sum(axis=-1), np.broadcast_to([2, 5, 3], (2, 3, 3)))
