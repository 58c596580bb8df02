"""Configurations as text, and back."""

import dataclasses
import json
import sys
from typing import Any, NamedTuple

import flax.linen as nn
import flax.struct
import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purejaxppo import (
    CNN,
    GRU,
    MLP,
    Categorical,
    Config,
    ConfigError,
    GridWorld,
    GridWorldParams,
    Recurrent,
    gae,
    preset,
    presets,
)
from purejaxppo.environments import RandomGridWorld, RandomGridWorldParams, make
from purejaxppo.tables import dumps, from_table, loads, to_table
from tests.support import probes, programs
from tests.support.cloning import CloningConfig
from tests.support.flags import parse

WRITTEN = {
    "the defaults": Config(),
    "everything changed": Config(
        env="CartPole-v1",
        total_timesteps=2**33,
        num_envs=np.int64(3),
        num_steps=5,
        num_epochs=2,
        num_minibatches=1,
        network=MLP(hidden_sizes=(), activation="relu", shared_torso=False),
        optimizer="muon",
        info=("truncated", "discount"),
        lr_schedule="cosine",
        lr_end=1e-5,
        target_kl=0.02,
        normalize_advantage=np.bool_(False),
        clip_value=True,
        lr=jnp.float32(0.1),
        gamma=1,
        gae_lambda=0.0,
        clip_eps=1e-30,
        vf_coef=1e30,
        ent_coef=1 / 3,
        max_grad_norm=3.4e38,
    ),
    "a name": Config(network="gru"),
    "other networks": Config(env="Breakout-MinAtar", network=CNN(channels=(2, 3), dtype="bfloat16", layer_norm=True)),
    "a distribution": Config(env="Pendulum-v1", network=GRU(hidden_sizes=[3], distribution="tanh_gaussian")),
    "a map": Config(env=GridWorld("S.M\n.D.", mask_blocked=False), exact_return=True),
    "a map of one line": Config(env=GridWorld("S.M")),
    "coordinates": Config(env=GridWorld("maze", "coordinates"), env_params=GridWorldParams(slip=np.float32(0.3))),
    "random maps": Config(env=RandomGridWorld(2, 3), env_params=RandomGridWorldParams(dragon_density=0.25)),
}


@pytest.mark.parametrize("config", WRITTEN.values(), ids=WRITTEN)
def test_what_is_written_loads_equal(config, tmp_path):
    text = dumps(config)
    assert loads(text) == config
    assert dumps(loads(text)) == text
    path = tmp_path / "config.toml"
    path.write_text(text)
    assert preset(path) == config
    assert preset(path, lr=0.5) == config.replace(lr=0.5)
    assert parse(["train", "--preset", str(path)])[0] == config


@pytest.mark.parametrize("env", sorted(set(gymnax.registered_envs) - {"MNISTBandit-bsuite"}))
def test_parameters_of_every_environment_can_be_written(env):
    params = make(env).default_params
    try:
        config = Config(env=env, env_params=params)
    except ConfigError:
        pytest.skip("it cannot be trained on")
    found = loads(dumps(config)).env_params
    assert type(found) is type(params)
    assert jax.tree.all(jax.tree.map(np.array_equal, found, params))
    longer = config.replace(env_params=params.replace(max_steps_in_episode=7))
    assert loads(dumps(longer)).env_params.max_steps_in_episode == 7


def test_an_array_that_is_not_the_default_cannot_be_written():
    params = make("Acrobot-v1").default_params.replace(available_torque=jnp.array([-2.0, 0, 2.0]))
    with pytest.raises(ConfigError, match=r"env_params\.available_torque=.*must be a single number"):
        dumps(Config(env="Acrobot-v1", env_params=params))


@pytest.mark.parametrize("name", presets.names())
def test_every_preset_is_written_and_loads_equal(name):
    try:
        config = preset(name)
    except ConfigError as error:
        if "needs pip install" not in str(error):
            raise
        pytest.skip(str(error))
    assert loads(dumps(config)) == config
    assert from_table(to_table(config)) == config
    assert from_table(json.loads(json.dumps(to_table(config)))) == config
    assert to_table(loads(dumps(config))) == to_table(config)


# What is the user's own


class Tuple(NamedTuple):
    max_steps_in_episode: int = 5
    prize: float = 1.0
    target: float | None = None


@flax.struct.dataclass
class Struct:
    max_steps_in_episode: int = 5
    prize: float = 1.0
    target: float | None = None


class Nameless:
    """No dataclass, and no named tuple."""

    max_steps_in_episode = 5


@dataclasses.dataclass(frozen=True)
class Own(probes.Probe):
    """An environment with fields of every kind that a file can have."""

    size: int = 3
    speed: float = 1.0
    color: str = "red"
    is_slow: bool = False
    limit: int | None = None
    layers: tuple[Any, ...] = ()
    start: int | None = 1
    double: int = dataclasses.field(init=False, default=6)

    @property
    def default_params(self):
        return {"red": Struct, "blue": Tuple, "gray": Nameless}[self.color]()


@dataclasses.dataclass(frozen=True)
class Sized(probes.Probe):
    """One field, which must be given."""

    size: int


class Net(nn.Module):
    """A network of the user's."""

    width: int
    gains: tuple[float, ...] = (1.0,)
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, obs):
        x = nn.Dense(self.width)(obs) * self.gains[0]
        return Categorical.from_logits(nn.Dense(2)(x)), nn.Dense(1)(x)[0]


class Plain(nn.Module):
    """A network without fields."""

    __call__ = Net.__call__
    width, gains = 4, (1.0,)


class Memory(Recurrent):
    """A network with a memory."""

    width: int = 4


class Wide(MLP):
    """Settings of a network, with a field more."""

    gain: float = dataclasses.field(default=1.0, metadata={"static": True, "help": "a gain", "allowed": None})


def optimizer(lr):
    raise NotImplementedError


def half(progress):
    return 0.5 + 0 * progress


HERE = [__name__]
OWN = {
    "an environment": {"env": Own(size=7)},
    "everything of it": {
        "env": Own(size=7, speed=0.5, color="blue", is_slow=True, limit=3, layers=(1, "a", (2, (3.5, True)), ()))
    },
    "an integer for a number": {"env": Own(speed=2)},
    "a field without default": {"env": Sized(2)},
    "parameters": {"env": Own(), "env_params": Struct(prize=2.0)},
    "more of them": {"env": Own(), "env_params": Struct(prize=np.float32(0.1), max_steps_in_episode=9)},
    "parameters as a tuple": {"env": Own(color="blue"), "env_params": Tuple(prize=0.25)},
    "a network": {"env": "CartPole-v1", "network": Memory(width=9)},
    "a dtype as the class has it": {"env": "CartPole-v1", "network": Net(3, gains=(2.0,))},
    "a network without fields": {"env": "CartPole-v1", "network": Plain()},
    "settings of a network": {"network": Wide(hidden_sizes=(3,), gain=2.0)},
    "functions": {"optimizer": optimizer, "advantage": gae, "lr_schedule": half, "ent_coef_schedule": half},
    "all": {
        "env": Own(),
        "network": Memory(),
        "optimizer": optimizer,
        "clip_eps_schedule": half,
        "info": ("truncated",),
    },
}


@pytest.mark.parametrize("own", OWN.values(), ids=OWN)
def test_what_is_the_users_is_written_by_its_place_and_loads_equal(own):
    config = Config(**own)
    imports = [*HERE, "purejaxppo.advantages"]
    found = loads(dumps(config), imports=imports)
    assert found == config
    assert hash(found) == hash(config)
    assert jax.tree.structure(found) == jax.tree.structure(config)
    assert dumps(found) == dumps(config)
    assert from_table(json.loads(json.dumps(to_table(config))), imports=imports) == config
    for name in ("env", "network"):
        assert type(getattr(found, name)) is type(getattr(config, name))


def test_what_is_written_of_an_own_environment_network_and_function():
    table = to_table(Config(env=Own(limit=3), network=Memory(width=9), optimizer=optimizer))
    assert table["env"] == {
        "type": f"{__name__}:Own",
        "size": 3,
        "speed": 1.0,
        "color": "red",
        "is_slow": False,
        "limit": 3,
        "layers": [],
        "start": 1,
    }
    assert table["network"] == {"type": f"{__name__}:Memory", "width": 9}
    assert table["optimizer"] == f"{__name__}:optimizer"
    assert to_table(Config(network="gru"))["network"]["type"] == "gru"
    assert to_table(Config(env=GridWorld("S.M")))["env"]["type"] == "GridWorld"


@pytest.mark.parametrize("env", ["Own", "Plain"])
def test_a_class_alone_is_made_of_its_defaults(env):
    text = f'{"env" if env == "Own" else "network"} = "{__name__}:{env}"'
    assert loads(text) == Config(**{"env": {"env": Own()}, "network": {"network": Plain()}}[text.partition(" ")[0]])


def test_parameters_of_an_own_environment_in_a_file():
    text = f'[env]\ntype = "{__name__}:Own"\ncolor = "{{}}"\n[env_params]\nprize = 3\n'
    assert loads(text.format("red")) == Config(env=Own(), env_params=Struct(prize=3.0))
    assert loads(text.format("blue")) == Config(env=Own(color="blue"), env_params=Tuple(prize=3.0))
    with pytest.raises(ConfigError, match=r"env_params=.*Nameless.*: must be a dataclass or a named tuple"):
        loads(text.format("gray"))


@pytest.mark.parametrize(
    ("own", "said"),
    [
        ({"env": Own(start=None)}, r"env\.start=None: must be a number, a word, a switch or a sequence of such"),
        ({"env": Own(layers=(None,))}, r"env\.layers=None: must be a single number, word or switch"),
        (
            {"network": Net(3, dtype=jnp.bfloat16)},
            r"network\.dtype=.*bfloat16.*: must be a number, a word, a switch or a sequence",
        ),
        ({"env": probes.Recall()}, r"env=.*Recall.*: must be an id or a frozen dataclass, to be written to a file"),
        ({"env": Own(color="gray"), "env_params": Nameless()}, r"env_params=.*: must be a dataclass or a named tuple"),
        ({"lr": jnp.array([1.0, 2.0])}, r"lr=.*: must be a single number, word or switch, to be written to a file"),
        ({"optimizer": lambda lr: optimizer(lr)}, "optimizer=.*<lambda> of .*: could not be imported again: move it"),
    ],
    ids=[
        "nothing for something",
        "nothing in a tuple",
        "another dtype",
        "no dataclass",
        "nameless",
        "an array",
        "a lambda",
    ],
)
def test_what_a_file_could_not_give_back_is_not_written(own, said):
    config = Config(**{"env": "CartPole-v1"} | own)
    with pytest.raises(ConfigError, match=said):
        dumps(config)


NOT_OWN = {
    'env = "{0}:Owm"': r"env='{0}:Owm': must be a class derived from gymnax's Environment",
    'env = "{0}:Sized"': r"env: {0}:Sized cannot be made of these fields \(.*size",
    '[env]\ntype = "{0}:Own"\nsise = 3': "unknown {0}:Own field 'sise'; did you mean 'size'",
    '[env]\ntype = "{0}:Own"\ndouble = 3': "unknown {0}:Own field 'double'; known: size, speed",
    '[env]\ntype = "{0}:Own"\nsize = 3.5': r"env\.size=3\.5: must be of type int",
    '[env]\ntype = "{0}:Own"\nsize = true': r"env\.size=True: must be of type int",
    '[env]\ntype = "{0}:Own"\nspeed = "3"': r"env\.speed='3': must be of type float",
    '[env]\ntype = "{0}:Own"\nspeed = true': r"env\.speed=True: must be of type float",
    '[env]\ntype = "{0}:Own"\nlayers = 3': r"env\.layers=3: must be of type list",
    '[env]\ntype = "{0}:Own"\nlayers = [{{}}]': r"env=Own\(.*: must be an id.*unhashable",
    '[env]\ntype = "{0}:Own"\nis_slow = 0': r"env\.is_slow=0: must be of type bool",
    '[env]\ntype = "tests.support.probes:Recall"\nsize = 3': "unknown tests.support.probes:Recall field 'size'",
    '[network]\ntype = "{0}:Memory"\nname = "x"': "unknown {0}:Memory field 'name'; known: width",
    '[network]\ntype = "{0}:Memory"\nparent = 3': "unknown {0}:Memory field 'parent'; known: width",
    '[network]\ntype = "{0}:Plain"\nwidth = 3': "unknown {0}:Plain field 'width'",
    '[network]\ntype = "{0}:Net"\nwidth = {{}}': r"(?s)network=Net.*: must be one of .* a hashable flax module",
    '[network]\ntype = "{0}:Own"': "network='{0}:Own': must be a class derived from flax's Module",
    '[network]\ntype = "{0}.Memory"': r"network\.type='{0}\.Memory': must be one of 'mlp', 'cnn', 'gru', or of",
    "env = 3\n[env_params]\nslip = 0.1": "env=3: must be an id",
    'env = ["x"]\n[env_params]\nslip = 0.1': r"env=\('x',\): must be an id",
    'env = "CartPole-v1"\n[env_params.gravity]\nx = 1': r"env_params\.gravity=.*: must be like its present value",
    'env_params = ["slip"]': r"env_params=\('slip',\): must be None, or parameters of GridWorld",
    'network = ["mlp"]': r"network=\('mlp',\): must be one of",
    "[optimizer]\nx = 1": r"optimizer={{'x': 1}}: must be one of 'adam'",
    "[lr]\nx = 1": r"lr={{'x': 1}}: must be a finite number > 0",
    "lr = [1.0, 2.0]": r"lr=\(1\.0, 2\.0\): must be a finite number > 0",
    "lr = nan": "lr=nan: must be a finite number > 0",
    "lr = true": "lr=True: must be a finite number > 0",
    "lr = 2024-01-01": r"lr=datetime.*: must be a finite number > 0",
}


@pytest.mark.parametrize(("text", "said"), NOT_OWN.items(), ids=range(len(NOT_OWN)))
def test_a_wrong_field_is_told(text, said):
    module = __name__
    with pytest.raises(ConfigError, match=said.format(module)):
        loads(text.format(module))


def test_a_field_that_is_none_by_default_takes_what_is_given():
    for limit in (3, 2.5, "far", (1, (2, 3))):
        config = Config(env=Own(limit=limit))
        assert loads(dumps(config)).env.limit == limit


def test_other_settings_are_written_alike():
    settings = CloningConfig(lr=0.5, hidden_sizes=(3, 2))
    assert loads(dumps(settings), CloningConfig) == settings
    for text, said in (("lrr = 1", "unknown CloningConfig field 'lrr'"), ("[env_params]\nslip = 0.1", "'env_params'")):
        with pytest.raises(ConfigError, match=said):
            loads(text, CloningConfig)


def test_nothing_is_imported_or_called_to_write(tmp_path):
    """And what has been written needs the module only when it is read."""
    with programs.importable(tmp_path / "modules") as place:
        mine = __import__(programs.NAME)
        config = Config(env=mine.Env(num_choices=4), network=mine.Net(num_actions=4), advantage=mine.explode)
        text = dumps(config)
        programs.forget()
        programs.was_imported(place)
        assert dumps(Config()) != text
        with pytest.raises(ConfigError, match=f"--import {programs.NAME}"):
            loads(text)
        assert programs.NAME not in sys.modules
        assert not programs.was_imported(place)
        found = loads(text, imports=[programs.NAME])
        assert programs.was_imported(place)
        assert (found.env.num_choices, found.network.num_actions) == (4, 4)
        assert found.advantage is sys.modules[programs.NAME].explode
        assert not (place / "exploded").exists()
