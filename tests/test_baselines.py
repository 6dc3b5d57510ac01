"""The rivals: bad input, scikit-learn manners, properties. What teaches is in nbs/08_baselines.ipynb."""
import pickle
import sys

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import Ridge
from sklearn.model_selection import cross_val_predict

from max_nb.baselines import (Calibration, ChemoFeatures, ConvRegressor, EndMembers, LineAreas, LogRatios, SpectrumShape, boosting, chemomae_ridge, cnn,
                              continuum, extra_trees, forest, inner_splits, line_ratio, log_ratios, mean, nmf_svr, peak_templates, pls, ridge, rivals)
from max_nb.energy import EnergyAxis
from max_nb.spectra import Spectra

N, CHANNELS = 48, 420
AXIS = EnergyAxis(n_channels=CHANNELS)


@pytest.fixture(scope="module")
def spectra():
    "Ca rises with carbonate, Al, Si, Ti and Fe fall; six cores."
    rng = np.random.default_rng(0)
    carbonate = rng.uniform(2, 90, N)
    clay = 1 - carbonate / 100
    elements = ("Ca", "Al", "Si", "Ti", "Fe", "Rh", "K", "S", "Cl", "Mn")
    amounts = np.column_stack([carbonate / 100, .1 * clay, clay, .3 * clay, .8 * clay, np.ones(N), .2 * clay, .1 + .1 * rng.random(N), .2 * np.ones(N), .1 * clay])
    counts = rng.poisson(40_000 * amounts @ peak_templates(AXIS, elements) + 20)
    info = pd.DataFrame(dict(core=np.repeat(list("ABCDEF"), N // 6), CaCO3=carbonate, TOC=np.exp(rng.normal(-1, .5, N)) * (1 + clay)))
    info.loc[::4, "TOC"] = np.nan
    return Spectra(counts, info, AXIS)


def quick(targets=("CaCO3", "TOC")):
    "Ridge with a single setting: what is tested is not the tuning."
    return Calibration((SpectrumShape(),), Ridge(1e-3), targets=targets)


QUICK = [mean, quick]
ALL = list(rivals())
TREES = ("forest", "extra trees", "boosting")


@pytest.mark.parametrize("name", [n for n in ALL if n not in TREES])
def test_learns_carbonate(spectra, name):
    model = rivals(("CaCO3",))[name].set_params(repeats=1, folds=3).fit(spectra[:36])
    error = np.sqrt(np.mean((model.predict(spectra[36:]) - spectra.info.CaCO3[36:]) ** 2))
    spread = spectra.info.CaCO3[36:].std()
    assert error < (1.3 if name == "mean" else 0.3) * spread


@pytest.mark.parametrize("make", [lambda t: forest(trees=20, targets=t), lambda t: extra_trees(t).set_params(final=dict(n_estimators=20))])
def test_forests_learn_carbonate(spectra, make):
    model = make(("CaCO3",)).fit(spectra[:36])
    assert np.corrcoef(model.predict(spectra[36:]), spectra.info.CaCO3[36:])[0, 1] > 0.9


@pytest.mark.parametrize("name", list(rivals(networks=True)))
def test_clones_and_params(name):
    model = rivals(seed=3, networks=True)[name]
    copy = clone(model)
    assert copy is not model and repr(copy) == repr(model) and copy.get_params()["seed"] == 3
    with pytest.raises(NotFittedError): copy.predict(np.ones((1, CHANNELS)))


@pytest.mark.filterwarnings("ignore:y residual is constant")
@pytest.mark.parametrize("n_labels", [2, 3, 5])
@pytest.mark.parametrize("name", [n for n in ALL if n not in TREES])
def test_few_labels(spectra, name, n_labels):
    y = spectra.info.CaCO3.where(np.arange(N) < n_labels)
    p = rivals(("CaCO3",))[name].set_params(repeats=1).fit(spectra, y).predict(spectra)
    assert np.isfinite(p).all() and (p >= 0).all() and (p <= 100).all()


@pytest.mark.parametrize("make", QUICK)
def test_shapes_of_y(spectra, make):
    counts, both = spectra.counts, spectra.info[["CaCO3", "TOC"]]
    assert make().fit(spectra).predict(spectra).shape == (N, 2)
    assert make().fit(counts, both).predict(counts).shape == (N, 2)
    assert make().fit(counts, both.to_numpy()).predict(counts).shape == (N, 2)
    assert make().fit(counts, both.CaCO3).predict(counts).shape == (N,)
    assert make().fit(counts, both.CaCO3.to_numpy()).predict(counts).shape == (N,)
    assert make(("TOC",)).fit(spectra).predict(spectra).shape == (N,)


def test_order_of_targets_in_a_table_does_not_matter(spectra):
    table = spectra.info[["TOC", "CaCO3"]]
    np.testing.assert_allclose(quick().fit(spectra.counts, table).predict(spectra), quick().fit(spectra).predict(spectra))


def test_each_target_uses_its_own_rows(spectra):
    together, alone = quick().fit(spectra), quick(("TOC",)).fit(spectra)
    np.testing.assert_allclose(together.predict(spectra)[:, 1], alone.predict(spectra))
    assert list(together.chosen().n) == [N, spectra.info.TOC.notna().sum()]


def test_in_cross_val_predict(spectra):
    p = cross_val_predict(quick(("CaCO3",)), spectra.counts, spectra.info.CaCO3, cv=3)
    assert np.corrcoef(p, spectra.info.CaCO3)[0, 1] > 0.95


def test_same_seed_same_answer_and_pickle(spectra):
    a, b = (nmf_svr(("CaCO3",), (3, 4), seed=1).set_params(repeats=1, folds=3).fit(spectra[:20]) for _ in range(2))
    np.testing.assert_array_equal(a.predict(spectra), b.predict(spectra))
    np.testing.assert_array_equal(a.predict(spectra), pickle.loads(pickle.dumps(a)).predict(spectra))


@pytest.mark.filterwarnings("ignore:y residual is constant")
def test_constant_target(spectra):
    for make in (pls, quick, mean):
        p = make(targets=("CaCO3",)).fit(spectra[:20], np.full(20, 7.0)).predict(spectra)
        np.testing.assert_allclose(p, 7, atol=0.5)


def test_zeros_in_the_target(spectra):
    y = spectra.info.CaCO3.to_numpy().copy()
    y[:5] = 0
    assert np.isfinite(nmf_svr(("CaCO3",), (4,)).fit(spectra, y).predict(spectra)).all()


def test_fitting_leaves_the_estimator_and_the_data_alone(spectra):
    model, before = nmf_svr(("CaCO3",), (4,), seed=5), spectra.counts.copy()
    params = repr(model.get_params(deep=False))
    model.fit(spectra)
    assert repr(model.get_params(deep=False)) == params
    np.testing.assert_array_equal(before, spectra.counts)


@given(st.floats(0.2, 5))
@settings(max_examples=10, deadline=None)
def test_shapes_forget_the_total(factor):
    counts = np.random.default_rng(0).poisson(50, (4, 80)).astype(float)
    for kind in ("share", "sqrt"):
        shape = SpectrumShape(kind, mean_count=0).fit(counts)
        np.testing.assert_allclose(shape.transform(counts), shape.transform(factor * counts))


@given(st.integers(1, 9), st.integers(30, 200))
@settings(max_examples=20, deadline=None)
def test_shape_keeps_every_channel(width, channels):
    counts = np.random.default_rng(1).poisson(20, (3, channels)) + 1
    shape = SpectrumShape("share", width).fit(counts)
    np.testing.assert_allclose(shape.transform(counts).sum(axis=1), 1)
    assert shape.transform(counts).shape[1] == -(-channels // width)


@given(st.integers(4, 60), st.integers(1, 8), st.integers(0, 5))
@settings(max_examples=40, deadline=None)
def test_inner_splits_never_part_a_group(n, n_groups, seed):
    groups = np.random.default_rng(seed).integers(0, n_groups, n)
    splits = inner_splits(n, groups)
    assert splits
    for train, test in splits:
        assert not set(train) & set(test)
        if len(np.unique(groups)) > 1: assert not set(groups[train]) & set(groups[test])


def test_line_areas_recover_amounts():
    templates = peak_templates(AXIS, ("K", "Ca", "Fe"))
    truth = np.array([[5e4, 2e5, 1e4], [1e4, 5e4, 5e4]])
    areas = LineAreas(("K", "Ca", "Fe"), AXIS).fit_transform(truth @ templates + 10)
    np.testing.assert_allclose(areas, truth, rtol=0.05)


def test_continuum_lies_below(spectra):
    base = continuum(spectra.counts)
    assert base.shape == spectra.counts.shape and (base <= spectra.counts + 1e-6).all()


def test_features_know_the_axis_of_spectra(spectra):
    other = EnergyAxis(0.0205, 0.0, CHANNELS)
    model = line_ratio(("Ca", "Ti"), ("CaCO3",)).fit(Spectra(spectra.counts, spectra.info, other))
    assert model.features_[0].axis_ == other


def test_end_members_with_few_spectra():
    counts = np.random.default_rng(0).poisson(30, (5, 60))
    assert EndMembers(13).fit_transform(counts).shape == (5, 5)


def test_log_ratios_columns():
    counts = np.random.default_rng(0).poisson(300, (5, CHANNELS))
    assert LogRatios(("Ca", "Ti", "Fe")).fit_transform(counts).shape == (5, 3)
    np.testing.assert_allclose(LogRatios(("Ca", "Ti", "Fe"), pairs=False).fit_transform(counts).sum(axis=1), 0, atol=1e-9)


def test_combine_mean_lies_between_its_members(spectra):
    features = (SpectrumShape("sqrt"), SpectrumShape("share"), EndMembers(4))
    model = Calibration(features, Ridge(1e-3), targets=("CaCO3",), combine="mean").fit(spectra)
    assert 1 <= len(model.chosen()) <= 3


def test_boosting_learns_carbonate(spectra):
    model = boosting(("CaCO3",)).set_params(grid=None).fit(spectra[:36])
    assert np.corrcoef(model.predict(spectra[36:]), spectra.info.CaCO3[36:])[0, 1] > 0.9


def quick_cnn(**settings):
    "The convolutional rival without a search, one short training."
    return cnn(("CaCO3",)).set_params(grid=None, final=dict(steps=60, channels=4, **settings))


def test_cnn_learns_carbonate_and_repeats(spectra):
    a, b = (quick_cnn().fit(spectra[:36]) for _ in range(2))
    assert np.corrcoef(a.predict(spectra[36:]), spectra.info.CaCO3[36:])[0, 1] > 0.8
    np.testing.assert_array_equal(a.predict(spectra), b.predict(spectra))
    np.testing.assert_array_equal(a.predict(spectra), pickle.loads(pickle.dumps(a)).predict(spectra))


def test_cnn_leaves_torch_as_it_was(spectra):
    torch = pytest.importorskip("torch")
    torch.manual_seed(5); wanted = torch.rand(3)
    torch.manual_seed(5); quick_cnn().fit(spectra[:20])
    assert (torch.rand(3) == wanted).all()


@given(st.integers(1, 40), st.integers(2, 12))
@settings(max_examples=10, deadline=None)
def test_conv_regressor_takes_any_width(width, n):
    X = np.random.default_rng(0).normal(size=(n, width))
    assert ConvRegressor(channels=2, steps=2, members=2).fit(X, X[:, 0]).predict(X).shape == (n,)


@pytest.mark.parametrize("bad, message", [
    (lambda X: ConvRegressor().fit(X * np.nan, X[:, 0]), "NaN"),
    (lambda X: ConvRegressor().fit(X, X[:3, 0]), "inconsistent numbers of samples"),
    (lambda X: ConvRegressor(kernel=4).fit(X, X[:, 0]), "odd kernel"),
    (lambda X: ConvRegressor(steps=0).fit(X, X[:, 0]), "'steps': 0"),
    (lambda X: ConvRegressor(steps=1).fit(X, X[:, 0]).predict(X[:, :-1]), "5 channels; expected 6"),
])
def test_conv_regressor_names_bad_input(bad, message):
    with pytest.raises(ValueError, match=message): bad(np.random.default_rng(0).normal(size=(8, 6)))


def test_chemomae_features(spectra):
    pytest.importorskip("chemomae")
    model = chemomae_ridge(("CaCO3",), steps=30).fit(spectra[:36], groups=spectra.info.core[:36])
    assert np.isfinite(model.predict(spectra[36:])).all()
    a, b = (ChemoFeatures(steps=5, random_state=1).fit_transform(spectra) for _ in range(2))
    np.testing.assert_array_equal(a, b)
    assert a.shape == (N, 64)


def test_chemomae_that_is_not_there_is_named(spectra, monkeypatch):
    monkeypatch.setitem(sys.modules, "chemomae", None)
    with pytest.raises(ValueError, match=r"max_nb\[chemomae\]"): chemomae_ridge(("CaCO3",)).fit(spectra)


@pytest.mark.parametrize("bad, message", [
    (lambda c, y: quick_cnn().fit(c, y.CaCO3).predict(c[:, :-1]), "419 channels; expected 420"),
    (lambda c, y: quick_cnn().fit(c * (np.arange(N)[:, None] != 2), y.CaCO3), "spectrum 2 has no counts"),
    (lambda c, y: quick().fit(-c, y), "expected a finite number of at least 0"),
    (lambda c, y: quick().fit(c * np.nan, y), "finite"),
    (lambda c, y: quick().fit(c[0], y), "two dimensions"),
    (lambda c, y: quick().fit(c, y[:-1]), "rows"),
    (lambda c, y: quick().fit(c, y.assign(TOC="high")), "high"),
    (lambda c, y: quick().fit(c, y * np.inf), "finite"),
    (lambda c, y: quick().fit(c, y * np.nan), "measured on 0 of 48"),
    (lambda c, y: quick().fit(c, y.iloc[1:2].reindex(range(N))), "measured on 1 of 48"),
    (lambda c, y: quick().fit(c), "y is None"),
    (lambda c, y: quick().fit(c, y, groups=np.zeros(3)), "groups has 3 values; expected 48"),
    (lambda c, y: quick().fit(c, y, groups=[None] + ["A"] * (N - 1)), "row 0"),
    (lambda c, y: quick().fit(c, y).predict(c[:, :-1]), "419 channels; expected 420"),
    (lambda c, y: quick().fit(c * (np.arange(N)[:, None] != 2), y), "spectrum 2 has no counts"),
    (lambda c, y: quick().set_params(scale="cube").fit(c, y), "cube"),
    (lambda c, y: line_ratio(("Ca", "C")).fit(c, y), "C has no line"),
    (lambda c, y: line_ratio(("Ca", "Xx")).fit(c, y), "Xx"),
])
def test_bad_input_is_named(spectra, bad, message):
    with pytest.raises(ValueError, match=message): bad(spectra.counts, spectra.info[["CaCO3", "TOC"]])
