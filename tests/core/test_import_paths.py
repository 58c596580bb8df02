"""What a file may name of the user's modules: nothing is imported or called that the user did not choose."""

import functools
import importlib
import subprocess
import sys
import types

import gymnax
import jax
import pytest

from purejaxppo import Config, ConfigError, gae, import_paths
from purejaxppo.environments import GridWorld
from purejaxppo.networks import MLP
from purejaxppo.tables import dumps, loads
from tests.support import programs

MODULE = programs.NAME


@pytest.fixture(autouse=True)
def place(tmp_path):
    """Where the user's module is."""
    with programs.importable(tmp_path / "modules") as place:
        yield place


def table(field, path):
    """The ways to name something in a file."""
    yield f'{field} = "{path}"'
    if field in ("env", "network"):
        yield f'[{field}]\ntype = "{path}"'


@pytest.mark.parametrize("text", ["a:b", "a.b_c:D", "_a:_b1"])
def test_paths(text):
    assert import_paths.is_path(text)


@pytest.mark.parametrize(
    "text", ["", ":", "a", "a:", ":b", "a:b.c", "a..b:c", ".a:b", "a b:c", "a:b:c", "a/b:c", "a:b()", 3, None, ["a:b"]]
)
def test_what_is_no_path(text):
    assert not import_paths.is_path(text)


@pytest.mark.parametrize(
    ("field", "name"),
    [
        ("env", "Env"),
        ("network", "Net"),
        ("optimizer", "optimizer"),
        ("advantage", "explode"),
        ("lr_schedule", "explode"),
        ("clip_eps_schedule", "explode"),
        ("ent_coef_schedule", "explode"),
    ],
)
def test_what_the_user_has_named_is_found_and_not_called(field, name, place):
    for text in table(field, f"{MODULE}:{name}"):
        for imports in ([MODULE], (MODULE, "json"), MODULE):
            programs.forget()
            found = getattr(loads(text, imports=imports), field)
            mine = getattr(sys.modules[MODULE], name)
            assert found == mine() if field in import_paths.KINDS else found is mine
            assert import_paths.path_of(field, mine) == f"{MODULE}:{name}"
    assert not (place / "exploded").exists()


FIELDS = ["env", "network", "optimizer", "advantage", "lr_schedule", "lr", "num_envs", "env_params", "info"]
OTHERS = [(), ["json"], [f"{MODULE}.sub"], [f"not_{MODULE}"], f"not_{MODULE}", ["my"], f"{MODULE}x"]


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("imports", OTHERS, ids=str)
def test_a_module_that_the_user_has_not_named_is_not_imported(field, imports, place):
    for text in table(field, f"{MODULE}:optimizer"):
        with pytest.raises(ConfigError) as error:
            loads(text, imports=imports)
        assert str(error.value) == (
            f"{field}='{MODULE}:optimizer': names the module {MODULE}, which is not imported for a file alone; "
            f"imports=['{MODULE}'] does that, on the command line --import {MODULE}"
        )
        assert MODULE not in sys.modules
        assert not programs.was_imported(place)


@pytest.fixture
def called(monkeypatch):
    """What has been called of that which a hostile file would have called."""
    calls = []
    for module, name in (("os", "system"), ("subprocess", "run"), ("builtins", "exec"), ("shutil", "rmtree")):
        monkeypatch.setattr(importlib.import_module(module), name, lambda *args, name=name, **_: calls.append(name))

    class Popen:
        def __init__(self, *args, **_):
            calls.append("Popen")

    monkeypatch.setattr(subprocess, "Popen", Popen)
    return calls


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize(
    "path", ["os:system", "subprocess:run", "subprocess:Popen", "builtins:exec", "shutil:rmtree", "builtins:__import__"]
)
def test_what_is_imported_already_is_not_called(field, path, called):
    module = path.partition(":")[0]
    assert module in sys.modules
    for text in table(field, path):
        with pytest.raises(ConfigError) as error:
            loads(text)
        assert str(error.value).startswith(f"{field}={path!r}: ")
        if field not in import_paths.KINDS:
            assert f"imports=['{module}']" in str(error.value)
            continue
        with pytest.raises(ConfigError, match=f"{field}='{path}': must be a class derived from"):
            loads(text, imports=[module])
    assert called == []


@pytest.mark.parametrize(
    ("field", "path", "allowed"),
    [
        ("env", "collections:OrderedDict", "a class derived from gymnax's Environment"),
        ("env", "purejaxppo.config:Config", "a class derived from gymnax's Environment"),
        ("env", "purejaxppo.networks.mlp:MLP", "a class derived from gymnax's Environment"),
        ("env", "purejaxppo.environments:make", "a class derived from gymnax's Environment"),
        ("env", "purejaxppo.environments:nothing", "a class derived from gymnax's Environment"),
        ("network", "purejaxppo.environments:GridWorld", "a class derived from flax's Module or purejaxppo's Network"),
        ("network", "flax.linen:relu", "a class derived from flax's Module or purejaxppo's Network"),
        ("optimizer", "purejaxppo.networks.mlp:MLP", "a function"),
        ("optimizer", "purejaxppo.networks.mlp:ACTIVATIONS", "a function"),
        ("lr_schedule", "purejaxppo.schedules:nothing", "a function"),
    ],
)
def test_what_is_of_another_kind_is_refused(field, path, allowed):
    for text in table(field, path):
        with pytest.raises(ConfigError) as error:
            loads(text, imports=[path.partition(":")[0]])
        assert str(error.value) == f"{field}={path!r}: must be {allowed}"


@pytest.mark.parametrize("imports", [(), ["tempting"]], ids=str)
@pytest.mark.parametrize("field", ["env", "network", "optimizer"])
def test_what_a_module_would_make_up_is_not_asked_for(field, imports, monkeypatch):
    module, asked = types.ModuleType("tempting"), []
    module.__getattr__ = lambda name: asked.append(name) or {"env": GridWorld, "network": MLP}.get(field, gae)
    monkeypatch.setitem(sys.modules, "tempting", module)
    assert module.Depot is not None
    assert asked.pop() == "Depot"
    for text in table(field, "tempting:Depot"):
        with pytest.raises(ConfigError, match=f"{field}='tempting:Depot': "):
            loads(text, imports=imports)
    assert asked == []


def test_a_module_that_must_not_be_imported_is_an_error_in_words(monkeypatch):
    monkeypatch.setitem(sys.modules, "blocked", None)
    with pytest.raises(ConfigError, match="names the module blocked, which is not imported for a file alone"):
        loads('env = "blocked:Depot"')
    with pytest.raises(ConfigError, match="env: the module blocked cannot be imported"):
        loads('env = "blocked:Depot"', imports=["blocked"])


class Holder:
    """Holds a function that is not at the top level."""

    @staticmethod
    def optimizer(lr):
        raise NotImplementedError


def renamed(lr):
    raise NotImplementedError


hidden, renamed = renamed, None


def a_local_class():
    class Local(GridWorld):
        pass

    return Local("S.M")


def a_class_of_the_program():
    """As one that is written in the file that runs."""
    return type("Mine", (GridWorld,), {"__module__": "__main__"})("S.M")


def test_what_could_not_be_imported_again_is_refused(monkeypatch):
    program = a_class_of_the_program()
    monkeypatch.setattr(sys.modules["__main__"], "Mine", type(program), raising=False)  # it is there, but only now
    cases = {
        f"optimizer={test_what_could_not_be_imported_again_is_refused.__name__}.<locals>.<lambda> of": {
            "optimizer": lambda lr: hidden(lr)
        },
        "optimizer=Holder.optimizer of": {"optimizer": Holder.optimizer},
        "optimizer=renamed of": {"optimizer": hidden},
        "env=a_local_class.<locals>.Local of": {"env": a_local_class()},
        "env=Mine of __main__": {"env": program},
    }
    for begins, values in cases.items():
        with pytest.raises(ConfigError) as error:
            dumps(Config(**values))
        assert str(error.value).startswith(begins)
        assert str(error.value).endswith(
            ": could not be imported again: move it to the top level of a module of its own, and import it from there"
        )
    for value in (functools.partial(hidden), functools.partial(gae, gamma=1)):
        with pytest.raises(ConfigError, match=r"advantage=functools\.partial.*to be written to a file"):
            dumps(Config(advantage=value))


@jax.jit
def compiled(lr):
    raise NotImplementedError


def test_a_function_that_is_compiled_is_written_by_its_name():
    config = Config(lr_schedule=compiled)
    assert f'lr_schedule = "{__name__}:compiled"' in dumps(config)
    assert loads(dumps(config), imports=[__name__]) == config


def test_an_id_that_a_named_module_registers_is_found(place):
    name = "Registered-v0"
    (place / "registering.py").write_text(
        f"import gymnax\ngymnax.register({name!r}, lambda: gymnax.make('Catch-bsuite')[0])"
    )
    try:
        with pytest.raises(ConfigError, match=f"unknown env '{name}'"):
            loads(f'env = "{name}"')
        assert "registering" not in sys.modules
        assert loads(f'env = "{name}"', imports=["registering"]).env == name
    finally:
        sys.modules.pop("registering", None)
        gymnax.registration._registry.pop(name, None)
    with pytest.raises(ConfigError, match="env: the module nowhere cannot be imported"):
        loads('env = "Unregistered-v0"', imports=["nowhere"])
