"""Sampling, stopping, nested players and the tests of explanations: equivalence with brute force, properties, bad input."""
from itertools import permutations
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

pytest.importorskip("shap")
from max_nb import explain as ex
from max_nb.energy import EnergyAxis, Tube
from max_nb.mae import MAX
from max_nb.regress import MAXRegressor
from max_nb.simulate import free_sediments, intervened
from max_nb.spectra import Spectra

SHARED = Path(__file__).resolve().parents[2] / "shared"
AXIS = EnergyAxis()
RNG = np.random.default_rng(0)
NUMBERS = RNG.uniform(0.5, 3, (3, 5))


def product(coalitions, counts): return np.where(coalitions, counts, 1.0).prod(1, keepdims=True)


def brute_force(x, parents):
    "Owen values: the mean over all orders in which groups stay together."
    n, total, used = len(x), np.zeros(len(x)), 0
    for order in permutations(range(n)):
        seen = [parents[i] for i in order]
        if sum(a != b for a, b in zip(seen, seen[1:])) + 1 != len(set(parents)): continue
        present, before = np.zeros((1, n), bool), 1.0
        for player in order:
            present[0, player] = True
            after = product(present, x[None])[0, 0]
            total[player] += after - before
            before = after
        used += 1
    return total / used


@pytest.mark.parametrize("parents", [[0, 0, 0, 0, 0], [0, 0, 1, 1, 1], [0, 1, 1, 2, 2], [0, 1, 2, 3, 4]])
def test_orders_give_owen_values(parents):
    tally, base = ex.sample([product], NUMBERS, 5, pairs=400, seed=1, parents=np.array(parents))
    expected = np.stack([brute_force(x, parents) for x in NUMBERS])
    assert np.abs(tally.mean[0, ..., 0] - expected).max() < 5 * tally.errors().max() and np.allclose(base, 1)
    assert np.allclose(tally.mean[0].sum(1)[:, 0] + 1, NUMBERS.prod(1))


def test_one_player_takes_all():
    tally, _ = ex.sample([product], NUMBERS[:, :1], 1, pairs=2, seed=0)
    assert np.allclose(tally.mean[0, :, 0, 0], NUMBERS[:, 0] - 1)


def test_pairs_agree_with_shap():
    ours, _ = ex.sample([product], NUMBERS, 5, pairs=200, seed=0)
    exact, base = ex.shapley_values(product, NUMBERS, 5, exact=True)
    assert np.abs(ours.mean[0] - exact).max() < 5 * ours.errors().max() and np.allclose(base, 1)


def test_tally_is_mean_and_standard_error():
    values, tally = RNG.normal(size=(7, 4, 3, 2, 1)), ex.Tally((4, 3, 2, 1))
    for v in values: tally.add(v, np.arange(3))
    mean, error, choice = ex.combine_games(values.swapaxes(0, 1))
    assert np.allclose(tally.mean.mean(0), mean) and np.allclose(tally.errors(), error) and np.allclose(tally.choice(), choice)


MODEL = SimpleNamespace(predict=lambda c: 1e-9 * c[:, :100].sum(1) * c[:, 100:200].sum(1) * c[:, 200:300].sum(1))
COUNTS = RNG.gamma(0.5, 100, (30, 1)) * RNG.poisson(50, (30, AXIS.n_channels))
PLAYERS = {f"{i}": np.arange(100 * i, 100 * i + 100) for i in range(10)} | {"rest": np.arange(1000, AXIS.n_channels)}
QUIET = dict(players=PLAYERS, value="marginal", background=COUNTS[15:], verbose=False)


def test_stricter_requests_give_smaller_errors():
    four = {"0": PLAYERS["0"], "1": PLAYERS["1"], "2": PLAYERS["2"], "all": np.arange(300, AXIS.n_channels)}
    truth = ex.explain(MODEL, COUNTS[:8], n_background=4, **{**QUIET, "players": four})
    found = [ex.explain(MODEL, COUNTS[:8], error=error, n_background=4, most_pairs=300, **QUIET) for error in (0.3, 0.05, 0.02)]
    spread = truth.settings["spread"][0]
    reached = [np.sqrt(((e.values[:, :3] - truth.values[:, :3]) ** 2).mean()) / spread for e in found]
    assert reached[0] > 1.5 * reached[2] and all(r < asked for r, asked in zip(reached, (0.3, 0.05, 0.02)))
    assert all(e.settings["reached"] == 1 and e.error_std.max() <= e.settings["error"] * spread for e in found)
    assert found[0].settings["repeats"] < found[2].settings["repeats"]


@pytest.mark.parametrize("n", [1, 2, 4])
def test_no_error_is_believed_too_early(n):
    e = ex.explain(MODEL, COUNTS[:3], error=0.9, n_background=n, pairs=1, **QUIET)
    assert e.settings["repeats"] - 1 >= ex.TRUSTED >= 4


def test_a_limit_that_ends_it_is_told():
    e = ex.explain(MODEL, COUNTS[:3], error=1e-4, most_pairs=4, n_background=4, **QUIET)
    assert e.settings["repeats"] == 4 and e.settings["reached"] < 1 and "reached for" in ex.quality_line(e)


def test_a_spectrum_does_not_depend_on_its_company():
    alone, together = (ex.explain(MODEL, COUNTS[:n], error=0.1, n_background=4, **QUIET) for n in (1, 6))
    assert np.allclose(alone.values[0], together.values[0])


@pytest.mark.parametrize("change, message", [(dict(error=0), "error is 0"), (dict(error=2), "share"), (dict(most_pairs=0), "most_pairs is 0"), (dict(pairs="two"), "pairs is two")])
def test_bad_requests(change, message):
    with pytest.raises(ValueError, match=message): ex.explain(MODEL, COUNTS[:2], **{**QUIET, **change})


@pytest.mark.parametrize("axis, tube", [(AXIS, Tube()), (EnergyAxis(0.0102, -0.01), Tube("Mo", kv=30.0)), (EnergyAxis(0.03, 0.0, 700), Tube())])
def test_players_share_out_all_channels(axis, tube):
    lines = ex.line_players(axis, tube)
    pieces, parents = ex.nested_players(lines, axis)
    for players in (lines, pieces, ex.window_players(axis, 4, 3), ex.window_players(axis, 16)):
        assert (np.bincount(ex.player_of(players, axis.n_channels)) > 0).all()
    assert set(parents) == set(lines) and all(set(pieces[p]) <= set(lines[g]) for p, g in zip(pieces, parents))
    assert sum(name.startswith("scatter") for name in lines) == 1


def test_sums_of_nested_values_are_the_groups():
    weights = RNG.normal(size=AXIS.n_channels) / 100
    linear = SimpleNamespace(targets=("a", "b"), predict=lambda c: np.stack([c @ weights, c @ weights[::-1]], 1))
    quiet = dict(value="marginal", background=COUNTS[15:], verbose=False, pairs=1)
    nested, lines = ex.explain(linear, COUNTS[:3], players="nested", **quiet), ex.explain(linear, COUNTS[:3], **quiet)
    sums = ex.group_sums(nested)
    assert list(sums.players) == list(lines.players) and np.allclose(sums.values, lines.values) and np.allclose(sums.data, lines.data)
    assert np.allclose(ex.group_sums(ex.one_target(nested, "b")).values, ex.one_target(lines, "b").values)
    with pytest.raises(ValueError, match="nested"): ex.group_sums(lines)


def test_rows_keep_what_is_attached():
    e = ex.explain(MODEL, COUNTS[:5], **QUIET)
    part = ex.rows_of(e, [3, 1])
    assert np.allclose(part.values, e.values[[3, 1]]) and np.allclose(part.additivity, e.additivity[[3, 1]]) and part.settings == e.settings
    assert len(ex.drivers(part)) == len(PLAYERS)


@pytest.fixture(scope="module")
def network():
    spectra = Spectra(COUNTS.astype(np.int64), pd.DataFrame(dict(CaCO3=np.linspace(5, 60, 30), core=["A", "B"] * 15, depth_mm=np.arange(30.0))), AXIS)
    return MAXRegressor(targets=("CaCO3",), members=1, tune="frozen").fit(spectra), spectra


def test_decoder_must_have_learned(network):
    model, spectra = network
    ex.check_decoder(model.mae_, "it")
    fresh = MAXRegressor(MAX.from_preset("tiny", embed_dim=32, depth=1, decoder_embed_dim=32, decoder_depth=1), targets=("CaCO3",), members=1, tune="frozen").fit(spectra)
    with pytest.raises(ValueError, match="never trained.*imputer="): ex.explain(fresh, spectra[:1], value="conditional", background=spectra, verbose=False)
    with pytest.raises(ValueError, match="imputer has one that was never trained"): ex.explain(MODEL, spectra[:1], value="conditional", imputer=fresh.mae_, background=spectra, verbose=False)
    assert ex.explain(fresh, spectra[:1], value="marginal", background=spectra, n_background=2, pairs=1, verbose=False).additivity.max() < 1e-3


def test_published_regressor_has_no_decoder():
    if not (SHARED / "parity").exists(): pytest.skip("no ../shared/parity here")
    model = MAXRegressor.from_xpt(SHARED / "parity" / "regressor.ckpt", SHARED / "parity" / "config.json")
    counts = RNG.poisson(50, (3, model.mae_.config.n_channels))
    with pytest.raises(ValueError, match="from_xpt"): ex.explain(model, Spectra(counts, None, model.mae_.config.axis), value="conditional", background=Spectra(counts, None, model.mae_.config.axis), verbose=False)


def test_background_of_another_instrument():
    info = lambda kv: pd.DataFrame(dict(voltage_kv=np.full(30, kv)))
    ten, thirty = Spectra(COUNTS.astype(int), info(10.0)), Spectra(COUNTS.astype(int), info(30.0))
    with pytest.raises(ValueError, match="10 kV.*30 kV"): ex.explain(MODEL, ten[:2], **{**QUIET, "background": thirty})
    with pytest.raises(ValueError, match="10 kV.*30 kV"): ex.check_same_instrument(Spectra(ten.counts, meta=dict(voltage_kv="10")), thirty)
    ramp = np.where(np.arange(AXIS.n_channels) < 200, COUNTS, 0)
    with pytest.raises(ValueError, match="another instrument"): ex.explain(MODEL, ramp[:2], **{**QUIET, "background": np.where(np.arange(AXIS.n_channels) > 400, COUNTS, 0)[15:]})


def test_real_instruments_are_told_apart():
    if not (SHARED / "real").exists(): pytest.skip("no ../shared/real here")
    from max_nb.scanners import read
    avaatech, itrax = Spectra.from_parquet(SHARED / "real" / "marine_sediments.parquet"), read(SHARED / "real" / "itrax" / "L000676.spe")
    for i in range(0, 700, 50): ex.check_same_instrument(avaatech[i:i + 1], avaatech)
    with pytest.raises(ValueError): ex.check_same_instrument(avaatech, itrax)
    with pytest.raises(ValueError, match="cosine"): ex.check_same_instrument(avaatech.counts, itrax.counts)


def test_saliency_is_the_gradient(network):
    model, spectra = network
    slope, channel = ex.saliency(model, spectra[:1])[0], 180
    nudged, step = spectra.counts[:1].astype(float).copy(), 20.0
    nudged[0, channel] += step
    from max_nb.regress import member_outputs
    change = (member_outputs(model, nudged) - member_outputs(model, spectra[:1]))[0, 0, 0] / step * np.sqrt(max(spectra.counts[0, channel], 1))
    assert np.isclose(slope[channel], change, rtol=0.1)
    assert (slope[model.mae_.config.n_window:] == 0).all() and np.isfinite(slope).all()


def test_what_only_networks_can_do(network):
    for job in (lambda: ex.saliency(MODEL, COUNTS[:1]), lambda: ex.surrogate(MODEL, COUNTS), lambda: ex.with_random_weights(MODEL)):
        with pytest.raises(ValueError, match="SimpleNamespace.*MAXRegressor"): job()
    with pytest.raises(ValueError, match="'TOC'.*CaCO3"): ex.saliency(network[0], COUNTS[:1], "TOC")


def test_randomised_models_leave_the_model_alone(network):
    model, spectra = network
    before = model.predict(spectra)
    none, top, all_ = (ex.with_random_weights(model, n, seed=1) for n in (0, 1, None))
    assert np.allclose(none.predict(spectra), before) and not np.allclose(top.predict(spectra), before)
    scaled = ex.with_random_weights(model, like=spectra)
    from max_nb.regress import member_outputs
    z = member_outputs(scaled, spectra)[0]
    assert np.allclose(z.mean(0), 0, atol=1e-3) and np.allclose(z.std(0, ddof=1), 1, atol=1e-2)
    other = ex.with_random_labels(model, spectra, spectra.info.CaCO3, seed=3)
    assert np.allclose(model.predict(spectra), before) and np.abs(other.predict(spectra) - before).max() > 0.1


def test_surrogate_learns_gaps_and_keeps_the_model(network):
    model, spectra = network
    before = model.predict(spectra)
    twin = ex.surrogate(model, spectra, steps=15)
    assert np.allclose(model.predict(spectra), before)
    hidden = np.zeros((30, model.mae_.config.n_patches), bool)
    assert np.ptp(twin.predict_visible(spectra, hidden)) < 1e-4 and np.isfinite(twin.predict(spectra)).all()


def test_infidelity_and_insertion_of_an_exact_explanation():
    weights = RNG.normal(size=AXIS.n_channels)
    linear = SimpleNamespace(predict=lambda c: c @ weights / 1e4)
    e = ex.explain(linear, COUNTS[:6], **QUIET)
    score = ex.infidelity(linear, COUNTS[:6], e, rivals={"noise": RNG.normal(size=e.values.shape)})
    assert score["explanation"] < 1e-9 < 0.1 < score["noise"]
    curve = ex.deletion_curve(linear, COUNTS[:6], e, insert=True, rivals={"noise": RNG.random(e.values.shape)})
    assert set(curve.order) == {"explanation", "reverse", "random", "noise"} and curve[curve.removed == 0].change.max() == 0
    with pytest.raises(ValueError, match="noise.*expected"): ex.deletion_curve(linear, COUNTS[:6], e, rivals={"noise": np.zeros((2, 2))})


def test_comb_index_is_a_share():
    comb = np.zeros(496)
    comb[::16] = 1
    assert 0.99 < ex.comb_index(comb) <= 1 and ex.comb_index(np.ones(496)) == 0 and ex.comb_index(RNG.random(496)) < 0.2
    assert ex.comb_index(np.roll(comb, 5)) > 0.99 and ex.comb_index(np.repeat(RNG.random(31), 16)) < 0.2
    with pytest.raises(ValueError, match="at least 64"): ex.comb_index(comb[:40])
    with pytest.raises(ValueError, match="shift is 4"): ex.window_players(AXIS, 4, 4)


def test_cores_and_samples(network):
    model, spectra = network
    e = ex.explain(model, spectra[:10], value="marginal", background=spectra, n_background=2, pairs=1, verbose=False)
    table = ex.compare_cores(e, spectra[:10])
    assert np.isclose(table.difference.sum(), e.prediction[::2].mean() - e.prediction[1::2].mean(), atol=1e-3)
    figure = ex.plot_downcore_drivers(e, spectra[:10], "A")
    assert len(figure.frames) == 5 and np.shape(figure.data[1].z) == (5, 11) and figure.data[0].y[0] == 0
    assert len(ex.plot_downcore_drivers(e, spectra[:10], "A", slider=False).frames) == 0
    for job, message in ((lambda: ex.compare_cores(e, spectra[:10], ("A", "C")), "'C'"), (lambda: ex.plot_downcore_drivers(e, spectra[:10], "C"), "'C'"), (lambda: ex.plot_downcore_drivers(e, spectra), "30 spectra"),
                         (lambda: ex.why_different(model, spectra[:2], spectra[:1]), "2 and 1")):
        with pytest.raises(ValueError, match=message): job()


def test_why_two_samples_differ(network, capsys):
    model, spectra = network
    e = ex.why_different(model, spectra[:1], spectra[29:30])
    gap = model.predict(spectra[:1])[0] - model.predict(spectra[29:30])[0]
    assert np.isclose(e.values.sum(), gap, atol=1e-3) and ("above" if gap > 0 else "below") in capsys.readouterr().out


def test_interventions():
    f = free_sediments(4, seed=1)
    changed = intervened(f, {"Ca": 3.0, "Fe": [0.1, 0.2, 0.3, 0.4]})
    assert np.allclose(changed.sum(axis=1), 100) and np.allclose(changed.Fe, [0.1, 0.2, 0.3, 0.4]) and np.allclose(changed.Si / changed.K, f.Si / f.K)
    with pytest.raises(ValueError, match="'CaCO3' is no element"): intervened(f, {"CaCO3": 1.0})
    with pytest.raises(ValueError, match="leave room"): intervened(f, {"Ca": 101.0})
    with pytest.raises(ValueError, match="room for water"): free_sediments(3, ranges={"Ca": (60, 70), "Si": (50, 60)})


def test_a_superposition_may_fill_in_where_no_decoder_has_learned(network):
    _, spectra = network
    fresh = MAX.from_preset("tiny", embed_dim=32, depth=1, decoder_embed_dim=32, decoder_depth=1)
    fresh.normaliser.learn(torch.as_tensor(spectra.counts[:, : fresh.config.n_window], dtype=torch.float32))
    e = ex.explain(MODEL, spectra[:2], value="conditional", imputer=fresh.with_components(spectra, 3), background=spectra, n_background=2, verbose=False)
    assert np.isfinite(e.values).all()
    unlearned = MAX.from_preset("tiny", embed_dim=32, depth=1, decoder_embed_dim=32, decoder_depth=1, components=3)
    with pytest.raises(ValueError, match="never trained"): ex.explain(MODEL, spectra[:1], value="conditional", imputer=unlearned, background=spectra, verbose=False)
