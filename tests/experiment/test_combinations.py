"""Combinations of fields' values as configurations."""

import dataclasses
from typing import NamedTuple

import gymnax
import jax.numpy as jnp
import numpy as np
import pytest

from purejaxppo import MLP, Config, ConfigError, GridWorld, GridWorldParams
from purejaxppo.experiment.sweeps.combinations import combinations, static_names
from tests.support.probes import RewardByAction

BASE = Config(num_envs=4, num_steps=8, total_timesteps=64)


def test_every_combination_in_order_with_its_name():
    found = combinations(BASE, {"lr": [0.1, 0.25], "network.hidden_sizes": [(4,), [5, 6]], "clip_value": (True, False)})
    assert found == [
        (
            f"lr={lr}, network.hidden_sizes={text}, clip_value={clip}",
            BASE.replace(lr=lr, network=MLP(hidden_sizes=sizes), clip_value=clip),
        )
        for lr in (0.1, 0.25)
        for sizes, text in (((4,), "(4,)"), ((5, 6), "[5, 6]"))
        for clip in (True, False)
    ]


def test_nothing_swept_is_the_configuration_itself():
    assert combinations(BASE, {}) == [("as configured", BASE)]


def test_arrays_are_lists_of_values():
    for values in (np.array([0.5, 0.25]), jnp.array([0.5, 0.25])):
        assert combinations(BASE, {"lr": values}) == combinations(BASE, {"lr": [0.5, 0.25]})


def test_parameters_of_the_environment():
    slips = [config.env_params for _, config in combinations(BASE, {"env_params.slip": [0, 0.5]})]
    assert slips == [GridWorldParams(), GridWorldParams(slip=0.5)]
    assert [type(params.slip) for params in slips] == [float, float]
    base = BASE.replace(env_params=GridWorldParams(money=9))
    found = combinations(base, {"env_params.slip": [0.5], "env_params.dragon": [-1, -2]})
    assert [config.env_params for _, config in found] == [
        GridWorldParams(money=9, slip=0.5, dragon=dragon) for dragon in (-1, -2)
    ]
    assert [name for name, _ in found] == [f"env_params.slip=0.5, env_params.dragon={dragon}" for dragon in (-1, -2)]
    whole = [GridWorldParams(money=9), GridWorldParams(slip=0.5)]
    found = combinations(BASE, {"env_params": whole})
    assert [config.env_params for _, config in found] == whole
    assert [name for name, _ in found] == ["env_params=GridWorldParams 1", "env_params=GridWorldParams 2"]


def test_another_environment_starts_from_its_own_parameters():
    base = BASE.replace(env_params=GridWorldParams(money=9))
    found = combinations(base, {"env": ["GridWorld-treasure", "GridWorld-maze", "CartPole-v1"]})
    assert [config.env_params for _, config in found] == [GridWorldParams(money=9), None, None]
    found = combinations(base, {"env": ["GridWorld-treasure", "GridWorld-maze"], "env_params.slip": [0.5]})
    assert [config.env_params for _, config in found] == [GridWorldParams(money=9, slip=0.5), GridWorldParams(slip=0.5)]


def test_gymnax_parameters_keep_their_types():
    env = "CartPole-v1"
    found = combinations(
        BASE.replace(env=env), {"env_params.gravity": [9, 9.5], "env_params.max_steps_in_episode": [10.0]}
    )
    params = [config.env_params for _, config in found]
    default = gymnax.make(env)[1]
    assert params == [default.replace(gravity=gravity, max_steps_in_episode=10) for gravity in (9.0, 9.5)]
    assert (type(params[0].gravity), type(params[0].max_steps_in_episode)) == (float, int)


def test_names_are_short_and_differ():
    assert [name for name, _ in combinations(BASE, {"lr": [1 / 3, 2 / 3]})] == ["lr=0.3333", "lr=0.6667"]
    assert [name for name, _ in combinations(BASE, {"lr": [0.10001, 0.10002]})] == ["lr=0.10001", "lr=0.10002"]
    maps = [GridWorld("S.M"), GridWorld("S..M")]
    assert [name for name, _ in combinations(BASE, {"env": maps})] == ["env=GridWorld 1", "env=GridWorld 2"]


def test_static_fields_are_named():
    over = {"lr": [0.1], "num_envs": [4], "env_params.slip": [0.1], "env": ["CartPole-v1"], "target_kl": [None, 0.1]}
    over["network.hidden_sizes"] = [[4]]
    assert static_names(BASE, over) == ["num_envs", "env", "target_kl", "network.hidden_sizes"]


@pytest.mark.parametrize(
    ("over", "said"),
    [
        (["lr"], r"over=\['lr'\]: must be a mapping from fields to lists"),
        ({"lrr": [0.1]}, "unknown Config field 'lrr'; did you mean 'lr'"),
        ({1: [0.1]}, "over=1: must be a mapping from names of fields"),
        ({"env_params.slp": [0.1]}, "unknown env_params name 'slp'; did you mean 'slip'"),
        ({"lr": []}, r"over\['lr'\]=\[\]: must be a list of at least one value"),
        ({"lr": np.zeros(0)}, r"over\['lr'\]=.*: must be a list of at least one value"),
        ({"lr": 0.1}, r"over\['lr'\]=0.1: must be a list"),
        ({"lr": jnp.float32(0.1)}, r"over\['lr'\]=.*: must be a list"),
        ({"env": "CartPole-v1"}, r"over\['env'\]='CartPole-v1': must be a list"),
        ({"lr": {0.1}}, r"over\['lr'\]=\{0.1\}: must be a list"),
        ({"lr": [0.1, 0.2, 0.1]}, r"over\['lr'\]: holds 0.1 twice"),
        ({"lr": [0.1, -1]}, "lr=-1: must be a finite number > 0"),
        ({"lr": [0.1, "fast"]}, "lr='fast': must be a finite number > 0"),
        ({"lr": [np.array([0.1, 0.2])]}, r"lr=array.*: must be of shape \(\); over=\{'lr': \[...\]\} sweeps"),
        ({"network.hidden_sizes": [8, 16]}, "hidden_sizes=8: must be a sequence of integers >= 1"),
        ({"num_envs": [4, 3], "num_minibatches": [32]}, "num_minibatches=32: must be a divisor"),
        ({"env": ["CartPole"]}, "unknown env 'CartPole'; did you mean 'CartPole-v1'"),
        ({"env": ["CartPole-v1", "GridWorld-maze"], "env_params.slip": [0.1]}, "unknown env_params name 'slip'"),
        ({"env_params.slip": [0.1], "env_params": [GridWorldParams()]}, "both 'env_params' and a field of it"),
        ({"env_params.slip": [2.0]}, "slip=2.0: must be a number in"),
        ({"env_params.slip": ["0.1"]}, "env_params.slip='0.1': must be like its present value, 0.0"),
        ({"env_params.slip": [[0.1, 0.2]]}, r"env_params.slip=\[0.1, 0.2\]: must be like"),
        ({"env_params.slip": [True]}, "env_params.slip=True: must be like"),
        ({"env_params.max_steps_in_episode": [10.5]}, "env_params.max_steps_in_episode=10.5: must be like"),
        ({"env_params.max_steps_in_episode": [float("nan")]}, "env_params.max_steps_in_episode=nan: must be like"),
        ({"env": ["CartPole-v1"], "env_params.gravity": [float("inf")]}, "env_params.gravity=inf: must be like"),
    ],
)
def test_mistakes_are_refused(over, said):
    with pytest.raises(ConfigError, match=said):
        combinations(BASE, over)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"lr": jnp.array([0.1, 0.2])}, r"lr=.*: must be of shape \(\)"),
        ({"env_params": GridWorldParams(slip=jnp.array([0.1, 0.2]))}, r"env_params.slip=.*: must be of shape \(\)"),
    ],
)
def test_arrays_in_the_configuration_are_refused(changes, said):
    with pytest.raises(ConfigError, match=said):
        combinations(BASE.replace(**changes), {"gamma": [0.5]})


class NamedParams(NamedTuple):
    max_steps_in_episode: int = 10
    bonus: float = 1.0


@dataclasses.dataclass(frozen=True)
class WithNamedParams(RewardByAction):
    default_params = NamedParams()


def test_parameters_that_are_a_named_tuple():
    config = Config(env=WithNamedParams(), env_params=NamedParams(bonus=2.0))
    found = combinations(config, {"lr": [0.1], "env_params.bonus": [3.0, 4.0]})
    assert [config.env_params for _, config in found] == [NamedParams(bonus=3.0), NamedParams(bonus=4.0)]
    with pytest.raises(ConfigError, match="unknown env_params name 'bonu'; did you mean 'bonus'"):
        combinations(config, {"env_params.bonu": [3.0]})
    with pytest.raises(ConfigError, match=r"env_params.bonus=.*: must be of shape \(\)"):
        combinations(config.replace(env_params=NamedParams(bonus=jnp.ones(2))), {})
