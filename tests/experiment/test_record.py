"""The record of a run is exact, can be cut, and says when it is broken; other loggers may fail."""

import csv
import json
import logging
import os
import struct
import subprocess
import sys

import hypothesis
import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
from hypothesis import strategies

from purejaxppo import Config, ConfigError, presets
from purejaxppo.experiment.runs import files, record

BATCH = 32
NAN = np.float32(np.nan)


def values(shape, start=0.0):
    numbers = start + np.arange(np.prod(shape), dtype=np.float32).reshape(shape) / 7
    return {"episode_return": numbers, "loss": -numbers}


def write(directory, metrics, num_before=0):
    with record.MetricsLog(directory, BATCH) as record:
        record.write_metrics(num_before, metrics)


def table(directory):
    with (directory / files.TABLE).open(newline="") as file:
        return list(csv.DictReader(file))


@hypothesis.given(
    arrays.arrays(
        np.float32, arrays.array_shapes(min_dims=1, max_dims=2, max_side=4), elements=strategies.floats(width=32)
    )
)
@hypothesis.settings(
    max_examples=50, deadline=None, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
def test_every_float32_comes_back(tmp_path, numbers):
    for path in tmp_path.iterdir():
        path.unlink()
    write(tmp_path, {"x": numbers})
    found = record.read_metrics(tmp_path)["x"]
    assert found.dtype == np.float32
    np.testing.assert_array_equal(
        found.T.view(np.int32)[~np.isnan(numbers)], numbers.view(np.int32)[~np.isnan(numbers)]
    )
    np.testing.assert_array_equal(np.isnan(found.T), np.isnan(numbers))
    cells = [np.float32(row["x"]) for row in table(tmp_path)]
    np.testing.assert_array_equal(cells, numbers.reshape(-1))


def test_lines_are_json_as_the_standard_has_it(tmp_path):
    write(tmp_path, {"x": np.array([NAN, np.inf, -np.inf, 0.5], np.float32)})

    def refuse(constant):
        pytest.fail(f"{constant} is not JSON")

    lines = (tmp_path / files.METRICS).read_text().splitlines()
    rows = [json.loads(line, parse_constant=refuse) for line in lines]
    assert [row["x"] for row in rows] == [None, float("inf"), float("-inf"), 0.5]
    assert [(row["update"], row["steps"]) for row in rows] == [(1, 32), (2, 64), (3, 96), (4, 128)]


def test_the_table_has_a_line_per_update_and_agent(tmp_path):
    metrics = values((2, 3))
    write(tmp_path, metrics)
    rows = table(tmp_path)
    assert list(rows[0]) == ["update", "steps", "seed", "episode_return", "loss"]
    assert [(row["update"], row["seed"]) for row in rows] == [(u, s) for u in "12" for s in "012"]
    np.testing.assert_array_equal([np.float32(row["loss"]) for row in rows], metrics["loss"].reshape(-1))
    assert record.read_metrics(tmp_path)["loss"].shape == (3, 2)


def test_a_record_goes_on_where_it_was(tmp_path):
    one, more = values((3, 2)), values((2, 2), start=9.0)
    for directory in ("at once", "in parts"):
        (tmp_path / directory).mkdir()
    write(tmp_path / "at once", {name: np.concatenate([one[name], more[name]]) for name in one})
    write(tmp_path / "in parts", one)
    write(tmp_path / "in parts", more, num_before=3)
    for name in (files.METRICS, files.TABLE):
        assert (tmp_path / "at once" / name).read_text() == (tmp_path / "in parts" / name).read_text()


def test_evaluations_are_kept_apart(tmp_path):
    with record.MetricsLog(tmp_path, BATCH) as record:
        record.write_evaluation(3, {"greedy_return": np.array([1.0, NAN], np.float32)})
        record.write_evaluation(7, {"greedy_return": np.array([2.0, 3.0], np.float32)})
    found = record.read_evaluations(tmp_path)
    np.testing.assert_array_equal(found["update"], [3, 7])
    np.testing.assert_array_equal(found["greedy_return"], [[1, 2], [NAN, 3]])
    assert record.read_metrics(tmp_path) == {}
    assert record.read_evaluations(tmp_path / "missing") == {}


@pytest.mark.parametrize("shape", [(6,), (6, 2)])
@pytest.mark.parametrize("left_over", ["", '{"update": 7, "st', "garbage\n", "\0\0\0\n"])
def test_cutting_leaves_what_would_have_been_written(shape, left_over, tmp_path):
    whole = values(shape)
    whole["loss"][1] = np.nan
    for directory in ("cut", "short"):
        (tmp_path / directory).mkdir()
    with record.MetricsLog(tmp_path / "cut", BATCH) as record:
        record.write_metrics(0, whole)
        for update in (2, 4, 6):
            record.write_evaluation(update, {"x": np.array(update, np.float32)})
    for name in (files.METRICS, files.TABLE, files.EVALUATIONS):
        with (tmp_path / "cut" / name).open("a") as file:
            file.write(left_over)
    with record.MetricsLog(tmp_path / "short", BATCH) as record:
        record.write_metrics(0, {name: numbers[:4] for name, numbers in whole.items()})
        for update in (2, 4):
            record.write_evaluation(update, {"x": np.array(update, np.float32)})
    record.truncate(tmp_path / "cut", 4, 2)
    for name in (files.METRICS, files.TABLE, files.EVALUATIONS):
        assert (tmp_path / "cut" / name).read_text() == (tmp_path / "short" / name).read_text()
    record.truncate(tmp_path / "cut", 0, 0)
    for name in (files.METRICS, files.TABLE, files.EVALUATIONS):
        assert (tmp_path / "cut" / name).read_text() == ""
    write(tmp_path / "cut", whole)  # with a header again
    assert len(table(tmp_path / "cut")) == whole["loss"].size


def test_a_record_that_ends_too_early_is_told_and_left_alone(tmp_path):
    write(tmp_path, values((3,)))
    before = (tmp_path / files.METRICS).read_text()
    with pytest.raises(ConfigError, match="ends before update 4"):
        record.truncate(tmp_path, 4, 0)
    with pytest.raises(ConfigError, match="ends before update 3"):
        record.truncate(tmp_path, 3, 1)
    assert (tmp_path / files.METRICS).read_text() == before


@pytest.mark.parametrize(
    "line",
    [
        "",
        "{",
        "[1]",
        "null",
        "[" * 100_000,
        '{"update": 2}',
        '{"update": "2", "steps": 64, "episode_return": 1, "loss": 1}',
        '{"update": 3, "steps": 64, "episode_return": 1, "loss": 1}',
        '{"update": 1, "steps": 64, "episode_return": 1, "loss": 1}',
        '{"update": 2, "steps": 64, "episode_return": 1}',
        '{"update": 2, "steps": 64, "episode_return": "one", "loss": 1}',
        '{"update": 2, "steps": 64, "episode_return": [1, 2], "loss": 1}',
    ],
)
def test_a_broken_line_is_told(line, tmp_path):
    write(tmp_path, values((1,)))
    with (tmp_path / files.METRICS).open("a") as file:
        file.write(line + "\n")
    with pytest.raises(ConfigError, match=r"metrics\.jsonl: .*is broken"):
        record.read_metrics(tmp_path)


class Recorder:
    """A logger that may fail."""

    def __init__(self, fail_at=()):
        self.rows, self.closed, self.fail_at = [], 0, fail_at

    def write(self, update, steps, row):
        self.rows.append((update, steps, row))
        if "write" in self.fail_at and update == 2:
            raise RuntimeError("no network")

    def close(self):
        self.closed += 1
        if "close" in self.fail_at:
            raise RuntimeError("no network")


@pytest.mark.parametrize("fail_at", [["make"], ["write"], ["close"]])
def test_a_logger_that_fails_is_told_once_and_dropped(fail_at, tmp_path, caplog):
    good, bad = Recorder(), Recorder(fail_at)

    def make(directory, num_updates):
        assert (directory, num_updates) == (tmp_path, 5)
        if "make" in fail_at:
            raise RuntimeError("no network")
        return bad

    with loggers.Loggers([make, lambda *_: good], tmp_path, 5) as loggers:
        assert loggers
        for update in (1, 2, 3):
            loggers.write(update, update * BATCH, {"x": np.zeros(())})
    assert [update for update, _, _ in good.rows] == [1, 2, 3]
    assert good.closed == 1
    assert len(bad.rows) == {"make": 0, "write": 2, "close": 3}[fail_at[0]]
    assert bad.closed == (fail_at == ["close"])
    (message,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert "no network" in message
    assert not loggers.Loggers([], tmp_path, 0)


def events(directory):
    """`(tag, step, value)` of every scalar in TensorBoard's files, without TensorBoard."""
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for path in sorted(directory.iterdir()):
        content = path.read_bytes()
        while content:
            (length,) = struct.unpack("<Q", content[:8])
            event = Event.FromString(content[12 : 12 + length])
            found += [(value.tag, event.step, value.simple_value) for value in event.summary.value]
            content = content[16 + length :]
    return found


def test_tensorboard_has_a_curve_per_agent(tmp_path):
    with loggers.Loggers([loggers.TensorBoard], tmp_path, 0) as loggers:
        loggers.write(1, 32, {"loss": np.array([0.5, 0.25], np.float32)})
        loggers.write(2, 64, {"loss": np.array([0.125, 4.0], np.float32), "gap": np.array(8.0, np.float32)})
    assert events(tmp_path / files.TENSORBOARD) == [
        ("loss/seed_0", 1, 0.5),
        ("loss/seed_1", 1, 0.25),
        ("loss/seed_0", 2, 0.125),
        ("loss/seed_1", 2, 4.0),
        ("gap", 2, 8.0),
    ]


def test_weights_and_biases_offline_has_a_curve_per_agent(tmp_path):
    (tmp_path / files.CONFIG).write_text(presets.dumps(Config()))
    script = f"""
import pathlib, numpy
from functools import partial
from purejaxppo.experiment.runs import logs
make = partial(loggers.WandB, project="tested", silent=True)
with loggers.Loggers([make], pathlib.Path({str(tmp_path)!r}), 0) as loggers:
    assert loggers
    loggers.write(1, 32, {{"loss": numpy.array([0.5, 0.25], numpy.float32)}})
    loggers.write(2, 64, {{"loss": numpy.array([0.125, 4.0], numpy.float32)}})
"""
    variables = os.environ | {"WANDB_MODE": "offline", "HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", script], env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (done.stdout, done.stderr) == ("", "")
    (path,) = tmp_path.rglob("*.wandb")
    assert history(path) == [
        {"loss/seed_0": 0.5, "loss/seed_1": 0.25, "steps": 32, "_step": 1},
        {"loss/seed_0": 0.125, "loss/seed_1": 4.0, "steps": 64, "_step": 2},
    ]


def history(path):
    """The rows in one of W&B's own files, which is a LevelDB log: a head, then pieces in blocks of 32 KiB."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, place, record, rows = path.read_bytes(), 7, b"", []
    while place < len(content):
        if 2**15 - place % 2**15 < 7:  # no room for a piece's head: the block is filled up
            place += 2**15 - place % 2**15
        length, kind = struct.unpack("<HB", content[place + 4 : place + 7])
        record += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # all of a record, or its last piece
            rows.append(Record.FromString(record))
            record = b""
    items = [row.history.item for row in rows if row.WhichOneof("record_type") == "history"]
    named = [{item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in row} for row in items]
    return [{key: value for key, value in row.items() if key not in ("_timestamp", "_runtime")} for row in named]
