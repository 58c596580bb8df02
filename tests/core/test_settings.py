"""Settings: what is refused and how it is said, and that settings are pytrees of their traced fields."""

import copy
import dataclasses
import pickle
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purejaxppo import CNN, GRU, MLP, Config, environments
from purejaxppo.environments import GridWorldParams, RandomGridWorldParams
from purejaxppo.errors import ConfigError, unknown_name
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
from tests.support.small import refused


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
        (MLP, "hidden_size", "hidden_sizes"),
        (CNN, "chanels", "channels"),
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


@pytest.mark.parametrize("cls", [Config, Small, GridWorldParams, RandomGridWorldParams, MLP, CNN, GRU])
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
        allowed = refused(Small, **{name: value})
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
    refused(Small, **{name: value})


@pytest.mark.parametrize("name", [*TRACED, "size"])
@pytest.mark.parametrize("value", [np.array(True), jnp.array(True), np.array(1 + 2j), np.array(None)], ids=repr)
def test_array_without_axes_that_is_not_a_number(name, value):
    refused(Small, **{name: value})


@pytest.mark.parametrize(
    ("name", "value"), [("size", -(10**400)), ("steps", -(10**400)), ("rate", 10**400)], ids=["size", "steps", "rate"]
)
def test_integers_beyond_floats(name, value):
    refused(Small, **{name: value})


@pytest.mark.parametrize("value", [0, 1, None, "True", 0.0, jnp.array([True])], ids=repr)
def test_not_a_switch(value):
    assert refused(Small, flag=value) == "True or False"


@pytest.mark.parametrize("value", ["Red", "", None, 1, ["red"], b"red"], ids=repr)
def test_not_a_choice(value):
    assert refused(Small, color=value) == "one of 'red', 'blue'"


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
        refused(Small, **{name: array(bad)})


@pytest.mark.parametrize("array", [np.array, jnp.array], ids=["numpy", "jax"])
def test_arrays_of_fractions_are_not_counts(array):
    refused(Small, steps=array([1.5, 2.0]))


class Chosen(Settings):
    """A choice of a word or a function."""

    how: object = static("red", "how", one_of("red", or_else="a function of numbers"))


def double(x):
    return 2 * x


@pytest.mark.parametrize("value", ["Red", "", None, 1, ["red"], type, np.ones(2)], ids=repr)
def test_neither_a_choice_nor_a_function(value):
    assert refused(Chosen, how=value) == "one of 'red', or a function of numbers"


@pytest.mark.parametrize("value", ["red", double, jnp.tanh, partial(double, 3), jax.jit(double)])
def test_functions_are_choices_where_they_are_allowed(value):
    assert Chosen(how=value).how is value
    assert Chosen(how=value) == Chosen(how=value)
    refused(Small, color=value) if value != "red" else None


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
        *((Config, name) for name in ("num_envs", "clip_value", "env", "network", "optimizer", "advantage", "info")),
        (MLP, "hidden_sizes"),
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


def test_settings_with_arrays_can_be_compared_and_hashed():
    params = environments.make("Acrobot-v1").default_params
    config = Config(env="Acrobot-v1", env_params=params)
    same, other = copy.deepcopy(config), config.replace(env_params=params.replace(available_torque=jnp.zeros(3)))
    assert config == same != other
    assert config != config.replace(lr=1.0)
    assert config != config.replace(env_params=None)
    assert config != 3
    assert len({config, same, other}) == 2
    assert Config(lr=np.float64(0.5)) == Config(lr=0.5)
    assert hash(Config(lr=jnp.array([1.0, 2.0]))) == hash(Config(lr=np.array([1.0, 2.0])))
