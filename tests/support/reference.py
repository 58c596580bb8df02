"""Plain loops in double precision, of which several tests say that the library agrees with them."""

import itertools
from collections import deque
from types import SimpleNamespace

import numpy as np

# Maps


def parsed(text):
    """The map in plain Python: cells, where each move leads, starts, and the starts without a way to money."""
    lines = text.split("\n")
    cells = [(r, c) for r, line in enumerate(lines) for c, symbol in enumerate(line) if symbol != "#"]

    def move(cell, step):
        target = (cell[0] + step[0], cell[1] + step[1])
        return target if target in cells else cell

    steps = [(-1, 0), (0, 1), (1, 0), (0, -1)]
    leads_to = {cell: [move(cell, step) for step in steps] for cell in cells}

    def has_way(start):
        seen, queue = {start}, deque([start])
        while queue:
            cell = queue.popleft()
            symbol = lines[cell[0]][cell[1]]
            if symbol in "Mm":
                return True
            if symbol == "D":
                continue
            for neighbour in leads_to[cell]:
                if neighbour not in seen:
                    seen.add(neighbour)
                    queue.append(neighbour)
        return False

    starts = [cell for cell in cells if lines[cell[0]][cell[1]] == "S"]
    starts = starts or [cell for cell in cells if lines[cell[0]][cell[1]] == "."]
    return cells, leads_to, starts, [start for start in starts if not has_way(start)]


# Networks


def gram_error(x, gain=1.0):
    """How far the columns, or the rows of wide matrices, are from orthonormal."""
    x = np.float64(x) if x.shape[-2] >= x.shape[-1] else np.float64(x).swapaxes(-1, -2)
    return np.max(np.abs(x.swapaxes(-1, -2) @ x - gain**2 * np.eye(x.shape[-1])))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def gru(x, memory, gates):
    """Cho et al. (2014), with the reset gate behind the product, one gate after the other."""
    (kernel_x, bias_x), (kernel_h, bias_h) = gates
    of_x, of_h, b_x, b_h = (np.split(m, 3, axis=-1) for m in (kernel_x, kernel_h, bias_x, bias_h))
    reset = sigmoid(x @ of_x[0] + b_x[0] + memory @ of_h[0] + b_h[0])
    update = sigmoid(x @ of_x[1] + b_x[1] + memory @ of_h[1] + b_h[1])
    candidate = np.tanh(x @ of_x[2] + b_x[2] + reset * (memory @ of_h[2] + b_h[2]))
    return (1 - update) * candidate + update * memory


# Dynamic programming


def in_numpy(model):
    """The same numbers in double precision."""
    arrays = {name: np.asarray(leaf) for name, leaf in model._asdict().items()}
    return SimpleNamespace(**{name: x.astype(np.float64) if x.dtype == np.float32 else x for name, x in arrays.items()})


def outcomes(model):
    """Every `(state, action, probability, reward, next state or None)`; None where the episode is over."""
    num_states, num_actions, num_outcomes = model.next_state.shape
    for s, a, k in itertools.product(range(num_states), range(num_actions), range(num_outcomes)):
        after = None if model.terminated[s, a, k] else int(model.next_state[s, a, k])
        yield s, a, model.probability[s, a, k], model.reward[s, a, k], after


def backed_up(model, value, gamma):
    """`Q`, one step before `value`."""
    q = np.zeros(model.mask.shape)
    for s, a, p, r, after in outcomes(model):
        q[s, a] += p * (r + (0 if after is None else gamma * value[after]))
    return q


def available(model, q):
    return np.where(model.mask, q, -np.inf)


def solved(model, policy, gamma):
    """`V^pi` by a factorisation."""
    num_states = len(model.start)
    matrix, reward = np.eye(num_states), np.zeros(num_states)
    for s, a, p, r, after in outcomes(model):
        reward[s] += policy[s, a] * p * r
        if after is not None:
            matrix[s, after] -= gamma * policy[s, a] * p
    return np.linalg.solve(matrix, reward)


def best_solved(model, gamma):
    """`V*` and `Q*` by policy iteration."""
    rows = np.arange(len(model.start))
    action = model.mask.argmax(axis=1)
    while True:
        value = solved(model, np.eye(model.mask.shape[1])[action], gamma)
        q = backed_up(model, value, gamma)
        better = available(model, q).max(axis=1) > q[rows, action] + 1e-10
        if not better.any():
            return value, q
        action = np.where(better, available(model, q).argmax(axis=1), action)


def best_actions(model, q, tied=1e-8):
    return model.mask & (q >= available(model, q).max(axis=1, keepdims=True) - tied)


def played(model, policies):
    """Return, length and success of an episode with one policy for each step, following where the agent may be."""
    place = model.start.astype(np.float64)
    total = length = success = 0.0
    for policy in policies:
        length += place.sum()
        new = np.zeros_like(place)
        for s, a, p, r, after in outcomes(model):
            mass = place[s] * policy[s, a] * p
            total += mass * r
            if after is not None:
                new[after] += mass
            elif r > 0:
                success += mass
        place = new
    return total, length, success


def best_return(model, horizon):
    """By backward induction."""
    value = np.zeros(len(model.start))
    for _ in range(horizon):
        value = available(model, backed_up(model, value, 1.0)).max(axis=1)
    return model.start @ value


def visited(model):
    """The states to act in, breadth first."""
    seen = set(np.flatnonzero(model.start > 0).tolist())
    queue = deque(seen)
    while queue:
        here = queue.popleft()
        for s, a, p, _, after in outcomes(model):
            if s == here and model.mask[s, a] and p > 0 and after is not None and after not in seen:
                seen.add(after)
                queue.append(after)
    return np.isin(np.arange(len(model.start)), list(seen))
