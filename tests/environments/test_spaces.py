"""Observations of several parts, and actions of several choices."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnax.environments import spaces
from gymnax.environments.environment import EnvParams

from purejaxppo import CNN, GRU, MLP, Categorical, Config, ConfigError, Environment, act, evaluate, init, train, update
from purejaxppo.environments import MultiDiscrete, make_task
from purejaxppo.environments.spaces import as_declared, as_floats, flatten
from purejaxppo.ppo import bind
from tests.support import probes
from tests.support.small import assert_trains, assert_trees_close, collect, quickly

KEY = jax.random.key(6)
SIZES = {"num_envs": 4, "num_steps": 8, "total_timesteps": 4 * 8 * 2, "num_epochs": 1, "num_minibatches": 2}


class Nested(probes.Probe):
    """A dictionary, not in alphabetical order, with an index and a tuple; what it emits are other dtypes."""

    @property
    def default_params(self):
        return EnvParams(max_steps_in_episode=3)

    def observation_space(self, params=None):
        pair = spaces.Tuple((spaces.Box(-9, 9, ()), spaces.Discrete(4)))
        return spaces.Dict({"map": spaces.Box(0, 9, (2, 2)), "kind": spaces.Discrete(3), "a pair": pair})

    def observe(self, key, state, action, params):
        time = state.time.astype(jnp.int8)
        pair = state.sign.astype(jnp.float16), jnp.minimum(time, 3)
        return {"map": jnp.full((2, 2), time, jnp.uint8), "kind": time % 3, "a pair": pair}

    def is_terminated(self, state, params):
        return jnp.zeros((), bool)

    def reward(self, state, action):
        return jnp.where((action == 1) == (state.sign > 0), 1.0, -1.0)


CONFIG = Config(env=Nested(), network=MLP(hidden_sizes=(8,)), **SIZES)


def observed(time, sign):
    return {"map": np.full((2, 2), time), "kind": time % 3, "a pair": (sign, min(time, 3))}


def vector(time, sign):
    """In the order of the space."""
    return [time] * 4 + [float(time % 3 == i) for i in range(3)] + [sign] + [float(min(time, 3) == i) for i in range(4)]


@pytest.mark.parametrize("time", range(4))
def test_features_are_the_parts_one_after_the_other(time):
    obs = make_task(Nested()).typed(observed(time, -0.5))
    features = make_task(Nested()).features(obs)
    assert features.dtype == jnp.float32
    np.testing.assert_array_equal(features, vector(time, -0.5))
    np.testing.assert_array_equal(bind(CONFIG).network_input(obs), features)


def test_parts_have_the_dtypes_of_their_spaces():
    spec = make_task(Nested()).obs_spec
    expected = {"map": ((2, 2), "float32"), "kind": ((), "int32"), "a pair": (((), "float32"), ((), "int32"))}
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype.name), spec) == expected


@pytest.mark.few(1)
@pytest.mark.parametrize("change", [{}, {"network": "gru"}, {"normalize_obs": True, "reset_pool": 2}], ids=str)
def test_trains(change):
    config = CONFIG.replace(**change)
    assert_trains(config)
    _, t, _ = collect(config, init(config, KEY))
    time = np.asarray(t.obs["map"][..., 0, 0])
    assert {0, 1, 2} == set(time.ravel())
    np.testing.assert_array_equal(t.obs["kind"], time % 3)
    np.testing.assert_array_equal(t.obs["a pair"][1], time)
    np.testing.assert_array_equal(t.next_obs["map"][..., 0, 0], time + 1)  # at the end of an episode as well
    np.testing.assert_array_equal(t.next_obs["a pair"][0], t.obs["a pair"][0])
    np.testing.assert_array_equal(t.done, time == 2)


def test_learns_from_a_part():
    config = CONFIG.replace(num_envs=32, total_timesteps=32 * 8 * 30, lr=1e-2, num_epochs=4)
    assert quickly(train, config, KEY)[1]["episode_return"][-1] > 2.5


def test_moments_are_those_of_the_parts():
    config = CONFIG.replace(normalize_obs=True)
    state = init(config, KEY)
    _, t, _ = collect(config, state)
    time, sign = np.asarray(t.obs["kind"]), np.asarray(t.obs["a pair"][0])
    rows = np.array([vector(a, b) for a, b in zip(time.ravel(), sign.ravel(), strict=True)])
    after = update(config, state)[0].obs_moments
    np.testing.assert_allclose(after.mean, rows.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(after.variance, rows.var(axis=0), atol=1e-5)


class Reader(nn.Module):
    """A network that reads the parts: floats standardised, indices as they are."""

    @nn.compact
    def __call__(self, obs):
        assert obs["kind"].dtype == obs["a pair"][1].dtype == jnp.int32
        numbers = jnp.append(obs["map"].reshape(-1), obs["a pair"][0])
        x = nn.Dense(4)(numbers) + nn.Embed(3, 4)(obs["kind"]) + nn.Embed(4, 4)(obs["a pair"][1])
        return Categorical.from_logits(nn.Dense(2)(x)), nn.Dense(1)(nn.tanh(x))[0]


@pytest.mark.long
def test_a_user_network_reads_the_parts():
    config = Config(env=Nested(), network=Reader(), normalize_obs=True, **SIZES)
    state, _ = quickly(train, config, KEY)
    one = make_task(Nested()).typed(observed(2, 1.0))
    mean, deviation = state.obs_moments.mean, jax.tree.map(jnp.sqrt, state.obs_moments.variance)
    pair = (1 - mean["a pair"][0]) / deviation["a pair"][0], one["a pair"][1]
    seen = {"map": (one["map"] - mean["map"]) / deviation["map"], "kind": one["kind"], "a pair": pair}
    expected = config.network.apply(state.params, seen)[0]
    now, _ = bind(config).step(state.agent, jax.tree.map(lambda leaf: leaf[None], one))
    np.testing.assert_allclose(now.distribution.log_probs[0], expected.log_probs, rtol=1e-4, atol=1e-5)


def test_acts_on_one_observation_and_on_any_number():
    state = init(CONFIG, KEY)
    rows = [[observed(time, sign) for time in range(3)] for sign in (-1.0, 1.0)]
    batch = jax.tree.map(lambda *leaves: np.stack(leaves).reshape(2, 3, *np.shape(leaves[0])), *rows[0], *rows[1])
    together, _ = act(CONFIG, state, batch)
    assert together.shape == (2, 3)
    for i, j in np.ndindex(2, 3):
        assert act(CONFIG, state, rows[i][j])[0] == together[i, j]
    assert act(CONFIG, state, rows[0][0], key=KEY)[0].shape == ()
    assert evaluate(CONFIG, state, KEY, num_episodes=2).episode_length.tolist() == [3, 3]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"kind": None}, r"obs: must be structured like"),
        ({"more": np.zeros(3)}, r"obs: must be structured like"),
        ({"map": np.zeros((2, 3))}, r"obs: has shape \(2, 3\); must end in \(2, 2\)"),
        ({"map": np.zeros((5, 2, 2))}, r"obs: its parts must have the same leading axes"),
    ],
    ids=["missing", "more", "shape", "leading axes"],
)
def test_observations_of_another_structure_are_refused(change, said):
    with pytest.raises(ConfigError, match=said):
        act(CONFIG, init(CONFIG, KEY), observed(1, 1.0) | change)


class Choices(probes.Probe, Environment):
    """Three choices of which some are masked by the time; a masked one, or one that does not exist, costs a fortune."""

    sizes = (2, 4, 3)

    @property
    def default_params(self):
        return EnvParams(max_steps_in_episode=4)

    def action_space(self, params=None):
        return MultiDiscrete(self.sizes)

    def observation_space(self, params=None):
        return spaces.Box(0, 4, (1,))

    def observe(self, key, state, action, params):
        return jnp.float32(state.time)[None]

    def action_mask(self, obs, params):
        """The choice of number `time` is fixed to 1; of the last, 2 is never there. True where nothing exists."""
        column = jnp.arange(4)[None]
        is_fixed = (jnp.arange(3) == obs[0])[:, None]
        return jnp.where(is_fixed, column == 1, True) & ((column != 2) | (jnp.arange(3) != 2)[:, None])

    def step_env(self, key, state, action, params):
        mask = self.action_mask(self.observe(key, state, action, params), params)
        exists = action < jnp.array(self.sizes)
        allowed = jnp.all(mask[jnp.arange(3), action] & exists & (action >= 0))
        state = state._replace(time=state.time + 1)
        reward = jnp.where(allowed, jnp.sum(action == jnp.array([0, 3, 0])), -1000.0)
        return self.observe(key, state, action, params), state, reward, jnp.zeros((), bool), {}


SIZES_OF_CHOICES = {"num_envs": 16, "lr": 1e-2, "total_timesteps": 16 * 8 * 12, "num_epochs": 4}


@pytest.mark.few(1)
@pytest.mark.parametrize("network", [MLP(hidden_sizes=(8,)), GRU(hidden_sizes=(8,))], ids=["mlp", "gru"])
def test_masked_choices_are_never_taken(network):
    config = Config(env=Choices(), network=network, **SIZES | SIZES_OF_CHOICES)
    state, metrics = quickly(train, config, KEY)
    assert np.all(metrics["episode_return"] >= 0)
    assert metrics["episode_return"][-1] > metrics["episode_return"][0] + 1
    assert np.all(metrics["num_skipped"] == 0)
    _, t, _ = collect(config, state)
    action, time = np.asarray(t.action), np.asarray(t.obs[..., 0])
    assert action.shape == (8, 16, 3)
    assert np.all(t.reward >= 0)
    for k, allowed in enumerate([{0, 1}, {0, 1, 2, 3}, {0, 1}]):
        assert set(action[time != k, k]) == allowed if k != 1 else set(action[time != k, k]) <= allowed
        assert set(action[time == k, k]) == {1}
    episodes = evaluate(config, state, KEY, num_episodes=2)
    assert np.all((episodes.episode_return >= 0) & (episodes.episode_return <= 9))  # 2, 2, 2 and 3 at best


# Dtypes


DECLARED = {
    jnp.bool_: jnp.bool_,
    jnp.uint8: jnp.uint8,
    jnp.int32: jnp.int32,
    jnp.float16: jnp.float32,
    jnp.bfloat16: jnp.float32,
    jnp.float32: jnp.float32,
    np.float64: jnp.float32,
}


@pytest.mark.parametrize(("dtype", "stored"), DECLARED.items(), ids=lambda dtype: dtype.__name__)
def test_boxes_are_stored_as_they_are_declared_and_read_as_floats(dtype, stored):
    box, x = spaces.Box(0, 9, (2, 3), dtype), np.arange(6).reshape(2, 3)
    space = spaces.Dict({"a": box, "b": spaces.Tuple((box, spaces.Discrete(7)))})
    for emitted in (x, jnp.float32(x), jnp.uint8(x)):
        obs = as_declared(space, {"a": emitted, "b": (emitted, np.int64(5))})
        for leaf in (obs["a"], obs["b"][0]):
            assert leaf.dtype == stored
            np.testing.assert_array_equal(leaf, x.astype(stored))
        floats = as_floats(space, obs)
        for index in (obs["b"][1], floats["b"][1]):
            assert (index, index.dtype) == (5, jnp.int32)
        for leaf in (floats["a"], floats["b"][0], flatten(space, obs)):
            assert leaf.dtype == jnp.float32
        np.testing.assert_array_equal(floats["a"], x.astype(stored))
        one_hot = [0, 0, 0, 0, 0, 1, 0]
        np.testing.assert_array_equal(flatten(space, obs), [*2 * [*x.astype(stored).ravel()], *one_hot])


class Numbers(probes.RandomEnds):
    """Whole numbers of a dtype, which tell the sign and the time, in a box like an image."""

    def __init__(self, dtype):
        self.dtype = dtype

    def observation_space(self, params=None):
        return spaces.Box(0, 255, (3, 3, 2), self.dtype)

    def observe(self, key, state, action, params):
        told = jnp.stack([100 + 10 * state.sign, 50 * state.time])
        return jnp.broadcast_to(told, (3, 3, 2)).astype(self.dtype)


class Watcher(nn.Module):
    """It reads what it should."""

    dtype: str

    @nn.compact
    def __call__(self, obs):
        assert obs.dtype == self.dtype
        x = nn.tanh(nn.Dense(4)(obs.reshape(-1) / 255))
        return Categorical.from_logits(nn.Dense(2)(x)), nn.Dense(1)(x)[0]


READERS = {"mlp": MLP(hidden_sizes=(4,)), "cnn": CNN(channels=(2,), hidden_sizes=(4,)), "gru": GRU(hidden_sizes=(4,))}


@pytest.mark.few(2)
@pytest.mark.parametrize("dtype", ["uint8", "int32"])
@pytest.mark.parametrize("network", ["mlp", "cnn", "gru", "user's"])
def test_whole_numbers_stay_what_they_are_and_networks_read_them(dtype, network):
    of_user = network == "user's"
    exact, floats = (
        Config(env=Numbers(jnp.dtype(name)), network=Watcher(name) if of_user else READERS[network], **SIZES)
        for name in (dtype, "float32")
    )
    state, same_state = quickly(init, exact, KEY), quickly(init, floats, KEY)
    after, t, batch = collect(exact, state)
    for obs in (t.obs, t.next_obs, batch.obs, state.runners.obs, after.runners.obs):
        assert obs.dtype == dtype
    _, same, same_batch = collect(floats, same_state)
    assert same.obs.dtype == same_batch.obs.dtype == jnp.float32
    for name in ("obs", "next_obs", "action", "done"):
        np.testing.assert_array_equal(getattr(t, name), getattr(same, name))
    assert_trees_close((t.log_prob, batch.value), (same.log_prob, same_batch.value), rtol=1e-5, atol=1e-6)
    assert {90, 110} == set(np.unique(t.obs[..., 0]))
    action, _ = act(exact, state, t.obs[0])
    np.testing.assert_array_equal(action, act(floats, same_state, np.float32(t.obs[0]))[0])


@pytest.mark.few(1)
@pytest.mark.parametrize("network", [CNN(channels=(2,), hidden_sizes=(4,)), Watcher("float32")], ids=["cnn", "user's"])
def test_standardised_whole_numbers_are_floats(network):
    config = Config(env=Numbers(jnp.dtype("uint8")), network=network, normalize_obs=True, reset_pool=2, **SIZES)
    state, metrics = quickly(train, config, KEY)
    assert np.all(np.isfinite(metrics["value_loss"]))
    assert np.all(metrics["grad_norm"] > 0)
    assert state.runners.obs.dtype == jnp.uint8
    seen = state.obs_moments
    assert seen.mean.dtype == seen.variance.dtype == jnp.float32
    assert np.all((seen.mean[..., 0] > 90) & (seen.mean[..., 0] < 110))
    np.testing.assert_allclose(seen.variance[..., 0], 100 - (seen.mean[..., 0] - 100) ** 2, rtol=1e-3)
