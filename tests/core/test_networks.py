"""The built-in networks are their equations in NumPy, and they begin as they should."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal
import scipy.special
import scipy.stats
from gymnax.environments import spaces

from purejaxppo import CNN, GRU, MLP, Config, ConfigError, DiagGaussian, MultiCategorical, TanhGaussian
from purejaxppo.environments import MultiDiscrete
from purejaxppo.networks import NETWORKS
from purejaxppo.networks.layers import Dense
from tests.support import probes
from tests.support.reference import gram_error, gru
from tests.support.small import refused

SIZES = (16, 8)
BOX = spaces.Box(-1, 1, (3,))
CHOICE = spaces.Discrete(4)
CHOICES = MultiDiscrete((2, 5, 3))


def network(hidden_sizes=SIZES, *, actions=CHOICE, num_categories=10, of=MLP, **fields):
    """The flax module of a built-in network; by default for ten observations and four actions."""
    return of(hidden_sizes=hidden_sizes, **fields).module(actions, num_categories)


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
    networks = networks_of(params)
    heads = {"policy": networks.policy, "value": networks.value}
    return {name: [*torso.layers, head] for (name, head), torso in zip(heads.items(), networks.torsos, strict=True)}


def networks_of(params):
    return params["params"]["networks"]


def in_numpy(params):
    return jax.tree.map(np.float64, networks_of(params))


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
    keys = jax.random.split(jax.random.key(0), 4000)
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


# The other kinds of networks


class Kind(NamedTuple):
    """A network, and an input."""

    module: Any
    x: Any = 0


IMAGE = np.ones((7, 6, 2), np.float32)
IMAGES = functools.partial(network, num_categories=None, of=CNN, channels=(3, 2))
KINDS = {
    "mlp": Kind(network()),
    "mlp of vectors": Kind(network(num_categories=None), np.ones(10, np.float32)),
    "one layer": Kind(network((16,))),
    "no layers": Kind(network(())),
    "layer norm": Kind(network(layer_norm=True)),
    "shared": Kind(network(shared_torso=True)),
    "continuous": Kind(network(actions=BOX)),
    "choices": Kind(network(actions=CHOICES)),
    "cnn": Kind(IMAGES((8,)), IMAGE),
    "cnn without hidden layers": Kind(IMAGES(()), IMAGE),
    "cnn, shared": Kind(IMAGES((8,), shared_torso=True), IMAGE),
    "gru": Kind(network(of=GRU)),
    "gru, shared": Kind(network(of=GRU, shared_torso=True)),
}


@functools.cache
def initial(kind):
    module, x = KINDS[kind]
    memory = [module.initial_memory()] if isinstance(module.network, GRU) else []
    return jax.jit(module.init)(jax.random.key(0), jnp.asarray(x), *memory)


def with_fields(module, **fields):
    """The module of a network with other fields."""
    return module.clone(network=module.network.replace(**fields))


@pytest.mark.parametrize("kind", KINDS)
def test_initial_kernels_are_orthogonal_with_their_gains(kind):
    networks, network = networks_of(initial(kind)), KINDS[kind].module.network
    assert len(networks.torsos) == (1 if network.shared_torso else 2)
    for torso in networks.torsos:
        convolutions, hidden = getattr(torso, "convolutions", []), getattr(torso, "hidden", torso)
        assert len(convolutions) == len(getattr(network, "channels", ()))
        assert tuple(layer.kernel.shape[1] for layer in hidden.layers) == network.hidden_sizes
        for layer in [*convolutions, *hidden.layers]:
            assert gram_error(layer.kernel, 2**0.5) < 3e-5
        assert hasattr(torso, "cell") == isinstance(network, GRU)
        for layer in getattr(torso, "cell", ()):
            for gate in np.split(np.asarray(layer.kernel), 3, axis=1):
                assert gram_error(gate) < 1e-5
    num_outputs = {"continuous": 3, "choices": 15}.get(kind, 4)
    assert (networks.policy.kernel.shape[1], networks.value.kernel.shape[1]) == (num_outputs, 1)
    assert gram_error(networks.policy.kernel, 0.01) < 1e-6
    assert gram_error(networks.value.kernel) < 1e-5
    layers = jax.tree.leaves(networks, is_leaf=lambda x: isinstance(x, Dense))
    assert all(np.all(layer.bias == 0) for layer in layers if isinstance(layer, Dense))
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
    net = IMAGES((8,), activation=activation, shared_torso=shared_torso)
    images = np.random.default_rng(0).normal(size=(3, 7, 6, 2))
    params = randomized(net.init(jax.random.key(0), jnp.float32(images[0])))
    distribution, values = net.apply(params, jnp.float32(images))
    assert distribution.log_probs.shape == (3, 4)
    assert values.shape == (3,)
    networks = in_numpy(params)
    activate = {"tanh": np.tanh, "relu": lambda x: np.maximum(x, 0)}[activation]
    for image, log_probs, value in zip(images, distribution.log_probs, values, strict=True):
        ends = []
        for torso in networks.torsos:
            x = image
            for kernel, bias in torso.convolutions:
                x = activate(convolved(x, kernel, bias))
            assert x.shape == (3, 2, 2)
            for kernel, bias in torso.hidden.layers:
                x = activate(x.reshape(-1) @ kernel + bias)
            ends.append(x)
        logits = ends[0] @ networks.policy.kernel + networks.policy.bias
        np.testing.assert_allclose(log_probs, scipy.special.log_softmax(logits), rtol=1e-4, atol=1e-5)
        expected = ends[-1] @ networks.value.kernel + networks.value.bias
        np.testing.assert_allclose(value, expected[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shared_torso", [False, True])
def test_gru_is_its_equations(shared_torso):
    net = network(num_categories=None, of=GRU, shared_torso=shared_torso)
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(5, 10))
    memory = net.initial_memory()
    assert len(memory) == (1 if shared_torso else 2)
    assert all(leaf.shape == (8,) and np.all(leaf == 0) for leaf in memory)
    params = randomized(net.init(jax.random.key(0), jnp.float32(inputs[0]), memory))
    networks = in_numpy(params)
    expected = [np.zeros(8) for _ in memory]
    for x in inputs:
        distribution, value, memory = net.apply(params, jnp.float32(x), memory)
        for i, torso in enumerate(networks.torsos):
            hidden = x
            for kernel, bias in torso.hidden.layers:
                hidden = np.tanh(hidden @ kernel + bias)
            expected[i] = gru(hidden, expected[i], torso.cell)
            np.testing.assert_allclose(memory[i], expected[i], rtol=1e-4, atol=1e-5)
        logits = expected[0] @ networks.policy.kernel + networks.policy.bias
        np.testing.assert_allclose(distribution.log_probs, scipy.special.log_softmax(logits), rtol=1e-4, atol=1e-5)
        of_value = expected[-1] @ networks.value.kernel[:, 0] + networks.value.bias[0]
        np.testing.assert_allclose(value, of_value, rtol=1e-4, atol=1e-5)


def test_layer_norm_stands_before_the_activation():
    net = network(layer_norm=True, num_categories=None)
    params = randomized(init(net, jnp.ones(10)))
    x = np.random.default_rng(0).normal(size=10)
    _, value = outputs(net, params, jnp.float32(x))
    networks = in_numpy(params)
    for (kernel, bias), (scale, shift) in zip(*networks.torsos[1], strict=True):
        x = x @ kernel + bias
        x = np.tanh((x - x.mean()) / np.sqrt(x.var() + 1e-6) * scale + shift)
    np.testing.assert_allclose(value, x @ networks.value.kernel[:, 0] + networks.value.bias[0], rtol=1e-4)


@pytest.mark.parametrize("kind", ["mlp", "shared", "cnn, shared"])
def test_each_output_has_a_gradient_in_its_torso_and_head_alone(kind):
    module, x = KINDS[kind]
    params, x = randomized(initial(kind)), jnp.asarray(x)
    of_policy = networks_of(jax.grad(lambda params: outputs(module, params, x)[0][1])(params))
    of_value = networks_of(jax.grad(lambda params: outputs(module, params, x)[1])(params))
    for own, other, head, torso in [(of_policy, of_value, "policy", 0), (of_value, of_policy, "value", -1)]:
        assert all(np.any(leaf != 0) for leaf in jax.tree.leaves((own.torsos[torso], getattr(own, head))))
        others = getattr(other, head), () if "shared" in kind else other.torsos[torso]
        assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(others))


@pytest.mark.few(2)
@pytest.mark.parametrize("kind", ["mlp", "mlp of vectors", "layer norm", "shared", "cnn", "no layers"])
def test_bfloat16_is_near_float32_and_another(kind):
    module, x = KINDS[kind]
    params = jax.tree.map(lambda leaf: leaf / 4, randomized(initial(kind)))
    x = jnp.asarray(x) if isinstance(x, int) else jnp.sin(jnp.arange(x.size, dtype=jnp.float32)).reshape(x.shape)
    rounded = with_fields(module, dtype="bfloat16")
    exact, rough = (outputs(module, params, x) for module in (module, rounded))
    for a, b in zip(exact, rough, strict=True):
        assert a.dtype == b.dtype == jnp.float32
        np.testing.assert_allclose(a, b, atol=0.03)
    looked_up = kind == "no layers"  # there is nothing to compute before the heads
    assert bool(np.any(exact[1] != rough[1])) != looked_up
    gradient = jax.grad(lambda params: outputs(rounded, params, x)[1])
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(gradient(params)))


def test_bfloat16_memory_is_float32():
    net = with_fields(KINDS["gru"].module, dtype="bfloat16")
    params = randomized(initial("gru"))
    _, value, memory = net.apply(params, jnp.array(3), net.initial_memory())
    assert all(leaf.dtype == jnp.float32 for leaf in (value, *memory))


@pytest.mark.parametrize(("kind", "cls"), [("continuous", DiagGaussian), ("choices", MultiCategorical)])
def test_outputs_stand_for_the_distribution_that_the_actions_need(kind, cls):
    module, params = KINDS[kind].module, randomized(initial(kind))
    x = jnp.arange(6).reshape(2, 3)
    distribution, value = module.apply(params, x)
    assert isinstance(distribution, cls)
    assert distribution.sample(jnp.zeros((2, 3, 3))).shape == (2, 3, 3)
    assert value.shape == distribution.entropy.shape == (2, 3)
    if cls is DiagGaussian:
        np.testing.assert_array_equal(distribution.log_std[1, 2], networks_of(params).log_std)
        squashed, _ = with_fields(module, distribution="tanh_gaussian").apply(params, x)
        assert isinstance(squashed, TanhGaussian)
        np.testing.assert_array_equal(squashed.normal.mean, distribution.mean)
    else:
        exists = np.exp(distribution.choices.log_probs) > 0
        np.testing.assert_array_equal(exists.sum(axis=-1), np.broadcast_to([2, 5, 3], (2, 3, 3)))


# What is refused


class Unbounded(probes.Probe):
    def action_space(self, params=None):
        return spaces.Box(np.array([-1.0, -np.inf]), np.array([1.0, 1.0]), (2,))


@pytest.mark.parametrize(
    ("cls", "others", "name", "value", "allowed"),
    [
        (MLP, {}, "activation", "gelu", "one of 'tanh', 'relu'"),
        (MLP, {}, "dtype", "float16", "one of 'float32', 'bfloat16'"),
        (MLP, {}, "layer_norm", 1, "True or False"),
        (MLP, {}, "shared_torso", "yes", "True or False"),
        (MLP, {"hidden_sizes": ()}, "layer_norm", True, "False: there are no hidden layers"),
        (MLP, {"hidden_sizes": ()}, "shared_torso", True, "False: there are no hidden layers to share"),
        (CNN, {}, "channels", (), "not empty"),
        (CNN, {}, "channels", (0,), "a sequence of integers >= 1 and <= 2**24"),
        (CNN, {"hidden_sizes": ()}, "layer_norm", True, "False: there are no hidden layers"),
        (GRU, {}, "hidden_sizes", (), "not empty, with a gated recurrent unit"),
    ],
)
def test_wrong_fields_are_refused(cls, others, name, value, allowed):
    assert refused(functools.partial(cls, **others), **{name: value}) == allowed


@pytest.mark.parametrize("value", [8, "88", None, (8.0,), (True,), (0,), (8, -1), ("8",), {8}, np.array([8])], ids=repr)
def test_hidden_sizes(value):
    assert refused(MLP, hidden_sizes=value) == "a sequence of integers >= 1 and <= 2**24"
    assert MLP(hidden_sizes=()).hidden_sizes == ()
    assert MLP(hidden_sizes=[8, 4]).hidden_sizes == (8, 4)


@pytest.mark.parametrize("cls", [MLP, GRU])
def test_a_network_has_no_fields_of_another(cls):
    with pytest.raises(ConfigError, match=f"unknown {cls.__name__} field 'channels'"):
        cls(channels=(8,))


def test_a_name_is_the_network_with_its_defaults():
    assert [Config(network=name, env="Breakout-MinAtar").network for name in NETWORKS] == [MLP(), CNN(), GRU()]
    assert CNN(hidden_sizes=(), shared_torso=True).shared_torso  # the convolutions are shared
    with pytest.raises(ConfigError, match="unknown network 'mpl'; did you mean 'mlp'"):
        Config(network="mpl")


def test_images_too_small_for_the_convolutions_are_refused():
    assert Config(env="Breakout-MinAtar", network=CNN(channels=(2,) * 4)).network.channels == (2, 2, 2, 2)
    with pytest.raises(ConfigError, match=r"network='cnn': must be for images of at least 11x11, but .* \(10, 10, 4\)"):
        Config(env="Breakout-MinAtar", network=CNN(channels=(2,) * 5))


@pytest.mark.parametrize(
    ("env", "name", "suitable"),
    [
        ("CartPole-v1", "tanh_gaussian", "'auto', 'categorical'"),
        ("CartPole-v1", "gaussian", "'auto', 'categorical'"),
        ("Pendulum-v1", "categorical", "'auto', 'gaussian', 'tanh_gaussian'"),
        ("Pendulum-v1", "beta", "'auto', 'gaussian', 'tanh_gaussian'"),
        (Unbounded(), "tanh_gaussian", "'auto', 'gaussian'"),
    ],
    ids=lambda x: getattr(x, "name", x),
)
@pytest.mark.parametrize("cls", [MLP, GRU])
def test_distributions_that_do_not_suit_the_actions_are_refused(cls, env, name, suitable):
    with pytest.raises(ConfigError, match=f"distribution='{name}': must be one of {suitable}, for the actions"):
        Config(env=env, network=cls(distribution=name))
