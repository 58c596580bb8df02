"""Configurations as text, and back."""

import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purejaxppo import CNN, GRU, MLP, Config, ConfigError, GridWorld, GridWorldParams, preset
from purejaxppo.environments import RandomGridWorld, RandomGridWorldParams, make
from purejaxppo.tables import dumps, loads
from tests.support.flags import parse

WRITTEN = {
    "the defaults": Config(),
    "the main job": preset("treasure"),
    "the video's": preset("serrano"),
    "everything changed": Config(
        env="CartPole-v1",
        total_timesteps=2**40,
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
