"""What is learned, against optima worked out apart; slow, run with `-m slow`."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purejaxppo import MLP, Config, act, evaluate, optimality, preset, train
from purejaxppo.environments.maps import read

pytestmark = pytest.mark.slow

PRIZE = {"M": 5, "m": 4, "D": -5}


def train_seeds(config, num_seeds):
    keys = jax.random.split(jax.random.key(0), num_seeds)
    return jax.vmap(train, in_axes=(None, 0))(config, keys)


def brute_force(text):
    """Cells in reading order, the best return from each, and the neighbours by move: shortest ways to each prize."""
    lines = text.splitlines()
    cells = [(r, c) for r, line in enumerate(lines) for c, symbol in enumerate(line) if symbol != "#"]
    moves = [(-1, 0), (0, 1), (1, 0), (0, -1)]
    neighbours = {
        cell: [(cell[0] + dr, cell[1] + dc) if (cell[0] + dr, cell[1] + dc) in cells else None for dr, dc in moves]
        for cell in cells
    }
    symbol = {(r, c): lines[r][c] for r, c in cells}
    best = dict.fromkeys(cells, -np.inf)
    for target in cells:
        if symbol[target] not in PRIZE:
            continue
        frontier, distance = [target], {target: 0}
        while frontier:
            cell = frontier.pop(0)
            for other in cells:
                if cell in neighbours[other] and symbol[other] not in PRIZE and other not in distance:
                    distance[other] = distance[cell] + 1
                    frontier.append(other)
        for cell, steps in distance.items():
            best[cell] = max(best[cell], PRIZE[symbol[target]] - steps)
    return cells, symbol, neighbours, best


def test_treasure_is_learned_from_every_cell_by_every_seed():
    config = Config(num_envs=64, num_steps=64, total_timesteps=64 * 64 * 60, lr=5e-3, network=MLP(hidden_sizes=(64,)))
    states, _ = train_seeds(config, 16)
    cells, symbol, neighbours, best = brute_force(read("treasure"))
    moves = np.asarray(jax.vmap(lambda state: act(config, state, jnp.arange(len(cells)))[0])(states))
    for seed in range(16):
        for start in [cell for cell in cells if symbol[cell] not in PRIZE]:
            cell, total = start, 0
            for _ in range(100):
                cell = neighbours[cell][moves[seed, cells.index(cell)]]
                total += PRIZE.get(symbol[cell], 0) - 1
                if symbol[cell] in PRIZE:
                    break
            assert total == best[start], (seed, start)


def test_serrano_learns_every_best_move_from_coordinates():
    config = preset("serrano")
    states, _ = train_seeds(config, 16)
    result = jax.vmap(lambda state: optimality(config, state))(states)
    assert np.all(np.asarray(result.gap) < 1e-3), result.gap
    assert np.all(np.asarray(result.optimal_fraction) == 1), result.optimal_fraction


def test_cartpole_is_solved_by_nine_of_ten_seeds():
    config = Config(
        env="CartPole-v1",
        num_envs=8,
        num_steps=64,
        total_timesteps=500_000,
        lr=1e-3,
        gamma=0.98,
        gae_lambda=0.8,
        ent_coef=0.0,
    )
    states, _ = train_seeds(config, 10)
    keys = jax.random.split(jax.random.key(1), 10)
    returns = jax.vmap(lambda state, key: evaluate(config, state, key).episode_return.mean())(states, keys)
    assert np.sum(np.asarray(returns) >= 475) >= 9, np.sort(returns)


def test_frozen_lake_comes_close_to_the_exact_optimum():
    """Dynamic programming on the same dynamics gives a success probability of 0.7442, within 100 steps."""
    config = Config(env="FrozenLake-misc", num_envs=64, total_timesteps=1_000_000, lr=2.5e-3)
    states, _ = train_seeds(config, 4)
    episodes = jax.vmap(lambda state: evaluate(config, state, jax.random.key(1), num_episodes=40_000))(states)
    success = np.asarray(episodes.episode_return.mean(axis=1))
    assert np.all((success >= 0.70) & (success <= 0.75)), success


def test_random_gridworlds_never_seen_are_solved():
    config = Config(env="RandomGridWorld", num_envs=256, num_steps=32, total_timesteps=1_500_000, lr=1e-3)
    state, _ = train(config, jax.random.key(0))
    episodes = evaluate(config, state, jax.random.key(1), num_episodes=4_000)
    success = np.mean(np.asarray(episodes.episode_return) > 0)
    assert success >= 0.95, success


def test_many_seeds_never_hang():
    """Concurrent LAPACK calls under vmap once blocked both threads of a two-core machine for ever."""
    program = """
import jax, purejaxppo
from purejaxppo import MLP
config = purejaxppo.Config(num_envs=4, num_steps=8, total_timesteps=64, network=MLP(hidden_sizes=(64, 64)))
program = jax.jit(jax.vmap(purejaxppo.train, in_axes=(None, 0)))
for seed in range(20):
    jax.block_until_ready(program(config, jax.random.split(jax.random.key(seed), 64)))
print("done")
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=600)
    assert result.stdout == "done\n", result.stderr
