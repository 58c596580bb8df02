"""What beginners do around a compiled function: it works, or says what to do."""

import json
import subprocess
import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purejaxppo import Config, ConfigError, init, train, update
from tests.support.small import SMALL

CONFIG = Config(env="GridWorld-treasure", **SMALL)
KEY = jax.random.key(0)


def assert_same(one, other):
    for a, b in zip(jax.tree.leaves(jax.device_get(one[1])), jax.tree.leaves(jax.device_get(other[1])), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.fixture(scope="module")
def plain():
    return train(CONFIG, KEY)


def test_under_another_jit_it_is_the_same(plain):
    np.testing.assert_allclose(
        jax.jit(lambda lr, key: train(CONFIG.replace(lr=lr), key)[1]["policy_loss"])(CONFIG.lr, KEY),
        plain[1]["policy_loss"],
        rtol=1e-4,
        atol=1e-6,
    )


def test_a_static_field_cannot_be_mapped_over():
    with pytest.raises(ConfigError, match="num_envs: is static and cannot be traced or mapped over"):
        jax.vmap(lambda num_envs: train(CONFIG.replace(num_envs=num_envs), KEY))(jnp.array([2, 4]))


@pytest.mark.parametrize("config", [[CONFIG, CONFIG], {"lr": 1e-3}, None, "GridWorld-treasure"], ids=str)
def test_what_is_no_config_is_refused(config):
    with pytest.raises((ConfigError, TypeError), match=r"(?i)config"):
        train(config, KEY)


def test_several_values_want_vmap():
    with pytest.raises(ConfigError, match=r"lr=\[0.001, 0.0003\]: must be a finite number > 0"):
        CONFIG.replace(lr=[1e-3, 3e-4])
    many = CONFIG.replace(lr=jnp.array([1e-3, 3e-4]))
    with pytest.raises(ConfigError, match=r"lr: must be a single number.*jax\.vmap"):
        train(many, KEY)


@pytest.mark.parametrize(
    ("key", "match"),
    [
        (jax.random.PRNGKey(0), r"jax\.random\.key\(seed\)"),
        (0, r"jax\.random\.key\(seed\)"),
        ([KEY, KEY], r"jax\.random\.key\(seed\)"),
        (jax.random.split(KEY, 2), r"jax\.vmap maps over many"),
    ],
    ids=["legacy", "seed", "list", "array"],
)
def test_other_keys_are_refused(key, match):
    with pytest.raises(ConfigError, match=match):
        train(CONFIG, key)


@pytest.mark.few(1)
@pytest.mark.parametrize(
    "changes", [{}, {"env": "CartPole-v1", "normalize_obs": True, "normalize_reward": True}], ids=str
)
def test_with_64_bits_it_trains(changes):
    with jax.enable_x64(True):
        state, metrics = train(CONFIG.replace(**changes), KEY)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(state.params))
    assert np.all(np.isfinite(metrics["value_loss"]))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"env": "CartPole-v1", "normalize_obs": True, "normalize_reward": True},
        {"network": "gru"},
        {"env": "GridWorld-treasure"},
    ],
    ids=str,
)
def test_with_64_bits_an_update_keeps_the_types_of_a_state(changes):
    """A scan would make them equal, which a run, whose programs are compiled for them, does not."""
    config = Config(**SMALL | {"env": "CartPole-v1"} | changes)
    with jax.enable_x64(True):
        before = jax.eval_shape(lambda key: init(config, key), KEY)
        after = jax.eval_shape(lambda key: update(config, init(config, key))[0], KEY)
    for leaf, new in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        assert (new.dtype, new.weak_type) == (leaf.dtype, leaf.weak_type)


def test_a_debugger_of_nans_is_refused():
    with jax.debug_nans(True), pytest.raises(ConfigError, match="jax_debug_nans"):
        train(CONFIG.replace(num_envs=3, num_minibatches=1), KEY)


@pytest.mark.long
def test_without_assertions_it_is_the_same(plain):
    program = f"import jax; from purejaxppo import *; c = Config(env='GridWorld-treasure', **{SMALL!r})\n"
    program += "print(train(c, jax.random.key(0))[1]['value_loss'].tolist())"
    result = subprocess.run([sys.executable, "-O", "-c", program], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    np.testing.assert_allclose(json.loads(result.stdout), plain[1]["value_loss"], rtol=1e-4)


def test_two_threads_train_at_once(plain):
    results = {}
    threads = [threading.Thread(target=lambda i=i: results.update({i: train(CONFIG, KEY)})) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert_same(results[0], plain)
    assert_same(results[1], plain)
