"""The optimum near a reference: plain loops in double precision, enumeration of episodes, and the closed form."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp, rel_entr

from purejaxppo import ConfigError, GridWorld, planning
from tests.core.test_planning import A, S, random_model, random_policy, tiny
from tests.support.reference import in_numpy, outcomes

SEEDS = range(4)
GAMMA = 0.9


def solved(model, reference, beta, gamma, sweeps=600):
    """`(value, action_value)` by sweeps of a plain loop in double precision."""
    model, reference = in_numpy(model), np.float64(reference)
    value = np.zeros(len(reference))
    for _ in range(sweeps):
        action_value = np.zeros(reference.shape)
        for s, a, p, r, after in outcomes(model):
            action_value[s, a] += p * (r + (0 if after is None else gamma * value[after]))
        value = beta * logsumexp(action_value / beta, b=reference, axis=1)
    return value, action_value


def evaluated(model, policy, reference, beta, gamma):
    """What the policy is worth, by solving the linear equations in double precision."""
    model, policy, reference = in_numpy(model), np.float64(policy), np.float64(reference)
    matrix, gain = np.eye(len(policy)), -beta * rel_entr(policy, reference).sum(axis=1)
    for s, a, p, r, after in outcomes(model):
        gain[s] += policy[s, a] * p * r
        if after is not None:
            matrix[s, after] -= gamma * policy[s, a] * p
    return np.linalg.solve(matrix, gain)


def token_tree(num_tokens, length, seed):
    """Every prefix is a state, token 0 ends; the score is given with the last token. And the responses."""
    rng = np.random.default_rng(seed)
    prefixes = [p for n in range(length) for p in itertools.product(range(1, num_tokens), repeat=n)]
    number = {prefix: i for i, prefix in enumerate(prefixes)}
    shape = len(prefixes), num_tokens
    next_state, reward, terminated = np.zeros(shape, int), np.zeros(shape), np.ones(shape, bool)
    responses = {}
    for prefix, token in itertools.product(prefixes, range(num_tokens)):
        place, after = (number[prefix], token), (*prefix, token)
        if token == 0 or len(after) == length:
            responses[after] = reward[place] = rng.normal()
        else:
            next_state[place], terminated[place] = number[after], False
    reference = rng.dirichlet(np.ones(num_tokens), len(prefixes))
    return tiny(next_state, reward, terminated), jnp.float32(reference), number, responses


def probability(policy, number, response):
    """Of a whole response."""
    return np.prod([np.float64(policy)[number[response[:t]], token] for t, token in enumerate(response)])


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("beta", [0.05, 0.5, 20.0])
def test_values_are_those_of_a_plain_loop(seed, beta):
    model = random_model(seed)
    reference = random_policy(model, seed + 10)
    value, action_value = solved(model, reference, beta, GAMMA, sweeps=300)
    found = planning.soft_values(model, reference, beta, GAMMA)
    np.testing.assert_allclose(found.value, value, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.action_value, action_value, rtol=1e-4, atol=1e-5)
    best = np.float64(reference) * np.exp((action_value - value[:, None]) / beta)
    np.testing.assert_allclose(found.policy, best, rtol=2e-3, atol=1e-6)
    assert found.residual < 1e-5


@pytest.mark.parametrize("seed", SEEDS)
def test_a_policy_is_worth_what_linear_equations_say(seed):
    model = random_model(seed)
    policy, reference = random_policy(model, seed + 20), random_policy(model, seed + 10)
    found = planning.regularised_value(model, policy, reference, 0.7, GAMMA)
    np.testing.assert_allclose(found, evaluated(model, policy, reference, 0.7, GAMMA), rtol=1e-4, atol=1e-5)
    divergence = evaluated(model._replace(reward=0 * model.reward), policy, reference, -1.0, GAMMA)
    found = planning.kl_to_reference(model, policy, reference, GAMMA)
    np.testing.assert_allclose(found, divergence, rtol=1e-4, atol=1e-6)
    assert np.all(planning.kl_to_reference(model, reference, reference) == 0)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("gamma", [0.0, GAMMA])
def test_the_gap_is_the_divergence_from_the_best_policy(seed, gamma):
    model, beta = random_model(seed), 0.6
    policy, reference = random_policy(model, seed + 20), random_policy(model, seed + 10)
    best = planning.soft_values(model, reference, beta, gamma)
    gap = best.value - planning.regularised_value(model, policy, reference, beta, gamma)
    assert np.all(gap > -1e-5)
    expected = beta * planning.kl_to_reference(model, policy, best.policy, gamma)
    np.testing.assert_allclose(gap, expected, rtol=1e-3, atol=1e-4)
    of_best = planning.regularised_value(model, best.policy, reference, beta, gamma)
    np.testing.assert_allclose(of_best, best.value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_tree_of_tokens_has_the_closed_form(seed):
    """pi*(y) = reference(y) exp(r(y) / beta) / Z, over all whole responses."""
    beta = 0.4
    model, reference, number, responses = token_tree(num_tokens=3, length=4, seed=seed)
    found = planning.soft_values(model, reference, beta, 1.0)
    weights = [probability(reference, number, y) * np.exp(score / beta) for y, score in responses.items()]
    of_found = [probability(found.policy, number, y) for y in responses]
    np.testing.assert_allclose(of_found, np.array(weights) / np.sum(weights), rtol=1e-4)
    np.testing.assert_allclose(found.value[0], beta * np.log(np.sum(weights)), rtol=1e-5)
    returns = [
        score - beta * np.log(p / probability(reference, number, y))
        for (y, score), p in zip(responses.items(), of_found, strict=True)
    ]
    np.testing.assert_allclose(returns, found.value[0], atol=1e-4)  # the certificate: the same for every response
    divergence = np.sum(rel_entr(of_found, [probability(reference, number, y) for y in responses]))
    np.testing.assert_allclose(planning.kl_to_reference(model, found.policy, reference)[0], divergence, rtol=1e-4)


def test_the_price_leads_from_the_best_policy_to_the_reference():
    model = GridWorld("S.m\n.#.\n..D", mask_blocked=True).tabular_model(GridWorld("S.m\n.#.\n..D").default_params)
    reference = jnp.asarray(model.mask / model.mask.sum(axis=1, keepdims=True))
    betas = jnp.array([1e-3, 0.1, 1.0, 10.0, 1e4])
    found = jax.vmap(lambda beta: planning.soft_values(model, reference, beta, GAMMA))(betas)
    np.testing.assert_allclose(found.value[0], planning.value_iteration(model, GAMMA).value, atol=0.01)
    of_reference = planning.policy_evaluation(model, reference, GAMMA)
    np.testing.assert_allclose(found.value[-1], of_reference, rtol=0.01, atol=0.01)
    np.testing.assert_allclose(found.policy[-1], reference, atol=1e-3)
    assert np.all(np.diff(found.value, axis=0) <= 1e-5)  # what costs more is worth less
    for beta, value in zip(betas, found.value, strict=True):
        np.testing.assert_allclose(planning.soft_values(model, reference, beta, GAMMA).value, value, rtol=1e-5)


def test_what_the_reference_never_does_costs_infinitely_much_and_is_never_best():
    model = tiny([[1, 0], [0, 0], [0, 0]], [[0, 0], [1, 9], [5, 5]], [[0, 1], [1, 1], [1, 1]])
    reference = jnp.array([[0.5, 0.5], [1.0, 0.0], [0.5, 0.5]])
    best = planning.soft_values(model, reference, 0.1, 1.0)
    assert best.policy[1].tolist() == [1, 0]
    assert best.value[1] == 1
    uniform = jnp.full((3, 2), 0.5)
    divergence = planning.kl_to_reference(model, uniform, reference)
    assert divergence.tolist() == [np.inf, np.inf, 0]  # the last state leads to neither of the others
    assert planning.regularised_value(model, uniform, reference, 0.1, 1.0).tolist() == [-np.inf, -np.inf, 5]


@pytest.mark.parametrize("gradient", [jax.jacfwd, jax.jacrev])
def test_a_policy_that_leaves_something_out_has_finite_gradients(gradient):
    model = random_model(0)
    policy, reference = random_policy(model, 1), random_policy(model, 2)
    assert np.any(policy == 0)
    slopes = gradient(lambda policy: planning.regularised_value(model, policy, reference, 0.5, GAMMA))(policy)
    assert np.all(np.isfinite(slopes))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, p: planning.soft_values(m, p, 0.0, GAMMA), "beta=0.0: must be a finite number > 0"),
        (lambda m, p: planning.soft_values(m, p, -1, GAMMA), "beta=-1: must be a finite number > 0"),
        (lambda m, p: planning.soft_values(m, p, jnp.ones(2), GAMMA), "beta=.*must be a single number; jax.vmap"),
        (lambda m, p: planning.soft_values(m, p, 0.1, 1.5), "gamma=1.5: must be"),
        (lambda m, p: planning.soft_values(m, p[:2], 0.1, 1), "reference: has shape"),
        (lambda m, p: planning.soft_values(m, 2 * p, 0.1, 1), "reference: at .* must be"),
        (lambda m, p: planning.soft_values(m, jnp.full((S, A), 1 / A), 0.1, 1), "reference: .* where model.mask"),
        (lambda m, p: planning.regularised_value(m, 2 * p, p, 0.1, 1), "policy: at .* must be"),
        (lambda m, p: planning.regularised_value(m, p, p[0], 0.1, 1), "reference: has shape"),
        (lambda m, p: planning.kl_to_reference(m, p, 2 * p), "reference: at .* must be"),
        (lambda m, p: planning.kl_to_reference(m, p, p, -1), "gamma=-1: must be"),
        (lambda m, p: planning.kl_to_reference(5, p, p), "model: must be a TabularModel, not int"),
    ],
)
def test_what_is_no_policy_or_number_is_refused(call, message):
    model = random_model(0)
    with pytest.raises(ConfigError, match=message):
        call(model, random_policy(model, 1))
