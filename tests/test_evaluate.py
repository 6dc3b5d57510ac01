"""Judging: bad input, equivalences, properties. What teaches is in nbs/09_evaluate.ipynb."""
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.metrics import r2_score, root_mean_squared_error

from max_nb.evaluate import (ConformalByCore, add_conformal, applicability, between_parts, budget_split, compare_rivals, compare_splits, conformal_half_width, core_groups, coverage_report, cross_validate_by_core,
                             difficulty, few_groups_factor, fit_difficulty, flag_skill, fold_numbers, label_budget_curve, ln_r2, mask_ratio_curve, model_card, new_core_curve, paired_bootstrap, paired_gain, plot_coverage,
                             plot_curve, plot_splits, regression_report, score_rivals, scores)
from max_nb.baselines import Calibration, SpectrumShape
from max_nb.energy import EnergyAxis
from max_nb.spectra import Spectra

B = 60
numbers = st.lists(st.floats(-100, 100), min_size=3, max_size=30).map(np.array)


@pytest.fixture
def spectra():
    rng = np.random.default_rng(0)
    shape = rng.random((5, 40)) + 0.2
    mix = rng.dirichlet(np.ones(5), B)
    info = pd.DataFrame(dict(core=np.repeat(list("ABCDEF"), 10), depth_mm=np.tile(np.arange(10) * 50, 6), CaCO3=100 * mix[:, 0], TOC=mix[:, 1] + 0.01))
    info.loc[::3, "TOC"] = np.nan
    return Spectra(rng.poisson(2000 * mix @ shape), info, EnergyAxis(n_channels=40))


class Spy(RegressorMixin, BaseEstimator):
    "Remembers what it was shown; predicts the mean."
    seen: list = []

    def __init__(self, targets=("CaCO3",), seed=0): self.targets, self.seed = targets, seed

    def fit(self, X, y=None, groups=None):
        Spy.seen.append((X, y, groups))
        self.mean_ = np.nanmean(np.asarray(y, float), axis=0)
        return self

    def predict(self, X): return np.tile(self.mean_, (len(X), 1))
    def predict_interval(self, X, coverage=0.9): return np.stack([self.predict(X) - 50, self.predict(X) + 50], -1)


@pytest.fixture
def spy():
    Spy.seen = []
    return Spy()


# scores

@given(numbers, st.integers(0, 99))
@settings(max_examples=50, deadline=None)
def test_scores_agree_with_sklearn(y, seed):
    p = y + np.random.default_rng(seed).normal(size=len(y))
    s = scores(y, p)
    assert np.isclose(s["rmse"], root_mean_squared_error(y, p)) and np.isclose(s["bias"], (p - y).mean())
    if np.ptp(y) > 1e-3: assert np.isclose(s["r2"], r2_score(y, p)) and s["ccc"] <= 1 + 1e-9


@given(numbers, st.floats(-5, 5))
@settings(max_examples=30, deadline=None)
def test_a_shift_is_bias_and_nothing_else(y, shift):
    s = scores(y, y + shift)
    assert np.isclose(s["bias"], shift) and np.isclose(s["rmse"], abs(shift))
    if np.ptp(y) > 1: assert np.isclose(s["slope"], 1)


def test_perfect_and_degenerate():
    y = np.array([1.0, 2, 3])
    s = scores(y, y)
    assert s["r2"] == s["ccc"] == s["slope"] == 1 and s["rmse"] == 0 and np.isnan(s["rpiq"])
    assert np.isnan(scores([2.0, 2], [1.0, 3])["r2"]) and np.isnan(scores(y, [2.0, 2, 2])["slope"])
    assert scores([np.nan], [1.0])["n"] == 0 and scores([np.nan, 1.0], [1.0, 1.0])["unmeasured"] == 1


def test_slope_below_one_means_high_predictions_are_too_high():
    y = np.linspace(0, 10, 20)
    assert np.isclose(scores(y, 2 * y)["slope"], 0.5)


def test_report_adds_up_and_uses_the_mean_of_others():
    y, p, g = np.array([1.0, 2, 11, 12, np.nan]), np.array([1.5, 2, 10, 12, 3]), np.array(list("AABBB"))
    r = regression_report(y, p, g).set_index("group")
    assert list(r.index) == ["A", "B", "pooled"] and r.n.tolist() == [2, 2, 4] and r.unmeasured.tolist() == [0, 1, 1]
    assert np.isclose(r.r2_train_mean["A"], 1 - 0.25 / ((1 - 11.5) ** 2 + (2 - 11.5) ** 2))
    assert np.isnan(regression_report(y, p).r2_train_mean[0])
    two = regression_report(pd.DataFrame(dict(a=y, b=y)), np.column_stack([p, p]), g)
    assert len(two) == 6 and set(two.target) == {"a", "b"}


@pytest.mark.parametrize("bad, message", [
    (lambda: scores([1.0, 2], [1.0, np.nan]), r"y_pred\[1\]"),
    (lambda: regression_report([1.0, 2], [1.0]), "shape"),
    (lambda: regression_report([1.0, 2], [1.0, 2], ["A"]), "groups has 1"),
])
def test_bad_scores(bad, message):
    with pytest.raises(ValueError, match=message): bad()


# cross-validation

def test_strict_never_shows_a_held_out_core(spectra, spy):
    table = cross_validate_by_core(spy, spectra, "CaCO3", folds=3)
    for fold, (train, y, groups) in enumerate(Spy.seen):
        assert not set(train.info.core) & set(table[table.fold == fold].group) and (groups == train.info.core.to_numpy()).all()
    assert sorted(table["sample"]) == list(range(B)) and (table.upper - table.lower == 100).all()


def test_adapted_shows_spectra_without_labels(spectra, spy):
    table = cross_validate_by_core(spy, spectra, "CaCO3", folds=3, adapt=True)
    for fold, (train, y, _) in enumerate(Spy.seen):
        hidden = train.info.core.isin(table[table.fold == fold].group.unique()).to_numpy()
        assert len(train) == B and y["CaCO3"].isna().to_numpy()[hidden].all() and y["CaCO3"].notna().to_numpy()[~hidden].all()


def test_adapt_function_sees_both_parts(spectra, spy):
    sizes = []
    def adapt(estimator, train, held): sizes.append((len(train), len(held))); return estimator
    cross_validate_by_core(spy, spectra, "CaCO3", folds=6, adapt=adapt)
    assert sizes == [(50, 10)] * 6


def test_several_targets_with_gaps(spectra, spy):
    table = cross_validate_by_core(spy, spectra, ["CaCO3", "TOC"], folds=3)
    assert table.groupby("target").size().to_dict() == {"CaCO3": B, "TOC": spectra.info.TOC.notna().sum()} and table.measured.notna().all()


def test_plain_sklearn_estimator_and_its_limit(spectra):
    assert len(cross_validate_by_core(LinearRegression(), spectra, "TOC")) == spectra.info.TOC.notna().sum()
    with pytest.raises(ValueError, match="one target at a time"): cross_validate_by_core(LinearRegression(), spectra, ["TOC", "CaCO3"])


def test_unlabelled_cores_stay_in_training(spectra, spy):
    info = spectra.info.assign(CaCO3=spectra.info.CaCO3.where(spectra.info.core != "F"))
    cross_validate_by_core(spy, Spectra(spectra.counts, info, spectra.axis), "CaCO3", folds=5)
    assert all("F" in set(train.info.core) for train, *_ in Spy.seen)


@given(st.integers(2, 8), st.integers(0, 20), st.sampled_from(["random", "block", "core"]))
@settings(max_examples=30, deadline=None)
def test_every_label_is_held_out_once(folds, seed, split):
    rng = np.random.default_rng(seed)
    s = Spectra(np.ones((40, 4)), pd.DataFrame(dict(core=rng.integers(0, 6, 40), depth_mm=rng.uniform(0, 500, 40))), EnergyAxis(n_channels=4))
    labelled = rng.random(40) < 0.7
    if s.info.core[labelled].nunique() < 2: return
    fold = fold_numbers(s, labelled, split, folds=folds, seed=seed)
    assert (fold[labelled] >= 0).all() and set(fold[labelled]) == set(range(fold.max() + 1))
    if split == "core": assert s.info.assign(fold=fold).groupby("core").fold.nunique().eq(1).all()


@pytest.mark.parametrize("change, message", [
    (dict(by="hole"), "no column 'hole'"), (dict(target="Fe2O3"), "Fe2O3"), (dict(split="cores"), "one of"), (dict(by="one"), "at least 2"), (dict(by="gap"), "row 0"),
])
def test_bad_splits(spectra, spy, change, message):
    s = Spectra(spectra.counts, spectra.info.assign(one="A", gap=[None] + ["A"] * 30 + ["B"] * 29), spectra.axis)
    with pytest.raises(ValueError, match=message): cross_validate_by_core(spy, s, **{"target": "CaCO3", **change})


# splits: together, gap, region, instrument

def test_trigger_cores_are_held_out_together(spectra, spy):
    table = cross_validate_by_core(spy, spectra, "CaCO3", folds=5, together={"B": "A", "D": "A"})
    assert table.groupby("group").fold.first()[list("ABD")].nunique() == 1 and table.held.nunique() == 4
    for fold, (train, *_) in enumerate(Spy.seen): assert not set(train.info.core) & set(table[table.fold == fold].group)


def test_together_by_column_and_by_chain(spectra):
    by_hand = core_groups(spectra, together={"C": "B", "B": "A"})
    assert set(by_hand[:30]) == {"A"} and set(by_hand[30:]) == set("DEF")
    column = spectra.replaced(info=spectra.info.assign(site=spectra.info.core.map({"A": "north", "F": "north"})))
    assert core_groups(column, together="site").nunique() == 5
    with pytest.raises(ValueError, match="'Z'"): core_groups(spectra, together={"Z": "A"})
    with pytest.raises(ValueError, match="no column 'hole'"): core_groups(spectra, together="hole")


@given(st.dictionaries(st.sampled_from("ABCDEF"), st.sampled_from("ABCDEF"), max_size=5))
@settings(max_examples=30, deadline=None)
def test_groups_are_unions_of_cores(pairs):
    s = Spectra(np.ones((12, 4)), pd.DataFrame(dict(core=list("ABCDEF") * 2)), EnergyAxis(n_channels=4))
    found = core_groups(s, together=pairs)
    assert found.groupby(s.info.core).nunique().eq(1).all() and all((found[s.info.core == a].iloc[0]) == (found[s.info.core == b].iloc[0]) for a, b in pairs.items())


def test_the_gap_is_in_neither_part(spectra, spy):
    table = cross_validate_by_core(spy, spectra, "CaCO3", folds=3, split="block", block_mm=100, gap_mm=60)
    for fold, (train, *_) in enumerate(Spy.seen):
        held = spectra.info.loc[table[table.fold == fold]["sample"]]
        for core, depths in held.groupby("core").depth_mm:
            near = train.info[train.info.core == core].depth_mm
            assert all((abs(near - d) >= 60).all() for d in depths)
    assert len(table) == B


def test_region_and_instrument(spectra, spy):
    info = spectra.info.assign(region=spectra.info.core.map(dict(zip("ABCDEF", "112233"))), instrument=np.where(np.arange(B) % 10 < 5, "old", "new"))
    s = spectra.replaced(info=info.assign(instrument=info.instrument.where(info.core == "A", np.where(info.core < "D", "old", "new"))))
    table = cross_validate_by_core(spy, s, "CaCO3", split="region")
    assert set(table.held) == set("123") and set(table.group) == set("ABCDEF")
    assert all((groups == train.info.region).all() for train, _, groups in Spy.seen)
    Spy.seen = []
    cross_validate_by_core(spy, s, "CaCO3", split="instrument")
    assert len(Spy.seen) == 2 and all("A" not in set(train.info.core) for train, *_ in Spy.seen) # scanned by both: in neither part
    with pytest.raises(ValueError, match="no column 'region'"): cross_validate_by_core(spy, spectra, "CaCO3", split="region")
    with pytest.raises(ValueError, match="folds is 1"): cross_validate_by_core(spy, s, "CaCO3", folds=1)
    with pytest.raises(ValueError, match="block_mm"): cross_validate_by_core(spy, s, "CaCO3", split="block", block_mm=0)


def test_compare_splits_draws(spectra):
    table = compare_splits({"a": LinearRegression()}, spectra, "CaCO3", folds=3, seeds=(0, 1), gap_mm=0)
    assert len(table) == 6 and len(plot_splits(table).data) == 1


# rivals, budgets

def test_rivals_share_their_folds(spectra):
    found = compare_rivals({"a": Spy(), "b": Spy()}, spectra, ["CaCO3", "TOC"])
    table = score_rivals(found)
    assert len(table) == 4 and np.isnan(table.first_better[0]) and (table.groupby("target").rmse.nunique() == 1).all()


def test_bootstrap_knows_better_and_worse():
    rng, rows = np.random.default_rng(0), np.arange(80)
    good = pd.DataFrame(dict(sample=rows, target="TOC", group=rows // 8, measured=rng.normal(size=80)))
    good["predicted"] = good.measured + 0.1 * rng.normal(size=80)
    bad = good.assign(predicted=good.measured + rng.normal(size=80))
    assert paired_bootstrap(good, bad).a_better[0] == 1 and paired_bootstrap(bad, good).a_better[0] == 0
    with pytest.raises(ValueError, match="one method only"): paired_bootstrap(good, bad[:-1])


def seeds_of(table, noise, seeds=range(4)):
    return pd.concat([table.assign(seed=s, predicted=table.measured + noise * np.random.default_rng(s).normal(size=len(table))) for s in seeds])


def test_bootstrap_over_cores_and_seeds():
    rows = np.arange(60)
    truth = pd.DataFrame(dict(sample=rows, target="TOC", group=rows // 10, measured=np.random.default_rng(0).normal(size=60)))
    a, b, c = seeds_of(truth, 0.1), seeds_of(truth, 0.5), seeds_of(truth, 0.1, range(10, 14)).assign(seed=lambda t: t.seed - 10)
    better, same = paired_bootstrap(a, b).iloc[0], paired_bootstrap(a, c).iloc[0]
    assert better.p == 2 / 64 and better.low > 0 and better.seeds == 4 and better.groups == 6 and better.n == 240 and better.se_seeds > 0
    assert same.p > 0.05 and same.low < 0 < same.high
    with pytest.raises(ValueError, match="one method only"): paired_bootstrap(a, b[b.seed < 3])


def test_swap_p_is_uniform_where_there_is_no_difference():
    rng, found = np.random.default_rng(0), []
    for _ in range(60):
        t = pd.DataFrame(dict(sample=np.arange(40), target="x", group=np.arange(40) // 5, measured=0.0))
        found.append(paired_bootstrap(t.assign(predicted=rng.normal(size=40)), t.assign(predicted=rng.normal(size=40)), draws=50).p[0])
    assert 0.3 < np.mean(found) < 0.7 and np.mean(np.array(found) < 0.1) < 0.25


def test_paired_gain():
    curve = pd.DataFrame(dict(name=list("aabb"), seed=[0, 1, 0, 1], budget=8, r2=[.5, .7, .4, .4], rmse=[1., 1, 2, 2]))
    assert np.isclose(paired_gain(curve, "a", "b").gain[0], 0.2) and paired_gain(curve, "a", "b", "rmse").gain[0] == 1 and paired_gain(curve, "a", "b").wins[0] == 2
    with pytest.raises(ValueError, match="'c'"): paired_gain(curve, "a", "c")
    with pytest.raises(ValueError, match="only"): paired_gain(curve[:3], "a", "b")


def test_new_core_tests_on_the_same_samples(spectra, spy):
    curve = new_core_curve({"a": spy}, spectra, "CaCO3", budgets=(0, 2, 4), seeds=(0, 1), cores=["B", "E"])
    assert len(curve) == 12 and curve.n.eq(6).all()
    seen = [set(train.info.index[train.info.core == "B"]) for train, *_ in Spy.seen[:3]]
    assert [len(s) for s in seen] == [0, 2, 4]
    Spy.seen = []
    new_core_curve({"a": spy}, spectra, "CaCO3", budgets=(2,), seeds=(0,), cores=["B"], adapt=True)
    assert len(Spy.seen[0][0]) == B and Spy.seen[0][1].CaCO3.notna().sum() == B - 8
    assert len(plot_curve(curve).data) == 2


@pytest.mark.parametrize("change, message", [(dict(cores=["Z"]), "'Z': 0"), (dict(budgets=(0, 9)), "at least 12")])
def test_bad_new_cores(spectra, spy, change, message):
    with pytest.raises(ValueError, match=message): new_core_curve({"a": spy}, spectra, "CaCO3", **{"cores": ["A"], **change})


def test_bad_mask_ratio(spectra):
    with pytest.raises(ValueError, match="mask ratio 1"): mask_ratio_curve(spectra, "CaCO3", ratios=(0.5, 1))


def test_plot_curve_names_what_is_missing():
    with pytest.raises(ValueError, match="rmse"): plot_curve(pd.DataFrame(dict(name=["a"], seed=0, budget=1)))


def test_budgets_are_nested_and_paired(spectra, spy):
    curve = label_budget_curve({"a": spy, "b": lambda seed: Spy(seed=seed)}, spectra, "TOC", budgets=(5, 10, None), seeds=(0, 1))
    assert len(curve) == 12 and set(curve.budget) == {5, 10, 28} and curve.groupby(["budget", "seed"]).rmse.nunique().eq(1).all()
    labels = [set(np.round(y.TOC.dropna(), 9)) for _, y, _ in Spy.seen]
    assert labels[0] < labels[2] < labels[4] and labels[0] == labels[1]


def test_budget_test_part_is_unseen_by_group(spectra, spy):
    held, order = budget_split(spectra, "TOC", seed=2, by="core")
    assert not set(spectra.info.core[held]) & set(spectra.info.core[order])
    label_budget_curve({"a": spy}, spectra, "TOC", budgets=(5,), seeds=(2,), by="core")
    assert not set(Spy.seen[0][0].info.core) & set(spectra.info.core[held])
    label_budget_curve({"a": spy}, spectra, "TOC", budgets=(5,), seeds=(2,), by="core", adapt=True)
    assert set(Spy.seen[1][0].info.core) == set(spectra.info.core) and Spy.seen[1][1].TOC.notna().sum() == 5


def test_budget_beyond_the_labels(spectra, spy):
    with pytest.raises(ValueError, match="28 labels of 'TOC' are left"): label_budget_curve({"a": spy}, spectra, "TOC", budgets=(29,), seeds=(0,))


def test_ln_r2():
    y = np.array([0.1, 1.0, 10.0])
    assert ln_r2(y, y) == 1 and np.isnan(ln_r2(np.array([0.0, 1]), np.array([1.0, 1]))) and np.isfinite(ln_r2(y, np.zeros(3)))


# intervals

def test_conformal_covers_new_cores():
    rng, covered = np.random.default_rng(0), []
    for _ in range(300):
        error = np.abs(rng.normal(size=(13, 20)) * rng.gamma(2, size=(13, 1)))
        half = conformal_half_width(error[:12].ravel(), np.repeat(np.arange(12), 20), 0.8)
        covered.append((error[12] <= half).mean())
    assert 0.78 < np.mean(covered) < 0.9


def test_conformal_weighs_cores_and_not_samples():
    errors, groups = np.r_[np.full(1000, 0.1), np.arange(1.0, 10)], np.r_[np.zeros(1000), np.arange(1, 10)]
    assert conformal_half_width(errors, groups, 0.8) >= 8


def test_coverage_counts_what_has_no_interval(spectra, spy):
    table = cross_validate_by_core(spy, spectra, "CaCO3", folds=6)
    table.loc[:4, ["lower", "upper"]] = np.nan
    report = coverage_report(table)
    assert report.group.iloc[-1] == "pooled" and report.without.iloc[-1] == 5 and report.n.iloc[-1] == B - 5
    added = add_conformal(table, 0.8)
    assert len(added) == B and (added.lower >= 0).all() and (added.index == table.index).all()


# intervals around any estimator

crepes = pytest.importorskip("crepes")


def quick(targets=("CaCO3", "TOC")): return Calibration((SpectrumShape(width=1),), Ridge(1e-3), targets=targets)


def test_conformal_agrees_with_its_definition():
    rng = np.random.default_rng(1)
    errors, groups = rng.gamma(1, size=300), rng.integers(0, 15, 300)
    order = np.argsort(errors)
    mass = np.cumsum((1 / np.bincount(groups)[groups] / 16)[order])
    wanted = errors[order][np.flatnonzero(mass >= 0.8 - 1e-12)[0]]
    assert abs(conformal_half_width(errors, groups, 0.8) - wanted) < 0.1
    assert conformal_half_width(errors, groups, 0.8, exact=False) <= conformal_half_width(errors, groups, 0.8)


def test_finite_where_it_is_not_exact():
    assert conformal_half_width(np.arange(3.0), np.arange(3), 0.9, exact=False) == 2 and conformal_half_width(np.arange(3.0), np.arange(3), 0.9) == np.inf
    assert few_groups_factor(3) > few_groups_factor(30) > 1


def test_exact_intervals_hold_on_new_cores():
    rng, covered = np.random.default_rng(0), []
    for _ in range(40):
        level, n = rng.normal(size=21) * 4, 8
        mix = rng.dirichlet(np.ones(5), 21 * n)
        core = np.repeat(np.arange(21), n)
        y = 50 + 40 * mix[:, 0] + level[core] + rng.normal(size=len(core))
        counts = rng.poisson(3000 * mix @ (rng.random((5, 40)) + 0.2))
        inside = core < 20
        model = ConformalByCore(quick(("y",)), targets=("y",), folds=20, exact=True, scale="linear").fit(counts[inside], y[inside], groups=core[inside])
        low, high = model.predict_interval(counts[~inside], 0.8)[:, 0].T
        covered.append(((y[~inside] >= low) & (y[~inside] <= high)).mean())
    assert 0.7 < np.mean(covered) <= 0.95


def test_conformal_by_core_is_an_estimator(spectra):
    model = ConformalByCore(quick(), folds=3).fit(spectra)
    limits, predicted = model.predict_interval(spectra), model.predict(spectra)
    assert limits.shape == (B, 2, 2) and predicted.shape == (B, 2) and (limits[..., 0] <= predicted).all() and (predicted <= limits[..., 1]).all()
    np.testing.assert_allclose(predicted, quick().fit(spectra, groups=spectra.info.core).predict(spectra))
    wide, narrow = (np.ptp(model.predict_interval(spectra, c), axis=2).mean() for c in (0.95, 0.5))
    assert wide > narrow
    one = ConformalByCore(LinearRegression(), targets=("CaCO3",), measures=()).fit(spectra.counts, spectra.info.CaCO3, groups=spectra.info.core)
    assert one.predict(spectra.counts).shape == (B,) and one.predict_interval(spectra.counts).shape == (B, 1, 2)
    table = cross_validate_by_core(ConformalByCore(quick(("CaCO3",)), folds=3), spectra, "CaCO3")
    report = coverage_report(table)
    assert report.without.iloc[-1] == 0 and len(plot_coverage(report).data) == 2


def test_exact_with_few_cores_promises_nothing(spectra):
    limits = ConformalByCore(quick(("CaCO3",)), exact=True).fit(spectra).predict_interval(spectra[:3], 0.9)
    assert (limits[..., 0] == 0).all() and (limits[..., 1] == 100).all()


def test_difficulty_is_learned_or_left():
    rng = np.random.default_rng(0)
    f, g = rng.uniform(0, 1, (200, 1)), np.arange(200) // 20
    assert fit_difficulty(f, 0.1 + f[:, 0], g)[1][1] > 0 and fit_difficulty(f, 2 - f[:, 0], g)[1][1] == 0
    assert (difficulty(f, fit_difficulty(f, np.zeros(200), g)) > 0).all()


@pytest.mark.parametrize("bad, message", [
    (lambda s: ConformalByCore(quick(), measures=("age",)).fit(s), "age"),
    (lambda s: ConformalByCore(quick(), measures=("spread",)).fit(s), "no members"),
    (lambda s: ConformalByCore(quick()).fit(s, groups=["A"] * B), "1 group"),
    (lambda s: ConformalByCore(quick()).fit(s, s.info[["CaCO3", "TOC"]] * np.nan), "too few measured values"),
    (lambda s: ConformalByCore(quick()).fit(s).predict_interval(s, 1.0), "coverage is 1.0"),
    (lambda s: conformal_half_width([1.0, 2], [0, 1], 90), "coverage is 90"),
    (lambda s: conformal_half_width([1.0, np.nan], [0, 1], 0.9), "at least 0"),
    (lambda s: coverage_report(pd.DataFrame(), 2), "coverage is 2"),
])
def test_bad_intervals(spectra, bad, message):
    with pytest.raises(ValueError, match=message): bad(spectra)


# the card

def test_model_card(spectra):
    model = ConformalByCore(quick(), folds=3)
    table = cross_validate_by_core(model, spectra, ["CaCO3", "TOC"])
    card = model_card(model, spectra, table, name="test", rivals=score_rivals(table.assign(name="ridge")))
    text = str(card)
    assert all(part in text for part in ("# test", "## Data", "## Intervals", "## Where it ends", "## Limits", "### Rivals", "folds"))
    assert card["data"]["groups"] == 6 and any("6 groups" in w for w in card["warnings"])
    import json
    json.dumps(card)
    plain = model_card(quick(), spectra, cross_validate_by_core(quick(), spectra, "CaCO3", split="random"), split="random", flags=False)
    assert any("flatters" in w for w in plain["warnings"]) and plain["applicability"] is None and plain["intervals"] == []
    with pytest.raises(ValueError, match="do not fit"): model_card(model, spectra[::-1], table)
    with pytest.raises(ValueError, match="lack the columns"): model_card(model, spectra, table.drop(columns="held"))


# applicability

@pytest.fixture(scope="module")
def seas():
    from max_nb.simulate import simulate_archive
    return simulate_archive(n_cores=6, n_per_core=15, seed=2)


def strange(kind, s):
    "A spectrum that no sediment gives, as bright as those of `s`."
    from max_nb.physics import ELEMENTS, expected_spectrum, mass_fractions
    matter = dict(salt="NaCl", steel="Fe74Cr18Ni8", aluminium="Al")
    if kind in matter: return np.random.default_rng(0).poisson(expected_spectrum(pd.DataFrame([100 * mass_fractions(matter[kind])], columns=list(ELEMENTS)), total=float(s.counts.sum(1).mean()), axis=s.axis))
    if kind == "empty": return np.zeros((1, s.axis.n_channels))
    if kind == "nearly empty": return np.random.default_rng(0).poisson(2e-5 * s.counts[:1])
    return np.random.default_rng(0).permutation(s.counts[0])[None]


@pytest.mark.parametrize("kind", ["salt", "steel", "aluminium", "empty", "nearly empty", "shuffled"])
def test_flags_catch(seas, kind):
    found = applicability(seas, strange(kind, seas))
    assert not found.inside[0] and found.strangeness[0] > 1


def test_flags_catch_another_instrument(seas):
    path = Path(__file__).resolve().parents[2] / "shared" / "real" / "itrax" / "L000676.spe"
    if not path.exists(): pytest.skip("the real Itrax spectrum is not there")
    from max_nb.scanners import read
    itrax = read(path)
    with pytest.raises(ValueError, match="rebin"): applicability(seas, itrax)
    assert not applicability(seas, itrax.rebin(seas.axis, outside="drop")).inside.any()


def test_one_empty_spectrum_leaves_the_others_alone(seas):
    alone, beside = applicability(seas, seas.counts[:3]), applicability(seas, np.vstack([seas.counts[:3], np.zeros((1, seas.axis.n_channels))]))
    pd.testing.assert_frame_equal(alone, beside[:3])
    assert np.isinf(beside.distance[3])


def test_flags_rank_strange_spectra(spectra):
    found = applicability(spectra, Spectra.concat([spectra, Spectra(spectra.counts[:, ::-1].copy(), spectra.info, spectra.axis)]))
    assert found.inside[:B].mean() > 0.8 and found.inside[B:].mean() < 0.2
    assert found[["distance", "reconstruction_error"]].notna().all(axis=None) and found.index.equals(pd.RangeIndex(2 * B))
    skill = flag_skill(found, np.r_[np.ones(B), np.full(B, 5.0)])
    assert skill["rmse_outside"] > skill["rmse_inside"] and skill["n"] == 2 * B


def test_flags_from_arrays(spectra):
    assert applicability(spectra.counts, spectra.counts[:3]).shape == (3, 6)


@pytest.mark.parametrize("bad, message", [
    (lambda s: applicability(s[:2], s), "at least 3"), (lambda s: applicability(s, s.counts[:, :-1]), "39 channels; expected 40"), (lambda s: applicability(s, s, model=LinearRegression()), "expected a MAX"),
    (lambda s: flag_skill(applicability(s, s), np.zeros(3)), "errors 3"),
])
def test_bad_applicability(spectra, bad, message):
    with pytest.raises(ValueError, match=message): bad(spectra)


def test_applicability_with_a_network(spectra):
    pytest.importorskip("torch")
    from max_nb.mae import MAX, MAXConfig
    config = MAXConfig(n_channels=40, patch_size=4, embed_dim=16, depth=1, num_heads=2, decoder_embed_dim=16, decoder_depth=1, decoder_num_heads=2, max_kev=0.8)
    found = applicability(spectra, spectra[:7], model=MAX(config))
    assert len(found) == 7 and np.isfinite(found[["distance", "reconstruction_error"]]).all(axis=None)


def test_a_single_network_has_no_limits():
    "One member has no out-of-fold residuals; its predictions are compared without intervals."
    from max_nb.evaluate import _limits
    from max_nb.regress import MAXRegressor
    from max_nb.simulate import simulate_archive
    s = simulate_archive(2, 8, seed=0, progress=False)
    model = MAXRegressor(targets=("CaCO3",), members=1, steps=2).fit(s, s.info[["CaCO3"]])
    assert np.isnan(_limits(model, s, 1, 0.9)).all()
