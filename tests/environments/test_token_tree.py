"""Responses token by token, against the enumeration of all of them."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp

from purejaxppo import Config, ConfigError, TokenTree, TokenTreeParams, planning, ppo, tables, train
from tests.support.small import refused


def worth(tokens, score_params):
    """A sum over the tokens of a response."""
    return jnp.sum(score_params[tokens])


def responses(num_tokens, length):
    """All complete ones: they end with the token 0, or are of the full length."""
    for size in range(length):
        for prefix in itertools.product(range(1, num_tokens), repeat=size):
            yield (*prefix, 0)
            if size + 1 == length:
                yield from ((*prefix, token) for token in range(1, num_tokens))


def written(env, params, response):
    """Rewards and ends of a response, step by step, and the observations."""
    obs, state = env.reset(jax.random.key(0), params)
    rewards, ends, seen = [], [], [int(obs)]
    for token in response:
        obs, state, reward, terminated, *_ = env.step(jax.random.key(1), state, token, params)
        rewards.append(float(reward))
        ends.append(bool(terminated))
        seen.append(int(obs))
    return rewards, ends, seen[:-1]


@pytest.mark.parametrize(("num_tokens", "length"), [(4, 3), (2, 4), (3, 1)])
def test_a_response_is_scored_once_with_its_last_token(num_tokens, length):
    env = TokenTree(num_tokens, length)
    all_seen, prefixes = {}, 0
    for response in responses(num_tokens, length):
        rewards, ends, seen = written(env, env.default_params, response)
        rises = sum(after > before for before, after in itertools.pairwise(response))
        assert rewards == [0] * (len(response) - 1) + [rises]
        assert ends == [False] * (len(response) - 1) + [True]
        for size, obs in enumerate(seen):
            assert all_seen.setdefault(obs, response[:size]) == response[:size]  # a number for every prefix
            assert tuple(env.prefixes[obs][:size]) == response[:size]
    prefixes = sum((num_tokens - 1) ** size for size in range(length))
    assert sorted(all_seen) == list(range(prefixes)) == list(range(env.observation_space().n))


def test_the_best_policy_is_that_of_the_enumeration():
    """pi*(y) is reference(y) exp(r(y) / beta), normalised."""
    beta, env = 0.3, TokenTree(num_tokens=3, length=4)
    model = env.tabular_model(env.default_params)
    reference = np.random.default_rng(0).dirichlet(np.ones(3), len(env.prefixes)).astype(np.float32)
    numbers = {tuple(prefix[prefix > 0]): number for number, prefix in enumerate(env.prefixes)}

    def log_prob(policy, response):
        return sum(np.log(policy[numbers[response[:t]], token]) for t, token in enumerate(response))

    everything = list(responses(3, 4))
    scores = [sum(after > before for before, after in itertools.pairwise(response)) for response in everything]
    logits = np.array([log_prob(np.float64(reference), y) + r / beta for y, r in zip(everything, scores, strict=True)])
    found = planning.soft_values(model, reference, beta, 1.0)
    np.testing.assert_allclose(found.value[0], beta * logsumexp(logits), rtol=1e-5)
    of_found = [log_prob(np.float64(found.policy), response) for response in everything]
    np.testing.assert_allclose(of_found, logits - logsumexp(logits), rtol=1e-3, atol=1e-3)
    assert planning.optimal_return(model, 4) == max(scores) == 2


def test_parameters_of_the_score_are_mapped_over():
    env = TokenTree(num_tokens=3, length=3, score=worth)
    worths = jnp.array([[0.5, 1.0, -1.0], [0.0, -1.0, 2.0]])
    best = jax.vmap(lambda params: planning.optimal_return(env.tabular_model(TokenTreeParams(score_params=params)), 3))
    expected = [max(sum(w[t] for t in (*y, 0, 0)[:3]) for y in responses(3, 3)) for w in np.asarray(worths)]
    np.testing.assert_allclose(best(worths), expected, rtol=1e-6)


def test_a_score_of_ones_own_is_written_and_read():
    config = Config(env=TokenTree(3, 2, worth))
    text = tables.dumps(config)
    assert f'score = "{__name__}:worth"' in text
    assert tables.loads(text, imports=[__name__]) == config
    with pytest.raises(ConfigError, match=r"env\.score='tests\.environments\.test_token_tree:worth'"):
        tables.loads(text)


@pytest.mark.parametrize(
    "values", [{"num_tokens": 1}, {"num_tokens": 2.5}, {"length": 0}, {"length": 17}, {"length": 2**31 - 1}]
)
def test_a_tree_has_two_tokens_and_a_million_prefixes(values):
    assert refused(TokenTree, **values)


def test_a_tree_that_does_not_branch_is_not_deep_without_end():
    assert TokenTree(2, 2**10).observation_space().n == 2**10
    with pytest.raises(ConfigError, match=r"length=1025: must be an integer >= 1 and <= 2\*\*10"):
        TokenTree(2, 2**10 + 1)


def test_a_score_is_a_function():
    assert "a module-level function" in refused(TokenTree, score=3)


@pytest.mark.slow
def test_reaches_the_optimum_near_the_reference():
    """The gap falls below 1% of the reference's on 30 of 32 seeds."""
    sizes = {"num_envs": 512, "num_steps": 8, "total_timesteps": 512 * 8 * 200, "lr": 1e-2}
    config = Config(env="TokenTree", kl_coef=0.3, exact_return=True, gamma=1.0, ent_coef=0.0, **sizes)
    states, metrics = jax.jit(jax.vmap(partial(train, config)))(jax.random.split(jax.random.key(0), 32))
    networks = ppo.bind(config)
    model = networks.task.tabular_model()

    def of_reference(state):
        policy = networks.in_model(state.reference.agent, model)[0]
        return state.reference.optimum - planning.policy_evaluation(model, policy, 1.0)[0]

    gaps = np.asarray(metrics["gap"][:, -1] / jax.vmap(of_reference)(states))
    print("gap / gap of the reference, sorted:", *np.sort(gaps).round(5))
    assert np.sum(gaps < 0.01) >= 30
