"""What a run is said to take."""

import flax.linen as nn
import jax.numpy as jnp
import pytest

from purejaxppo import CNN, GRU, MLP, Categorical, Config, GridWorld, Recurrent, costs, describe
from purejaxppo.costs import num_bytes
from purejaxppo.environments import make


@pytest.mark.parametrize("num_envs", [4, 1024])
def test_flops_of_a_policy_without_table(num_envs):
    assert costs.flops_per_step(Config(env="CartPole-v1", num_envs=num_envs)) == 231_296


def test_flops_follow_epochs_and_widths():
    config = Config(env="CartPole-v1", num_epochs=1, network=MLP(hidden_sizes=()))
    assert costs.multiplied_weights(config) == 4 * 2 + 4 * 1
    assert costs.flops_per_step(config) == 2 * 12 * (1 + 3)


def test_flops_of_a_table():
    config = Config(env="GridWorld-treasure", num_envs=16)  # 31 cells, 16 gradient steps on 512 of 2048 steps
    weights = 64 * 64 + 64 * 4 + 64 * 64 + 64 * 1  # the first layer is looked up
    assert costs.multiplied_weights(config) == weights
    assert costs.flops_per_step(config) == 2 * weights * (31 + 3 * 31 * 16) / 2048


def test_flops_of_a_table_in_the_rollout_alone():
    config = Config(env="GridWorld-treasure", num_envs=4, num_steps=16, num_epochs=1)  # batch 64, minibatches of 16
    assert costs.flops_per_step(config) == 2 * costs.multiplied_weights(config) * (31 + 3 * 64) / 64


def test_coordinates_are_multiplied():
    config = Config(env=GridWorld("treasure", features_as="coordinates"))
    assert costs.multiplied_weights(config) == 2 * (2 * 64 + 64 * 64) + 64 * 4 + 64 * 1


class Wide(nn.Module):
    """Two layers of a width."""

    width: int

    @nn.compact
    def __call__(self, obs):
        x = nn.tanh(nn.Dense(self.width)(nn.tanh(nn.Dense(self.width)(obs))))
        return Categorical.from_logits(nn.Dense(2)(x)), nn.Dense(1)(x)[0]


class WideMemory(Recurrent):
    """A memory of a width."""

    width: int

    @nn.compact
    def __call__(self, obs, memory):
        memory = nn.tanh(nn.Dense(self.width)(obs) + nn.Dense(self.width, name="again")(memory))
        return Categorical.from_logits(nn.Dense(2)(memory)), nn.Dense(1)(memory)[0], memory

    def initial_memory(self):
        return jnp.zeros(self.width)


NUM_ENVS, NUM_STEPS, FLOAT = 4, 8, 4  # so few samples that no minibatch is learned from in pieces
SIZES = {
    "num_envs": NUM_ENVS,
    "num_steps": NUM_STEPS,
    "total_timesteps": 2 * NUM_ENVS * NUM_STEPS,
    "num_minibatches": 1,
}


@pytest.mark.few(2)
@pytest.mark.parametrize(
    ("env", "network", "activations"),
    [
        ("CartPole-v1", lambda width: MLP(hidden_sizes=(width, width)), 4),
        ("CartPole-v1", Wide, 2),
        ("CartPole-v1", lambda width: GRU(hidden_sizes=(width,)), 2 * 6),
        ("CartPole-v1", WideMemory, 1),
        ("Breakout-MinAtar", lambda width: CNN(channels=(width,), hidden_sizes=(8,)), 2 * 8 * 8),
    ],
    ids=["mlp", "user's", "gru", "user's with a memory", "cnn"],
)
def test_memory_grows_with_width(env, network, activations):
    """By the parameters twice over in the optimiser, and at least one activation for each layer and sample."""
    sizes = [num_bytes(Config(env=env, network=network(width), **SIZES)) for width in (8, 16, 32)]
    for width, smaller, larger in zip((8, 16), sizes, sizes[1:], strict=False):
        least = activations * NUM_ENVS * NUM_STEPS * FLOAT * width
        assert least <= larger - smaller <= 8 * least + 100 * width**2 * FLOAT


def test_description_says_the_memory():
    config = Config(env="CartPole-v1", **SIZES)
    assert f"memory             about {num_bytes(config) / 1e6:,.1f} MB per agent" in describe(config)


@pytest.mark.parametrize(("num_minibatches", "standardises"), [(4, False), (2, True)])
def test_description_says_that_one_advantage_is_not_standardised(num_minibatches, standardises):
    config = Config(env="CartPole-v1", num_envs=1, num_steps=4, num_minibatches=num_minibatches)
    said = "advantages         not standardised: each minibatch has only one"
    assert (said in describe(config)) != standardises
    assert said not in describe(config.replace(normalize_advantage=False))


@pytest.mark.parametrize(
    ("max_torque", "network", "says"),
    [(2.0, MLP(), False), (200.0, MLP(), True), (200.0, MLP(distribution="tanh_gaussian"), False)],
)
def test_description_says_that_actions_are_far_from_where_the_policy_begins(max_torque, network, says):
    params = make("Pendulum-v1").default_params.replace(max_torque=max_torque)
    config = Config(env="Pendulum-v1", env_params=params, network=network)
    assert ("far from most of the box" in describe(config)) == says
    assert "actions " not in describe(Config(env="CartPole-v1"))
