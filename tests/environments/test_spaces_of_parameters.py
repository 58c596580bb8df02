"""Spaces are those of the parameters, masks those of the space, and an environment stays what it was."""

import dataclasses
from typing import Any, NamedTuple

import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnax.environments import spaces
from gymnax.wrappers.purerl import FlattenObservationWrapper, LogWrapper, StickyActionWrapper

from purejaxppo import MLP, Config, ConfigError, Environment, GridWorld, act, check_env, init, optimality, train
from purejaxppo.environments import MultiDiscrete, make, make_task, tabulate

KEY = jax.random.key(0)
SMALL = {
    "num_envs": 4,
    "num_steps": 8,
    "total_timesteps": 64,
    "num_epochs": 1,
    "num_minibatches": 2,
    "network": MLP(hidden_sizes=(4,)),
}


class Params(NamedTuple):
    max_steps_in_episode: int = 3
    limit: float = 1.0
    size: int = 2


class State(NamedTuple):
    time: Any
    action: Any


@dataclasses.dataclass(frozen=True)
class Push(Environment):
    """Shows the last force."""

    default_params = Params()

    def action_space(self, params):
        return spaces.Box(-params.limit, params.limit, (1,))

    def observation_space(self, params):
        return spaces.Box(-jnp.inf, jnp.inf, (params.size,))

    def reset_env(self, key, params):
        return jnp.zeros(2), State(jnp.int32(0), jnp.float32(0))

    def step_env(self, key, state, action, params):
        force = jnp.reshape(action, -1)[0].astype(jnp.float32)
        return jnp.full(2, force), State(state.time + 1, force), jnp.abs(force), False, {}


class Choice(Push):
    """Any space of actions and any mask."""

    def __init__(self, space, mask):
        object.__setattr__(self, "space", space)
        object.__setattr__(self, "mask", mask)

    __hash__ = object.__hash__
    __eq__ = object.__eq__

    def action_space(self, params):
        return self.space

    def action_mask(self, obs, params):
        return self.mask


@pytest.mark.parametrize("distribution", ["gaussian", "tanh_gaussian"])
def test_actions_fill_the_box_of_the_parameters_also_mapped_over(distribution):
    network = MLP(hidden_sizes=(4,), distribution=distribution)

    def largest(limit):
        config = Config(env=Push(), env_params=Params(limit=limit), **SMALL | {"network": network})
        action, _ = act(config, init(config, KEY), jnp.zeros((1000, 2)), key=KEY)
        return jnp.max(jnp.abs(action))

    limits = jnp.array([0.5, 1.5, 0.001])
    found = jax.vmap(largest)(limits)
    assert np.all(found <= limits)
    assert np.all(found > 0.9 * limits)
    np.testing.assert_array_equal(found[1], largest(1.5))


@pytest.mark.parametrize(
    ("env_id", "name"),
    [("Pendulum-v1", "max_torque"), ("MountainCarContinuous-v0", "max_action"), ("PointRobot-misc", "max_force")],
)
def test_bounds_of_gymnaxs_parameters_reach_the_actions(env_id, name):
    params = make(env_id).default_params
    bound = 0.25 * getattr(params, name)
    config = Config(env=env_id, env_params=params.replace(**{name: bound}), **SMALL)
    obs = make_task(env_id).obs_spec
    action, _ = act(config, init(config, KEY), jnp.zeros((1000, *obs.shape)), key=KEY)
    assert np.max(action) == pytest.approx(bound)


@pytest.mark.parametrize("size", [3, jnp.array([2, 3]), np.array([3, 2])], ids=["one", "last of many", "first of many"])
def test_parameters_that_change_a_shape_are_refused(size):
    said = r"observation_space becomes .*shape=\(.*3.*\).*by default it is .*shape=\(2,\).*make it a field of the envir"
    with pytest.raises(ConfigError, match=said):
        Config(env=Push(), env_params=Params(limit=1.0 + 0 * size, max_steps_in_episode=3 + 0 * size, size=size))


MASKS = {
    "flat": (MultiDiscrete((3, 2)), jnp.ones(5, bool), r"\(2, 3\), for MultiDiscrete\(\(3, 2\)\), but has \(5,\)"),
    "transposed": (MultiDiscrete((3, 2)), jnp.ones((3, 2), bool), r"\(2, 3\), .* but has \(3, 2\)"),
    "too long": (spaces.Discrete(3), jnp.ones(4, bool), r"\(3,\), for Discrete\(3.*\), but has \(4,\)"),
    "too short": (spaces.Discrete(3), jnp.ones(2, bool), r"\(3,\), .* but has \(2,\)"),
    "a single one": (spaces.Discrete(3), jnp.array(True), r"\(3,\), .* but has \(\)"),
    "of a box": (spaces.Box(-1, 1, (2,)), jnp.ones(2, bool), "None for continuous actions"),
}


@pytest.mark.parametrize(("space", "mask", "said"), MASKS.values(), ids=MASKS)
def test_a_mask_that_does_not_fit_is_told(space, mask, said):
    env = Choice(space, mask)
    with pytest.raises(ConfigError, match=rf"^action_mask: must .*{said}"):
        train(Config(env=env, **SMALL), KEY)
    (problem,) = check_env(env)
    assert problem.startswith("action_mask: must ")


@pytest.mark.parametrize(
    "sizes", [[[2], [2]], np.array([[2, 3], [4, 5]]), (2, 0), (2, 2.5), (), (True,), "ab", 3, (2, -1)], ids=str
)
def test_categories_are_whole_and_at_least_one(sizes):
    with pytest.raises(ConfigError, match=r"^num_categories=.*: must be a sequence of one or more integers >= 1$"):
        MultiDiscrete(sizes)


class Masked(Environment):
    """The third action is never available; the networks read one of two numbers, as a vector of three."""

    default_params = Params()

    def action_space(self, params):
        return spaces.Discrete(3)

    def observation_space(self, params):
        return spaces.Box(0, 9, (1, 2))

    def reset_env(self, key, params):
        return jnp.array([[3.0, 4.0]]), State(jnp.int32(0), jnp.int32(0))

    def step_env(self, key, state, action, params):
        return jnp.array([[3.0, 4.0]]), State(state.time + 1, action), 100.0 * (action == 2), False, {}

    def action_mask(self, obs, params):
        return jnp.array([True, True, False]) & (obs[0, 0] == 3)

    def features(self, obs):
        return obs[0, 1] ** jnp.arange(3)


WRAPPERS = {
    "log": LogWrapper,
    "sticky": lambda env: StickyActionWrapper(env, 0.1),
    "flat": FlattenObservationWrapper,
    "flat in log": lambda env: LogWrapper(FlattenObservationWrapper(env)),
}


@pytest.mark.few(2)
@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_wrappers_keep_mask_and_features(wrap):
    env = wrap(Masked())
    task = make_task(env)
    obs, _ = task.reset(KEY)
    assert obs.size == 2
    np.testing.assert_array_equal(task.features(obs), [1, 4, 16])
    np.testing.assert_array_equal(task.action_mask(obs), [True, True, False])
    assert check_env(env) == []
    _, metrics = train(Config(env=env, **SMALL), KEY)
    assert np.all(metrics["episode_return"] == 0)


class Halved(LogWrapper):
    """Shows half of an observation."""

    def observation_space(self, params):
        return spaces.Box(0, 9, (1,))

    def reset(self, key, params=None):
        obs, state = super().reset(key, params)
        return obs[0, :1], state


def test_observations_that_the_mask_cannot_read_are_refused():
    with pytest.raises(
        ConfigError, match=r"observations of its wrapper Halved are not those of Masked, whose features"
    ):
        init(Config(env=Halved(Masked()), **SMALL), KEY)


def test_wrappers_that_change_nothing_keep_the_model():
    lake = make("FrozenLake-misc")
    for env in (GridWorld("S.M\n.D."), lake):
        plain, logged = (tabulate(x, env.default_params) for x in (env, LogWrapper(env)))
        jax.tree.map(np.testing.assert_array_equal, plain, logged)
    config = Config(env=LogWrapper(GridWorld("S.M\n.D.")), exact_return=True, **SMALL)
    assert np.isfinite(optimality(config, init(config, KEY)).gap)
    assert tabulate(StickyActionWrapper(lake, 0.5), lake.default_params) is None


class Changeable(Push):
    """An ordinary class."""

    def __init__(self, prize):
        object.__setattr__(self, "prize", prize)

    __hash__ = object.__hash__
    __eq__ = object.__eq__
    __setattr__ = object.__setattr__


@pytest.mark.parametrize("wrap", [lambda env: env, LogWrapper], ids=["itself", "wrapped"])
def test_an_environment_that_was_changed_is_refused(wrap):
    env = Changeable(1.0)
    config = Config(env=wrap(env), **SMALL)
    state = init(config, KEY)
    env.prize = 1.0
    env._cache = "is private"
    init(config, KEY)
    env.prize = 5.0
    for use in (lambda: init(config, KEY), lambda: Config(env=wrap(env)), lambda: act(config, state, jnp.zeros(2))):
        with pytest.raises(ConfigError, match="env='Changeable': its prize must not be changed after its first use"):
            use()
    init(Config(env=Changeable(5.0), **SMALL), KEY)


@dataclasses.dataclass(frozen=True)
class Place:
    """No plain value."""

    name: str


@dataclasses.dataclass(frozen=True)
class At(Push):
    place: Place = Place("here")


def test_environments_that_are_equal_are_accepted_side_by_side():
    configs = [Config(env=At(Place("there")), **SMALL) for _ in range(2)]
    assert configs[0] == configs[1]
    assert configs[0].env.place is not configs[1].env.place


ENDS = {
    "float32": lambda time: jnp.float32(time >= 2),
    "int32": lambda time: jnp.int32(time >= 2),
    "a byte": lambda time: jnp.uint8(time >= 2),
    "Python's": lambda time: False,
}


@pytest.mark.few(2)
@pytest.mark.parametrize("reset_pool", [0, 2])
@pytest.mark.parametrize("name", ENDS)
def test_an_end_may_be_a_number_of_any_type(name, reset_pool):
    class Ends(Push):
        def step_env(self, key, state, action, params):
            obs, state, reward, _, info = super().step_env(key, state, action, params)
            return obs, state, reward, ENDS[name](state.time), info

    _, metrics = train(Config(env=Ends(), reset_pool=reset_pool, **SMALL), KEY)
    np.testing.assert_array_equal(metrics["episode_length"], 3 if name == "Python's" else 2)


def test_an_end_that_is_no_single_number_is_told():
    class Ends(Push):
        def step_env(self, key, state, action, params):
            obs, state, reward, _, info = super().step_env(key, state, action, params)
            return obs, state, reward, jnp.reshape(state.time >= 2, 1), info

    assert check_env(Ends()) == ["terminated has shape (1,): it must be a single number"]


@pytest.mark.parametrize("env_id", ["Push-v0", "my_lab/Push-v0", "my-push.txt"])
def test_a_registered_id_is_what_was_registered(env_id, monkeypatch):
    monkeypatch.setitem(gymnax.registration._registry, env_id, Push)
    monkeypatch.setattr(gymnax, "registered_envs", [*gymnax.registered_envs, env_id])
    assert isinstance(make(Config(env=env_id, **SMALL).env), Push)
