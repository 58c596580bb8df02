"""The learner on odd environments of our own."""

import dataclasses
import itertools
import re

import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnax.environments import spaces

from purejaxppo import Config, ConfigError, GridWorld, GridWorldParams, describe, init, train
from purejaxppo.environments import RandomGridWorldParams, Task, make, make_task
from tests.support.odd import Counter, FiveValues, SixValues
from tests.support.small import SMALL, assert_trains, collect


class NoFinalObservation(SixValues):
    def info(self, final):
        return {"terminal_obs": final}


class Unhashable(SixValues):
    __hash__ = None


@dataclasses.dataclass(init=False)
class UnhashableDataclass(SixValues):
    """A dataclass with equality that is not frozen does not hash."""


def transitions_of(config):
    """One rollout from the start."""
    return jax.device_get(collect(config, init(config, jax.random.key(0)))[1])


def test_five_values_count_done_as_termination():
    config = Config(env=FiveValues(jnp.int8, jnp.int32), **SMALL)
    transitions = transitions_of(config)
    ends = np.array([False, False, True, False])[:, None] & np.ones((1, 2), bool)  # after three steps
    np.testing.assert_array_equal(transitions.terminated, ends)
    np.testing.assert_array_equal(transitions.done, ends)
    np.testing.assert_array_equal(transitions.reward[:, 0], [1, 2, 3, 1])
    np.testing.assert_array_equal(transitions.obs[:, 0, 0, 0], [0, 1, 2, 0])
    np.testing.assert_array_equal(transitions.episode_return[:, 0], [1, 3, 6, 1])
    np.testing.assert_array_equal(transitions.episode_length[:, 0], [1, 2, 3, 1])
    _, metrics = assert_trains(config)
    # Episodes end at steps 3, and 6 of 8.
    np.testing.assert_array_equal(metrics["num_episodes"], [2, 2])
    np.testing.assert_array_equal(metrics["episode_return"], [6, 6])


def test_six_values_tell_truncation_and_the_true_successor():
    env = SixValues()
    config = Config(env=env, **SMALL)
    transitions = transitions_of(config)
    assert not transitions.terminated.any()
    np.testing.assert_array_equal(transitions.done[:, 0], [False, False, True, False])
    step = Task(env, None).step(jax.random.key(0), Counter(2, 0.5), jnp.int32(0))
    assert np.all(step.next_obs == 3)
    assert np.all(step.obs == 0)
    assert step.done
    assert not step.terminated
    assert_trains(config)


def test_describe_says_what_a_time_limit_counts_as():
    told = describe(Config(env=FiveValues(), **SMALL))
    assert "time limits" in told
    assert "taken as terminations" in told
    assert "five values" in told
    for env in (SixValues(), "CartPole-v1"):
        assert "time limits" not in describe(Config(env=env, **SMALL))
    assert Task(SixValues(), None).tells_truncation
    assert not Task(FiveValues(), None).tells_truncation


def test_six_values_without_final_observation_are_refused():
    config = Config(env=NoFinalObservation(), **SMALL)
    with pytest.raises(ConfigError, match="final_observation"):
        train(config, jax.random.key(0))


OBS_DTYPES = [jnp.bool_, jnp.uint8, jnp.int8, jnp.int32, jnp.float16, jnp.bfloat16, jnp.float32]


REWARD_DTYPES = [jnp.int32, jnp.bool_, jnp.float16]
# Both classes with every dtype of observations, and with every dtype of rewards.
DTYPES = [*zip(itertools.cycle([FiveValues, SixValues]), 2 * OBS_DTYPES, itertools.cycle(REWARD_DTYPES), strict=False)]


@pytest.mark.parametrize(("cls", "obs_dtype", "reward_dtype"), DTYPES, ids=lambda value: value.__name__)
def test_dtypes_are_cast(cls, obs_dtype, reward_dtype):
    env = cls(obs_dtype, reward_dtype)
    obs, state = Task(env, None).reset(jax.random.key(0))
    step = Task(env, None).step(jax.random.key(0), state, jnp.int32(0))
    for value in (obs, step.obs, step.next_obs):
        assert value.dtype == (jnp.float32 if jnp.issubdtype(obs_dtype, jnp.floating) else obs_dtype)
        assert value.shape == (2, 3)
    assert step.reward.dtype == jnp.float32
    assert step.reward == 1.0
    assert step.terminated.dtype == step.done.dtype == bool
    assert make_task(env).features(obs).shape == (6,)
    assert make_task(env).features(obs).dtype == jnp.float32
    # The state can be carried: the same dtypes, none of them weak.
    for before, after in zip(jax.tree.leaves(state), jax.tree.leaves(step.state), strict=True):
        assert before.dtype == after.dtype
        assert not before.weak_type
        assert not after.weak_type


@pytest.mark.parametrize("obs_dtype", [jnp.uint8, jnp.float32, jnp.int32], ids=lambda dtype: dtype.__name__)
def test_indices_are_cast_to_int32(obs_dtype):
    env = SixValues(obs_dtype, space=spaces.Discrete(5))
    obs, state = Task(env, None).reset(jax.random.key(0))
    step = Task(env, None).step(jax.random.key(0), state, jnp.int32(0))
    assert obs.dtype == step.obs.dtype == step.next_obs.dtype == jnp.int32
    assert (obs, step.next_obs) == (0, 1)
    assert make_task(env).num_observations == 5


@pytest.mark.parametrize(
    "env",
    [
        SixValues(jnp.uint8, jnp.bool_, reward_shape=(1,)),
        SixValues(jnp.float32, jnp.int32, space=spaces.Discrete(5)),
    ],
    ids=["uint8 and bool [1]", "index as float and int"],
)
def test_trains_on_odd_dtypes(env):
    assert_trains(Config(env=env, **SMALL))


@pytest.mark.parametrize("env", [Unhashable(), UnhashableDataclass()], ids=["plain", "dataclass"])
def test_unhashable_environments_are_refused(env):
    with pytest.raises(ConfigError, match=r"env=.*hashable"):
        Config(env=env)


@pytest.mark.parametrize(
    "env",
    [None, 3, 2.5, object(), ["GridWorld-maze"], {}, GridWorld, len, (1, 2), True],
    ids=lambda env: type(env).__name__,
)
def test_what_is_no_environment_is_refused(env):
    with pytest.raises(ConfigError, match=rf"env={re.escape(repr(env))}: must be an id, the path of a map"):
        Config(env=env)


def test_unknown_id_suggests_the_nearest():
    with pytest.raises(ConfigError, match="unknown env 'Cartpole-v1'; did you mean 'CartPole-v1'"):
        Config(env="Cartpole-v1")


def test_other_spaces_are_refused():
    env = SixValues(space=spaces.Space())
    with pytest.raises(ConfigError, match=r"Odd.*Discrete, Box, Dict or Tuple"):
        Config(env=env)


def test_map_file_as_environment(tmp_path):
    path = tmp_path / "map.txt"
    path.write_text("S.M\n")
    assert Config(env=str(path)).env == Config(env=path).env == GridWorld("S.M")


@pytest.mark.parametrize(
    ("env", "env_params"),
    [
        ("GridWorld-maze", RandomGridWorldParams()),
        ("RandomGridWorld", GridWorldParams()),
        ("CartPole-v1", GridWorldParams()),
        ("GridWorld-maze", gymnax.make("CartPole-v1")[1]),
        ("Acrobot-v1", gymnax.make("CartPole-v1")[1]),
        ("GridWorld-maze", {"slip": 0.1}),
        ("GridWorld-maze", 0.1),
        (SixValues(), GridWorldParams()),
    ],
    ids=lambda value: getattr(value, "name", None) or (value if isinstance(value, str) else type(value).__name__),
)
def test_params_of_another_environment_are_refused(env, env_params):
    with pytest.raises(ConfigError, match="env_params="):
        Config(env=env, env_params=env_params)


@pytest.mark.parametrize("env", ["GridWorld-maze", "CartPole-v1"])
def test_own_params_are_accepted(env):
    params = make(env).default_params
    assert Config(env=env, env_params=params).env_params is params
