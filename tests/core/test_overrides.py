"""Changes of fields by name, those of parts included."""

import dataclasses
from typing import NamedTuple

import flax.linen as nn
import flax.struct
import numpy as np
import pytest

from purejaxppo import CNN, GRU, MLP, Categorical, Config, ConfigError, GridWorld, GridWorldParams, preset
from purejaxppo.environments import RandomGridWorld, make
from purejaxppo.overrides import override
from tests.support import probes
from tests.support.cloning import CloningConfig

SLIPPERY = GridWorldParams(slip=0.5, money=2.0)


class Net(nn.Module):
    """A network of the user's."""

    width: int = 4
    gain: float = 1.0

    @nn.compact
    def __call__(self, obs):
        x = nn.Dense(self.width)(obs) * self.gain
        return Categorical.from_logits(nn.Dense(2)(x)), nn.Dense(1)(x)[0]


class Tuple(NamedTuple):
    max_steps_in_episode: int = 5
    prize: float = 1.0


@flax.struct.dataclass
class Struct:
    max_steps_in_episode: int = 5
    prize: float = 1.0
    target: float | None = None


class Nameless:
    max_steps_in_episode = 5


@dataclasses.dataclass(frozen=True)
class Own(probes.Probe):
    """An environment of the user's with fields, and parameters of some class."""

    kind: type = Struct
    size: int = 3
    double: int = dataclasses.field(init=False, default=6)

    @property
    def default_params(self):
        return self.kind()


NESTED = Config(env=GridWorld("S.M\n.D."), env_params=SLIPPERY, network=MLP(hidden_sizes=(8,), activation="relu"))


@pytest.mark.parametrize(
    ("settings", "changes", "expected"),
    [
        (NESTED, {}, {}),
        (NESTED, {"lr": np.float32(0.5), "num_envs": 8}, {"lr": 0.5, "num_envs": 8}),
        (
            NESTED,
            {"network.hidden_sizes": [3, 2], "network.layer_norm": True},
            {"network": MLP(hidden_sizes=(3, 2), activation="relu", layer_norm=True)},
        ),
        (NESTED, {"env_params.slip": 0}, {"env_params": GridWorldParams(slip=0.0, money=2.0)}),
        (NESTED, {"env.features_as": "coordinates"}, {"env": GridWorld("S.M\n.D.", "coordinates")}),
        (
            Config(),
            {"env_params.slip": 0.25, "lr": 1, "network.activation": "relu"},
            {"env_params": GridWorldParams(slip=0.25), "lr": 1.0, "network": MLP(activation="relu")},
        ),
    ],
    ids=["nothing", "whole fields", "the network's", "the parameters'", "the environment's", "of defaults"],
)
def test_fields_and_fields_within_them_change_and_no_others(settings, changes, expected):
    before = dataclasses.replace(settings)
    assert override(settings, changes) == settings.replace(**expected)
    assert settings == before


@pytest.mark.parametrize("backwards", [False, True])
def test_a_whole_field_changes_before_those_within_it_in_whatever_order(backwards):
    changes = {"network.hidden_sizes": (3,), "network": GRU(), "env_params.money": 7, "env": "GridWorld-maze"}
    changes = dict(reversed(changes.items())) if backwards else changes
    changed = override(NESTED, changes)
    assert changed.network == GRU(hidden_sizes=(3,))
    assert (changed.env, changed.env_params) == ("GridWorld-maze", GridWorldParams(money=7.0))


def test_several_fields_within_one_change_at_once():
    """For they may be allowed together only."""
    config = Config(env="Breakout-MinAtar", network=CNN(channels=(4,)))
    changes = {"network.channels": (2, 2), "network.hidden_sizes": (5,), "network.dtype": "bfloat16"}
    expected = CNN(channels=(2, 2), hidden_sizes=(5,), dtype="bfloat16")
    assert override(config, changes).network == expected


@pytest.mark.parametrize("env", ["CartPole-v1", "GridWorld-maze", GridWorld("S.M"), RandomGridWorld(2, 3)], ids=str)
def test_another_environment_starts_from_its_own_parameters(env):
    changed = override(NESTED, {"env": env})
    assert (changed.env, changed.env_params) == (env, None)
    assert override(NESTED, {"env": env, "env_params.max_steps_in_episode": 9}).env_params == make(
        env
    ).default_params.replace(max_steps_in_episode=9)


def test_the_same_environment_keeps_its_parameters(tmp_path):
    (tmp_path / "map.txt").write_text("S.M\n.D.\n")
    for same in (NESTED.env, GridWorld("S.M\n.D."), tmp_path / "map.txt", str(tmp_path / "map.txt")):
        assert override(NESTED, {"env": same}) == NESTED
    mine = GridWorldParams(slip=0.1)
    assert override(NESTED, {"env": "GridWorld-maze", "env_params": mine}).env_params == mine
    with pytest.raises(ConfigError, match=r"env_params=.*must be None, or parameters of CartPole"):
        override(NESTED, {"env": "CartPole-v1", "env_params": mine})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_env": 3}, "unknown Config field 'num_env'; did you mean 'num_envs'"),
        ({"netwrok.width": 3}, "unknown Config field 'netwrok'; did you mean 'network'"),
        ({".width": 3}, "unknown Config field ''"),
        ({"network.hiden_sizes": 3}, "unknown MLP field 'hiden_sizes'; did you mean 'hidden_sizes'"),
        ({"network.channels": (3,)}, "unknown MLP field 'channels'"),
        ({"network.": 3}, "unknown MLP field ''"),
        ({"network.hidden_sizes.first": 3}, "unknown MLP field 'hidden_sizes.first'; did you mean 'hidden_sizes'"),
        ({"env_params.slp": 0.5}, "unknown env_params name 'slp'; did you mean 'slip'"),
        ({"env.layuot": "S.M"}, "unknown GridWorld field 'layuot'; did you mean 'layout'"),
        ({"network.hidden_sizes": (0,)}, r"hidden_sizes=\(0,\): must be a sequence of integers >= 1"),
        ({"env_params.slip": 2}, r"slip=2\.0: must be a number in \[0, 1\]"),
        ({"env_params.slip": "much"}, r"env_params\.slip='much': must be like its present value, 0\.5"),
        ({"env.layout": "S.D"}, "line 1, column 1"),
        ({"lr.start": 3}, r"lr=0\.00025: must be an object with fields, to change lr\.start"),
        ({"env": "CartPole-v1", "env.gravity": 3}, r"env='CartPole-v1': must be an object with fields, to change env"),
        ({"env": "CartPole"}, "unknown env 'CartPole'; did you mean 'CartPole-v1'"),
        ({"network": "mpl", "network.dtype": "bfloat16"}, "unknown network 'mpl'; did you mean 'mlp'"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_unknown_names_and_wrong_values_are_told(changes, said):
    with pytest.raises(ConfigError, match=said):
        override(NESTED, changes)


def test_fields_of_a_flax_module():
    config = Config(env="CartPole-v1", network=Net(width=4))
    changed = override(config, {"network.width": 8}).network
    assert changed == Net(width=8)
    assert override(config, {"network.width": 8, "network.gain": 0.5}).network == Net(width=8, gain=0.5)
    assert config.network.width == 4
    for name in ("widht", "parent", "name"):
        with pytest.raises(
            ConfigError, match=f"unknown Net field '{name}'; (did you mean 'width'|known: width, gain$)"
        ):
            override(config, {f"network.{name}": 8})


def test_fields_of_an_environment_of_the_users():
    config = Config(env=Own(), env_params=Struct(prize=3.0))
    changed = override(config, {"env.size": 5})
    assert (changed.env, changed.env_params) == (Own(size=5), config.env_params)  # its parameters stay
    with pytest.raises(ConfigError, match="unknown Own field 'double'; known: kind, size"):
        override(config, {"env.double": 5})


@pytest.mark.parametrize("kind", [Struct, Tuple])
@pytest.mark.parametrize("given", [False, True])
def test_parameters_of_the_users(kind, given):
    config = Config(env=Own(kind), env_params=kind(max_steps_in_episode=9) if given else None)
    changed = override(config, {"env_params.prize": 2}).env_params
    assert changed == kind(max_steps_in_episode=9 if given else 5, prize=2.0)
    assert type(changed.prize) is float
    with pytest.raises(ConfigError, match="unknown env_params name 'price'; did you mean 'prize'"):
        override(config, {"env_params.price": 2})


def test_parameters_without_names_cannot_be_changed_by_name():
    with pytest.raises(ConfigError, match=r"env_params=.*Nameless.*: must be a dataclass or a named tuple"):
        override(Config(env=Own(Nameless)), {"env_params.prize": 2})


def test_other_settings_change_alike():
    assert override(CloningConfig(), {"lr": 0.5, "hidden_sizes": (3,)}) == CloningConfig(lr=0.5, hidden_sizes=(3,))
    with pytest.raises(ConfigError, match="unknown CloningConfig field 'network'"):
        override(CloningConfig(), {"network.hidden_sizes": (3,)})


def test_presets_are_changed_by_the_same_names():
    changes = {"network.activation": "relu", "env_params.slip": 0.5, "lr": 0.25}
    assert preset("treasure", **changes) == override(preset("treasure"), changes)
    assert preset("treasure", **changes).network.activation == "relu"
