"""Judging: bad input, equivalences, properties. What teaches is in nbs/09_evaluate.ipynb."""
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.linear_model import LinearRegression
from sklearn.metrics import r2_score, root_mean_squared_error

from max_nb.evaluate import (add_conformal, applicability, budget_split, compare_rivals, conformal_half_width, coverage_report, cross_validate_by_core, flag_skill, fold_numbers, label_budget_curve,
                             ln_r2, paired_bootstrap, regression_report, score_rivals, scores)
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


# applicability

def test_flags_rank_strange_spectra(spectra):
    found = applicability(spectra, Spectra.concat([spectra, Spectra(spectra.counts[:, ::-1].copy(), spectra.info, spectra.axis)]))
    assert found.inside[:B].mean() > 0.8 and found.inside[B:].mean() < 0.2
    assert found[["distance", "reconstruction_error"]].notna().all(axis=None) and found.index.equals(pd.RangeIndex(2 * B))
    skill = flag_skill(found, np.r_[np.ones(B), np.full(B, 5.0)])
    assert skill["rmse_outside"] > skill["rmse_inside"] and skill["n"] == 2 * B


def test_flags_from_arrays(spectra):
    assert applicability(spectra.counts, spectra.counts[:3]).shape == (3, 5)


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
