"""What a run is said to take."""

import pytest

from purejaxppo import MLP, Config, GridWorld, costs


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
