"""Networks of one's own: flax modules, with and without a memory, and those of flax.nnx."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from purejaxppo import (
    MLP,
    Categorical,
    Config,
    ConfigError,
    DiagGaussian,
    GridWorld,
    Recurrent,
    TanhGaussian,
    act,
    describe,
    evaluate,
    gae,
    init,
    train,
)
from purejaxppo.ppo import bind
from tests.support import probes
from tests.support.small import collect, objective, quickly

KEY = jax.random.key(4)
SIZES = {"num_envs": 4, "num_steps": 8, "total_timesteps": 4 * 8 * 3, "num_minibatches": 2, "num_epochs": 2}


class OneTorso(nn.Module):
    """Reads one observation."""

    num_actions: int = 2
    width: int = 6

    @nn.compact
    def __call__(self, obs):
        x = nn.one_hot(obs, 40) if obs.ndim == 0 else obs
        assert x.ndim == 1
        x = nn.relu(nn.Dense(self.width)(x))
        return Categorical.from_logits(nn.Dense(self.num_actions)(x)), nn.Dense(1)(x)[0]


class Memory(Recurrent):
    @nn.compact
    def __call__(self, obs, memory):
        state, count = memory["state"], memory["count"]
        state, x = nn.GRUCell(5, recurrent_kernel_init=nn.initializers.lecun_normal())(state, obs)
        logits, value = nn.Dense(2)(x), nn.Dense(1)(x)[0]
        return Categorical.from_logits(logits), value + 0.1 * count, {"state": state, "count": count + 1}

    def initial_memory(self):
        return {"state": jnp.zeros(5), "count": jnp.zeros(())}


class OfNnx(nnx.Module):
    def __init__(self, num_inputs, width, *, rngs):
        self.hidden = nnx.Linear(num_inputs, width, rngs=rngs)
        self.policy, self.value = nnx.Linear(width, 2, rngs=rngs), nnx.Linear(width, 1, rngs=rngs)

    def __call__(self, obs):
        x = nnx.tanh(self.hidden(obs))
        return Categorical.from_logits(self.policy(x)), self.value(x)[0]


class CellOfNnx(nnx.Module):
    def __init__(self, num_inputs, width, *, rngs):
        self.inputs = nnx.Linear(num_inputs, width, rngs=rngs)
        self.memory, self.outputs = nnx.Linear(width, width, rngs=rngs), nnx.Linear(width, 3, rngs=rngs)

    def __call__(self, obs, memory):
        memory = nnx.tanh(self.inputs(obs) + self.memory(memory))
        outputs = self.outputs(memory)
        return Categorical.from_logits(outputs[:2]), outputs[2], memory


class MemoryOfNnx(Recurrent):
    @nn.compact
    def __call__(self, obs, memory):
        return nnx.bridge.to_linen(CellOfNnx, 2, 5)(obs, memory)

    def initial_memory(self):
        return jnp.zeros(5)


CONFIGS = {
    "flax": Config(env=probes.RandomEnds(), network=OneTorso(), lr=1e-2, **SIZES),
    "flax with a memory": Config(env=probes.RandomEnds(), network=Memory(), lr=1e-2, **SIZES),
    "nnx": Config(env=probes.RandomEnds(), network=nnx.bridge.to_linen(OfNnx, 2, 6), lr=1e-2, **SIZES),
    "nnx with a memory": Config(env=probes.RandomEnds(), network=MemoryOfNnx(), lr=1e-2, **SIZES),
}


@pytest.fixture(scope="module", params=CONFIGS)
def run(request):
    """A configuration, and two seeds trained side by side."""
    config = CONFIGS[request.param]
    return config, quickly(jax.vmap(train, (None, 0)), config, jax.random.split(KEY, 2))


def first(states):
    return jax.tree.map(lambda leaf: leaf[0], states)


@pytest.mark.few(2)
def test_trains_under_vmap_over_seeds(run):
    _, (states, metrics) = run
    assert np.all(metrics["value_loss"][0] != metrics["value_loss"][1])
    assert np.all(metrics["num_skipped"] == 0)
    assert np.all(metrics["grad_norm"] > 0)
    for leaf in jax.tree.leaves(states.params):
        assert np.all(np.isfinite(leaf))
        assert np.any(leaf[0] != leaf[1])


@pytest.mark.parametrize("run", ["nnx"], indirect=True)
def test_seeds_under_vmap_are_those_trained_apart(run):
    config, (states, metrics) = run
    key = jax.random.split(KEY, 2)[0]
    state, alone = quickly(train, config, key)
    for name in alone:
        np.testing.assert_allclose(metrics[name][0], alone[name], rtol=2e-3, atol=1e-4, err_msg=name)
    for old, new, of_both in zip(
        *map(jax.tree.leaves, (init(config, key).params, state.params, first(states).params)), strict=True
    ):
        assert np.any(old != new)
        np.testing.assert_allclose(of_both, new, rtol=2e-3, atol=1e-4)


def test_values_and_ratios_are_those_of_the_module(run):
    config, (states, _) = run
    state = first(states)._replace(key=KEY)
    _, t, batch = collect(config, state)
    apply = jax.jit(config.network.apply)
    value = np.asarray(batch.value) if bind(config).is_recurrent else np.asarray(batch.value).reshape(8, 4).T
    memory = jax.tree.map(lambda leaf: leaf[0], state.runners.memory)
    for i in range(8):
        args = (memory,) if bind(config).is_recurrent else ()
        dist, v, *after = apply(state.params, t.obs[i, 0], *args)
        np.testing.assert_allclose(value[0, i], v, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(t.log_prob[i, 0], dist.log_probs[t.action[i, 0]], rtol=1e-4, atol=1e-5)
        if after:
            memory = config.network.initial_memory() if t.done[i, 0] else after[0]
    assert np.any(t.done[:-1, 0])
    minibatch = jax.tree.map(lambda leaf: leaf[: len(leaf) // 2], batch)
    _, metrics = objective(config, state.agent, minibatch)
    assert abs(metrics["approx_kl"]) < 1e-6
    assert metrics["clip_fraction"] == 0


def test_is_evaluated_and_described(run):
    config, (states, _) = run
    state = first(states)
    assert evaluate(config, state, KEY, num_episodes=3).episode_return.shape == (3,)
    action, memory = act(config, state, jnp.zeros((3, 2)))
    assert action.shape == (3,)
    assert all(leaf.shape[0] == 3 for leaf in jax.tree.leaves(memory))
    assert bool(jax.tree.leaves(memory)) == bind(config).is_recurrent
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    assert f"parameters         {parameters:,}" in describe(config)


def test_equal_modules_share_one_program():
    traces = []
    counted = lambda *args, **kwargs: traces.append(1) or gae(*args, **kwargs)  # noqa: E731
    config = CONFIGS["nnx"].replace(num_envs=2, total_timesteps=16, advantage=counted)
    for width, expected in [(7, 1), (7, 1), (5, 2)]:
        jax.eval_shape(train, config.replace(network=nnx.bridge.to_linen(OfNnx, 2, width)), KEY)
        assert len(traces) == expected
    assert hash(OneTorso(width=3)) == hash(OneTorso(width=3)) != hash(OneTorso(width=4))


@pytest.mark.parametrize("num_steps", [4, 16])
def test_masks_restrict_them(num_steps):
    env = GridWorld("treasure")
    config = Config(env=env, network=OneTorso(num_actions=4), **SIZES | {"num_steps": num_steps})
    assert bind(config).uses_table(config.batch_size) == (num_steps == 16)
    state = init(config, KEY)
    mask = np.asarray(env.action_mask(jnp.arange(env.observation_space().n), None))
    assert not mask.all()
    _, t, _ = collect(config, state)
    assert np.all(mask[np.asarray(t.obs), np.asarray(t.action)])
    probabilities = np.exp(bind(config).table(state.agent).distribution.log_probs)
    np.testing.assert_array_equal(probabilities > 0, mask)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)


class Continuous(nn.Module):
    squash: bool

    @nn.compact
    def __call__(self, obs):
        outputs = nn.Dense(4)(obs)
        normal = DiagGaussian(outputs[:1], outputs[1:2] - 1)  # its spread depends on what it sees
        return TanhGaussian(normal) if self.squash else normal, outputs[3]


@pytest.mark.parametrize("squash", [False, True])
def test_continuous_actions(squash):
    config = Config(env="Pendulum-v1", network=Continuous(squash), normalize_obs=True, **SIZES)
    state, metrics = quickly(train, config, KEY)
    assert np.all(np.isfinite(metrics["value_loss"]))
    assert np.all(np.isfinite(metrics["entropy"]))
    assert abs(act(config, state, jnp.ones(3), key=KEY)[0]) <= 2


class Wrong(nn.Module):
    what: str

    @nn.compact
    def __call__(self, obs):
        logits, value = nn.Dense(2)(obs), nn.Dense(1)(obs)[0]
        choice = Categorical.from_logits(logits)
        return {
            "value": (choice, value[None]),
            "no tuple": choice,
            "logits": (logits, value),
            "three": (choice, value, value),
            "nothing": None,
            "continuous": (DiagGaussian(logits, logits), value),
            "too few": (Categorical.from_logits(logits[:1]), value),
        }[self.what]


class WrongMemory(Memory):
    what: str = "shape"

    def initial_memory(self):
        state = {"shape": jnp.zeros(5), "dtype": jnp.zeros(5), "structure": [jnp.zeros(5)], "two": jnp.zeros(5)}
        return {"state": state[self.what], "count": jnp.zeros(())}

    @nn.compact
    def __call__(self, obs, memory):
        choice, value, memory = Categorical.from_logits(nn.Dense(2)(obs)), nn.Dense(1)(obs)[0], memory["state"]
        if self.what == "two":
            return choice, value
        memory = memory[0] if self.what == "structure" else memory
        memory = memory[:3] if self.what == "shape" else memory.astype(jnp.bfloat16)
        return choice, value, {"state": memory, "count": jnp.zeros(())}


@pytest.mark.parametrize(
    ("network", "said"),
    [
        (Wrong("value"), r"its value must be a single number, but has shape \(1,\)"),
        (Wrong("no tuple"), r"must give \(distribution, value\) for one observation"),
        (Wrong("logits"), r"must give \(distribution, value\)"),
        (Wrong("three"), r"must give \(distribution, value\)"),
        (Wrong("nothing"), r"must give \(distribution, value\)"),
        (Wrong("continuous"), r"its actions must have shape \(\), for Discrete\(2.*, but have \(2,\)"),
        (Wrong("too few"), r"must choose from 2 actions, not 1"),
        (WrongMemory("shape"), r"its memory must have the structure, shapes and dtypes of initial_memory"),
        (WrongMemory("dtype"), r"its memory must"),
        (WrongMemory("structure"), r"its memory must"),
        (WrongMemory("two"), r"must give \(distribution, value, memory\)"),
    ],
    ids=lambda x: getattr(x, "what", ""),
)
def test_wrong_outputs_are_refused_before_anything_trains(network, said):
    config = CONFIGS["flax"].replace(network=network)
    with pytest.raises(ConfigError, match=f"network={type(network).__name__}: {said}"):
        jax.eval_shape(partial(train, config), KEY)


@pytest.mark.parametrize("network", [OneTorso, OfNnx, lambda obs: obs, None, MLP, OneTorso(width=[1])])
def test_what_is_no_network_is_refused(network):
    said = r"must be one of 'mlp', 'cnn', 'gru', a Network such as MLP\(\), or a hashable flax module"
    with pytest.raises(ConfigError, match=f"(?s)network=.*{said}"):
        Config(network=network)


class WithConstants(nn.Module):
    """Its input is scaled by numbers that are not parameters, one of them an integer."""

    @nn.compact
    def __call__(self, obs):
        scale = self.variable("constants", "scale", lambda: jnp.full(2, 0.5)).value
        power = self.variable("tables", "power", lambda: jnp.int32(2)).value
        return OneTorso()(scale * obs**power)


def test_only_the_collection_of_parameters_is_trained():
    config = Config(env=probes.RandomEnds(), network=WithConstants(), lr=1e-2, **SIZES)
    state, metrics = quickly(train, config, KEY)
    fresh = quickly(init, config, KEY).params
    assert set(fresh) == {"params", "constants", "tables"}
    for name in ("constants", "tables"):
        jax.tree.map(np.testing.assert_array_equal, state.params[name], fresh[name])
    assert not np.any(jax.tree.leaves(jax.tree.map(np.array_equal, state.params["params"], fresh["params"])))
    assert np.all(metrics["num_skipped"] == 0)
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(state.opt_state)]
    assert not any("constants" in path or "tables" in path for path in paths)
    num_constants = 3
    num_numbers = sum(leaf.size for leaf in jax.tree.leaves(fresh))
    assert f"parameters         {num_numbers - num_constants:,}\n" in describe(config)


class Normed(nn.Module):
    running: bool

    @nn.compact
    def __call__(self, obs):
        return OneTorso()(nn.BatchNorm(use_running_average=self.running)(obs))


class Dropped(nn.Module):
    @nn.compact
    def __call__(self, obs):
        return OneTorso()(nn.Dropout(0.5, deterministic=False)(obs))


def test_batch_statistics_that_are_only_read_stay_as_they_are():
    state, _ = quickly(train, Config(env=probes.RandomEnds(), network=Normed(True), **SIZES), KEY)
    np.testing.assert_array_equal(state.params["batch_stats"]["BatchNorm_0"]["mean"], np.zeros(2))
    np.testing.assert_array_equal(state.params["batch_stats"]["BatchNorm_0"]["var"], np.ones(2))


@pytest.mark.parametrize(
    ("network", "why"), [(Normed(False), 'collection "batch_stats" is immutable'), (Dropped(), "needs PRNG for")]
)
def test_a_network_that_is_no_function_is_refused(network, why):
    config = Config(env=probes.RandomEnds(), network=network, **SIZES)
    pattern = f"^network={type(network).__name__}: must be a function of its variables .*{why}"
    with pytest.raises(ConfigError, match=pattern) as error:
        init(config, KEY)
    assert "\n" not in str(error.value)
