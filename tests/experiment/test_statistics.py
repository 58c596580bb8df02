"""Statistics against scipy and against rliable's published definitions, written out as loops."""

import tracemalloc

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from purejaxppo import ConfigError
from purejaxppo.experiment.reports import statistics
from purejaxppo.experiment.reports.statistics import (
    Interval,
    in_windows,
    in_words,
    iqm,
    last_known,
    probability_of_improvement,
    steps_to_threshold,
    stratified_bootstrap,
    summarize,
)

RNG = np.random.default_rng(0)
scores = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30)


def rliable_bootstrap(samples, statistic, num_resamples, seed):
    """rliable's stratified bootstrap as loops: per task, run indices are drawn with replacement."""
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(num_resamples):
        resamples = []
        for sample in samples:
            resample = np.empty_like(sample)
            for task in range(sample.shape[0]):
                for run in range(sample.shape[1]):
                    resample[task, run] = sample[task, rng.integers(sample.shape[1])]
            resamples.append(resample)
        drawn.append(statistic(*resamples))
    return np.array(drawn)


def rliable_probability(x, y):
    """Average over tasks of the share of pairs of runs where x is better; equal ones count half."""
    share = []
    for task_x, task_y in zip(x, y, strict=True):
        wins = [1.0 if a > b else 0.5 if a == b else 0.0 for a in task_x for b in task_y]
        share.append(sum(wins) / len(wins))
    return sum(share) / len(share)


@given(scores)
def test_iqm_is_scipys_trimmed_mean(x):
    np.testing.assert_allclose(iqm(x), scipy.stats.trim_mean(x, 0.25), rtol=1e-12, atol=1e-6)


def test_iqm_pools_tasks_and_seeds():
    x = RNG.normal(size=(3, 4, 7)) * [[1], [10], [100], [1000]]  # [points, tasks, seeds]
    expected = [scipy.stats.trim_mean(point, 0.25, axis=None) for point in x]
    np.testing.assert_allclose(iqm(x), expected, rtol=1e-12)


def test_iqm_ignores_outliers_on_both_sides():
    x = np.arange(8.0)
    spoilt = x.copy()
    spoilt[[0, -1]] = -1e9, 1e9
    assert iqm(spoilt) == iqm(x) == 3.5


@given(scores, scores)
def test_probability_of_improvement_is_mann_whitneys(x, y):
    u = scipy.stats.mannwhitneyu(x, y).statistic
    np.testing.assert_allclose(probability_of_improvement(x, y), u / (len(x) * len(y)), atol=1e-12)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=9), st.lists(st.integers(0, 3), min_size=1, max_size=9))
def test_ties_count_half_and_both_directions_add_to_one(x, y):
    assert probability_of_improvement(x, y) == pytest.approx(rliable_probability([x], [y]))
    assert probability_of_improvement(x, y) + probability_of_improvement(y, x) == pytest.approx(1)


def test_probability_of_improvement_compares_within_tasks():
    x, y = np.array([[1.0, 2.0], [10.0, 20.0]]), np.array([[0.0, 0.0, 3.0], [30.0, 30.0, 15.0]])
    assert probability_of_improvement(x, y) == pytest.approx(rliable_probability(x, y))
    assert probability_of_improvement(np.stack([x, y[:, :2]]), np.stack([x, x])).tolist() == [
        0.5,
        rliable_probability(y[:, :2], x),
    ]


def test_tasks_must_agree():
    with pytest.raises(ConfigError, match="scores: must be of the same tasks"):
        probability_of_improvement(np.zeros((2, 3)), np.zeros((1, 3)))


def test_the_bootstrap_is_rliables():
    """The same distribution as the loops give, by its quantiles and by a test of Kolmogorov and Smirnov."""
    x = RNG.normal(size=(3, 6)) * [[1], [2], [3]]
    expected = rliable_bootstrap([x], lambda x: scipy.stats.trim_mean(x, 0.25, axis=None), 3000, seed=1)
    for confidence in (0.5, 0.95):
        tail = (1 - confidence) / 2
        interval = stratified_bootstrap(x, num_resamples=20_000, confidence=confidence)
        np.testing.assert_allclose(interval[1:], np.quantile(expected, [tail, 1 - tail]), atol=0.05)
    drawn = []
    stratified_bootstrap(x, statistic=lambda x: drawn.append(iqm(x)) or iqm(x), num_resamples=3000)
    assert scipy.stats.ks_2samp(drawn[-1], expected).pvalue > 0.01


def test_the_bootstrap_of_two_samples_is_rliables():
    x, y = RNG.normal(size=(2, 5)), RNG.normal(size=(2, 8)) + 0.5
    expected = rliable_bootstrap([x, y], rliable_probability, 1500, seed=2)
    interval = stratified_bootstrap(x, y, statistic=probability_of_improvement, num_resamples=5000)
    assert interval.estimate == rliable_probability(x, y)
    np.testing.assert_allclose(interval[1:], np.quantile(expected, [0.025, 0.975]), atol=0.03)


def test_seeds_are_resampled_within_their_task():
    """Tasks of constant scores: every resample is the same, unless seeds cross between the tasks."""
    x = np.repeat([[0.0], [1.0], [5.0]], 4, axis=1)
    assert stratified_bootstrap(x, statistic=lambda x: x.mean(axis=(-2, -1))) == (2, 2, 2)


def test_tasks_are_resampled_independently():
    """The variance of a mean over tasks is that of independent tasks, s^2 / n / T; with common seeds it is 1."""
    x = np.repeat(RNG.normal(size=(1, 50)), 4, axis=0)
    drawn = []
    stratified_bootstrap(x, statistic=lambda x: drawn.append(x.mean(axis=(-2, -1))) or drawn[-1], num_resamples=4000)
    assert drawn[-1].var() / (x[0].var() / 50 / 4) == pytest.approx(1, abs=0.1)


def test_the_points_of_a_curve_are_resampled_together():
    x = RNG.normal(size=(1, 9))
    curve = np.stack([x, x + 1, -x])
    interval = stratified_bootstrap(curve, num_resamples=500)
    assert interval.low.shape == (3,)
    np.testing.assert_allclose(interval.low[1], interval.low[0] + 1)
    np.testing.assert_allclose(interval.high[2], -interval.low[0])


@pytest.mark.parametrize("distribution", [scipy.stats.norm, scipy.stats.expon], ids=["normal", "exponential"])
def test_intervals_cover_as_often_as_they_say(distribution):
    """By simulation: 400 experiments of 40 seeds, whose true IQM is known."""
    x = distribution.rvs(size=(400, 1, 40), random_state=3)
    truth = scipy.stats.trim_mean(distribution.ppf((np.arange(10**5) + 0.5) / 10**5), 0.25)
    covered = []
    for seed, sample in enumerate(x):
        _, low, high = stratified_bootstrap(sample, num_resamples=500, confidence=0.9, seed=seed)
        covered.append(low <= truth <= high)
    assert 0.85 <= np.mean(covered) <= 0.94  # 0.9 +- 3 standard errors; percentile intervals err to the low side


def test_a_wider_confidence_is_a_wider_interval_and_more_seeds_a_narrower_one():
    x = RNG.normal(size=200)
    width = [np.subtract(*stratified_bootstrap(x, confidence=c)[:0:-1]) for c in (0.5, 0.9, 0.99)]
    assert 0 < width[0] < width[1] < width[2]
    assert np.subtract(*stratified_bootstrap(x[:10])[:0:-1]) > 2 * width[1]


def test_resampling_is_decided_by_its_seed():
    x = RNG.normal(size=9)
    assert stratified_bootstrap(x, seed=1) == stratified_bootstrap(x, seed=1) != stratified_bootstrap(x, seed=2)


@pytest.mark.parametrize("few", [[3.0], [2.0, 4.0]])
def test_one_or_two_seeds_have_no_interval(few):
    estimate, low, high = stratified_bootstrap(few)
    assert (estimate, np.isnan(low), np.isnan(high)) == (3, True, True)
    chance = stratified_bootstrap(few, [1.0, 5.0, 3.0], statistic=probability_of_improvement)
    assert (chance.estimate, np.isnan(chance.low), np.isnan(chance.high)) == (0.5, True, True)
    assert np.isfinite(stratified_bootstrap([1.0, 2.0, 3.0])).all()


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=3, max_size=9))
def test_a_summary_is_never_outside_of_the_scores(x):
    interval = summarize(x, num_resamples=50)
    assert min(x) <= interval.low <= interval.high <= max(x)
    assert min(x) <= interval.estimate <= max(x)
    np.testing.assert_allclose(interval, stratified_bootstrap(x, num_resamples=50), rtol=1e-12)


def test_equal_scores_have_an_interval_without_width():
    """A mean of three times 0.1 is more than 0.1 in floating point, and would be outside."""
    assert np.mean([0.1] * 3) > 0.1
    assert summarize([0.1] * 3) == (0.1, 0.1, 0.1)


def test_an_interval_in_words():
    assert in_words(Interval(1.0, 0.5, 2.25), 3) == "1.000 [0.500, 2.250]"
    assert in_words(Interval(1.0, 0.5, 2.25), 3, "{:.0f}".format) == "1 [0, 2]"
    assert in_words(Interval(1.0, 0.5, 2.25), 3, what=", 95% interval") == "1.000, 95% interval [0.500, 2.250]"
    nothing = Interval(1.0, np.nan, np.nan)
    assert in_words(nothing, 1) == "1.000 (one seed: no interval)"
    assert in_words(nothing, 2, what=", 95% interval") == "1.000 (two seeds: no interval)"


def test_memory_is_bounded(monkeypatch):
    x = RNG.normal(size=1000)
    monkeypatch.setattr(statistics, "NUMBERS_AT_ONCE", 10**4)
    tracemalloc.start()
    stratified_bootstrap(x, num_resamples=2000)
    assert tracemalloc.get_traced_memory()[1] < 10**6  # all at once, the indices alone would take 16 MB
    tracemalloc.stop()


@pytest.mark.parametrize("bad", [[], [[]]])
def test_scores_that_are_missing_are_told(bad):
    for statistic in (iqm, stratified_bootstrap, lambda x: probability_of_improvement([1.0], x)):
        with pytest.raises(ConfigError, match="scores: must be numbers, at least one"):
            statistic(bad)


@pytest.mark.parametrize("lost", [np.nan, np.inf, -np.inf])
def test_a_seed_without_a_score_is_worse_than_any(lost):
    """As a score would be that is far below all others, with what its distance decides left open."""
    x, far = np.array([3.0, lost, 5.0, 4.0, 6.0, 1.0, 2.0, 7.0]), -1e9
    like = np.where(np.isfinite(x), x, far)
    assert iqm(x) == iqm(like) == 3.5
    for pair in ((x, [2.5]), ([2.5], x), (x, x)):
        other = [np.where(np.isfinite(sample), sample, far) for sample in pair]
        assert probability_of_improvement(*pair) == probability_of_improvement(*other)
    found, expected = stratified_bootstrap(x), stratified_bootstrap(like)
    assert (found.estimate, found.high) == (expected.estimate, expected.high)
    assert found.low == (-np.inf if expected.low < -1e3 else expected.low)
    assert np.all(np.isneginf(stratified_bootstrap([lost, 1.0, lost])[:2]))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"num_resamples": 0}, "num_resamples=0: must be an integer >= 1"),
        ({"num_resamples": True}, "num_resamples=True"),
        ({"num_resamples": 1.5}, "num_resamples=1.5"),
        ({"confidence": 1}, r"confidence=1: must be a number in \(0, 1\)"),
        ({"confidence": 0.0}, r"confidence=0.0"),
    ],
)
def test_bad_arguments_are_told(arguments, said):
    with pytest.raises(ConfigError, match=said):
        stratified_bootstrap([1.0, 2.0], **arguments)


def steps_by_loop(curve, steps, threshold, window):
    for end in range(window, len(curve) + 1):
        known = [value for value in curve[end - window : end] if value == value]
        if known and sum(known) / len(known) >= threshold:
            return steps[end - 1]
    return np.nan


@pytest.mark.parametrize("window", [1, 3])
def test_steps_to_threshold_is_the_first_window_that_reaches_it(window):
    curves = RNG.integers(-3, 4, size=(2, 20, 12)).astype(float)
    curves[RNG.random(curves.shape) < 0.3] = np.nan
    curves[0, 0], curves[0, 1] = np.nan, -3
    steps = 128 * np.arange(1, 13)
    expected = [[steps_by_loop(curve, steps, 1.5, window) for curve in task] for task in curves]
    result = steps_to_threshold(curves, steps, 1.5, window=window)
    np.testing.assert_array_equal(result, expected)
    assert np.isnan(result).any()
    assert np.isfinite(result).any()


def test_a_threshold_is_reached_when_it_is_met_exactly():
    assert steps_to_threshold([1.0, 500, 500, 500], [1, 2, 3, 4], 500, window=3) == 4
    assert steps_to_threshold([500.0], [7], 500) == 7


@pytest.mark.parametrize("window", [0, 5, True, 1.5])
def test_a_window_that_does_not_fit_is_told(window):
    with pytest.raises(ConfigError, match=r"window=.*: must be an integer from 1 to the number of updates, 4"):
        steps_to_threshold(np.zeros(4), np.arange(4), 0, window=window)


def test_last_known_carries_the_last_number_forward():
    nan = np.nan
    curves = [[nan, nan, 1, nan, 2, nan, nan], [nan] * 7, [0, 1, 2, 3, 4, 5, 6]]
    expected = [[nan, nan, 1, 1, 2, 2, 2], [nan] * 7, [0, 1, 2, 3, 4, 5, 6]]
    np.testing.assert_array_equal(last_known(curves), expected)


@pytest.mark.parametrize(("num_updates", "window", "size"), [(12, 5, 5), (12, 1, 1), (200, None, 1), (401, None, 3)])
def test_windows_end_at_the_last_update_and_average_what_is_known(num_updates, window, size):
    curves = RNG.normal(size=(3, num_updates))
    curves[RNG.random(curves.shape) < 0.3] = np.nan
    curves[0, -size:] = np.nan
    windows = in_windows(curves, window)
    expected = {}
    for end in range(num_updates, 0, -size):
        known = [[x for x in curve[max(0, end - size) : end] if x == x] for curve in curves]
        expected[end] = [sum(own) / len(own) if own else np.nan for own in known]
    assert windows.size == size
    assert windows.end.tolist() == sorted(expected)
    np.testing.assert_allclose(windows.mean.T, [expected[end] for end in sorted(expected)])
    assert np.isnan(windows.mean[0, -1])
