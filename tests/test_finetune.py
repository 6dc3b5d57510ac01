"Fine-tuning: what learns, weights, adaptation, early stopping, calibration on a core, and what is refused."
import builtins
import json
from importlib.util import find_spec

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings, strategies as st
from sklearn.base import clone

from max_nb.energy import EnergyAxis
from max_nb.regress import (TUNES, FineTuneSettings, MAXRegressor, Network, TargetScale, Watch, fine_tune, left_one_out, masked_error, thaw, watched)
from max_nb.spectra import Spectra
from test_regress import mae, regressor, spectra  # noqa: F401

needs_peft = pytest.mark.skipif(not find_spec("peft"), reason="peft is not installed: pip install 'max_nb[lora]'")
EVERY = [pytest.param(t, marks=needs_peft) if t == "lora" else t for t in TUNES]


def network_state(fitted):
    return {f"{i}.{k}": v for i, m in enumerate(fitted.members_) for k, v in m.state_dict().items()}


@pytest.mark.parametrize("tune", EVERY)
def test_every_way_learns_saves_and_loads(mae, tmp_path, tune):
    s, new = spectra(), spectra(seed=7)
    fitted = regressor(mae, tune=tune, blocks=1).fit(s)
    error = fitted.predict(new)[:, 0] - new.info.CaCO3
    assert np.sqrt((error**2).mean()) < 0.4 * new.info.CaCO3.std()
    again = MAXRegressor.load(fitted.save(tmp_path))
    assert again.get_params()["tune"] == tune == again.tune_
    assert np.array_equal(again.predict(new), fitted.predict(new)) and np.array_equal(again.predict_interval(new), fitted.predict_interval(new))
    assert np.array_equal(again.predict_visible(new, np.arange(8) < 5), fitted.predict_visible(new, np.arange(8) < 5))


@needs_peft
def test_no_additions_are_left_after_training(mae, tmp_path):
    fitted = regressor(mae, tune="lora", steps=5).fit(spectra())
    assert set(fitted.members_[0].state_dict()) == set(Network(mae, 2).state_dict()) and not any("lora" in k for k in network_state(fitted))
    moved = [k for k, v in fitted.members_[0].state_dict().items() if k.startswith("encoder") and not torch.equal(v, mae.state_dict()[k])]
    assert moved and all(any(m in k for m in ("qkv", "proj", "fc1", "fc2")) for k in moved)


def test_lora_without_peft_names_the_extra(mae, monkeypatch):
    real = builtins.__import__
    def without(name, *more, **named):
        if name == "peft": raise ImportError(name)
        return real(name, *more, **named)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ValueError, match=r"max_nb\[lora\]"):
        regressor(mae, tune="lora").fit(spectra())


def test_what_is_frozen_does_not_move(mae):
    s = spectra()
    frozen, partial, full = (regressor(mae, tune=t, blocks=1, steps=5, targets="CaCO3").fit(s).members_[0].state_dict() for t in ("frozen", "partial", "full"))
    start = {k: v for k, v in mae.state_dict().items() if k.startswith("encoder")}
    assert all(torch.equal(frozen[k], v) for k, v in start.items())
    assert {k for k, v in start.items() if not torch.equal(partial[k], v)} <= {k for k in start if "blocks.0" in k or "encoder.norm" in k}
    assert not torch.equal(full["encoder.patch_embed.weight"], start["encoder.patch_embed.weight"])
    assert torch.equal(partial["encoder.patch_embed.weight"], start["encoder.patch_embed.weight"])


def test_frozen_members_share_their_encoder_on_disk(mae, tmp_path):
    from safetensors.torch import load_file
    fitted = regressor(mae, tune="frozen", members=3).fit(spectra())
    assert fitted.members_[0].encoder is fitted.members_[2].encoder and fitted.members_[0].head is not fitted.members_[2].head
    fitted.save(tmp_path)
    assert {k for k in load_file(tmp_path / "members.safetensors") if not k.startswith("0.")} == {f"{i}.head.{k}" for i in (1, 2) for k in ("weight", "bias")}


def test_the_choice_is_left_to_the_number_of_labels(mae):
    s = spectra()
    assert regressor(mae, tune="auto", steps=1).fit(s[:8]).tune_ == "frozen"
    assert regressor(None, tune="auto", steps=1, preset="tiny").fit(s[:8]).tune_ == "full"
    assert clone(regressor(mae, tune="partial", blocks=1)).get_params()["tune"] == "partial"


def test_folders_of_the_first_format_load(mae, tmp_path):
    fitted = regressor(mae, steps=3).fit(spectra())
    path = fitted.save(tmp_path) / "regressor.json"
    saved = json.loads(path.read_text())
    for name in ("tune", "blocks", "rank", "adapt", "early_stopping"): saved["params"].pop(name)
    for name in ("tune_", "weights_", "corrections_"): saved["fitted"].pop(name)
    path.write_text(json.dumps(saved | dict(format=1)))
    again, new = MAXRegressor.load(tmp_path), spectra(seed=3)
    assert np.array_equal(again.predict(new), fitted.predict(new)) and np.array_equal(again.predict_interval(new), fitted.predict_interval(new))


# Weights of samples

@given(st.lists(st.integers(1, 4), min_size=4, max_size=12), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_a_weight_counts_as_so_many_copies(weights, seed):
    rng = np.random.default_rng(seed)
    z, y = (torch.as_tensor(rng.normal(size=(len(weights), 2))) for _ in range(2))
    y[0, 1] = np.nan
    copies = torch.repeat_interleave(torch.arange(len(weights)), torch.tensor(weights))
    assert torch.isclose(masked_error(z, y, torch.tensor(weights, dtype=z.dtype)), masked_error(z[copies], y[copies]))


@pytest.mark.parametrize("tune", ["frozen", "full"])
def test_equal_weights_are_no_weights(mae, tune):
    s = spectra()
    a, b = regressor(mae, steps=4, tune=tune).fit(s), regressor(mae, steps=4, tune=tune).fit(s, sample_weight=np.full(40, 7.0))
    assert np.array_equal(a.predict(s), b.predict(s)) and np.array_equal(a.predict_interval(s), b.predict_interval(s))


@pytest.mark.parametrize("tune", ["frozen", "full"])
def test_weight_zero_is_leaving_out(mae, tune):
    s, w = spectra(), np.r_[np.zeros(10), np.ones(30)]
    a, b = regressor(mae, steps=4, tune=tune).fit(s, sample_weight=w), regressor(mae, steps=4, tune=tune).fit(s[10:])
    assert np.array_equal(a.predict(s), b.predict(s)) and len(a.residuals_) == 30


@pytest.mark.parametrize("tune", ["frozen", "full"])
def test_weights_decide_between_two_truths(mae, tune):
    s, y = spectra(), np.tile([20.0, 60.0], 20)
    fit = lambda w: regressor(mae, members=1, tune=tune, scale="linear", mix=False, targets="CaCO3").fit(s, y, sample_weight=w).predict(s).mean()
    low, high = fit(np.tile([20.0, 1.0], 20)), fit(np.tile([1.0, 20.0], 20))
    assert low < 35 and high > 45


def test_weights_reach_the_interval(mae):
    s, y = spectra(), spectra().info.CaCO3.to_numpy() + np.where(np.arange(40) % 2, 30, 0)
    narrow, wide = (regressor(mae, tune="frozen", targets="CaCO3").fit(s, y, sample_weight=w) for w in (np.where(np.arange(40) % 2, 1e-3, 1), np.where(np.arange(40) % 2, 1, 1e-3)))
    assert np.allclose(narrow.weights_.mean(), 1) and not np.array_equal(narrow.predict_interval(s), wide.predict_interval(s))


@pytest.mark.parametrize("weights, word", [(np.ones(3), "shape"), (np.r_[-1, np.ones(39)], "-1"), (np.r_[np.nan, np.ones(39)], "nan"), (np.r_[np.inf, np.ones(39)], "inf"), (np.zeros(40), "0 for all"),
                                           (["x"] * 40, "number"), (np.r_[np.ones(4), np.zeros(36)], "too few"), (np.ones((40, 1)), "shape")])
def test_bad_weights(mae, weights, word):
    with pytest.raises(ValueError, match=word):
        regressor(mae, tune="frozen").fit(spectra(), sample_weight=weights)


# Early stopping

@given(n=st.integers(1, 60), g=st.integers(1, 12), share=st.floats(0, 0.9), seed=st.integers(0, 20))
@settings(max_examples=80, deadline=None)
def test_what_is_watched(n, g, share, seed):
    groups = np.random.default_rng(seed).integers(0, g, n)
    aside = watched(n, groups, share, seed)
    assert aside.shape == (n,) and (~aside).any() and (share > 0 or not aside.any())
    if len(set(groups)) >= 3: assert all(len(set(aside[groups == k])) == 1 for k in set(groups))


def test_the_best_state_comes_back(mae):
    s = spectra()
    counts, Y = torch.tensor(s.counts, dtype=torch.float32), torch.tensor(s.info[["CaCO3"]].to_numpy())
    scale = TargetScale("linear").fit(Y.numpy())
    rows = torch.as_tensor(watched(40, s.info.core, 0.2, seed=0))
    measured = torch.as_tensor(scale.forward(Y.numpy()), dtype=torch.float32)[rows]
    errors = []
    for rate in (1e-4, 0.3):  # the second wrecks the network
        network = fine_tune(Network(mae, 1), counts, Y, scale, FineTuneSettings(steps=60, learning_rate=rate, watch=0.2), groups=s.info.core)
        with torch.no_grad(): errors.append(masked_error(network(counts[rows]), measured).item())
    assert errors[1] < 2 * errors[0] + 0.1


def test_it_stops_when_nothing_gets_better(mae):
    network = Network(mae, 1).eval()
    watch = Watch(thaw(network, FineTuneSettings()), torch.ones(3, 64), torch.zeros(3, 1), None, FineTuneSettings(steps=15, patience=2))
    assert not watch.enough(0)
    with torch.no_grad(): network.head.bias += 5
    assert not watch.enough(1) and watch.enough(2) and len(watch.errors) == 3


def test_early_stopping_leaves_the_left_out_alone(mae):
    s = spectra()
    fitted = regressor(mae, early_stopping=True, steps=30).fit(s)
    assert np.isfinite(fitted.residuals_).all() and np.isfinite(fitted.predict(s)).all()


# Adaptation

def test_adaptation_changes_a_copy(mae):
    before, s = {k: v.clone() for k, v in mae.state_dict().items()}, spectra()
    fitted = regressor(mae, tune="frozen", adapt=True).fit(s)
    assert all(torch.equal(v, before[k]) for k, v in mae.state_dict().items())
    assert not torch.equal(fitted.mae_.encoder.patch_embed.weight, mae.encoder.patch_embed.weight)
    again = regressor(mae, tune="frozen", adapt=True).fit(s)
    assert np.array_equal(again.predict(s), fitted.predict(s))


def test_unlabelled_rows_and_scans_are_seen(mae, monkeypatch):
    import max_nb.pretrain as pretraining
    seen, real = [], pretraining.pretrain
    monkeypatch.setattr(pretraining, "pretrain", lambda counts, *more, **named: seen.append(len(counts)) or real(counts, *more, **{**named, "epochs": 1}))
    s = spectra()
    s.info.loc[20:, ["CaCO3", "TOC"]] = np.nan
    regressor(mae, tune="frozen", adapt=True).fit(s)
    regressor(mae, tune="frozen", adapt=True).fit(s, unlabelled=spectra(8, seed=2))
    regressor(mae, tune="frozen", adapt=True).fit(s.counts, s.info[["CaCO3", "TOC"]], unlabelled=spectra(8, seed=2).counts)
    assert seen == [40, 48, 48]


@pytest.mark.parametrize("options, more, word", [
    (dict(tune="whole"), {}, "tune"), (dict(tune=None), {}, "tune"), (dict(blocks=0), {}, "blocks"), (dict(tune="partial", blocks=9), {}, "blocks"), (dict(rank=0), {}, "rank"), (dict(rank=1.5), {}, "rank"), (dict(adapt="yes"), {}, "adapt"),
    (dict(early_stopping="no"), {}, "early_stopping"), (dict(members=0), {}, "members"), (dict(steps=0), {}, "steps"), (dict(drop=1.0), {}, "drop"), (dict(learning_rate=-1), {}, "learning_rate"), (dict(layer_decay=0), {}, "layer_decay"),
    (dict(learning_rate="fast"), {}, "learning_rate"), ({}, dict(unlabelled=spectra(4)), "adapt"), (dict(adapt=True), dict(unlabelled=np.ones((3, 7))), "7 channels"), (dict(adapt=True), dict(unlabelled=np.full((3, 64), -1)), "-1")])
def test_options_that_cannot_work(mae, options, more, word):
    with pytest.raises(ValueError, match=word):
        regressor(mae, **{"tune": "frozen", **options}).fit(spectra(), **more)


# Calibration on a core

def moved(n=40, seed=4):
    "A core whose CaCO3 was computed with another factor and another zero."
    s = spectra(n, seed)
    return Spectra(s.counts, s.info.assign(CaCO3=0.7 * s.info.CaCO3 + 15), s.axis)


@pytest.fixture(scope="module")
def frozen(mae):
    return regressor(mae, tune="frozen").fit(spectra())


def test_calibration_brings_a_moved_core_home(frozen):
    s = moved()
    few, rest = s[:10], s[10:]
    rmse = lambda model: np.sqrt(np.mean((model.predict(rest)[:, 0] - rest.info.CaCO3) ** 2))
    before = frozen.predict(rest)
    new = frozen.calibrate(few.counts, few.info[["CaCO3", "TOC"]].assign(TOC=np.nan))
    assert rmse(new) < 0.5 * rmse(frozen) and np.array_equal(frozen.predict(rest), before) and np.array_equal(new.predict(rest)[:, 1], before[:, 1])
    low, high = new.predict_interval(rest)[:, 0].T
    assert 0.7 <= ((low <= rest.info.CaCO3) & (rest.info.CaCO3 <= high)).mean()
    assert np.array_equal(new.predict_interval(rest)[:, 1], frozen.predict_interval(rest)[:, 1])


def test_a_calibrated_model_saves_and_loads(frozen, tmp_path):
    s = moved()
    new = frozen.calibrate(s[:8])
    again = MAXRegressor.load(new.save(tmp_path))
    assert np.array_equal(again.predict(s), new.predict(s)) and np.array_equal(again.predict_interval(s), new.predict_interval(s))
    assert np.array_equal(again.predict_visible(s, np.arange(8) < 4), new.predict_visible(s, np.arange(8) < 4))


def test_nothing_is_corrected_where_nothing_is_wrong(frozen):
    s, rng = spectra(seed=9), np.random.default_rng(0)
    answers = frozen.predict(s)
    new = frozen.calibrate(s, answers + rng.normal(size=answers.shape) * [1.0, 0.01])
    assert np.abs(new.predict(s) - answers).mean(0)[0] < 1.0


def test_a_single_network_gets_intervals_by_calibration(mae):
    single, s = regressor(mae, tune="frozen", members=1, targets="CaCO3").fit(spectra()), moved()
    with pytest.raises(ValueError, match="calibrated"): single.predict_interval(s)
    assert (np.diff(single.calibrate(s[:10]).predict_interval(s)[:, 0]) >= 0).all()


def test_calibrating_starts_from_the_first_model_not_from_the_last(frozen):
    s = moved()
    assert np.array_equal(frozen.calibrate(s[20:]).calibrate(s[:10]).predict(s), frozen.calibrate(s[:10]).predict(s))


@given(st.integers(3, 12), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_left_one_out_is_leaving_one_out(n, seed):
    rng = np.random.default_rng(seed)
    x, r = rng.normal(size=(n, 4)), rng.normal(size=n)
    kernel, quick = x @ x.T, left_one_out(x @ x.T, r)
    rest = np.arange(1, n)
    assert np.isclose(quick[0], r[0] - kernel[0, rest] @ np.linalg.solve(kernel[np.ix_(rest, rest)] + np.eye(n - 1), r[rest]))


@pytest.mark.parametrize("y, word", [(np.full((40, 2), np.nan), "none"), (np.where(np.arange(40)[:, None] < 3, 1.0, np.nan) * np.ones(2), "3"), (np.ones((39, 2)), "rows"), (np.ones((40, 3)), "columns"), (np.full((40, 2), "x"), "number")])
def test_calibration_refuses(frozen, y, word):
    with pytest.raises(ValueError, match=word):
        frozen.calibrate(spectra(), y)


def test_calibration_refuses_other_axes_and_the_unfitted(frozen, mae):
    from sklearn.exceptions import NotFittedError
    with pytest.raises(ValueError, match="channels|shape"): frozen.calibrate(np.ones((8, 32)), np.ones((8, 2)))
    with pytest.raises(NotFittedError): regressor(mae).calibrate(spectra())


def test_a_loaded_model_that_was_adapted_begins_again_from_where_it_began(mae, tmp_path):
    s = spectra()
    fitted = regressor(mae, tune="frozen", adapt=True).fit(s)
    again = MAXRegressor.load(fitted.save(tmp_path))
    assert all(torch.equal(a, b) for a, b in zip(again.pretrained.state_dict().values(), mae.state_dict().values()))
    assert np.array_equal(clone(again).fit(s).predict(s), fitted.predict(s))


def test_predictions_refuse_spectra_of_another_axis_and_of_as_many_channels(mae):
    s = spectra()
    fitted = regressor(mae, tune="frozen").fit(s)
    other = Spectra(s.counts, s.info, EnergyAxis(s.axis.gain_kev * 1.1, s.axis.offset_kev, s.axis.n_channels))
    for ask in (fitted.predict, fitted.predict_interval):
        with pytest.raises(ValueError, match="(?s)found spectra on .*rebin"):
            ask(other)
