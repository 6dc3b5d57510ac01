"MAXRegressor: scikit-learn's rules, scales, intervals, saving, and what it refuses."
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings, strategies as st
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline

from max_nb.energy import EnergyAxis, line_groups
from max_nb.explain import surrogate, with_random_weights
from max_nb.mae import MAX, MAXConfig
from max_nb.regress import (ALPHAS, COMPONENTS, MAXRegressor, Network, TargetScale, component_ridge, cv_plus, equal_weights, labelled_batch, least_skewed, member_folds, ridge_head, ridge_path, told_total, weighted_quantile)
from max_nb.spectra import Spectra

PARITY = Path(__file__).parents[2] / "shared" / "parity"
AXIS = EnergyAxis(n_channels=64)
SMALL = MAXConfig(n_channels=64, max_kev=1.28, patch_size=8, normalisation="sqrt-channel", embed_dim=16, depth=1, num_heads=2, decoder_embed_dim=8, decoder_depth=1, decoder_num_heads=2)


def spectra(n=40, seed=0):
    "Mixtures of a carbonate-like and a clay-like spectrum; CaCO3 is the share of the first."
    rng = np.random.default_rng(seed)
    ends = np.random.default_rng(1).gamma(0.5, 1, (2, 64)) + 0.05
    ends /= ends.sum(1, keepdims=True)
    w = rng.uniform(0.05, 0.95, n)
    counts = rng.poisson(50_000 * (w[:, None] * ends[0] + (1 - w[:, None]) * ends[1]))
    info = pd.DataFrame({"core": np.repeat(list("abcd"), n // 4), "CaCO3": 100 * w, "TOC": np.exp(-3 * w)})
    return Spectra(counts, info, AXIS)


@pytest.fixture(scope="module")
def mae():
    torch.manual_seed(0)
    m = MAX(SMALL)
    m.normaliser.learn(torch.as_tensor(spectra().counts, dtype=torch.float32))
    return m.eval()


def regressor(mae, **changes):
    return MAXRegressor(mae, **{**dict(members=2, steps=60, batch_size=16, learning_rate=2e-3, tune="full"), **changes})


@pytest.fixture(scope="module")
def fitted(mae):
    return regressor(mae).fit(spectra())


def test_it_learns(fitted):
    new = spectra(seed=7)
    error = fitted.predict(new)[:, 0] - new.info.CaCO3
    assert np.sqrt((error**2).mean()) < 0.3 * new.info.CaCO3.std()


@pytest.mark.parametrize("targets, y, shape", [
    ("CaCO3", None, (40,)), (("CaCO3",), None, (40,)), (("CaCO3", "TOC"), None, (40, 2)), (("CaCO3", "TOC"), "array", (40, 2)), ("CaCO3", "vector", (40,)),
    (("CaCO3", "TOC"), "vector", (40,)), (("CaCO3", "TOC"), "frame", (40, 2)), (("CaCO3", "TOC"), "series", (40,))])
def test_kinds_of_targets(mae, targets, y, shape):
    s = spectra()
    table = s.info[["CaCO3", "TOC"]]
    y = {None: None, "array": table.to_numpy(), "vector": table.CaCO3.to_numpy(), "frame": table, "series": table.CaCO3}[y]
    assert regressor(mae, targets=targets, steps=2).fit(s, y).predict(s).shape == shape


def test_missing_values_do_not_take_part(mae):
    s = spectra()
    s.info.loc[::2, "TOC"] = np.nan
    s.info.loc[[0, 4], ["CaCO3", "TOC"]] = np.nan
    assert np.isfinite(regressor(mae, steps=5).fit(s).predict(s)).all()


def test_clone_and_params(mae):
    r = regressor(mae, targets="TOC", drop=0.25)
    assert clone(r).get_params()["drop"] == 0.25 and r.set_params(steps=3).steps == 3


def test_fit_does_not_change_its_parameters_or_the_model_it_starts_from(mae):
    before = {k: v.clone() for k, v in mae.state_dict().items()}
    r = regressor(mae, steps=3)
    params = {k: v for k, v in r.get_params().items()}
    r.fit(spectra())
    assert all(r.get_params()[k] is params[k] for k in params) and all(torch.equal(v, before[k]) for k, v in mae.state_dict().items())


def test_same_seed_same_answer(mae):
    s = spectra()
    a, b, c = (regressor(mae, steps=5, seed=k).fit(s).predict(s) for k in (0, 0, 1))
    assert np.array_equal(a, b) and not np.array_equal(a, c)


def test_cross_val_predict_with_groups(mae):
    s = spectra()
    p = cross_val_predict(regressor(mae, targets="CaCO3", steps=5), s.counts, s.info.CaCO3.to_numpy(), groups=s.info.core, cv=GroupKFold(2))
    assert p.shape == (40,)


def test_spectra_go_through_cross_val_predict(mae):
    s = spectra()
    assert cross_val_predict(regressor(mae, targets="CaCO3", steps=2), s, s.info.CaCO3.to_numpy(), cv=2).shape == (40,)


def test_grid_search_and_pipeline(mae):
    s = spectra()
    search = GridSearchCV(make_pipeline(regressor(mae, targets="CaCO3", members=1)), {"maxregressor__steps": [1, 80]}, cv=2).fit(s.counts, s.info.CaCO3.to_numpy())
    assert search.best_params_["maxregressor__steps"] == 80


def test_save_and_load(fitted, tmp_path):
    s, again = spectra(seed=3), MAXRegressor.load(fitted.save(tmp_path / "m"))
    assert np.array_equal(again.predict(s), fitted.predict(s)) and np.array_equal(again.predict_interval(s), fitted.predict_interval(s))
    assert again.targets == fitted.targets and again.get_params()["steps"] == 60


@pytest.mark.parametrize("name", ["regressor.json", "members.safetensors", "mae/config.json", "mae/model.safetensors"])
def test_a_damaged_folder_is_named(fitted, tmp_path, name):
    path = fitted.save(tmp_path) / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=str(tmp_path)):
        MAXRegressor.load(tmp_path)


def test_intervals_are_ordered_and_grow_with_coverage(fitted):
    s = spectra(seed=5)
    narrow, wide = fitted.predict_interval(s, 0.5), fitted.predict_interval(s, 0.9)
    assert (narrow[..., 0] <= narrow[..., 1]).all() and (wide[..., 0] <= narrow[..., 0] + 1e-9).all() and (wide[..., 1] >= narrow[..., 1] - 1e-9).all()


def test_no_intervals_from_a_single_member(mae):
    with pytest.raises(ValueError, match="members >= 2"):
        regressor(mae, members=1, steps=1).fit(spectra()).predict_interval(spectra())


def test_members_trained_side_by_side_are_the_same_networks(mae):
    s = spectra()
    assert np.array_equal(regressor(mae, steps=5).fit(s).predict(s), regressor(mae, steps=5, n_jobs=2).fit(s).predict(s))


@pytest.mark.parametrize("tune", ["full", "frozen"])
def test_several_grids_are_learned_again_alike_and_kept_in_a_file(mae, tmp_path, tune):
    s = spectra()
    first, again = (regressor(mae, steps=5, members=2, grids=4, tune=tune).fit(s) for _ in range(2))
    assert np.array_equal(first.predict(s), again.predict(s)) and not np.allclose(first.predict(s), regressor(mae, steps=5, members=2, tune=tune).fit(s).predict(s))
    assert np.array_equal(MAXRegressor.load(first.save(tmp_path / "four")).predict(s), first.predict(s))


def test_on_several_grids_a_hidden_patch_is_nowhere_seen(mae):
    s, model = spectra(), regressor(mae, steps=3, members=1, grids=4).fit(spectra())
    counts, patch, size = s.counts.copy(), 3, mae.config.patch_size
    counts[:, patch * size : (patch + 1) * size] = counts[:, patch * size : (patch + 1) * size][:, ::-1]  # same total, other shape
    visible = np.ones((len(s), mae.config.n_patches), bool)
    assert not np.allclose(model.predict(s.counts), model.predict(counts))
    visible[:, patch] = False
    assert np.allclose(model.predict_visible(s.counts, visible), model.predict_visible(counts, visible), atol=1e-5)


@pytest.mark.parametrize("grids, expected", [(0, "at least 1"), (1.5, "at least 1"), (1000, "expected 1 to")])
def test_grids_that_cannot_be(mae, grids, expected):
    with pytest.raises(ValueError, match=f"grids is {grids}.*{expected}"):
        regressor(mae, steps=1, grids=grids).fit(spectra())


def test_processes_are_started_where_they_pay_and_never_within_one_of_several():
    import joblib
    from max_nb.regress import PROCESSES_FROM, processes_that_pay
    assert processes_that_pay(PROCESSES_FROM - 1) == 1 and processes_that_pay(PROCESSES_FROM) == joblib.cpu_count()
    assert joblib.Parallel(n_jobs=2)(joblib.delayed(processes_that_pay)(10**6) for _ in range(2)) == [1, 1]


def test_steps_grow_with_the_number_of_labels():
    from max_nb.regress import automatic_steps
    steps = [automatic_steps(n) for n in range(1, 400)]
    assert steps == sorted(steps) and (steps[0], automatic_steps(64), automatic_steps(165), steps[-1]) == (250, 259, 784, 1000)
    assert [automatic_steps(n, from_scratch=True) for n in (1, 64, 165, 400)] == [300, 404, 784, 1000]


@pytest.mark.parametrize("coverage", [0, 1, 1.5, -1])
def test_coverage_out_of_range(fitted, coverage):
    with pytest.raises(ValueError, match="coverage"):
        fitted.predict_interval(spectra(), coverage)


@given(n=st.integers(1, 60), g=st.integers(1, 12), members=st.integers(1, 8), seed=st.integers(0, 20))
@settings(max_examples=80, deadline=None)
def test_folds_never_cut_a_group(n, g, members, seed):
    groups = np.random.default_rng(seed).integers(0, g, n)
    fold = member_folds(n, groups, members, seed)
    assert set(fold) == set(range(min(members, len(set(groups)))))
    assert all(len(set(fold[groups == k])) == 1 for k in set(groups))


@given(st.lists(st.floats(0.001, 99), min_size=5, max_size=50), st.sampled_from(["auto", "linear", "sqrt", "ln"]))
@settings(max_examples=80, deadline=None)
def test_scales_go_there_and_back(values, kind):
    Y = np.array(values)[:, None]
    scale = TargetScale(kind).fit(Y)
    assert np.allclose(scale.inverse(scale.forward(Y)), Y, rtol=1e-6, atol=1e-6)


def test_zero_and_negative_values_on_the_ln_scale():
    Y = np.array([[-0.1], [0.0], [0.2], [0.4], [3.0]])
    assert (TargetScale("ln").fit(Y).inverse(TargetScale("ln").fit(Y).forward(Y)) >= 0.1 - 1e-9).all()


def test_constant_targets_survive(mae):
    s = spectra()
    s.info["TOC"] = 0.5
    assert np.allclose(regressor(mae, targets="TOC", steps=2).fit(s).predict(s), 0.5, atol=0.6)
    assert least_skewed(np.full(6, 2.0)) == "linear"


@given(st.integers(1, 40), st.floats(0.05, 0.95), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_weighted_quantile_with_equal_weights_is_the_empirical_one(n, q, seed):
    v = np.random.default_rng(seed).normal(size=n)
    assert weighted_quantile(v, np.full(n, 1 / n), q) == np.sort(v)[int(np.ceil(q * n - 1e-9)) - 1]


def test_cv_plus_covers_new_samples_of_the_same_kind():
    rng, inside = np.random.default_rng(0), []
    for _ in range(300):
        r, new = np.abs(rng.normal(size=40)), rng.normal()
        low, high = cv_plus(np.zeros((4, 1)), r, np.repeat(range(4), 10), np.full(40, 1 / 40), 0.8)[0]
        inside.append(low <= new <= high)
    assert 0.74 < np.mean(inside) < 0.88


def test_every_core_weighs_the_same():
    w = equal_weights(np.array(list("aaab")), np.arange(4))
    assert np.allclose(w, [1 / 6] * 3 + [1 / 2])


def test_mixed_targets_are_mixtures_and_unknown_where_a_parent_is():
    x, Y = torch.ones(2, 8) * 100, torch.tensor([[0.0, 1.0], [100.0, float("nan")]])
    _, y = labelled_batch(x, Y, 500, torch.Generator().manual_seed(0))
    assert ((y[:, 0] >= 0) & (y[:, 0] <= 100.001)).all() and y[:, 1].isnan().any()
    assert torch.allclose(y[y[:, 0] == 0, 1], torch.ones(())) and y[y[:, 0] > 0, 1].isnan().all()


def test_dropping_no_patch_changes_nothing(fitted):
    s = spectra(8)
    assert np.allclose(fitted.predict_visible(s, np.ones(8, bool)), fitted.predict(s), atol=1e-4)
    assert np.isfinite(fitted.predict_visible(s, np.zeros(8, bool))).all()


def test_regression_and_pretraining_share_the_encoder(mae):
    x = torch.as_tensor(spectra(4).counts, dtype=torch.float32)
    assert torch.equal(Network(mae, 1, "cls").eval().features(x), mae.encode(x)[:, 0])


@pytest.mark.skipif(not PARITY.exists(), reason="no ../shared/parity: reference outputs of the published model are not at hand")
def test_parity_of_the_published_regressor(tmp_path):
    from safetensors.torch import load_file
    reference = load_file(PARITY / "reference.safetensors")
    xpt = MAXRegressor.from_xpt(PARITY / "regressor.ckpt", PARITY / "config.json")
    assert np.allclose(xpt.predict(reference["counts"].numpy()), reference["regressor_out"][:, 0].numpy(), atol=1e-5)
    scaled = MAXRegressor.from_xpt(PARITY / "regressor.ckpt", PARITY / "config.json", target_mean=10, target_std=2, clip=(9, 10))
    assert np.allclose(scaled.predict(reference["counts"].numpy()), np.clip(10 + 2 * reference["regressor_out"][:, 0].numpy(), 9, 10), atol=1e-4)
    assert np.allclose(MAXRegressor.load(xpt.save(tmp_path)).predict(reference["counts"].numpy()), xpt.predict(reference["counts"].numpy()))
    with pytest.raises(ValueError, match="missing head"):
        MAXRegressor.from_xpt(PARITY / "mae.ckpt", PARITY / "config.json")


@pytest.mark.parametrize("change, word", [
    (dict(y="short"), "rows"), (dict(y="text"), "number"), (dict(y="inf"), "number"), (dict(y="few"), "too few"), (dict(groups="short"), "groups"), (dict(X="narrow"), "expected"),
    (dict(targets="Br"), "Br"), (dict(scale="cube"), "scale"), (dict(pooling="max"), "pooling"), (dict(pretrained="/no/such/folder/at/all"), "/no/such/folder")])
def test_bad_input_to_fit(mae, change, word):
    s = spectra()
    good = s.info.CaCO3.to_numpy()
    y = {"short": good[:-1], "text": np.array(["x"] * 40, object), "inf": np.r_[np.inf, good[1:]], "few": np.r_[good[:4], np.full(36, np.nan)]}.get(change.get("y"), good)
    if "targets" in change: y = None
    X = s.counts[:, :-1] if change.get("X") else s
    params = {k: v for k, v in change.items() if k in ("targets", "scale", "pooling", "pretrained")}
    with pytest.raises(ValueError, match=word):
        regressor(mae, steps=1, **{"targets": "CaCO3", **params}) if not params.get("pretrained") else None
        est = MAXRegressor(params.pop("pretrained", mae), **{**dict(members=2, steps=1, targets="CaCO3"), **params})
        est.fit(X, y, groups=np.zeros(3) if "groups" in change else None)


def test_predict_before_fit(mae):
    from sklearn.exceptions import NotFittedError
    with pytest.raises(NotFittedError):
        regressor(mae).predict(spectra())


def test_a_folder_that_is_none(tmp_path):
    with pytest.raises(ValueError, match="MAXRegressor.save"):
        MAXRegressor.load(tmp_path)


def labelled_tokens(seed, cores=7, per_core=9, width=12):
    rng = np.random.default_rng(seed)
    core = np.repeat(np.arange(cores), per_core)
    tokens = rng.normal(size=(len(core), width)) + rng.normal(size=(cores, width))[core]
    return tokens, tokens[:, 0] + rng.normal(size=cores)[core] + 0.1 * rng.normal(size=len(core)), rng.uniform(0.2, 2, len(core)), core


def test_a_path_of_ridges_is_scikit_learns():
    from sklearn.linear_model import Ridge
    X, z, w, _ = labelled_tokens(0)
    coef, bias = ridge_path(X, z, w)
    for a, alpha in enumerate(ALPHAS):
        other = Ridge(alpha).fit(X, z, sample_weight=w)
        np.testing.assert_allclose(coef[a], other.coef_, atol=1e-9)
        assert abs(bias[a] - other.intercept_) < 1e-9


@pytest.mark.parametrize("seed", range(5))
def test_penalty_and_components_are_those_that_a_search_over_groups_finds(seed):
    from sklearn.decomposition import PCA
    from sklearn.linear_model import Ridge
    X, z, w, core = labelled_tokens(seed)
    scores, errors = PCA(svd_solver="full").fit_transform(X), {}
    for k in [k for k in COMPONENTS if k is None or k < X.shape[1]]:
        for alpha in ALPHAS:
            errors[k, alpha] = sum((w[core == g] * (Ridge(alpha).fit(scores[core != g, :k], z[core != g], sample_weight=w[core != g]).predict(scores[core == g, :k]) - z[core == g]) ** 2).sum() for g in range(7))
    k, alpha = min(errors, key=errors.get)
    coef, bias = component_ridge(X, z, w, core)
    wanted = Ridge(alpha).fit(scores[:, :k], z, sample_weight=w).predict(scores[:, :k])
    np.testing.assert_allclose(X @ coef + bias, wanted, atol=1e-8)


@pytest.mark.parametrize("groups", [None, np.repeat(["a", "b"], 10)])
def test_few_groups_are_no_groups(groups):
    X, z, w, _ = labelled_tokens(1)
    for mine, plain in zip(ridge_head(X[:20], z[:20], w[:20], groups), ridge_head(X[:20], z[:20], w[:20])):
        np.testing.assert_array_equal(mine, plain)


def test_a_major_constituent_is_not_learned_on_its_logarithm():
    y = np.exp(np.random.default_rng(0).normal(0, 1, 300))
    assert least_skewed(y) == "ln" and least_skewed(20 * y) == "sqrt"
    assert TargetScale().fit(np.c_[y, 20 * y]).kinds_ == ["ln", "sqrt"]


def two_groups(n=300, seed=0):
    "CaCO3 stands in the channels of Mg; a second amount, of which it knows nothing, in those below."
    rng = np.random.default_rng(seed)
    groups = line_groups(AXIS)
    amount, other = rng.uniform(0.2, 1, (2, n))
    expected = np.full((n, 64), 300.0)
    own, foreign = groups["Mg K"], groups["continuum 0.7-1.1 keV"]
    expected[:, own] += 3000 * amount[:, None]
    expected[:, foreign] += 3000 * other[:, None]
    info = pd.DataFrame({"core": np.repeat(list("abcde"), n // 5), "CaCO3": 50 * amount})
    return Spectra(rng.poisson(expected), info, AXIS)


@pytest.fixture(scope="module", params=["sqrt-intensity", "sqrt-channel"])
def paying(request):
    s = two_groups()
    torch.manual_seed(0)
    m = MAX(replace(SMALL, normalisation=request.param))
    m.learn_statistics(lambda: [torch.as_tensor(s.counts, dtype=torch.float32)])
    return MAXRegressor(m.eval(), targets="CaCO3", members=1, steps=1000, price=0.1, scale="linear", learning_rate=1e-3, mix=False).fit(s)


def closed_channels(model):
    return np.concatenate([channels for name, channels in line_groups(AXIS).items() if not model.read()[name]])


def test_a_network_that_pays_is_blind_to_what_it_does_not_read(paying, tmp_path):
    new = two_groups(seed=1)
    p, closed = paying.predict(new), closed_channels(paying)
    assert 0 < len(closed) < 64 and paying.tune_ == "full"
    blind = new.counts.copy()
    blind[:, closed] = 3 * blind[:, closed] + 100
    assert np.allclose(paying.predict(blind), p, atol=1e-3)
    again = MAXRegressor.load(paying.save(tmp_path))
    assert np.array_equal(again.predict(new), p) and again.read() == paying.read()


def test_what_says_it_is_read_and_no_more(paying):
    new = two_groups(seed=1)
    needed = {"sqrt-intensity": ["Mg K"], "sqrt-channel": ["below 0.7 keV", "Mg K"]} # without a strength, a group that is steady tells how much Mg is
    assert [name for name, share in paying.read().items() if share] == needed[paying.mae_.config.normalisation]
    assert np.sqrt(np.mean((paying.predict(new) - new.info.CaCO3) ** 2)) < 0.3 * new.info.CaCO3.std()


def test_what_is_closed_stays_closed_in_all_that_is_made_of_it(paying):
    new = two_groups(seed=1)
    closed = closed_channels(paying)
    blind = new.counts.copy()
    blind[:, closed] *= 3
    calibrated = paying.calibrate(new[:20], new.info.CaCO3[:20].to_numpy())
    twin = surrogate(paying, new, steps=20)
    shuffled = with_random_weights(paying, seed=1)
    for model in (calibrated, twin, shuffled):
        assert model.members_[0].gates.read() == paying.members_[0].gates.read()
        assert np.allclose(model.predict(blind), model.predict(new), atol=1e-3)
    assert not any(name.startswith("gates.") for name, _ in paying.members_[0].named_parameters())


def test_a_closed_group_has_no_part_in_the_total_while_gates_learn():
    torch.manual_seed(0)
    m = MAX(SMALL)
    m.learn_statistics(lambda: [torch.as_tensor(two_groups().counts, dtype=torch.float32)])
    counts = torch.as_tensor(two_groups(seed=1).counts[:20], dtype=torch.float32)
    gates, foreign = Network(m, 1, gated=True).gates, line_groups(AXIS)["continuum 0.7-1.1 keV"]
    more = counts.clone()
    more[:, foreign] *= 5
    with torch.no_grad():
        gates.middle[:] = 20.0
        gates.middle[gates.names.index("continuum 0.7-1.1 keV")] = -20.0
    settled = gates(counts, m.normaliser)
    gates.learning = True
    assert torch.allclose(gates(counts, m.normaliser), settled, atol=1e-4)
    assert torch.equal(gates(more, m.normaliser), gates(counts, m.normaliser))
    typical = m.normaliser.inverse(torch.zeros(1, 64), torch.full((1, 64), 500.0))
    assert torch.allclose(told_total(7 * typical, torch.rand(1, 64), m.normaliser), 7 * typical.sum(), rtol=1e-4)


@pytest.mark.parametrize("learned", [True, False])
def test_gates_learn_where_channels_are_empty(learned):
    s = two_groups()
    counts = s.counts.copy()
    counts[:, ::3] = 0
    torch.manual_seed(0)
    m = MAX(SMALL)
    if learned:
        m.learn_statistics(lambda: [torch.as_tensor(counts, dtype=torch.float32)])
    model = MAXRegressor(m, targets="CaCO3", members=1, steps=20, price=0.1, mix=False).fit(counts, s.info[["CaCO3"]].to_numpy())
    assert np.isfinite(model.predict(counts)).all()


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_gates_are_settled_however_short_the_training(mae, steps):
    model = regressor(mae, targets="CaCO3", members=2, steps=steps, price=0.1).fit(spectra())
    assert not any(m.gates.learning for m in model.members_) and np.array_equal(model.predict(spectra()), model.predict(spectra()))


def test_a_price_where_channels_have_no_means():
    with pytest.raises(ValueError, match="price is 0.1, and the model's normalisation 'instance'; expected one by channel"):
        regressor(MAX(replace(SMALL, normalisation="instance")), price=0.1).fit(spectra())


@pytest.mark.parametrize("changes", [dict(grids=2), dict(drop=0.3), dict(targets=("CaCO3", "TOC"), members=3)])
def test_prices_go_with_other_options(mae, changes):
    model = regressor(mae, price=0.05, steps=20, **{"targets": "CaCO3", **changes}).fit(spectra())
    assert np.isfinite(model.predict(spectra())).all()
    assert model.read() == {name: np.mean([name in m.gates.read() for m in model.members_]) for name in line_groups(AXIS)}


@pytest.mark.parametrize("before, after", [(0.1, 0.0), (0.0, 0.1)])
def test_what_was_fitted_does_not_hang_on_a_price_set_later(mae, tmp_path, before, after):
    model = regressor(mae, targets="CaCO3", members=2, steps=20, price=before).fit(spectra())
    read, p = model.read(), model.predict(spectra())
    model.set_params(price=after)
    again = MAXRegressor.load(model.save(tmp_path))
    assert model.read() == again.read() == read and np.array_equal(again.predict(spectra()), p)
    calibrated = model.calibrate(spectra(12, seed=5), spectra(12, seed=5).info.CaCO3.to_numpy())
    assert np.isfinite(calibrated.predict(spectra())).all()


def test_gates_before_other_groups_are_refused(mae, tmp_path):
    folder = regressor(mae, targets="CaCO3", members=1, steps=5, price=0.1).fit(spectra()).save(tmp_path)
    (folder / "regressor.json").write_text((folder / "regressor.json").read_text().replace('"Mg K"', '"Mg L"'))
    with pytest.raises(ValueError, match="gates stand before .*Mg L.*; expected .*Mg K"): MAXRegressor.load(folder)


def test_a_surrogate_reads_what_any_of_the_members_reads(mae):
    model = regressor(mae, targets="CaCO3", members=2, steps=20, price=0.1).fit(spectra())
    with torch.no_grad():
        for i, m in enumerate(model.members_):
            m.gates.middle[:] = torch.tensor([0.5 if k == i else -0.5 for k in range(3)])
    twin = surrogate(model, spectra(), steps=5)
    assert list(twin.read().values()) == [1, 1, 0] and list(model.read().values()) == [0.5, 0.5, 0]


def test_a_surrogate_of_a_calibrated_model_is_corrected_once(fitted):
    known = spectra(20, seed=7)
    calibrated = fitted.calibrate(known, known.targets(["CaCO3", "TOC"]).to_numpy() + 15)
    twin = surrogate(calibrated, spectra(), steps=150, learning_rate=2e-3)
    asked, answered, plain = calibrated.predict(spectra()), twin.predict(spectra()), fitted.predict(spectra())
    assert abs((answered - asked).mean(0)[0]) < 0.2 * abs((plain - asked).mean(0)[0])
    assert twin.corrections_ == [None, None]


def test_strength_that_a_network_can_tell_is_kept_by_mixtures():
    s = two_groups()
    torch.manual_seed(0)
    m = MAX(replace(SMALL, normalisation="sqrt-intensity"))
    m.learn_statistics(lambda: [torch.as_tensor(s.counts, dtype=torch.float32)])
    model = MAXRegressor(m.eval(), targets="CaCO3", members=1, steps=1000, price=0.1, scale="linear", learning_rate=1e-3).fit(s)
    assert [name for name, share in model.read().items() if share] == ["Mg K"]
    x = torch.full((4, 64), 1000.0) * torch.arange(1.0, 5)[:, None]
    mixed, y = labelled_batch(x, x.mean(1, keepdim=True), 500, torch.Generator().manual_seed(0), spread=None)
    assert torch.allclose(mixed.mean(1), y[:, 0], rtol=0.05)


@pytest.mark.parametrize("option", ["price", "drop", "learning_rate", "layer_decay"])
@pytest.mark.parametrize("value", [None, "a", float("nan"), [0.1]])
def test_shares_that_are_no_numbers(mae, option, value):
    with pytest.raises(ValueError, match=f"{option} is"): regressor(mae, **{option: value}).fit(spectra())


def test_without_a_price_everything_is_read(fitted):
    assert set(fitted.read().values()) == {1.0}


def test_something_is_read_even_at_the_highest_price(mae):
    model = regressor(mae, targets="CaCO3", members=1, steps=120, price=0.99).fit(spectra())
    assert len(model.members_[0].gates.read()) >= 1 and np.isfinite(model.predict(spectra())).all()


@pytest.mark.parametrize("changes, message", [(dict(price=-0.1), "price is -0.1; expected a share"), (dict(price=1), "price is 1; expected a share"), (dict(price=0.1, tune="frozen"), "tune is 'frozen'; expected 'full'"), (dict(price=0.1, early_stopping=True), "early_stopping is True; expected False or None")])
def test_prices_that_cannot_be(mae, changes, message):
    with pytest.raises(ValueError, match=message):
        regressor(mae, **changes).fit(spectra())
