"""Stable-Baselines3's runner."""

from baselines import prepare
from protocol import serve
from stable_baselines3 import PPO

if __name__ == "__main__":
    serve(lambda task: prepare(task, PPO), ("stable_baselines3", "torch", "gymnasium", "numpy"))
