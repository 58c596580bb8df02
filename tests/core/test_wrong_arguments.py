"""What is no configuration, key, state, environment or path is refused in our words by every public function."""

import functools
import pickle

import jax
import jax.numpy as jnp
import optax
import pytest

from purejaxppo import (
    MLP,
    Config,
    ConfigError,
    GridWorld,
    act,
    check_env,
    collect,
    describe,
    environments,
    evaluate,
    experiment,
    init,
    learn,
    minimize,
    optimality,
    planning,
    preset,
    rollout,
    tables,
    train,
    update,
)
from purejaxppo.environments import make_task
from purejaxppo.experiment.reports import formats

KEY = jax.random.key(0)
SGD = optax.sgd(0.1)
CONFIG = Config(num_envs=4, num_steps=8, total_timesteps=64, network=MLP(hidden_sizes=(4,)))
OTHER = CONFIG.replace(network=MLP(hidden_sizes=(5,)))
BOXES = CONFIG.replace(env="CartPole-v1")


@functools.cache
def state(config=CONFIG):
    return init(config, KEY)


def rolled(**wrong):
    right = {"task": make_task(GridWorld()), "act": lambda obs, memory: None, "runners": state().runners, "key": KEY}
    return rollout(**right | {"num_steps": 2} | wrong)


def minimized(**wrong):
    right = {"loss": lambda w, x: (jnp.mean(w * x), {}), "optimizer": SGD, "params": 1.0, "batch": jnp.ones(8)}
    return minimize(**right | {"opt_state": SGD.init(1.0), "key": KEY} | wrong)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: train("x", KEY), "config: must be made of arrays and numbers, not 'x'"),
        (lambda: train(None, KEY), "config: must be a Config, not NoneType"),
        (lambda: train(3, KEY), "config: must be a Config, not an array"),
        (lambda: train(CONFIG, 3), "key: must be a typed key"),
        (lambda: train(CONFIG, "x"), "key: must be made of arrays"),
        (lambda: train(CONFIG, 2**40), "key: must be made of arrays"),
        (lambda: train(CONFIG, KEY, {"w": object()}), "params: must be made of arrays and numbers, .*, which holds"),
        (lambda: update(CONFIG, 3), "state: must be a TrainState, as train gives it, not an array"),
        (lambda: update(OTHER, state()), r"state.params: must have an array .*kernel of shape \(31, 5\)"),
        (lambda: update(CONFIG, state(), objective=[1]), r"objective=\[1\]: must be hashable"),
        (lambda: update(CONFIG, state(), objective=3), "objective=3: must be a function"),
        (lambda: collect(CONFIG, 3, KEY), "state: must be a TrainState"),
        (lambda: collect(CONFIG, state(), 3), "key: must be a typed key"),
        (lambda: learn(CONFIG, 3, None, KEY), "state: must be a TrainState"),
        (lambda: learn(CONFIG, state(), 3, KEY), "batch: must be a Batch, not int"),
        (lambda: rolled(task=3), "task: must be a Task, not int"),
        (lambda: rolled(act=3), "act=3: must be a function"),
        (lambda: rolled(runners=state()), "runners: must be a Runner, not TrainState"),
        (lambda: rolled(key=3), "key: must be a typed key"),
        (lambda: rolled(num_steps=2.5), "num_steps=2.5: must be an integer >= 1"),
        (lambda: rolled(reset_pool=-1), "reset_pool=-1: must be an integer >= 0"),
        (lambda: rolled(info=3), "info: must be a Sequence, not int"),
        (lambda: rolled(info=["success"]), "unknown info 'success'"),
        (lambda: minimized(loss=3), "loss=3: must be a function"),
        (lambda: minimized(optimizer="adam"), "optimizer: must be a GradientTransformation, not str"),
        (lambda: minimized(params="x"), "params: must be made of arrays and numbers, not 'x'"),
        (lambda: minimized(opt_state=3), r"opt_state: must be structured like optimizer.init\(params\)"),
        (lambda: minimized(batch=[jnp.ones(8), 3]), "batch: .* the same first axis, its samples; it has none, 8"),
        (lambda: minimized(batch=()), "batch: .* the same first axis, its samples; it has no arrays"),
        (lambda: minimized(key=3), "key: must be a typed key"),
        (lambda: minimized(num_epochs=0), "num_epochs=0: must be an integer >= 1"),
        (lambda: minimized(num_minibatches=3), "num_minibatches=3: must be a divisor of 8"),
        (lambda: minimized(num_minibatches=2, microbatch_size=3), "microbatch_size=3: must be a divisor of 4"),
        (lambda: minimized(prepare=3), "prepare=3: must be a function"),
        (lambda: minimized(permutation=3), "permutation=3: must be a function"),
        (lambda: minimized(stop=3), "stop=3: must be a function"),
        (lambda: experiment.run(CONFIG, KEY, "nowhere", callback=3), "callback=3: must be a function"),
        (lambda: experiment.run(CONFIG, KEY, "nowhere", loggers=3), "loggers=3: must be a sequence of functions"),
        (lambda: experiment.run(CONFIG, KEY, "nowhere", loggers=["x"]), r"loggers=\['x'\]: must be a sequence"),
        (lambda: experiment.resume("nowhere", callback="x"), "callback='x': must be a function"),
        (lambda: experiment.sweep(CONFIG, KEY, num_seeds=1, over={}, callback=0), "callback=0: must be a function"),
        (lambda: evaluate(3, state(), KEY), "config: must be a Config"),
        (lambda: evaluate(CONFIG, None, KEY), "state: must be a TrainState"),
        (lambda: evaluate(OTHER, state(), KEY), r"state.params: must have an array .*kernel of shape \(31, 5\)"),
        (lambda: evaluate(BOXES, state(), KEY), r"state.params: must have an array .*kernel of shape \(4, 4\)"),
        (lambda: evaluate(BOXES.replace(normalize_obs=True), state(BOXES), KEY), "obs_moments: must be Moments"),
        (lambda: evaluate(CONFIG, state(), KEY, num_episodes=[1]), r"num_episodes=\[1\]: must be hashable"),
        (lambda: evaluate(CONFIG, state(), KEY, num_episodes=2**31), "num_episodes=2147483648: must be an integer"),
        (lambda: optimality(OTHER, state()), "state.params: must have an array"),
        (lambda: act(OTHER, state(), 0), "state.params: must have an array"),
        (lambda: act(CONFIG, state(), jnp.array([2.0, 3.0])), "obs: has dtype float32; must be indices"),
        (lambda: act(CONFIG, state(), "x"), "obs: must be made of arrays"),
        (lambda: act(CONFIG, "x", 0), "state: must be made of arrays"),
        (lambda: describe("x"), "config: must be a Config, not str"),
        (lambda: preset(7), "unknown preset 7"),
        (lambda: preset([1]), r"unknown preset \[1\]"),
        (lambda: environments.make(None), "env=None: must be an id"),
        (lambda: environments.make("nope"), "unknown env 'nope'"),
        (lambda: check_env("x"), "env='x': must be an environment"),
        (lambda: check_env(GridWorld(), num_steps="x"), "num_steps='x': must be an integer"),
        (lambda: GridWorld("S.M", mask_blocked="x"), "mask_blocked='x': must be True or False"),
        (lambda: planning.value_iteration(3, 0.9), "model: must be a TabularModel, not int"),
        (lambda: experiment.run(CONFIG, KEY, 3), "directory=3: must be a path"),
        (lambda: experiment.run(CONFIG, KEY, "a\0"), r"directory='a\\x00': must be a path, without a NUL"),
        (lambda: experiment.run(CONFIG, KEY, "nowhere", options=3), "options: must be RunOptions, not a int"),
        (lambda: experiment.run(CONFIG, KEY, "nowhere", algorithm=3), "algorithm: must be an Algorithm, not a int"),
        (lambda: experiment.resume(3), "directory=3: must be a path"),
        (lambda: experiment.load(None), "directory=None: must be a path"),
        (lambda: experiment.load_policy(3), "directory=3: must be a path"),
        (lambda: experiment.load_trials(3), "directory=3: must be a path"),
        (lambda: tables.loads(5), "text: must be a str, not int"),
        (lambda: tables.from_table(5), "table: must be a Mapping, not int"),
        (lambda: tables.dumps(5), "settings: must be a Settings, not int"),
        (lambda: formats.to_json(3), "report: must be a Report, not int"),
        (lambda: formats.to_markdown(3), "report: must be a Report, not int"),
        (lambda: formats.tables(3), "report: must be a Report, not int"),
        (lambda: formats.write(3, "nowhere"), "report: must be a Report, not int"),
        (lambda: experiment.report(3), "sources=3: must be directories"),
        (lambda: experiment.sweep(CONFIG, KEY, num_seeds=1, over=5), "over=5: must be a mapping"),
        (lambda: experiment.sweep("x", KEY, num_seeds=1, over={}), "config: must be a Config, not a str"),
        (lambda: experiment.sweep(CONFIG, KEY, num_seeds=2**31, over={}), r"num_seeds=2147483648: .* <= 2\*\*24"),
        (lambda: experiment.sweep(CONFIG, KEY, num_seeds=1, over={}, options=3), "options: must be RunOptions"),
    ],
)
def test_a_wrong_argument_is_refused_by_its_name(call, said):
    with pytest.raises(ConfigError, match=said):
        call()


def test_an_agent_of_smaller_numbers_is_still_its_configurations():
    small = state()._replace(params=jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), state().params))
    act(CONFIG, small, 0)


def test_a_compiled_function_is_copied_by_its_name():
    assert pickle.loads(pickle.dumps(train)) is train


@pytest.mark.parametrize("text", ["a\x1b[31m\nb \udcff", "a\r\n  b"])
def test_the_message_of_an_error_is_one_printable_line(text):
    assert str(ConfigError(text)).isprintable()
    assert str(ConfigError.of("x", text, "y")).isprintable()
