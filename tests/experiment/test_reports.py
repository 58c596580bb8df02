"""Reports: their numbers against scipy and hand-made curves, and what is rendered of them."""

import functools
import io
import json
import re
import sys
import warnings

import jax
import numpy as np
import pytest
import scipy.stats
from PIL import Image
from rich.console import Console

from purejaxppo import Config, ConfigError, GridWorld
from purejaxppo.cli import output
from purejaxppo.errors import PurejaxppoError, RunError, in_one_line, printable
from purejaxppo.experiment import RunOptions, load_trials, run
from purejaxppo.experiment.reports.formats import tables, to_json, to_markdown, write
from purejaxppo.experiment.reports.report import report
from purejaxppo.experiment.reports.statistics import probability_of_improvement, stratified_bootstrap
from purejaxppo.experiment.runs import files
from purejaxppo.experiment.sweeps.sweep import Trial, sweep
from purejaxppo.networks import MLP
from purejaxppo.settings import Settings, static
from tests.support import probes

CONFIG = Config(num_envs=2, num_steps=8, total_timesteps=16 * 12)
STEPS = 16 * np.arange(1, 13)
NAN = np.nan
QUICK = {"num_resamples": 200}


def trial(name, scores, curves=None, config=CONFIG, **changes):
    """A made-up one; without curves, they rise to the score."""
    scores = np.asarray(scores, np.float32)
    if curves is None:
        curves = scores[:, None] * np.linspace(0, 1, config.num_updates)
    metrics = {"episode_return": np.asarray(curves, np.float32)}
    return Trial(name, config, scores, metrics, compile_seconds=3.0, run_seconds=24.0)._replace(**changes)


RNG = np.random.default_rng(0)
SCORES = [RNG.normal(size=9), RNG.normal(size=8) + 2, RNG.normal(size=5) - 2]
TRIALS = [trial(f"lr={number}", scores) for number, scores in enumerate(SCORES)]


@pytest.fixture(scope="module")
def rows():
    return report(TRIALS, **QUICK).rows


def test_the_estimate_is_the_trimmed_mean_with_a_stratified_bootstraps_interval(rows):
    for row, scores in zip(rows, SCORES, strict=True):
        np.testing.assert_array_equal(row.scores, scores.astype(np.float32))
        assert row.iqm.estimate == pytest.approx(scipy.stats.trim_mean(scores, 0.25), abs=1e-6)
        assert row.iqm == stratified_bootstrap(row.scores, num_resamples=200)
        assert row.iqm.low < row.iqm.estimate < row.iqm.high


def test_each_is_compared_with_the_first(rows):
    assert [(row.baseline, row.improvement is None) for row in rows] == [(None, True), ("lr=0", False), ("lr=0", False)]
    for row, scores in zip(rows[1:], SCORES[1:], strict=True):
        u = scipy.stats.mannwhitneyu(scores, SCORES[0]).statistic
        assert row.improvement.estimate == pytest.approx(u / (len(scores) * 9))
        units = [np.round(scores, 6) for scores in (row.scores, rows[0].scores)]
        assert row.improvement == stratified_bootstrap(*units, statistic=probability_of_improvement, num_resamples=200)
    assert rows[1].improvement.estimate > 0.5 > rows[2].improvement.estimate


def test_rounding_errors_break_no_ties():
    for scale in (1, 1e3):
        exact, rounded, better = (trial(str(shift), scale * np.full(4, 0.36 + shift)) for shift in (0, 6e-8, 1e-4))
        assert report(exact, rounded, **QUICK).rows[1].improvement == (0.5, 0.5, 0.5)
        assert report(exact, better, **QUICK).rows[1].improvement == (1, 1, 1)
    assert report(trial("a", [0, 0]), trial("b", [0, 0]), **QUICK).rows[1].improvement.estimate == 0.5


def test_only_what_is_on_the_same_environment_is_compared():
    other = CONFIG.replace(env="CartPole-v1")
    mixed = [trial("a", [1, 2]), trial("b", [3, 4], config=other), trial("c", [5, 6]), trial("d", [3, 7], config=other)]
    result = report(mixed, **QUICK)
    assert [row.baseline for row in result.rows] == [None, None, "a", "b"]
    assert [row.environment for row in result.rows] == ["GridWorld-treasure", "CartPole-v1"] * 2
    titles = [str(table.title) for table in tables(result)]
    assert titles == ["GridWorld-treasure", "GridWorld-treasure, by seed", "CartPole-v1", "CartPole-v1, by seed"]
    assert [table.row_count for table in tables(result)] == [2, 4, 2, 4]


def test_the_options_reach_the_bootstrap():
    base = report(TRIALS[0], **QUICK).rows[0].iqm
    assert report(TRIALS[0], **QUICK).rows[0].iqm == base
    assert report(TRIALS[0], seed=1, **QUICK).rows[0].iqm != base
    narrow = report(TRIALS[0], confidence=0.5, **QUICK).rows[0].iqm
    assert "| IQM [99.5% interval] |" in to_markdown(report(TRIALS[0], confidence=0.995, **QUICK))
    assert base.low < narrow.low < narrow.high < base.high
    assert report(TRIALS[0], num_resamples=201).rows[0].iqm != base


def test_steps_and_seconds_to_a_threshold():
    curves = np.zeros((3, 12))
    curves[0, 5:], curves[1, [2, 9, 10]] = 1, 1
    row = report(trial("a", [1, 1, 0], curves), threshold=1).rows[0]
    np.testing.assert_array_equal(row.steps_to_threshold, [STEPS[5], STEPS[2], NAN])
    np.testing.assert_allclose(row.seconds_to_threshold, [24 * 6 / 12, 24 * 3 / 12, NAN])
    row = report(trial("a", [1, 1, 0], curves), threshold=1, window=2).rows[0]
    np.testing.assert_array_equal(row.steps_to_threshold, [STEPS[6], STEPS[10], NAN])
    row = report(trial("a", [1, 1, 0], curves)).rows[0]
    assert np.isnan(row.steps_to_threshold).all()


def test_the_exact_return_is_preferred_where_it_is_known():
    one = trial("a", [1.0, 2.0])
    exact = np.full((2, 12), 7, np.float32)
    one = one._replace(metrics=one.metrics | {"expected_return": exact})
    row = report(one, threshold=7, **QUICK).rows[0]
    assert row.steps_to_threshold.tolist() == [16, 16]
    assert (row.curve.returns == 7).all()


def test_a_curve_starts_where_every_seed_has_a_return_and_carries_the_last_one_on():
    curves = np.arange(48.0).reshape(4, 12)
    curves[0, :3] = curves[1, 5] = curves[2, 11] = NAN
    curve = report(trial("a", [1, 2, 3, 4], curves), **QUICK).rows[0].curve
    np.testing.assert_array_equal(curve.steps, STEPS[3:])
    expected = curves.copy()
    expected[1, 5], expected[2, 11] = curves[1, 4], curves[2, 10]
    np.testing.assert_array_equal(curve.returns, expected[:, 3:])
    np.testing.assert_allclose(curve.iqm.estimate, scipy.stats.trim_mean(expected[:, 3:], 0.25))
    assert np.all(curve.iqm.low <= curve.iqm.estimate)
    assert np.all(curve.iqm.estimate <= curve.iqm.high)
    assert curve.iqm.low.shape == (9,)


def test_the_points_of_a_curve_have_fewer_resamples():
    result = report(TRIALS[0], num_resamples=2000)
    curve = result.rows[0].curve
    interval = stratified_bootstrap(curve.returns.T[:, None, :], num_resamples=500)
    np.testing.assert_array_equal(curve.iqm.low, interval.low)


def test_a_long_curve_is_averaged_over_windows_up_to_its_end():
    config = CONFIG.replace(total_timesteps=16 * 1002)
    curves = RNG.normal(size=(3, 1002))
    curve = report(trial("a", [1, 2, 3], curves, config), **QUICK).rows[0].curve
    assert curve.window == 6
    np.testing.assert_array_equal(curve.steps, 16 * np.arange(6, 1003, 6))
    np.testing.assert_allclose(curve.returns, curves.reshape(3, 167, 6).mean(axis=-1), atol=1e-6)
    assert np.all(curve.iqm.low <= curve.iqm.high)


class FitConfig(Settings):
    """Of an algorithm without an environment."""

    num_updates: int = static(12, "updates")
    batch_size: int = static(16, "samples of an update")


def test_an_algorithm_without_returns_has_a_report_without_curves(tmp_path):
    trials = [trial(name, scores, config=FitConfig(), metrics={"loss": np.zeros((3, 12))}) for name, scores in FITS]
    result = report(trials, trial("ppo", [1, 2, 3]), **QUICK)
    assert [(row.environment, row.baseline) for row in result.rows] == [
        ("FitConfig", None),
        ("FitConfig", "a"),
        ("GridWorld-treasure", None),
    ]
    assert [row.curve is None for row in result.rows] == [True, True, False]
    assert json.loads(to_json(result))["rows"][0]["curve"] is None
    written = {path.name for path in write(result, tmp_path)}
    assert {"iqm.png", "seeds.png", "curves-2.png"} < written
    assert "curves.png" not in written
    assert "curves.png" not in (tmp_path / "report.md").read_text()
    with pytest.raises(ConfigError, match=r"threshold=1: needs returns while training, which a has not"):
        report(trials, threshold=1)


FITS = [("a", [-1, -2, -3]), ("b", [-1, -1, -2])]


def test_a_configuration_without_episodes_has_a_report():
    result = report(trial("a", [1, 2], np.full((2, 12), NAN)), threshold=0, **QUICK)
    assert result.rows[0].curve.steps.shape == (0,)
    assert json.loads(to_json(result))["rows"][0]["curve"]["returns"] == [[], []]
    assert "| 0/2 | - | - |" in to_markdown(result)


def test_one_or_two_seeds_have_no_interval_and_say_so():
    result = report(trial("a", [1.5]), trial("b", [2.5]), trial("c", [2, 4]), trial("d", [2, 4, 5]), **QUICK)
    assert [bool(np.isfinite(row.iqm.low)) for row in result.rows] == [False, False, False, True]
    for text in (to_markdown(result), printed(result)):
        assert "1.5 (one seed: no interval)" in text
        assert "3 (two seeds: no interval)" in text
    assert "| 3 (two seeds: no interval) | 2 | 4 | 1.00 |" in to_markdown(result)
    assert json.loads(to_json(result))["rows"][1]["improvement"] == {"estimate": 1.0, "low": None, "high": None}


def test_json_holds_every_seed_and_no_nan():
    curves = np.zeros((3, 12))
    curves[0, 5:] = 1
    text = to_json(report(trial("a", [1, 2, 3], curves), threshold=1, **QUICK))
    (row,) = json.loads(text, parse_constant=lambda name: pytest.fail(name))["rows"]
    assert row["scores"] == [1, 2, 3]
    assert row["steps_to_threshold"] == [STEPS[5], None, None]
    assert row["curve"]["returns"] == curves.tolist()
    assert row["config"]["num_envs"] == 2
    assert (row["compile_seconds"], row["run_seconds"], row["steps"]) == (3, 24, 192)
    assert json.loads(text)["threshold"] == 1


def test_an_environment_that_no_file_can_hold_has_no_configuration():
    config = CONFIG.replace(env=probes.ConstantReward())
    (row,) = json.loads(to_json(report(trial("a", [1, 2], config=config), **QUICK)))["rows"]
    assert row["config"] is None
    assert row["environment"] == "ConstantReward"


def printed(result, width=200):
    console = Console(width=width, file=io.StringIO())
    for table in tables(result):
        console.print(table)
    return console.file.getvalue()


def test_the_tables_show_every_configuration_and_every_seed():
    curves = np.zeros((4, 12))
    curves[:, 5], curves[0, 2] = 1, 1
    result = report(trial("sizes=[5, 6] [bold]", [1, 2, 3, 4], curves), trial("b|c", [5, 6]), threshold=1, **QUICK)
    low, high = result.rows[0].iqm[1:]
    cells = [
        "sizes=[5, 6] [bold]",
        f"2.5 [{low:.4g}, {high:.4g}]",
        "1",
        "4",
        "baseline",
        "4/4",
        "96",
        "12.00",
        "3.00",
        "24.00",
    ]
    text = printed(result)
    for line in (cells, ["sizes=[5, 6] [bold]", "0", "1", "48", "6.00"], ["b|c", "1", "6", "48", "6.00"]):
        assert any(re.split(" {2,}", found.strip()) == line for found in text.splitlines())
    markdown = to_markdown(result)
    assert f"| {' | '.join(cells)} |\n" in markdown
    assert "| b\\|c | 1 | 6 | 48 | 6.00 |\n" in markdown
    assert "mean return reached 1;" in markdown
    assert "mean return of 3 updates reached" in to_markdown(report(trial("a", [1]), threshold=1, window=3))
    for table in markdown.split("\n\n"):
        lines = [line.replace("\\|", "").count("|") for line in table.splitlines() if line.startswith("|")]
        assert len(set(lines)) <= 1


def test_the_median_counts_seeds_that_never_reach_it():
    curves = np.zeros((3, 12))
    curves[0, 2:], curves[1, 4:] = 1, 1
    assert "| 2/3 | 80 | 10.00 |" in to_markdown(report(trial("a", [1, 1, 0], curves), threshold=1))
    curves[1] = 0
    assert "| 1/3 | - | - |" in to_markdown(report(trial("a", [1, 1, 0], curves), threshold=1))


def test_without_a_threshold_nothing_is_said_of_one():
    result = report(TRIALS, **QUICK)
    for text in (to_markdown(result), printed(result)):
        assert "threshold" not in text
        assert "eached" not in text


def test_large_and_small_numbers_are_readable():
    result = report(trial("a", [123456.789]), trial("b", [0.00012345]), trial("c", [-0.0]))
    markdown = to_markdown(result)
    assert "| 123,457 |" in markdown
    assert "| 0.0001234 |" in markdown
    assert "-0" not in markdown


def test_matplotlib_is_needed_only_for_pictures(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "purejaxppo.experiment.pictures.report", None)
    monkeypatch.delattr("purejaxppo.experiment.pictures.report", raising=False)
    result = report(TRIALS, **QUICK)
    assert to_json(result)
    assert to_markdown(result)
    assert tables(result)
    with pytest.raises(ImportError):
        write(result, tmp_path)


def test_what_is_written(tmp_path):
    other = trial("cart", [1, 2], config=CONFIG.replace(env="CartPole-v1"))
    result = report(TRIALS, other, threshold=0.5, **QUICK)
    directory = tmp_path / "new" / "report"
    paths = write(result, directory)
    names = {"iqm.png", "seeds.png", "curves.png", "iqm-2.png", "seeds-2.png", "curves-2.png"}
    assert (
        {path.name for path in paths}
        == {path.name for path in directory.iterdir()}
        == names
        | {
            "report.json",
            "report.md",
        }
    )
    assert (directory / "report.json").read_text() == to_json(result)
    markdown = (directory / "report.md").read_text()
    first, second = markdown.split("## CartPole-v1")
    for name in names:
        Image.open(directory / name).verify()
        assert f"![{name}]({name})" in (second if "-2" in name else first)


def test_nothing_is_overwritten_unless_that_is_said(tmp_path):
    result = report(TRIALS[0], **QUICK)
    (tmp_path / "report.md").write_text("mine")
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"already holds 'report.md', and nothing is overwritten"):
        write(result, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"report.md", "notes.txt"}
    write(result, tmp_path, overwrite=True)
    assert (tmp_path / "report.md").read_text() == to_markdown(result, [["iqm.png", "seeds.png", "curves.png"]])
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_runs_own_files_are_not_replaced(runs):
    before = (runs[0] / "one" / files.SUMMARY).read_bytes()
    with pytest.raises(ConfigError, match="must not be a run's"):
        write(report(TRIALS[0], **QUICK), runs[0] / "one", overwrite=True)
    assert (runs[0] / "one" / files.SUMMARY).read_bytes() == before


def test_a_directory_that_cannot_be_written_is_an_error(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"directory='.*': cannot be written to"):
        write(report(TRIALS[0], **QUICK), tmp_path / "file")

    def full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "write", full)
    with pytest.raises(RunError, match=r"cannot be written to \(No space left on device\)"):
        write(report(TRIALS[0], **QUICK), tmp_path / "new")


SMALL = Config(env=GridWorld("S.M\n.D."), num_envs=2, num_steps=8, total_timesteps=32, network=MLP(hidden_sizes=(4,)))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture
def runs(root):
    return made(root)


@functools.cache  # not made by a fixture of the module, which would compile before the test's own settings hold
def made(root):
    """A run of many seeds, one of a single seed, and a sweep."""
    keys = jax.random.split(jax.random.key(0), 3)
    _, metrics = run(SMALL, keys, root / "many", options=RunOptions(num_evaluations=2))
    run(SMALL, keys[0], root / "one", options=RunOptions(num_evaluations=1))
    trials = sweep(SMALL, jax.random.key(1), num_seeds=2, over={"lr": [0.1, 0.2]}, directory=root / "sweep")
    return root, metrics, trials


def test_runs_and_sweeps_are_read_from_their_directories(runs):
    root, metrics, trials = runs
    (many,) = load_trials(root / "many")
    assert (many.name, many.config) == (str(root / "many"), SMALL)
    evaluations = [json.loads(line) for line in (root / "many" / "evaluations.jsonl").read_text().splitlines()]
    assert evaluations[0]["score"] != evaluations[-1]["score"]
    np.testing.assert_array_equal(many.scores, np.float32(evaluations[-1]["score"]))
    np.testing.assert_array_equal(many.metrics["entropy"], metrics["entropy"])

    result = report(root / "many", str(root / "one"), root / "sweep", **QUICK)
    names = [f"{root}/many", f"{root}/one", *(f"{root}/sweep: {trial.name}" for trial in trials)]
    assert [row.name for row in result.rows] == names
    assert [len(row.scores) for row in result.rows] == [3, 1, 2, 2]
    assert to_json(report(root / "sweep", **QUICK)) == to_json(report(trials, **QUICK))


def test_the_pace_of_a_run_that_was_resumed_is_that_of_its_last_part(runs, tmp_path):
    path = copy(runs[0] / "many", tmp_path)
    file = path / files.SUMMARY
    summary, seconds = json.loads(file.read_text()), load_trials(path)[0].run_seconds
    file.write_text(json.dumps(summary | {"resumed_after": 1}))
    assert load_trials(path)[0].run_seconds == pytest.approx(2 * seconds)
    assert seconds == pytest.approx(summary["seconds"]["chunks"] + summary["seconds"]["evaluations"])
    file.write_text(json.dumps(summary | {"resumed_after": 2}))
    assert np.isnan(load_trials(path)[0].run_seconds)
    assert json.loads(to_json(report(path)))["rows"][0]["run_seconds"] is None
    assert "| - |" in to_markdown(report(path))


def copy(source, target):
    for path in source.iterdir():
        if path.is_file():
            (target / path.name).write_bytes(path.read_bytes())
    return target


def cut(path):
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))


@pytest.mark.parametrize(
    ("breakage", "said"),
    [
        (lambda path: (path / files.SUMMARY).unlink(), r"must hold a finished run; resume it first"),
        (lambda path: (path / files.EVALUATIONS).unlink(), r"checksum"),
        (lambda path: cut(path / files.EVALUATIONS), r"its record is corrupt \(checksum mismatch\)"),
        (lambda path: cut(path / files.METRICS), r"its record is corrupt \(checksum mismatch\)"),
        (lambda path: (path / files.SUMMARY).write_text("{}"), r"must hold a finished run"),
        (lambda path: (path / files.SUMMARY).write_text("[]"), r"^\S+summary.json: .*\(not an object\)$"),
        (lambda path: (path / files.CONFIG).write_text("lr = -1"), r"lr=-1: must be"),
        (lambda path: (path / files.RUN).unlink(), r"must "),
    ],
)
def test_a_run_that_cannot_be_reported_is_reported_as_such(runs, tmp_path, breakage, said):
    path = copy(runs[0] / "many", tmp_path)
    breakage(path)
    with pytest.raises(PurejaxppoError, match=said):
        report(path)


def test_a_run_without_evaluations_has_no_score(tmp_path):
    run(SMALL, jax.random.key(0), tmp_path / "run", options=RunOptions(num_evaluations=0))
    with pytest.raises(RunError, match=r"must hold a run that was evaluated at its end \(num_evaluations\)"):
        report(tmp_path / "run")


@pytest.mark.parametrize(
    ("sources", "options", "said"),
    [
        ([], {}, "sources: must hold at least one"),
        ([[]], {}, "sources: must hold at least one"),
        ([3], {}, "sources=3: must be directories of runs or sweeps, or what sweep returned"),
        ([[1, 2]], {}, r"sources=\[1, 2\]: must be directories"),
        (["/nowhere"], {}, "/nowhere"),
        ([TRIALS, TRIALS[1]], {}, "sources: 'lr=1' occurs twice"),
        ([trial("a", [1, 2], np.zeros((2, 11)))], {}, "a: must have metrics"),
        (TRIALS, {"threshold": NAN}, "threshold=nan: must be None, or a finite number"),
        (TRIALS, {"threshold": "1"}, "threshold='1': must be None, or a finite number"),
        (TRIALS, {"threshold": 1, "window": 13}, "window=13: must be an integer from 1 to the number of updates, 12"),
        (TRIALS, {"window": 2}, "window=2: must be 1 without a threshold"),
        (TRIALS, {"confidence": 95}, "confidence=95: must be"),
        (TRIALS, {"num_resamples": 0}, "num_resamples=0: must be"),
    ],
)
def test_bad_arguments_are_refused(sources, options, said):
    with pytest.raises(PurejaxppoError, match=said):
        report(*sources, **options)


def test_a_seed_without_a_score_is_told_and_leaves_the_others_their_report(tmp_path):
    good, bad = trial("good", [1, 2, 3, 4]), trial("bad", [10, NAN, 10, 10])
    result = report([good, bad, trial("worst", [NAN, np.inf, -np.inf, NAN], np.zeros((4, 12)))])
    rows = result.rows
    assert rows[0].iqm.estimate == 2.5
    assert (rows[1].iqm.estimate, rows[1].iqm.high) == (10, 10)  # a quarter of the seeds is left out
    assert rows[1].iqm.low == -np.inf
    assert rows[1].improvement.estimate == 0.75
    assert (rows[2].iqm.estimate, rows[2].improvement.estimate) == (-np.inf, 0)
    said = ["bad: seed 1 has no score, which counts as worse than any.", "worst: seeds 0, 1, 2, 3 have no score"]
    console = Console(width=200, file=io.StringIO())
    for table in tables(result):
        console.print(table)
    markdown = to_markdown(result)
    for sentence in said:
        assert sentence in markdown
        assert sentence in " ".join(console.file.getvalue().split())
    assert "nan" not in markdown
    assert "inf" not in markdown
    write(result, tmp_path / "report")
    assert json.loads((tmp_path / "report" / "report.json").read_text())["rows"][1]["scores"] == [10, None, 10, 10]


NAMES = {
    "\x1b[31mred": r"\\x1b[31mred",
    "<img src=x onerror=alert(1)>": "&lt;img src=x onerror=alert(1)&gt;",
    "[x](javascript:alert(1))": r"[x]\(javascript:alert(1))",
    "a|b\\|c": r"a\|b\\\|c",
    "bad\udcff": r"bad\\udcff",
    "a\n# b": "a # b",
    "[bold]:smile:": "[bold]:smile:",
    r"a$\frac$b": r"a$\\frac$b",
}


def test_names_are_only_names_wherever_they_are_shown(tmp_path):
    result = report(*(trial(name, [1, 2, 3]) for name in NAMES), **QUICK)
    markdown = to_markdown(result)
    for written in NAMES.values():
        assert f"\n| {written} | 2" in markdown
    console = output.console(width=200, file=io.StringIO())
    for table in tables(result):
        console.print(table)
    for name in NAMES:
        console.print(name)
        assert f" {in_one_line(name)} " in console.file.getvalue()
        assert f"\n{printable(name)}\n" in console.file.getvalue()
    assert console.file.getvalue().replace("\n", "").isprintable()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of glyphs that are missing
        write(result, tmp_path)
