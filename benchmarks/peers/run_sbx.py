"""SBX's runner."""

from baselines import prepare
from protocol import serve
from sbx import PPO

if __name__ == "__main__":
    packages = ("sbx-rl", "stable_baselines3", "jax", "jaxlib", "flax", "optax", "torch", "gymnasium", "numpy")
    serve(lambda task: prepare(task, PPO), packages)
