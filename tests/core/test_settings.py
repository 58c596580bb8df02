"""Settings: what is refused and how it is said, and that settings are pytrees of their traced fields."""

import copy
import dataclasses
import pickle
import re
from functools import partial

import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnax.environments import spaces

from purejaxppo import MLP
from purejaxppo.config import Config
from purejaxppo.environments import GridWorldParams, RandomGridWorldParams
from purejaxppo.errors import ConfigError, unknown_name
from purejaxppo.keys import check_key
from purejaxppo.settings import (
    COUNT,
    FINITE,
    NON_NEGATIVE,
    POSITIVE,
    SWITCH,
    UNIT_INTERVAL,
    Settings,
    one_of,
    static,
    traced,
)
from tests.environments.test_interface import FiveValues, SixValues
from tests.support import probes


class Small(Settings):
    """One field of every kind."""

    size: int = static(3, "a size", COUNT)
    color: str = static("red", "a color", one_of("red", "blue"))
    flag: bool = static(False, "a switch", SWITCH)
    anything: object = static(None, "not checked")
    rate: float = traced(0.5, "positive", POSITIVE)
    weight: float = traced(0.0, "not negative", NON_NEGATIVE)
    share: float = traced(0.5, "a share", UNIT_INTERVAL)
    reward: float = traced(-1.0, "any", FINITE)
    steps: int = traced(10, "a count that is data", COUNT)
    extra: object = traced(None, "not checked")


TRACED = {"rate": 0.5, "weight": 0.0, "share": 0.5, "reward": -1.0, "steps": 10}


def refused(cls=Small, **values):
    """The message with which one field's value is refused, after a check that it names field and value."""
    with pytest.raises(ConfigError) as error:
        cls(**values)
    ((name, value),) = values.items()
    assert str(error.value).startswith(f"{name}={value!r}: must be "), str(error.value)
    return str(error.value).partition(": must be ")[2]


# Names and calls


@pytest.mark.parametrize(
    ("cls", "name", "suggestion"),
    [
        (Config, "num_env", "num_envs"),
        (Config, "learning_rat", "lr"),
        (Config, "gama", "gamma"),
        (Small, "sise", "size"),
        (GridWorldParams, "mony", "money"),
        (RandomGridWorldParams, "walls_density", "wall_density"),
    ],
)
def test_unknown_names_suggest_the_nearest(cls, name, suggestion):
    message = rf"unknown {cls.__name__} field '{name}'; (did you mean '{suggestion}'\?|known: .*\b{suggestion}\b)"
    with pytest.raises(ConfigError, match=message):
        cls(**{name: 1})
    with pytest.raises(ConfigError, match=message):
        cls().replace(**{name: 1})


def test_unknown_name_lists_all_where_none_is_near():
    assert str(unknown_name("thing", "zzz", ["a", "b"])) == "unknown thing 'zzz'; known: a, b"
    assert str(unknown_name("thing", "alpah", ["alpha", "b"])) == "unknown thing 'alpah'; did you mean 'alpha'?"


@pytest.mark.parametrize("cls", [Config, Small, GridWorldParams, RandomGridWorldParams])
def test_positional_arguments_are_refused(cls):
    with pytest.raises(ConfigError, match=f"{cls.__name__} takes keyword arguments only, got 'GridWorld-treasure'"):
        cls("GridWorld-treasure")


def test_config_error_is_a_value_error():
    assert issubclass(ConfigError, ValueError)


# Values


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("rate", [0, -1, 0.0, -1e-9]),
        ("weight", [-1, -1e-9]),
        ("share", [-0.1, 1.1, 2]),
        ("steps", [0, -3, 1.5]),
        ("size", [0, -3, 1.5, np.float32(2.5), jnp.float32(2.5)]),
    ],
)
def test_out_of_range(name, bad):
    for value in bad:
        allowed = refused(**{name: value})
        assert re.match(r"a finite number >=? 0|a number in \[0, 1\]|an integer >= 1", allowed)


@pytest.mark.parametrize("name", [*TRACED, "size"])
@pytest.mark.parametrize(
    "value",
    [
        *(np.nan, np.inf, -np.inf, np.float32("nan"), np.float64("inf"), "1", b"1", True, False, None, [1.0], (1,), {}),
        *(1j, np.bool_(True), np.array("1"), np.complex64(1), object),
    ],
    ids=repr,
)
def test_not_a_number(name, value):
    refused(**{name: value})


@pytest.mark.parametrize("name", [*TRACED, "size"])
@pytest.mark.parametrize("value", [np.array(True), jnp.array(True), np.array(1 + 2j), np.array(None)], ids=repr)
def test_array_without_axes_that_is_not_a_number(name, value):
    refused(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"), [("size", -(10**400)), ("steps", -(10**400)), ("rate", 10**400)], ids=["size", "steps", "rate"]
)
def test_integers_beyond_floats(name, value):
    refused(**{name: value})


@pytest.mark.parametrize("value", [0, 1, None, "True", 0.0, jnp.array([True])], ids=repr)
def test_not_a_switch(value):
    assert refused(flag=value) == "True or False"


@pytest.mark.parametrize("value", ["Red", "", None, 1, ["red"], b"red"], ids=repr)
def test_not_a_choice(value):
    assert refused(color=value) == "one of 'red', 'blue'"


@pytest.mark.parametrize(
    "value", [1, np.int8(1), np.uint32(1), np.float32(1), np.float64(1), np.array(1), np.array(1.0)]
)
@pytest.mark.parametrize("wrap", [lambda x: x, jnp.asarray], ids=["numpy", "jax"])
def test_scalars_become_python_scalars(value, wrap):
    for name in TRACED:
        kept = getattr(Small(**{name: wrap(value)}), name)
        assert type(kept) is (int if name == "steps" else float)
        assert kept == 1
    assert type(Small(size=wrap(value)).size) is int
    assert Small(rate=wrap(value), size=wrap(value)) == Small(rate=1.0, size=1)


def test_boundaries_are_allowed():
    Small(weight=0, share=0, size=1, steps=1, reward=-1e30, rate=1e-30)
    Small(share=1)


@pytest.mark.parametrize("array", [np.array, jnp.array], ids=["numpy", "jax"])
def test_arrays_are_checked_by_element_and_kept(array):
    for name, good, bad in [
        ("rate", [0.1, 2.0], [0.1, 0.0]),
        ("weight", [0.0, 2.0], [[1.0, -1.0]]),
        ("share", [[0.0, 1.0]], [0.5, 1.5]),
        ("reward", [-5.0, 5.0], [1.0, np.nan]),
        ("rate", [1, 2], [np.inf, 1.0]),
        ("share", [0, 1], [True, False]),
        ("steps", [1, 2], [1, 0]),
    ]:
        value = array(good)
        assert getattr(Small(**{name: value}), name) is value
        refused(**{name: array(bad)})


@pytest.mark.parametrize("array", [np.array, jnp.array], ids=["numpy", "jax"])
def test_arrays_of_fractions_are_not_counts(array):
    refused(steps=array([1.5, 2.0]))


def test_unchecked_fields_take_anything():
    assert Small(anything=(1, "x"), extra="y").anything == (1, "x")


# Tracers


def test_tracers_pass():
    assert jax.jit(lambda rate: Small(rate=rate).rate)(-1.0) == -1  # not known while it is traced
    np.testing.assert_array_equal(jax.vmap(lambda lr: Config(lr=lr).lr * 2)(jnp.array([1.0, 2.0])), [2, 4])
    assert jax.grad(lambda x: Small(reward=x).reward ** 2)(3.0) == 6


@pytest.mark.parametrize(
    ("cls", "name"),
    [
        *((Small, name) for name in ("size", "color", "flag")),
        *((Config, name) for name in ("num_envs", "clip_value", "env", "hidden_sizes")),
    ],
)
def test_a_tracer_for_a_static_field_is_refused(cls, name):
    with pytest.raises(ConfigError, match=f"^{name}\\b"):
        jax.jit(lambda x: jnp.zeros(()) if cls(**{name: x}) else None)(4)
    with pytest.raises(ConfigError, match=f"^{name}\\b"):
        jax.vmap(lambda x: jnp.zeros(()) if cls(**{name: x}) else None)(jnp.arange(1, 3))


# Pytrees


def test_leaves_are_the_traced_fields():
    paths = jax.tree_util.tree_leaves_with_path(Small())
    assert {jax.tree_util.keystr(path): leaf for path, leaf in paths} == {f".{k}": v for k, v in TRACED.items()}
    assert jax.tree.leaves(Config()) == [2.5e-4, 0.0, 0.99, 0.95, 0.2, 0.0, 0.5, 0.01, 0.0, 0.5]
    params = GridWorldParams(slip=0.25)
    with_params = Config(env="GridWorld-cliff", env_params=params)
    assert jax.tree.leaves(with_params) == jax.tree.leaves(params) + jax.tree.leaves(Config())


def test_structure_holds_the_static_fields():
    structure = jax.tree.structure
    assert structure(Small()) == structure(Small(rate=7, steps=3))
    assert hash(structure(Small())) == hash(structure(Small(rate=7, steps=3)))
    for other in ({"size": 4}, {"color": "blue"}, {"flag": True}, {"anything": 1}):
        assert structure(Small()) != structure(Small(**other))


def test_a_new_static_value_compiles_anew_and_a_traced_one_does_not():
    traces = []

    @jax.jit
    def run(settings):
        traces.append(settings)
        return settings.rate * settings.size

    assert run(Small(rate=2)) == 6
    assert run(Small(rate=np.float64(3))) == run(Small(rate=jnp.float32(3))) == run(Small(rate=3)) == 9
    assert len(traces) == 1
    assert run(Small(rate=2, size=5)) == 10
    assert len(traces) == 2


@pytest.mark.parametrize("settings", [Small(size=7, extra="x"), Config(num_envs=8, lr=0.1)], ids=["small", "config"])
def test_roundtrip_through_leaves(settings):
    leaves, structure = jax.tree.flatten(settings)
    assert jax.tree.unflatten(structure, leaves) == settings
    # Whatever JAX or a caller puts there: not validated.
    objects = [object() for _ in leaves]
    rebuilt = jax.tree.unflatten(structure, objects)
    assert type(rebuilt) is type(settings)
    assert jax.tree.leaves(rebuilt) == objects
    for anything in (-1.0, "text", np.nan, True, jax.ShapeDtypeStruct((2,), float)):
        assert jax.tree.leaves(jax.tree.map(lambda _: anything, settings)) == [anything] * len(leaves)  # noqa: B023
    axes = jax.tree.map(lambda _: None, settings)
    assert jax.tree.leaves(axes) == []


def test_vmap_over_a_field():
    axes = jax.tree.map(lambda _: None, Small())
    object.__setattr__(axes, "rate", 0)
    settings = Small(rate=jnp.array([1.0, 2.0]), weight=3.0)
    np.testing.assert_array_equal(jax.vmap(lambda s: s.rate * s.weight * s.size, (axes,))(settings), [9, 18])


# Dataclasses


def test_replace():
    settings = Small(size=4)
    changed = settings.replace(rate=np.float32(2), color="blue")
    assert changed == Small(size=4, rate=2.0, color="blue")
    assert type(changed.rate) is float
    assert settings == Small(size=4)
    for replace in (settings.replace, lambda **values: dataclasses.replace(settings, **values)):
        with pytest.raises(ConfigError, match="rate=-1: must be a finite number > 0"):
            replace(rate=-1)
    with pytest.raises(ConfigError, match="num_minibatches=3: must be a divisor"):
        Config().replace(num_minibatches=3)


@pytest.mark.parametrize("settings", [Small(), Config()], ids=["small", "config"])
def test_frozen(settings):
    for field in dataclasses.fields(settings):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(settings, field.name, 1)
        with pytest.raises(dataclasses.FrozenInstanceError):
            delattr(settings, field.name)


def test_equality_and_hash():
    assert Config() == Config()
    assert hash(Config()) == hash(Config())
    assert Config(lr=1) != Config(lr=2)
    assert Config(num_envs=8) != Config()
    assert len({Config(), Config(lr=2.5e-4), Config(num_envs=8), Config(num_envs=jnp.int32(8))}) == 2
    assert Config(network=MLP(hidden_sizes=[8])) == Config(network=MLP(hidden_sizes=(8,)))

    class Other(Small):
        pass

    assert Other() != Small()


@pytest.mark.parametrize(
    "duplicate", [copy.copy, copy.deepcopy, *(lambda x, p=p: pickle.loads(pickle.dumps(x, p)) for p in range(2, 6))]
)
def test_copies(duplicate):
    params = GridWorldParams(slip=0.1, step_cost=2)
    for settings in (
        Config(lr=0.1, env="GridWorld-cliff", env_params=params, network=MLP(hidden_sizes=(3,))),
        params,
        Config(),
    ):
        twin = duplicate(settings)
        assert twin == settings
        assert hash(twin) == hash(settings)
        assert jax.tree.structure(twin) == jax.tree.structure(settings)
    rates = duplicate(Config(lr=jnp.array([1.0, 2.0]))).lr
    np.testing.assert_array_equal(rates, [1, 2])


def test_subclasses_add_fields():
    class Larger(Small):
        more: float = traced(1.0, "more", POSITIVE)
        kind: int = static(1, "kind", COUNT)

    settings = Larger(more=2, size=4)
    assert jax.tree.leaves(settings) == [*TRACED.values(), 2.0]
    assert jax.tree.unflatten(jax.tree.structure(settings), jax.tree.leaves(settings)) == settings
    refused(Larger, more=-1)
    refused(Larger, rate=-1)


# Config


@pytest.mark.parametrize("cls", [Config, GridWorldParams, RandomGridWorldParams])
def test_every_field_says_what_it_is(cls):
    for field in dataclasses.fields(cls):
        assert isinstance(field.metadata["static"], bool), field.name
        assert isinstance(field.metadata["help"], str), field.name
        assert len(field.metadata["help"]) > 5, field.name
        getattr(cls(), field.name)


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("total_timesteps", 0, "an integer >= 1"),
        ("num_envs", 2.5, "an integer >= 1"),
        ("num_steps", -1, "an integer >= 1"),
        ("num_epochs", 0, "an integer >= 1"),
        ("num_minibatches", "4", "an integer >= 1"),
        ("activation", "gelu", "one of 'tanh', 'relu'"),
        ("normalize_advantage", None, "True or False"),
        ("clip_value", "no", "True or False"),
        ("lr", 0.0, "a finite number > 0"),
        ("gamma", 1.01, "a number in [0, 1]"),
        ("gae_lambda", -0.01, "a number in [0, 1]"),
        ("clip_eps", 0, "a finite number > 0"),
        ("vf_coef", -1, "a finite number >= 0"),
        ("ent_coef", -0.1, "a finite number >= 0"),
        ("max_grad_norm", np.inf, "a finite number > 0"),
        ("num_minibatches", 3, "a divisor of num_envs * num_steps = 512"),
        ("num_minibatches", 1024, "a divisor of num_envs * num_steps = 512"),
        ("total_timesteps", 511, "at least num_envs * num_steps = 512, one update"),
        ("env_params", 1.0, "None, or parameters of GridWorld (GridWorldParams)"),
    ],
)
def test_config_names_field_value_and_what_is_allowed(name, value, allowed):
    assert refused(Config, **{name: value}) == allowed


CARTPOLE, IMAGES, PENDULUM = {"env": "CartPole-v1"}, {"env": "Breakout-MinAtar"}, {"env": "Pendulum-v1"}


class Unbounded(probes.Probe):
    def action_space(self, params=None):
        return spaces.Box(np.array([-1.0, -np.inf]), np.array([1.0, 1.0]), (2,))


@pytest.mark.parametrize(
    ("others", "name", "value", "allowed"),
    [
        (CARTPOLE, "network", "cnn", "for images of at least 3x3, but env='CartPole-v1' observes (4,)"),
        ({}, "network", "cnn", "for images of at least 3x3, but env='GridWorld-treasure' observes ()"),
        (IMAGES | {"channels": (8,) * 5}, "network", "cnn", "for images of at least 11x11, but env='Breakout-MinAtar'"),
        (IMAGES | {"network": "cnn"}, "channels", (), "not empty, with network='cnn'"),
        (IMAGES | {"network": "cnn"}, "channels", (0,), "a sequence of integers >= 1"),
        ({}, "channels", (8,), "(16,), which is not used, with network='mlp'"),
        ({"network": "gru"}, "channels", (8,), "(16,), which is not used, with network='gru'"),
        ({"network": "gru"}, "hidden_sizes", (), "not empty, with network='gru'"),
        ({"network": MLP(hidden_sizes=())}, "layer_norm", True, "False: there are no hidden layers"),
        ({"network": MLP(hidden_sizes=())}, "shared_torso", True, "False: there are no hidden layers to share"),
        ({"network": "gru"}, "num_minibatches", 8, "a divisor of num_envs = 4, as a network with a memory learns from"),
        ({}, "network", "lstm", "one of 'mlp', 'cnn', 'gru', or a hashable flax module"),
        (CARTPOLE, "squash_actions", True, "False: the actions of env='CartPole-v1' are not continuous"),
        ({"env": Unbounded()}, "squash_actions", True, "False: the actions of env="),
        ({}, "normalize_obs", True, "False: the observations of env='GridWorld-treasure' are indices"),
        (CARTPOLE, "exact_return", True, "False: no model is known of env='CartPole-v1'"),
        (CARTPOLE, "reset_pool", -1, "an integer >= 0"),
        (CARTPOLE, "reset_pool", 1.5, "an integer >= 0"),
        ({}, "dtype", "float16", "one of 'float32', 'bfloat16'"),
        ({}, "layer_norm", 1, "True or False"),
        ({}, "shared_torso", "yes", "True or False"),
        ({}, "target_kl", 0, "a finite number > 0, or None"),
        ({}, "target_kl", -0.1, "a finite number > 0, or None"),
        ({}, "dual_clip", 1.0, "a finite number > 1, or None"),
        ({}, "dual_clip", "3", "a finite number > 1, or None"),
        ({}, "huber_delta", 0.0, "a finite number > 0, or None"),
        ({}, "huber_delta", np.nan, "a finite number > 0, or None"),
    ],
)
def test_config_names_what_does_not_fit_together(others, name, value, allowed):
    assert refused(partial(Config, **others), **{name: value}).startswith(allowed)


class Wrapped:
    """As gymnax's wrappers: `step_env` is that of the environment inside, whatever the wrapper does in `step`."""

    def __init__(self, env):
        self.env = env

    def __getattr__(self, name):
        return getattr(self.env, name)


def test_pools_need_an_environment_that_does_not_reset_itself():
    for env in (FiveValues(), SixValues(), Wrapped(gymnax.make("CartPole-v1")[0])):
        assert "has no step without a reset" in refused(partial(Config, env=env), reset_pool=4)


@pytest.mark.parametrize("value", [8, "88", None, (8.0,), (True,), (0,), (8, -1), ("8",), {8}, np.array([8])], ids=repr)
def test_hidden_sizes(value):
    assert refused(Config, hidden_sizes=value) == "a sequence of integers >= 1"
    assert Config(network=MLP(hidden_sizes=())).hidden_sizes == ()
    assert Config(network=MLP(hidden_sizes=[8, 4])).hidden_sizes == (8, 4)


def test_sizes():
    config = Config(num_envs=6, num_steps=10, num_minibatches=4, total_timesteps=200)
    assert (config.batch_size, config.minibatch_size, config.num_updates) == (60, 15, 3)
    assert Config().replace(total_timesteps=512).num_updates == 1
    assert Config().replace(total_timesteps=1023).num_updates == 1
    assert Config().replace(total_timesteps=1024).num_updates == 2
    single = Config(num_envs=1, num_steps=1, num_minibatches=1, total_timesteps=1)
    assert (single.batch_size, single.minibatch_size, single.num_updates) == (1, 1, 1)


# Keys


def test_check_key():
    check_key(jax.random.key(0))
    for key in (jax.random.PRNGKey(0), 0, None, np.zeros(2, np.uint32)):
        with pytest.raises(ConfigError, match="key: must be a typed key"):
            check_key(key)
    with pytest.raises(ConfigError, match=r"single key, not an array of shape \(3,\)"):
        check_key(jax.random.split(jax.random.key(0), 3))
    jax.vmap(lambda key: check_key(key) or jnp.zeros(()))(jax.random.split(jax.random.key(0), 3))
