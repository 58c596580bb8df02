"""What an engineer writes, under the strictest settings of mypy and pyright: see `.ci/run`. It is not a test itself."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from purejaxppo import (
    MLP,
    PPO,
    Categorical,
    Config,
    Environment,
    GridWorldParams,
    TrainState,
    act,
    check_env,
    evaluate,
    init,
    optimality,
    train,
    update,
)
from purejaxppo.environments.spaces import Box, Dict, Discrete
from purejaxppo.experiment import load, report, resume, run, sweep


class Params(NamedTuple):
    max_steps_in_episode: int = 10
    prize: float = 1.0


class State(NamedTuple):
    shown: Array
    time: Array


@dataclass(frozen=True)
class Depot(Environment):
    """Choose what is shown; the last choice is never available."""

    num_choices: int = 3
    default_params = Params()

    def action_space(self, params: Params) -> Discrete:
        return Discrete(self.num_choices)

    def observation_space(self, params: Params) -> Dict:
        return Dict({"shown": Discrete(self.num_choices), "time": Box(0, 10, (1,), jnp.float32)})

    def action_mask(self, obs: dict[str, Array], params: Params) -> Array:
        return jax.nn.one_hot(self.num_choices - 1, self.num_choices) < 0.5

    def reset_env(self, key: Array, params: Params) -> tuple[dict[str, Array], State]:
        return self._seen(State(jax.random.randint(key, (), 0, self.num_choices - 1), jnp.int32(0)))

    def step_env(
        self, key: Array, state: State, action: Array, params: Params
    ) -> tuple[dict[str, Array], State, Array, bool, dict[str, Array]]:
        reward = jnp.where(action == state.shown, params.prize, 0.0)
        shown = jax.random.randint(key, (), 0, self.num_choices - 1)
        obs, state = self._seen(State(shown, state.time + 1))
        return obs, state, reward, False, {"right": reward > 0}

    def _seen(self, state: State) -> tuple[dict[str, Array], State]:
        return {"shown": state.shown, "time": state.time[None].astype(jnp.float32)}, state


class Network(nn.Module):
    width: int = 16

    @nn.compact
    def __call__(self, obs: dict[str, Array]) -> tuple[Categorical, Array]:
        x = jnp.concatenate([jax.nn.one_hot(obs["shown"], 3), obs["time"]])
        x = nn.relu(nn.Dense(self.width)(x))
        return Categorical.from_logits(nn.Dense(3)(x)), nn.Dense(1)(x)[0]


def adamw(lr: Any) -> optax.GradientTransformation:
    return optax.adamw(lr, eps=1e-5)


def use(directory: Path) -> float:
    problems: list[str] = check_env(Depot())
    config = Config(env=Depot(), network=Network(), optimizer=adamw, info=("right",), total_timesteps=8_192)
    key = jax.random.key(0)
    state: TrainState = init(config, key)
    state, metrics = update(config, state)
    state, metrics = train(config, key)
    returns: Array = metrics["episode_return"]
    action, memory = act(config, state, {"shown": jnp.int32(0), "time": np.zeros(1)})
    episodes = evaluate(config, state, key, num_episodes=16)
    run(config, key, directory, algorithm=PPO)
    resume(directory, imports=[__name__])
    config, state = load(directory, imports=[__name__])
    trials = sweep(config, key, num_seeds=3, over={"lr": [1e-3, 1e-2], "network.width": [8, 16]})
    rows = report(trials).rows
    maze = Config(env="GridWorld-maze", env_params=GridWorldParams(slip=0.1), network=MLP(hidden_sizes=(8,)))
    gap = optimality(maze, init(maze, key)).gap
    print(problems, returns, action, memory, rows)
    return float(episodes.episode_return.mean()) + float(gap)
