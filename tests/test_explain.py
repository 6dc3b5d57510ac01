"""What the chapter does not show: bad input, equivalence with brute force, properties, and that shap's plots take the result."""
from itertools import permutations
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st

pytest.importorskip("shap")
from max_nb import explain as ex
from max_nb.energy import EnergyAxis
from max_nb.spectra import Spectra

AXIS = EnergyAxis()
C = AXIS.n_channels
RNG = np.random.default_rng(0)
COUNTS = RNG.poisson(50, (12, C)).astype(float)
THIRDS = {"low": np.arange(0, 700), "middle": np.arange(700, 1400), "high": np.arange(1400, C)}
WEIGHTS = RNG.normal(size=C) / 100
LINEAR = SimpleNamespace(predict=lambda c: c @ WEIGHTS)
CURVED = SimpleNamespace(predict=lambda c: 1e-12 * c[:, :700].sum(1) * c[:, 700:1400].sum(1) * c[:, 1400:].sum(1) + c[:, 0])
TWO = SimpleNamespace(targets=("CaCO3", "TOC"), predict=lambda c: np.stack([c @ WEIGHTS, CURVED.predict(c)], 1))
QUIET = dict(value="marginal", background=COUNTS[6:], verbose=False)


class Network:
    "A stand-in for a MAXRegressor: reads four patches of 16 channels, guesses hidden ones as 50 counts."
    def __init__(self): self.config, self.mae_ = SimpleNamespace(n_patches=4, patch_size=16), self
    def predict(self, counts): return counts[:, :64].mean(1)
    def predict_visible(self, counts, visible):
        assert visible.shape == (len(counts), 4) and visible.dtype == bool
        return (counts[:, :64].reshape(-1, 4, 16).mean(2) * visible).sum(1) / 4
    def reconstruct(self, counts, mask):
        import torch
        filled = counts.copy()
        filled[:, :64] = np.where(np.repeat(mask, 16, 1), 50.0, counts[:, :64])
        return torch.as_tensor(filled)


FOUR = {f"patch {i}": np.arange(16 * i, 16 * i + 16) for i in range(4)} | {"rest": np.arange(64, C)}


def brute_force(game, x, n):
    "Shapley values by going through all orders of arrival."
    total = np.zeros(n)
    for order in permutations(range(n)):
        seen = np.zeros((1, n), bool)
        before = game(seen, x)[0, 0]
        for player in order:
            seen[0, player] = True
            after = game(seen, x)[0, 0]
            total[player] += after - before
            before = after
    return total / len(list(permutations(range(n))))


@pytest.mark.parametrize("exact", [True, False])
def test_agrees_with_brute_force(exact):
    e = ex.explain(CURVED, COUNTS[:2], players=THIRDS, exact_up_to=8 if exact else 0, pairs=40, **QUIET)
    owner, predict = ex.player_of(THIRDS, C), ex.predictor(CURVED.predict)
    expected = np.mean([[brute_force(ex.marginal_game(predict, owner, row), x[None], 3) for x in COUNTS[:2]] for row in e.background], axis=0)
    assert np.allclose(e.values, expected, atol=1e-9 if exact else 5 * e.error_std.max())
    assert e.settings["exact"] is exact and bool(e.error_std.max() == 0) is exact


def test_linear_model_has_its_known_values():
    e = ex.explain(LINEAR, COUNTS[:4], **QUIET)
    difference = (COUNTS[:4] - e.background.mean(0)) * WEIGHTS
    assert np.allclose(e.values, np.stack([difference[:, ch].sum(1) for ch in e.players.values()], 1))
    assert e.error_std.max() < 1e-9 and e.additivity.max() < 1e-9
    assert np.allclose(e.base_values, LINEAR.predict(e.background).mean())


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000), n=st.integers(1, 4))
def test_additivity_and_dummy(seed, n):
    rng = np.random.default_rng(seed)
    edges = np.sort(rng.choice(np.arange(1, 300), 3, replace=False))
    players = dict(zip("abc", np.split(np.arange(C), [*edges[:2]])))
    model = SimpleNamespace(predict=lambda c: (c[:, : edges[0]].sum(1) * c[:, edges[0]:edges[1]].sum(1)) ** 0.5)
    e = ex.explain(model, COUNTS[:n], players=players, seed=seed, **QUIET)
    assert np.allclose(e.base_values + e.values.sum(1), model.predict(COUNTS[:n]))
    assert np.allclose(e.values[:, 2], 0)


def test_same_seed_same_values_and_numpy_state_is_left_alone():
    np.random.seed(7)
    state = np.random.get_state()[1].copy()
    first, again, other = (ex.explain(CURVED, COUNTS[:2], seed=s, **QUIET).values for s in (1, 1, 2))
    assert (first == again).all() and not (first == other).all()
    assert (np.random.get_state()[1] == state).all()


def test_spectra_and_counts_give_the_same():
    s = Spectra(COUNTS, pd.DataFrame(index=range(12)), AXIS)
    a = ex.explain(LINEAR, s[:3], value="marginal", background=s[6:], verbose=False)
    assert np.allclose(a.values, ex.explain(LINEAR, COUNTS[:3], **QUIET).values)


def test_several_targets_at_once():
    e = ex.explain(TWO, COUNTS[:3], players=THIRDS, **QUIET)
    toc = ex.one_target(e, "TOC")
    alone = ex.explain(TWO, COUNTS[:3], "TOC", players=THIRDS, **QUIET)
    assert e.values.shape == (3, 3, 2) and list(e.output_names) == ["CaCO3", "TOC"]
    assert np.allclose(toc.values, e[:, :, "TOC"].values) and np.allclose(toc.values, alone.values, rtol=0.5, atol=1)
    assert toc.additivity.max() < 1e-8 and alone.targets == ["TOC"]
    with pytest.raises(ValueError, match="'Fe'.*CaCO3.*TOC"): ex.one_target(e, "Fe")
    with pytest.raises(ValueError, match="None.*CaCO3"): ex.drivers(e)


def test_plots_of_shap_take_it():
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt, shap
    e = ex.explain(TWO, COUNTS[:6], **QUIET)
    for one in (e[:, :, "TOC"], ex.one_target(e, "CaCO3")):
        for plot in (shap.plots.bar, shap.plots.beeswarm, shap.plots.heatmap, shap.plots.violin):
            plot(one, show=False)
            plt.close("all")
        shap.plots.waterfall(one[0], show=False)
        shap.plots.scatter(one[:, "Ca K"], show=False)
        plt.close("all")


def test_conditional_starts_at_the_marginal_base_and_ends_at_the_prediction():
    net = Network()
    e = ex.explain(net, COUNTS[:3], players=FOUR, value="conditional", background=COUNTS[6:], verbose=False)
    assert np.allclose(e.base_values, net.predict(e.background).mean()) and e.additivity.max() < 1e-9
    assert np.allclose(e.values[:, 4], 0)
    e = ex.explain(LINEAR, COUNTS[:3], players=FOUR, value="conditional", imputer=net, background=COUNTS[6:], verbose=False)
    assert e.additivity.max() < 1e-9


def test_conditional_leaks_nothing_of_what_is_hidden():
    game = ex.conditional_game(lambda c: c[:, :64], Network(), ex.player_of(FOUR, C), COUNTS[6])
    x, y = COUNTS[:1].copy(), COUNTS[:1].copy()
    y[:, 16:] *= 7
    alone = np.array([[True, False, False, False, False]])
    assert np.allclose(game(alone, x), game(alone, y))


def test_linear_imputer_restores_what_is_linear():
    parts, rng = RNG.uniform(10, 1000, (3, C)), np.random.default_rng(1)
    counts = rng.dirichlet(np.ones(3), 60) @ parts * 100
    imputer, hidden = ex.LinearImputer(counts[:40], rank=2), rng.random((20, C)) < 0.5
    filled = imputer.reconstruct(np.where(hidden, 0, counts[40:]), hidden)
    assert np.allclose(filled[~hidden], counts[40:][~hidden]) and np.allclose(filled, counts[40:], rtol=0.01)
    everything = np.ones((1, C), bool)
    assert np.allclose(imputer.reconstruct(counts[:1], everything), counts[:40].mean(0))
    assert ex.imputer_skill(imputer, counts[40:]).skill.min() > 0.99
    for rank in (0, 40):
        with pytest.raises(ValueError, match=f"rank is {rank}"): ex.LinearImputer(counts[:40], rank)


def test_skill_is_part_of_a_conditional_result():
    e = ex.explain(LINEAR, COUNTS[:2], players=THIRDS, value="conditional", imputer=ex.LinearImputer(COUNTS, 3), background=COUNTS[6:], verbose=False)
    assert "imputer skill" in ex.quality_line(e) and np.isfinite(e.settings["imputer_skill"]) and e.additivity.max() < 1e-9


def test_one_pair_reports_the_safe_error():
    e = ex.explain(CURVED, COUNTS[:2], pairs=1, **QUIET)
    assert (e.error_std == e.background_error).all() and e.error_std.max() > 0 and e.additivity.max() < 1e-8


def test_drop_needs_no_background_and_adds_up():
    net = Network()
    e = ex.explain(net, COUNTS[:3], players="patches", value="drop", n_background=2, verbose=False)
    assert e.background is None and np.allclose(e.base_values, 0) and e.additivity.max() < 1e-9
    assert np.allclose(e.values[:, :4], COUNTS[:3, :64].reshape(3, 4, 16).mean(2) / 4)
    assert ex.deletion_curve(net, COUNTS[:3], e, background=COUNTS[6:]).order.nunique() == 3
    with pytest.raises(ValueError, match="give background="): ex.deletion_curve(net, COUNTS[:3], e)


def test_deletion_ends_where_everything_is_replaced():
    e = ex.explain(LINEAR, COUNTS[:4], players=THIRDS, **QUIET)
    curve = ex.deletion_curve(LINEAR, COUNTS[:4], e)
    end = np.abs(LINEAR.predict(COUNTS[:4]) - e.base_values).mean()
    assert np.allclose(curve[curve.removed == 3].change, end) and np.allclose(curve[curve.removed == 0].change, 0)
    with pytest.raises(ValueError, match="2 spectra.*of 4"): ex.deletion_curve(LINEAR, COUNTS[:2], e)


def test_constant_model():
    model = SimpleNamespace(predict=lambda c: np.full(len(c), 3.0))
    e = ex.explain(model, COUNTS[:2], players=THIRDS, **QUIET)
    assert (e.values == 0).all() and np.allclose(e.base_values, 3) and ex.drivers(e).share.max() == 0
    with pytest.raises(ValueError, match="constant"): ex.deletion_gain(ex.deletion_curve(model, COUNTS[:2], e))


@pytest.mark.parametrize("change, message", [
    (dict(players="elements"), "'elements'.*'lines'"),
    (dict(players={"a": [0, 1], "b": [1, 2]}), "channel 1 is in 'a' and in 'b'"),
    (dict(players={"a": [0, 1]}), "channel 2 and 2045 more"),
    (dict(players={"a": []}), "'a' has no channels"),
    (dict(players={"a": [0.5]}), "expected integers"),
    (dict(players={"a": [C]}), "expected integers from 0 to 2047"),
    (dict(value="saliency"), "'saliency'.*'conditional'"),
    (dict(value="conditional"), "MAXRegressor.*marginal"),
    (dict(value="conditional", imputer="max-tiny"), "str.*MAX"),
    (dict(value="drop"), "MAXRegressor"),
    (dict(background=None), "background="),
    (dict(background=COUNTS[:0]), "at least one"),
    (dict(background=Spectra(COUNTS, pd.DataFrame(index=range(12)), EnergyAxis(gain_kev=0.03))), "rebin"),
    (dict(pairs=0), "pairs is 0"),
    (dict(pairs=1, n_background=1), "both 1"),
    (dict(n_background=0), "n_background is 0"),
    (dict(target="Fe"), "'Fe'.*CaCO3.*TOC"),
])
def test_bad_input(change, message):
    with pytest.raises(ValueError, match=message): ex.explain(TWO, COUNTS[:2], **{**QUIET, **change})


def test_bad_spectra_and_bad_models():
    with pytest.raises(ValueError, match="100 channels"): ex.explain(LINEAR, COUNTS[:, :100], **QUIET)
    with pytest.raises(ValueError, match="at least one"): ex.explain(LINEAR, COUNTS[:0], **QUIET)
    with pytest.raises(ValueError): ex.explain(LINEAR, -COUNTS, **QUIET)
    with pytest.raises(ValueError, match="nan"): ex.explain(SimpleNamespace(predict=lambda c: c[:, 0] * np.nan), COUNTS[:2], **QUIET)
    with pytest.raises(ValueError, match="without names"): ex.explain(SimpleNamespace(predict=TWO.predict), COUNTS[:2], "TOC", **QUIET)
    e = ex.explain(LINEAR, COUNTS[:2], players=THIRDS, **QUIET)
    with pytest.raises(ValueError, match="none of the players"): ex.negative_controls(e)
    with pytest.raises(ValueError, match="'Ca K' is no player"): ex.truth_test(e, ["Ca K"])
