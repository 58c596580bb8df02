"""Trainings of two updates, which run for a moment but take long to compile."""

import jax
import numpy as np

from purejaxppo import train

SMALL = {
    "total_timesteps": 16,  # two updates
    "num_envs": 2,
    "num_steps": 4,
    "num_epochs": 1,
    "num_minibatches": 2,
    "hidden_sizes": (4,),
}
QUICK_COMPILE: dict[str, int | bool] = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
if jax.__version_info__ < (0, 11):  # later ones refuse it
    QUICK_COMPILE["xla_cpu_use_fusion_emitters"] = False


def quickly(function, *args):
    """`function(*args)` in one program."""
    options = QUICK_COMPILE if jax.default_backend() == "cpu" else None
    return jax.jit(function, compiler_options=options)(*args)


def assert_trains(config):
    """Two updates: finite, complete, and the networks change."""
    state, metrics = quickly(train, config, jax.random.key(0))
    for name in ("policy_loss", "value_loss", "entropy", "approx_kl", "clip_fraction", "grad_norm", "num_episodes"):
        assert metrics[name].shape == (2,)
        assert np.all(np.isfinite(metrics[name])), name
    assert np.all(metrics["num_skipped"] == 0)
    assert np.all(metrics["entropy"] != 0)
    assert np.all(metrics["grad_norm"] > 0)
    assert state.num_updates == 2
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(state.params))
    return state, metrics
