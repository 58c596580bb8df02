import importlib
import json
import os
import runpy
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from purejaxppo import Config, init
from tests.support.small import FAST_COMPILING, ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))  # as `python benchmarks/<script>.py` does
measure = importlib.import_module("measure")

SCRIPTS = ("throughput", "curves", "memory", "roofline", "kept", "returns", "options", "defaults")


@pytest.mark.parametrize("num_seeds", [None, 3])
def test_steps_are_counted_once(num_seeds):
    case = measure.Case(Config(env="CartPole-v1", num_envs=2, num_steps=8, total_timesteps=90), num_seeds)
    planned = (num_seeds or 1) * 5 * 2 * 8
    assert case.planned_steps == planned
    shape = () if num_seeds is None else (num_seeds,)
    state = jax.eval_shape(init, case.config, jax.random.key(0))
    assert measure.count_steps(case, state._replace(num_updates=jnp.full(shape, 5))) == planned
    with pytest.raises(AssertionError, match="planned"):
        measure.count_steps(case, state._replace(num_updates=jnp.full(shape, 10)))


def test_matmul_peak():
    peak = measure.matmul_peak([1.0, 2.0, 4.0], size=1000)
    assert (peak["gflops_median"], peak["gflops_best"]) == (4.0, 8.0)


def test_calls_are_interleaved_and_keys_are_new():
    calls = []

    def program(name):
        return measure.Program(lambda key: calls.append((name, key.item())), lambda key: (jax.random.bits(key),), 0, 0)

    seconds = measure.interleave([program("a"), program("b")], repeats=3)
    assert [len(column) for column in seconds] == [3, 3]
    assert [name for name, _ in calls] == ["a", "b"] * 4  # the first round is not timed
    assert len({key for _, key in calls}) == 8


def test_matmul_program_computes_the_product():
    x, y = (program := measure.matmul_program(8)).prepare(jax.random.key(3))
    expected = x @ jnp.linalg.matrix_power(y, measure.PRODUCTS)
    assert jnp.allclose(program.compiled(x, y), expected, atol=1e-4)


def smoke(script, path):
    command = [sys.executable, f"benchmarks/{script}.py", "--quick", "--json", str(path)]
    result = subprocess.run(command, cwd=ROOT, env=os.environ | FAST_COMPILING, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    report = json.loads(path.read_text())
    assert report["machine"]["command"].startswith(f"benchmarks/{script}.py --quick")
    return report, result.stdout


@pytest.mark.long
@pytest.mark.parametrize(("script", "num_cases"), [("throughput", 2), ("curves", 4)])
def test_smoke_run_of_times(script, num_cases, tmp_path):
    report, output = smoke(script, tmp_path / "new" / "report.json")
    assert len(report["cases"]) == num_cases
    for case in report["cases"]:
        assert len(case["seconds"]) == len(report["peak"]["seconds"]) == 5
        assert case["steps"] == (case["num_seeds"] or 1) * case["num_updates"] * case["num_envs"] * case["num_steps"]
        assert case["steps_per_second"] == pytest.approx(case["steps"] / sorted(case["seconds"])[2])
        flops_per_second = case["flops_per_step"] * case["steps_per_second"]
        assert case["fraction_of_peak"] == pytest.approx(flops_per_second / report["peak"]["gflops_median"] / 1e9)
    if script == "throughput":
        assert len(report["ratio"]["rounds"]) == 5
        assert "times the steps/s" in output


@pytest.mark.long
def test_smoke_run_of_memory(tmp_path):
    report, output = smoke("memory", tmp_path / "report.json")
    assert "bytes per additional update" in output
    assert {"argument", "output", "temp", "total"} < report["cases"][0].keys()
    (growth,) = report["growth"]
    assert growth["output"] == growth["metrics"] == 12 * 4
    assert growth["argument"] == 0


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("flags", [["--no-such-flag"], ["--json"]])
def test_bad_flags_exit_with_2(script, flags, monkeypatch):
    check_status_2(script, flags, monkeypatch)


@pytest.mark.parametrize(
    ("script", "flag"), [("throughput", "--scale"), ("throughput", "--repeats"), ("roofline", "--repeats")]
)
def test_numbers_that_are_not_positive_exit_with_2(script, flag, monkeypatch):
    check_status_2(script, [flag, "0"], monkeypatch)


def check_status_2(script, flags, monkeypatch):
    monkeypatch.setattr(sys, "argv", [script, *flags])
    with pytest.raises(SystemExit) as error:
        runpy.run_path(str(ROOT / "benchmarks" / f"{script}.py"), run_name="__main__")
    assert error.value.code == 2
