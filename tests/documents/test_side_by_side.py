import dataclasses
import importlib
import json
import os
import runpy
import subprocess
import sys

import jax
import numpy as np
import pytest

from purejaxppo import GridWorld
from purejaxppo.environments import tabulate
from tests.support.small import FAST_COMPILING, ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))  # as `python benchmarks/<script>.py` does
side_by_side = importlib.import_module("side_by_side")
time_to_threshold = importlib.import_module("time_to_threshold")
gridworlds, protocol = importlib.import_module("gridworlds"), importlib.import_module("protocol")

TASK = protocol.Task(env="dragons", num_envs=2, num_steps=4, updates=3)
RUNNER = """
import time
from protocol import Outcome, Training, serve
{definitions}
serve(lambda task: Training(run, lambda outputs: Outcome({steps})), ())
"""


@pytest.fixture(params=protocol.GRIDWORLDS)
def name(request):
    return request.param


def test_gridworld_is_ours_without_the_mask(name):
    env, tables = GridWorld(name, mask_blocked=False), gridworlds.tables(name)
    model = tabulate(env, env.default_params)
    np.testing.assert_array_equal(model.probability[0, 0], [1, 0, 0])
    np.testing.assert_array_equal(model.next_state[..., 0], tables.next_cell)
    np.testing.assert_array_equal(model.reward[..., 0], tables.reward[tables.next_cell])
    np.testing.assert_array_equal(model.terminated[..., 0], tables.terminal[tables.next_cell])
    np.testing.assert_allclose(model.start, np.isin(np.arange(len(tables.reward)), tables.starts) / len(tables.starts))
    assert np.all(model.mask)
    assert env.default_params.max_steps_in_episode == gridworlds.MAX_STEPS


def test_gymnax_adapter_takes_the_steps_of_the_tables(name):
    env = importlib.import_module("gymnax_gridworld").GridWorld(name)
    tables, params = env.tables, env.default_params
    state = None
    for key, action in zip(jax.random.split(jax.random.key(0), 110), np.arange(110) % 3 % 2, strict=True):
        if state is None:
            obs, state = env.reset_env(key, params)
            assert int(state.cell) in tables.starts
        cell = tables.next_cell[state.cell, action]
        obs, moved, reward, done, _ = env.step_env(key, state, action, params)
        assert (int(moved.cell), int(moved.time)) == (cell, state.time + 1)
        np.testing.assert_array_equal(obs, np.eye(len(tables.reward))[cell])
        assert reward == tables.reward[cell]
        assert done == (tables.terminal[cell] or moved.time >= gridworlds.MAX_STEPS)
        state = None if done else moved


def test_gymnasium_adapter_takes_the_steps_of_the_tables(name):
    gymnasium = pytest.importorskip("gymnasium")
    adapter = importlib.import_module("gymnasium_gridworld")
    env, tables = gymnasium.make(adapter.env_id(name)), gridworlds.tables(name)
    lengths = []
    for seed, num_actions in enumerate([4] * 20 + [1] * 20):  # who only goes up often walks until the limit
        obs, _ = env.reset(seed=seed)
        cell, ended = obs.argmax(), False
        assert cell in tables.starts
        lengths.append(0)
        while not ended:
            action = (seed + lengths[-1] ** 2) % num_actions
            cell = tables.next_cell[cell, action]
            obs, reward, terminated, truncated, _ = env.step(action)
            lengths[-1] += 1
            np.testing.assert_array_equal(obs, np.eye(len(tables.reward))[cell])
            assert (reward, terminated) == (tables.reward[cell], tables.terminal[cell])
            assert truncated == (lengths[-1] == gridworlds.MAX_STEPS)
            ended = terminated or truncated
    assert min(lengths) < max(lengths) == gridworlds.MAX_STEPS


def contestant(tmp_path, definitions, steps="24", timeout=60):
    runner = tmp_path / "runner.py"
    runner.write_text(RUNNER.format(definitions=definitions, steps=steps))
    os.environ["PYTHONPATH"] = str(side_by_side.PEER_FILES)
    try:
        return side_by_side.Contestant([sys.executable, str(runner), json.dumps(dataclasses.asdict(TASK))], timeout)
    finally:
        del os.environ["PYTHONPATH"]


def test_what_a_runner_prints_is_no_answer(tmp_path):
    with contestant(tmp_path, "run = lambda seed: print('{}')") as peer:
        assert peer.hear()["steps"] == TASK.steps == 24
        assert [peer.ask(seed)["steps"] for seed in range(2)] == [24, 24]
        assert peer.finish()["peak_bytes"] > 1e6


@pytest.mark.parametrize(
    ("definitions", "steps", "timeout", "reason"),
    [
        ("run = lambda seed: None", "48", 60, "48 steps were made, 24 were planned"),
        ("run = lambda seed: 1 / 0", "24", 60, "ZeroDivisionError"),
        ("run = lambda seed: time.sleep(60)", "24", 2, "no answer within 2 s"),
    ],
)
def test_a_runner_that_fails_says_why(tmp_path, definitions, steps, timeout, reason):
    with contestant(tmp_path, definitions, steps, timeout) as peer:
        peer.hear()
        with pytest.raises(side_by_side.Failed, match=reason):
            peer.ask(0)


@pytest.mark.long
def test_peer_that_cannot_be_installed(tmp_path, monkeypatch):
    (tmp_path / "requirements").mkdir()
    (tmp_path / "requirements" / "rejax.txt").write_text(f"{tmp_path}/missing.whl\n")  # a file: needs no network
    monkeypatch.setattr(side_by_side, "PEER_FILES", tmp_path)
    with pytest.raises(side_by_side.Failed, match=r"cannot be installed: .*missing\.whl"):
        side_by_side.python_of("rejax", tmp_path)


@pytest.mark.long
def test_smoke_run_reports_everyone(tmp_path):
    path = tmp_path / "report.json"
    command = [sys.executable, "benchmarks/side_by_side.py", "--quick", "--json", str(path), "--repeats", "2"]
    command += ["--cases", "dragons-1024", "--peers", "brax", "purejaxrl", "sb3"]
    result = subprocess.run(command, cwd=ROOT, env=os.environ | FAST_COMPILING, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    report = json.loads(path.read_text())
    (case,) = report["cases"]
    ours, brax, purejaxrl = case["contestants"]
    assert (ours["peer"], ours["steps"], ours["ratios"]) == ("ours", 2 * 4 * 8, [1, 1])
    assert ours["steps_per_second"] == pytest.approx(ours["steps"] / np.median(ours["seconds"]))
    assert ours["process_seconds"] > ours["compile_seconds"] > ours["warm_compile_seconds"] > 0
    assert ours["versions"]["jax"] == jax.__version__
    assert brax["reason"] in result.stdout
    assert "needs --purejaxrl" in purejaxrl["reason"]
    assert set(report["differences"]) == {"brax", "purejaxrl"}


@pytest.mark.parametrize("name", [name for name in side_by_side.PEERS if name != "brax"])
def test_every_peer_has_a_runner_and_pinned_requirements(name):
    assert (side_by_side.PEER_FILES / f"run_{name}.py").exists()
    if name != side_by_side.OURS:
        lines = (side_by_side.PEER_FILES / "requirements" / f"{name}.txt").read_text().splitlines()
        assert all("==" in line for line in lines)


def test_cases_name_peers():
    assert {peer for case in side_by_side.CASES.values() for peer in case.peers} < set(side_by_side.PEERS)


def test_time_to_threshold_counts_seeds_that_never_reach_it():
    assert time_to_threshold.first_reach([None, 10.0, 480.0, 470.0], 475) == 3
    assert time_to_threshold.first_reach([None, 10.0], 475) is None
    trainings = [{"start_seconds": seconds} for seconds in (2.0, 2.0, 2.5)]
    row = {"peer": "x", "seconds": [3.0, None, 5.0], "steps": [1024, None, 2048], "trainings": trainings}
    assert time_to_threshold.cells(row) == ["x", "2/3", "5.0", "3.0", "inf", "2,048", "1,024", "inf", "inf"]
    assert time_to_threshold.all_seconds(row | {"seconds": [3.0, 4.0, 5.0]}) == 2.0 + 1.0 + 2.0 + 2.5


@pytest.mark.parametrize(
    ("script", "flags"),
    [
        ("side_by_side", ["--no-such-flag"]),
        ("side_by_side", ["--repeats", "0"]),
        ("side_by_side", ["--timeout", "-1"]),
        ("side_by_side", ["--peers", "nobody"]),
        ("side_by_side", ["--cases", "nothing"]),
        ("time_to_threshold", ["--no-such-flag"]),
        ("time_to_threshold", ["--seeds", "0"]),
        ("time_to_threshold", ["--peers", "nobody"]),
    ],
)
def test_bad_flags_exit_with_2(script, flags, monkeypatch):
    monkeypatch.setattr(sys, "argv", [script, *flags])
    with pytest.raises(SystemExit) as error:
        runpy.run_path(str(ROOT / "benchmarks" / f"{script}.py"), run_name="__main__")
    assert error.value.code == 2
