"""Named configurations from TOML files."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purejaxppo import MLP, Config, ConfigError, GridWorld, GridWorldParams, preset, presets
from purejaxppo.environments import make, make_task
from purejaxppo.tables import dumps
from tests.support.flags import parse


@pytest.mark.parametrize("name", presets.names())
def test_every_shipped_preset_is_a_configuration(name):
    try:
        assert isinstance(preset(name), Config)
    except ConfigError as error:
        if "needs pip install" not in str(error):
            raise
        pytest.skip(str(error))


def test_serrano_is_the_videos_setting():
    config = preset("serrano")
    assert (config.clip_eps, config.gamma, config.gae_lambda) == (0.3, 1, 1)
    assert config.env_params.step_cost == 1
    # The networks read the row and the column, each scaled to [-1, 1].
    env = make(config.env)
    row, column = np.asarray(jax.vmap(env.features)(jnp.arange(31))).T
    np.testing.assert_allclose(np.stack([row, column], axis=1), 2 * env.map.position / 5 - 1, atol=1e-6)
    assert make_task(env).action_space.n == 4


def test_fields_can_be_changed():
    assert preset("serrano", lr=0.5) == preset("serrano").replace(lr=0.5)
    assert preset("treasure", env="CartPole-v1").num_envs == preset("treasure").num_envs


def test_a_file_of_ones_own(tmp_path):
    (tmp_path / "map.txt").write_text("S.M\n.D.\n")
    path = tmp_path / "mine.toml"
    network = '[network]\ntype = "mlp"\nhidden_sizes = [3]\n'
    path.write_text(f'env = "{tmp_path}/map.txt"\nlr = 1\n{network}[env_params]\nslip = 0.5\n')
    expected = Config(
        env=GridWorld("S.M\n.D."), lr=1.0, network=MLP(hidden_sizes=(3,)), env_params=GridWorldParams(slip=0.5)
    )
    assert preset(path) == preset(str(path)) == expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("lr = ,", r"preset='.*mine.toml': cannot be read as TOML \(.*line 1"),
        ("lrr = 1", "unknown Config field 'lrr'; did you mean 'lr'"),
        ("lr = -1", "lr=-1: must be a finite number > 0"),
        ('env = "CartPole"', "unknown env 'CartPole'; did you mean 'CartPole-v1'"),
        ("[env_params]\nslp = 0.1", "unknown env_params name 'slp'; did you mean 'slip'"),
        ("[env_params]\nslip = 2", "slip=2.0: must be a number in"),
        ('[env_params]\nslip = "x"', "env_params.slip='x': must be like its present value, 0.0"),
        ("env_params = 3", "env_params=3: must be None, or parameters of GridWorld"),
        ("[env]", r"env\.type=None: must be one of 'GridWorld', 'RandomGridWorld', 'TokenTree'"),
        ('[env]\ntype = "os"', r"env\.type='os': must be one of"),
        ("[env]\ntype = []", r"env\.type=\[\]: must be one of"),
        ('[env]\ntype = "GridWorld"\nlayuot = "S.M"', "unknown GridWorld field 'layuot'; did you mean 'layout'"),
        ('[env]\ntype = "GridWorld"\nlayout = "S.D"', "line 1, column 1"),
        ('[env]\ntype = "RandomGridWorld"\nheight = 2.5', r"env\.height=2\.5: must be of type int"),
        ("[network]", r"network\.type=None: must be one of 'mlp', 'cnn', 'gru', or of the form 'module:Class'"),
        ('network = "mpl"', "unknown network 'mpl'; did you mean 'mlp'"),
        ('[network]\ntype = "mpl"', r"network\.type='mpl': must be one of 'mlp', 'cnn', 'gru'"),
        ('[network]\ntype = "mlp"\nchannels = [3]', "unknown mlp field 'channels'"),
        ('[network]\ntype = "mlp"\nhidden_sizes = 3', r"network\.hidden_sizes=3: must be of type list"),
        ('[network]\ntype = "mlp"\nhidden_sizes = [0]', r"hidden_sizes=\(0,\): must be a sequence of integers >= 1"),
        ('[network]\ntype = "mlp"\nactivation = "gelu"', "activation='gelu': must be one of 'tanh', 'relu'"),
        ('optimizer = "adan"', "optimizer='adan': must be one of 'adam'"),
        ('info = "x"', "info='x': must be a sequence of words"),
        ('[env]\ntype = "RandomGridWorld"\nheight = true', r"env\.height=True: must be of type int"),
        ("lr = " + "[" * 100_000, "cannot be read as TOML"),
    ],
)
def test_a_mistake_in_a_file_is_told(text, said, tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=said):
        preset(path)


def test_a_preset_that_is_not_there_is_told():
    with pytest.raises(ConfigError, match="unknown preset 'seranno'; did you mean 'serrano'"):
        preset("seranno")
    with pytest.raises(ConfigError, match=r"preset='missing.toml': cannot be read"):
        preset("missing.toml")


def test_flags_start_from_a_preset_and_change_it():
    config, seeds = parse(["train"])
    assert (config, seeds.num_seeds) == (preset("treasure"), 1024)
    config, seeds = parse(["train", "--preset", "serrano"])
    assert (config, seeds.num_seeds) == (preset("serrano"), 1)
    config, _ = parse(["train", "--lr", "0.5", "--preset=serrano", "--env-params", "slip=0.25"])
    changed = preset("serrano").env_params.replace(slip=0.25)
    assert config == preset("serrano", lr=0.5, env_params=changed)


def test_the_presets_parameters_stay_with_its_environment(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("[env_params]\nslip = 0.5\n")
    config, _ = parse(["train", "--preset", str(path), "--env-params", "money=9"])
    assert config.env_params == GridWorldParams(slip=0.5, money=9.0)
    config, _ = parse(["train", "--preset", str(path), "--env", "GridWorld-maze"])
    assert config.env_params is None
    config, _ = parse(["train", "--preset", str(path), "--env", "CartPole-v1"])
    assert config.env_params is None


def test_flags_change_what_a_file_has_as_a_table(tmp_path):
    path = tmp_path / "config.toml"
    written = Config(env=GridWorld("maze", "coordinates"), env_params=GridWorldParams(slip=0.3))
    path.write_text(dumps(written))
    config, _ = parse(["train", "--preset", str(path), "--env-params", "money=9", "--num-envs", "8"])
    expected = written.env_params.replace(money=9.0)
    assert config == written.replace(num_envs=8, env_params=expected)
    config, _ = parse(["train", "--preset", str(path), "--env", "CartPole-v1"])
    assert (config.env, config.env_params) == ("CartPole-v1", None)
