"""The record of a run is exact, can be truncated, and says when it is corrupt; other loggers may fail."""

import csv
import json
import logging
import os
import struct
import subprocess
import sys
import zlib

import hypothesis
import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
from hypothesis import strategies

from purejaxppo import Config, tables
from purejaxppo.errors import RunError
from purejaxppo.experiment.runs import files, record
from purejaxppo.experiment.runs.loggers import Loggers, TensorBoard

BATCH = 32
NAN = np.float32(np.nan)


def values(shape, start=0.0):
    numbers = start + np.arange(np.prod(shape), dtype=np.float32).reshape(shape) / 7
    return {"episode_return": numbers, "loss": -numbers}


def write(directory, metrics):
    with record.MetricsLog(directory, BATCH) as log:
        log.append(metrics)
        log.write()


def table(directory):
    with (directory / files.TABLE).open(newline="") as file:
        return list(csv.DictReader(file))


@hypothesis.given(
    arrays.arrays(
        np.float32, arrays.array_shapes(min_dims=2, max_dims=2, max_side=4), elements=strategies.floats(width=32)
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
    write(tmp_path, {"x": np.array([[NAN], [np.inf], [-np.inf], [0.5]], np.float32)})

    def refuse(constant):
        pytest.fail(f"{constant} is not JSON")

    lines = (tmp_path / files.METRICS).read_text().splitlines()
    rows = [json.loads(line, parse_constant=refuse) for line in lines]
    assert [row["x"] for row in rows] == [[None], [float("inf")], [float("-inf")], [0.5]]
    assert [(row["update"], row["steps"]) for row in rows] == [(1, 32), (2, 64), (3, 96), (4, 128)]


def test_the_table_has_a_line_per_update_and_row(tmp_path):
    metrics = values((2, 3))
    write(tmp_path, metrics)
    rows = table(tmp_path)
    assert list(rows[0]) == ["update", "steps", "row", "episode_return", "loss"]
    assert [(row["update"], row["row"]) for row in rows] == [(u, r) for u in "12" for r in "012"]
    np.testing.assert_array_equal([np.float32(row["loss"]) for row in rows], metrics["loss"].reshape(-1))
    assert record.read_metrics(tmp_path)["loss"].shape == (3, 2)


def test_a_record_goes_on_where_it_was(tmp_path):
    one, more = values((3, 2)), values((2, 2), start=9.0)
    for directory in ("at once", "in parts"):
        (tmp_path / directory).mkdir()
    write(tmp_path / "at once", {name: np.concatenate([one[name], more[name]]) for name in one})
    write(tmp_path / "in parts", one)
    write(tmp_path / "in parts", more)
    for name in (files.METRICS, files.TABLE):
        assert (tmp_path / "at once" / name).read_text() == (tmp_path / "in parts" / name).read_text()


def test_evaluations_are_kept_apart(tmp_path):
    with record.MetricsLog(tmp_path, BATCH) as log:
        log.append(values((3, 2)))
        log.write_evaluation({"score": np.array([1.0, NAN], np.float32)})
        log.append(values((4, 2)))
        log.write_evaluation({"score": np.array([2.0, 3.0], np.float32)})
        assert log.evaluations()["score"].shape == (2, 2)
    found = record.read_evaluations(tmp_path)
    np.testing.assert_array_equal(found["update"], [3, 7])
    np.testing.assert_array_equal(found["score"], [[1, 2], [NAN, 3]])
    assert record.read_metrics(tmp_path)["loss"].shape == (2, 7)
    assert record.read_metrics(tmp_path / "missing") == {}
    assert record.read_evaluations(tmp_path / "missing") == {}


def test_without_a_directory_the_same_numbers_are_kept_in_memory(tmp_path):
    logs = [record.MetricsLog(directory, BATCH) for directory in (tmp_path, None)]
    for log in logs:
        with log:
            log.append(values((3, 2)))
            log.write_evaluation({"score": np.array([1.0, 2.0], np.float32)})
            log.append(values((2, 2), start=9.0))
            log.sync()
    np.testing.assert_array_equal(logs[1].metrics()["loss"], record.read_metrics(tmp_path)["loss"])
    assert logs[1].evaluations().keys() == record.read_evaluations(tmp_path).keys()
    again = record.MetricsLog(tmp_path, BATCH)  # what an earlier process wrote
    for log in (*logs, again):
        np.testing.assert_allclose(log.recent(4)["loss"], log.metrics()["loss"][:, 1:].mean(axis=1), rtol=1e-6)


def test_a_mean_of_what_is_a_number():
    log = record.MetricsLog(None, BATCH)
    log.append({"x": np.array([[1.0, NAN], [NAN, NAN], [4.0, NAN]], np.float32)})
    np.testing.assert_array_equal(log.recent(10)["x"], [2.5, NAN])


@pytest.mark.parametrize("shape", [(6, 1), (6, 2)])
@pytest.mark.parametrize("left_over", ["", '{"update": 7, "st', "garbage\n", "\0\0\0\n"])
def test_truncating_leaves_what_would_have_been_written(shape, left_over, tmp_path):
    whole = values(shape)
    whole["loss"][1] = np.nan
    for directory in ("cut", "short"):
        (tmp_path / directory).mkdir()
    parts = [{name: numbers[start : start + 2] for name, numbers in whole.items()} for start in (0, 2, 4)]
    for directory, some in (("cut", parts), ("short", parts[:2])):
        with record.MetricsLog(tmp_path / directory, BATCH) as log:
            for part in some:
                log.append(part)
                log.write_evaluation({"x": part["loss"][-1]})
    for name in (files.METRICS, files.TABLE, files.EVALUATIONS):
        with (tmp_path / "cut" / name).open("a") as file:
            file.write(left_over)
    record.truncate(tmp_path / "cut", 4, BATCH, pytest.fail)
    for name in (files.METRICS, files.TABLE, files.EVALUATIONS):
        assert (tmp_path / "cut" / name).read_text() == (tmp_path / "short" / name).read_text()
    record.truncate(tmp_path / "cut", 0, BATCH, pytest.fail)
    for name in (files.METRICS, files.TABLE, files.EVALUATIONS):
        assert (tmp_path / "cut" / name).read_text() == ""
    write(tmp_path / "cut", whole)  # with a header again
    assert len(table(tmp_path / "cut")) == whole["loss"].size


def damage(path, number, change):
    """Change one line of a record."""
    lines = path.read_bytes().split(b"\n")
    lines[number - 1 : number] = change(lines[number - 1])
    path.write_bytes(b"\n".join(lines))


def with_checksum(text):
    """A line as somebody would forge it."""
    return lambda _: [b'%s, "crc32": %d}' % (text[:-1], zlib.crc32(text))]


DAMAGE = {
    "lost": lambda line: [],
    "empty": lambda line: [b""],
    "half": lambda line: [line[: len(line) // 2]],
    "a digit": lambda line: [line.replace(b"64", b"65")],
    "a bit of the checksum": lambda line: [line[:-2] + bytes([line[-2] ^ 1]) + line[-1:]],
    "no text": lambda line: [b"\xff" + line[1:]],
    "no checksum": lambda line: [line[: line.index(b', "crc32"')] + b"}"],
    "twice": lambda line: [line, line],
    "deep": with_checksum(b"[" * 100_000 + b"}"),
    "a list": with_checksum(b"[1]"),
    "no steps": with_checksum(b'{"update": 2, "loss": [1, 1], "episode_return": [1, 1]}'),
    "a word for a number": with_checksum(b'{"update": "2", "steps": 64, "loss": [1, 1], "episode_return": [1, 1]}'),
    "another name": with_checksum(b'{"update": 2, "steps": 64, "loss": [1, 1], "return": [1, 1]}'),
    "more numbers": with_checksum(b'{"update": 2, "steps": 64, "loss": [1, 1, 1], "episode_return": [1, 1, 1]}'),
    "no list": with_checksum(b'{"update": 2, "steps": 64, "loss": 1, "episode_return": 1}'),
    "words": with_checksum(b'{"update": 2, "steps": 64, "loss": ["a", "b"], "episode_return": [1, 1]}'),
    "400 digits": with_checksum(
        b'{"update": 2, "steps": 64, "loss": [1%s, 1], "episode_return": [1, 1]}' % (b"0" * 400)
    ),
    "a far update": with_checksum(b'{"update": 1000000000000, "steps": 64, "loss": [1, 1], "episode_return": [1, 1]}'),
    "no update": with_checksum(b'{"update": 0, "steps": 64, "loss": [1, 1], "episode_return": [1, 1]}'),
}


@pytest.mark.parametrize("change", DAMAGE.values(), ids=DAMAGE)
def test_damage_is_noticed_and_costs_no_more_than_what_it_hit(change, tmp_path, caplog):
    metrics = values((4, 2))
    write(tmp_path, metrics)
    damage(tmp_path / files.METRICS, 2, change)
    with pytest.raises(RunError, match=r"metrics\.jsonl: (line 2 )?is damaged.*resume") as said:
        record.read_metrics(tmp_path)
    assert "\n" not in str(said.value)
    record.truncate(tmp_path, 4, BATCH, pytest.fail)
    is_hit = change is not DAMAGE["twice"]
    metrics["loss"][1] = metrics["episode_return"][1] = np.where(is_hit, NAN, metrics["loss"][1])
    metrics["episode_return"] = -metrics["loss"]
    for name, found in record.read_metrics(tmp_path).items():
        np.testing.assert_array_equal(found, metrics[name].T)
    assert [int(row["update"]) for row in table(tmp_path)] == [1, 1, 2, 2, 3, 3, 4, 4]
    assert ("of 4 updates 1 are damaged or lost; NaN stands for them" in caplog.text) == is_hit


@pytest.mark.parametrize("kind", ["deleted", "empty", "all damaged", "too short"])
def test_a_lost_record_is_filled_up(kind, tmp_path, caplog):
    write(tmp_path, values((3, 2)))
    path = tmp_path / files.METRICS
    if kind == "deleted":
        path.unlink()
    elif kind != "too short":
        path.write_text("garbage\n" * 3 if kind == "all damaged" else "")
    record.truncate(tmp_path, 5, BATCH, lambda: values((1, 2)))
    found = record.read_metrics(tmp_path)
    assert {name: array.shape for name, array in found.items()} == {"episode_return": (2, 5), "loss": (2, 5)}
    num_lost = 2 if kind == "too short" else 5
    assert np.isnan(found["loss"]).sum() == 2 * num_lost
    assert f"of 5 updates {num_lost} are damaged or lost" in caplog.text
    write(tmp_path, values((1, 2)))
    assert record.read_metrics(tmp_path)["loss"].shape == (2, 6)


def test_a_damaged_evaluation_is_left_out(tmp_path):
    with record.MetricsLog(tmp_path, BATCH) as log:
        for score in (1.0, 2.0, 3.0):
            log.append(values((2, 1)))
            log.write_evaluation({"score": np.array([score], np.float32)})
    damage(tmp_path / files.EVALUATIONS, 2, lambda line: [line.replace(b"2.0", b"9.0")])
    with pytest.raises(RunError, match=r"evaluations\.jsonl: line 2 is damaged"):
        record.read_evaluations(tmp_path)
    record.truncate(tmp_path, 6, BATCH, pytest.fail)
    found = record.read_evaluations(tmp_path)
    assert (found["update"].tolist(), found["score"].tolist()) == ([2, 6], [[1, 3]])


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
def test_a_logger_that_fails_is_reported_once_and_dropped(fail_at, tmp_path, caplog):
    good, bad = Recorder(), Recorder(fail_at)

    def make(directory, num_updates):
        assert (directory, num_updates) == (tmp_path, 5)
        if "make" in fail_at:
            raise RuntimeError("no network")
        return bad

    with Loggers([make, lambda *_: good], tmp_path, 5) as loggers:
        assert loggers
        for update in (1, 2, 3):
            loggers.write(update, update * BATCH, {"x": np.zeros(1)})
    assert [update for update, _, _ in good.rows] == [1, 2, 3]
    assert good.closed == 1
    assert len(bad.rows) == {"make": 0, "write": 2, "close": 3}[fail_at[0]]
    assert bad.closed == (fail_at == ["close"])
    (message,) = [entry.getMessage() for entry in caplog.records if entry.levelno == logging.WARNING]
    assert "no network" in message
    assert not Loggers([], tmp_path, 0)


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


def test_tensorboard_has_a_curve_per_row(tmp_path):
    with Loggers([TensorBoard], tmp_path, 0) as loggers:
        loggers.write(1, 32, {"loss": np.array([0.5, 0.25], np.float32)})
        loggers.write(2, 64, {"loss": np.array([0.125, 4.0], np.float32), "gap": np.array([8.0], np.float32)})
    assert events(tmp_path / files.TENSORBOARD) == [
        ("loss/row_0", 1, 0.5),
        ("loss/row_1", 1, 0.25),
        ("loss/row_0", 2, 0.125),
        ("loss/row_1", 2, 4.0),
        ("gap", 2, 8.0),
    ]


def test_weights_and_biases_offline_has_a_curve_per_row(tmp_path):
    (tmp_path / files.CONFIG).write_text(tables.dumps(Config()))
    script = f"""
import pathlib, numpy
from functools import partial
from purejaxppo.experiment.runs.loggers import Loggers, WandB
make = partial(WandB, project="tested", silent=True)
with Loggers([make], pathlib.Path({str(tmp_path)!r}), 0) as loggers:
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
        {"loss/row_0": 0.5, "loss/row_1": 0.25, "steps": 32, "_step": 1},
        {"loss/row_0": 0.125, "loss/row_1": 4.0, "steps": 64, "_step": 2},
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
