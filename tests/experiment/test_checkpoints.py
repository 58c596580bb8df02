"""Checkpoints: what is written comes back, and what is broken is never taken for whole."""

import json
import logging
import os
import pickle
import re
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purejaxppo import MLP, Config, init
from purejaxppo.environments import RandomGridWorld
from purejaxppo.errors import RunError
from purejaxppo.experiment.runs import checkpoints, files
from purejaxppo.experiment.runs.checkpoints import fingerprint
from tests.support.small import names

STATE = {
    "weights": jnp.arange(6.0).reshape(2, 3),
    "nested": (jnp.array([True, False]), jnp.array(-3, jnp.int8), jnp.array(2**32 - 1, jnp.uint32)),
    "keys": jax.random.split(jax.random.key(0), 2),
    "odd": jnp.array([jnp.nan, jnp.inf, -0.0, 1e-45], jnp.float32),
}


def like(state=STATE):
    return lambda: jax.eval_shape(lambda: state)


def save(directory, num_updates=1, state=STATE, run="mine", score=0.0):
    checkpoints.save(directory, num_updates, state, run=run, score=score)
    return directory / str(num_updates)


def every_file(directory):
    return sorted(path for path in directory.rglob("*") if path.is_file())


def test_a_state_comes_back_bit_for_bit(tmp_path):
    save(tmp_path)
    found = checkpoints.load(tmp_path, like(), run="mine")
    assert fingerprint(found.state) == fingerprint(STATE)
    assert (found.num_updates, found.broken) == (1, [])
    assert names(tmp_path) == ["1"]


def test_the_directory_may_be_relative(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(Path(), 7)
    assert fingerprint(checkpoints.load(Path(), like(), run="mine").state) == fingerprint(STATE)
    assert names(tmp_path) == ["7"]


@pytest.mark.parametrize("env", ["CartPole-v1", "Breakout-MinAtar", "DeepSea-bsuite", RandomGridWorld()], ids=str)
def test_states_of_all_kinds_of_environments_come_back(env, tmp_path):
    state = init(Config(env=env, num_envs=2, num_steps=8, network=MLP(hidden_sizes=(4,))), jax.random.key(0))
    save(tmp_path, state=state)
    found = checkpoints.load(tmp_path, like(state), run="mine").state
    assert jax.tree.structure(found) == jax.tree.structure(state)
    assert fingerprint(found) == fingerprint(state)


def test_fingerprints_tell_bits_types_and_shapes_apart():
    same = [jnp.zeros(2), jnp.zeros((2, 1)), -jnp.zeros(2), jnp.zeros(2, jnp.int32), jnp.zeros(3)]
    others = [jax.random.key(0), jax.random.key(1)]
    assert len({fingerprint(leaf) for leaf in same + others}) == 7
    assert fingerprint(jnp.zeros(2)) == fingerprint(np.zeros(2, np.float32))


def test_without_any_checkpoint_there_is_nothing(tmp_path):
    (tmp_path / f"{files.TEMPORARY}7").mkdir()  # one that was being written when the power went
    (tmp_path / "notes").mkdir()
    (tmp_path / "007").mkdir()
    assert checkpoints.load(tmp_path, like(), run="mine") is None
    assert checkpoints.load(tmp_path / "not there", like(), run="mine") is None


def test_the_newest_is_loaded_by_number(tmp_path):
    for num_updates in (9, 10, 2):
        save(tmp_path, num_updates, STATE | {"weights": jnp.full((2, 3), float(num_updates))})
    assert checkpoints.load(tmp_path, like(), run="mine").state["weights"][0, 0] == 10


def test_one_flipped_bit_in_any_file_is_found(tmp_path):
    whole = save(tmp_path)
    num_files = len(every_file(whole))
    assert num_files > 5
    for index in range(num_files):
        shutil.copytree(whole, tmp_path / "2")
        path = every_file(tmp_path / "2")[index]
        content = bytearray(path.read_bytes() or b"\0")
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
        found = checkpoints.load(tmp_path, like(), run="mine")
        assert found.num_updates == 1, path
        assert len(found.broken) == 1
        assert str(tmp_path / "2") in found.broken[0]
        shutil.rmtree(tmp_path / "2")


def truncate(path):
    victim = max(every_file(path / "state"), key=lambda file: file.stat().st_size)
    os.truncate(victim, victim.stat().st_size // 2)


def empty(path):
    max(every_file(path / "state"), key=lambda file: file.stat().st_size).write_bytes(b"")


def lose_a_file(path):
    every_file(path / "state")[0].unlink()


def add_a_file(path):
    (path / "state" / "more").write_text("x")


def link_a_file(path):
    victim = every_file(path / "state")[0]
    elsewhere = path.parent.parent / "elsewhere"
    shutil.move(victim, elsewhere)
    victim.symlink_to(elsewhere)


def link_the_checkpoint(path):
    elsewhere = path.parent.parent / "elsewhere"
    shutil.move(path, elsewhere)
    path.symlink_to(elsewhere)


def edit(**changes):
    def break_(path):
        manifest = json.loads((path / checkpoints.MANIFEST).read_text())
        (path / checkpoints.MANIFEST).write_text(json.dumps(manifest | changes))

    return break_


def name_a_file_outside(name):
    def break_(path):
        (path.parent.parent / "secret").write_text("secret")
        manifest = json.loads((path / checkpoints.MANIFEST).read_text())
        manifest["files"][name] = files.hash_file(path.parent.parent / "secret")
        (path / checkpoints.MANIFEST).write_text(json.dumps(manifest))

    return break_


def write_manifest(text):
    return lambda path: (path / checkpoints.MANIFEST).write_text(text)


@pytest.mark.parametrize(
    ("break_", "said"),
    [
        (truncate, r"is corrupt \(checksum mismatch: state/.*\)"),
        (empty, r"is corrupt \(checksum mismatch: state/.*\)"),
        (lose_a_file, r"is corrupt \(checksum mismatch: state/.*\)"),
        (add_a_file, r"is corrupt \(checksum mismatch: state/more\)"),
        (link_a_file, "must be a file, not a link"),
        (link_the_checkpoint, "must not be a symbolic link"),
        (name_a_file_outside("../../secret"), r"is corrupt \(checksum mismatch: \.\./\.\./secret\)"),
        (name_a_file_outside("/etc/hostname"), r"is corrupt \(checksum mismatch: /etc/hostname\)"),
        (edit(run="another"), "belongs to another run or another configuration"),
        (edit(num_updates=7), "belongs to another run or another configuration"),
        (edit(format=2), "format=2: must be 1; another version of purejaxppo"),
        (edit(format=None), "format=None: must be 1"),
        (edit(files=[]), "is corrupt"),
        (edit(files={}), "is corrupt"),
        (edit(score="high"), "is corrupt"),
        (edit(leaves=None), "is corrupt"),
        (edit(leaves=[[]]), "does not fit the configuration"),
        (edit(leaves=["['weights']: float32[3, 2]"]), "does not fit the configuration"),
        (write_manifest(""), "is corrupt"),
        (write_manifest("[" * 100_000), "is corrupt"),
        (lambda path: (path / checkpoints.MANIFEST).unlink(), "cannot be read"),
        (lambda path: (shutil.rmtree(path), path.write_text("a file")), "cannot be read"),
    ],
)
def test_a_broken_checkpoint_is_passed_over_and_told(break_, said, tmp_path):
    directory = tmp_path / "checkpoints"
    directory.mkdir()
    save(directory, 3)
    break_(save(directory, 5))
    found = checkpoints.load(directory, like(), run="mine")
    assert found.num_updates == 3
    assert fingerprint(found.state) == fingerprint(STATE)
    with pytest.raises(RunError, match=said):
        raise RunError(*found.broken)
    assert str(directory / "5") in found.broken[0]

    shutil.rmtree(directory / "3")  # now there is no whole one
    with pytest.raises(RunError, match=said) as error:
        checkpoints.load(directory, like(), run="mine")
    assert "no checkpoint can be used" in str(error.value)
    assert "\n" not in str(error.value)
    assert checkpoints.numbers(directory) == [5]  # and nothing was deleted


@pytest.mark.parametrize(
    ("state", "wanted"),
    [
        (STATE | {"weights": jnp.zeros((2, 4))}, "['weights']: float32[2, 3]"),
        (STATE | {"weights": jnp.zeros((2, 2))}, "['weights']: float32[2, 3]"),
        (STATE | {"weights": jnp.zeros((2, 3), jnp.int32)}, "['weights']: float32[2, 3]"),
        (STATE | {"more": jnp.zeros(2)}, "fewer arrays"),
        ({name: leaf for name, leaf in STATE.items() if name != "odd"}, "['odd']: "),
        (STATE | {"keys": jax.random.key(0)}, "['keys']: key<fry>[2]"),
        (STATE | {"keys": jnp.zeros(2)}, "['keys']: key<fry>[2]"),
    ],
    ids=["wider", "narrower", "integers", "more", "less", "one key", "no keys"],
)
def test_a_state_of_another_shape_does_not_fit(state, wanted, tmp_path):
    save(tmp_path, state=state)
    said = f"does not fit the configuration, which asks for {wanted}"
    with pytest.raises(RunError, match=re.escape(said)) as error:
        checkpoints.load(tmp_path, like(), run="mine")
    assert "\n" not in str(error.value)


def test_nothing_is_unpickled(tmp_path, monkeypatch):
    class Bomb:
        def __reduce__(self):
            return pytest.fail, ("executed",)

    path = save(tmp_path)
    content = pickle.dumps(Bomb())
    for victim in every_file(path / "state"):
        victim.write_bytes(content)
    hashes = {str(file.relative_to(path)): files.hash_file(file) for file in every_file(path)}
    hashes.pop(checkpoints.MANIFEST)
    edit(files=hashes)(path)
    with pytest.raises(RunError, match="does not fit the configuration \\("):
        checkpoints.load(tmp_path, like(), run="mine")


def test_only_the_newest_and_the_best_are_kept(tmp_path):
    nan = float("nan")
    for num_updates, score in enumerate([nan, 2.0, 9.0, 1.0, 9.0, 3.0, nan, 0.0], 1):
        save(tmp_path, num_updates, score=score)
        checkpoints.prune(tmp_path, 2)
    assert checkpoints.numbers(tmp_path) == [5, 7, 8]  # of equally good ones the newer
    (tmp_path / "5" / checkpoints.MANIFEST).write_text("broken")
    checkpoints.prune(tmp_path, 1)
    assert checkpoints.numbers(tmp_path) == [5, 8]  # it is not for us to delete what is broken
    assert names(tmp_path) == ["5", "8"]


def test_a_checkpoint_takes_the_place_of_a_broken_one(tmp_path):
    truncate(save(tmp_path))
    save(tmp_path)
    assert checkpoints.load(tmp_path, like(), run="mine").broken == []


@pytest.mark.parametrize("step", ["hash_file", "sync", "write"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), ValueError("tensorstore: no space")])
def test_a_checkpoint_that_cannot_be_written_leaves_nothing(step, error, tmp_path, monkeypatch):
    save(tmp_path)

    def fail(*_):
        raise error

    monkeypatch.setattr(files, step, fail)
    with pytest.raises(OSError, match=r"(?i)no space"):
        save(tmp_path, 2)
    assert names(tmp_path) == ["1"]
    monkeypatch.undo()
    assert checkpoints.load(tmp_path, like(), run="mine").num_updates == 1


def test_an_error_is_told_once_and_not_logged_by_orbax_as_well(tmp_path, monkeypatch, caplog):
    from orbax.checkpoint import v1 as ocp

    def fail(*_):
        logging.getLogger("absl").error("Traceback")
        raise ValueError("no space")

    monkeypatch.setattr(ocp, "save", fail)
    with pytest.raises(OSError, match="no space"):
        save(tmp_path)
    assert caplog.text == ""
    logging.getLogger("absl").error("said by others")
    assert "said by others" in caplog.text


def test_what_is_not_yet_named_is_not_a_checkpoint(tmp_path, monkeypatch):
    """As if the power went just before the last step: everything is written but the name."""
    save(tmp_path)
    monkeypatch.setattr(type(tmp_path), "rename", lambda *_: None)
    save(tmp_path, 2)
    monkeypatch.undo()
    assert names(tmp_path) == [f"{files.TEMPORARY}2", "1"]
    assert checkpoints.load(tmp_path, like(), run="mine").num_updates == 1
