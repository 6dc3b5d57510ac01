"Pre-training: mixtures, determinism, checkpoints, and what it refuses."
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings, strategies as st

from max_nb.energy import EnergyAxis
from max_nb.mae import MAX, MAXConfig
from max_nb.pretrain import (PretrainSettings, as_model, default_epochs, draw_batch, make_trainer, mix_and_recount, mixing_weights, one_step, pick, pretrain,
                             rate_at, reconstruction_r2, save_checkpoint)
from max_nb.spectra import Spectra

AXIS = EnergyAxis(n_channels=64)
SMALL = MAXConfig(n_channels=64, max_kev=1.28, patch_size=8, normalisation="sqrt-channel", embed_dim=16, depth=1, num_heads=2, decoder_embed_dim=8, decoder_depth=1, decoder_num_heads=2)
RECIPE = PretrainSettings(epochs=3, batch_size=4, seed=1)


def spectra(n=12, seed=0):
    rng = np.random.default_rng(seed)
    shape = rng.dirichlet(np.ones(3), n) @ rng.gamma(0.5, 1, (3, 64))
    return Spectra(rng.poisson(5000 * shape / shape.sum(1, keepdims=True)), pd.DataFrame({"core": ["a"] * n}), AXIS)


def model(seed=0):
    torch.manual_seed(seed)
    return MAX(SMALL)


def weights(m):
    return torch.cat([p.flatten() for p in m.state_dict().values()])


@given(n=st.integers(1, 20), most=st.integers(1, 4), seed=st.integers(0, 99))
@settings(max_examples=50, deadline=None)
def test_mixing_weights_are_convex(n, most, seed):
    w = mixing_weights(n, most, torch.Generator().manual_seed(seed))
    assert w.shape == (n, most) and (w >= 0).all() and torch.allclose(w.sum(1), torch.ones(n))


def test_mixtures_are_counts_with_poisson_noise():
    x = torch.full((1, 64), 1000.0)
    y = mix_and_recount(x, 4000, torch.Generator().manual_seed(0), spread=0.0)
    assert torch.equal(y, y.round()) and abs(float(y.var(0).mean() / y.mean()) - 1) < 0.05


def test_the_same_seed_gives_the_same_run_and_another_gives_another():
    a, b, c = (pretrain(spectra(), model(), settings=PretrainSettings(epochs=2, batch_size=4, seed=s), progress=False) for s in (1, 1, 2))
    assert torch.equal(weights(a.model), weights(b.model)) and not torch.equal(weights(a.model), weights(c.model))
    assert a.history.loss.tolist() == b.history.loss.tolist()


def test_global_random_state_does_not_matter():
    torch.manual_seed(0); a = pretrain(spectra(), model(), settings=RECIPE, progress=False)
    start = model(); torch.manual_seed(99); b = pretrain(spectra(), start, settings=RECIPE, progress=False)
    assert torch.equal(weights(a.model), weights(b.model))


@pytest.mark.parametrize("stop", [1, 4, 7])
def test_resumed_equals_uninterrupted_bit_for_bit(tmp_path, stop):
    whole = pretrain(spectra(), model(), settings=RECIPE, progress=False)
    t = make_trainer(model(), spectra().counts, RECIPE, tmp_path)
    for _ in range(stop):
        one_step(t)
    save_checkpoint(t)
    resumed = pretrain(spectra(), model(5), settings=RECIPE, out=tmp_path, resume=True, progress=False)
    assert torch.equal(weights(whole.model), weights(resumed.model))
    assert whole.history.loss.tolist() == resumed.history.loss.tolist()


def test_ctrl_c_finishes_the_step_and_leaves_a_checkpoint(tmp_path):
    recipe = PretrainSettings(epochs=2000, batch_size=4, seed=1)
    threading.Timer(1.0, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt, match="resumes"):
        pretrain(spectra(), model(), settings=recipe, out=tmp_path, progress=False)
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert 0 < state["step"] < 6000 and [p.name for p in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_a_finished_run_resumes_to_itself(tmp_path):
    first = pretrain(spectra(), model(), settings=RECIPE, out=tmp_path, progress=False)
    again = pretrain(spectra(), model(3), settings=RECIPE, out=tmp_path, resume=True, progress=False)
    assert torch.equal(weights(first.model), weights(again.model))
    assert {"model.safetensors", "config.json", "history.csv", "checkpoint.pt"} <= {p.name for p in tmp_path.iterdir()}
    assert torch.equal(weights(MAX.from_pretrained(tmp_path)), weights(first.model))


@pytest.mark.parametrize("other, word", [(dict(data=1), "data"), (dict(seed=2), "settings")])
def test_a_checkpoint_of_another_run_is_refused(tmp_path, other, word):
    pretrain(spectra(), model(), settings=RECIPE, out=tmp_path, progress=False)
    recipe = PretrainSettings(epochs=3, batch_size=4, seed=other.get("seed", 1))
    with pytest.raises(ValueError, match=word):
        pretrain(spectra(seed=other.get("data", 0)), model(), settings=recipe, out=tmp_path, resume=True, progress=False)


def test_a_truncated_checkpoint_is_refused(tmp_path):
    pretrain(spectra(), model(), settings=RECIPE, out=tmp_path, progress=False)
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match="not a whole checkpoint"):
        pretrain(spectra(), model(), settings=RECIPE, out=tmp_path, resume=True, progress=False)


def test_spectra_without_counts_are_named():
    s = spectra()
    s.counts[3] = 0
    with pytest.raises(ValueError, match="row 3"):
        pretrain(s, model(), settings=RECIPE, progress=False)


def test_one_spectrum_is_not_enough():
    with pytest.raises(ValueError, match="not enough"):
        pretrain(spectra(1), model(), settings=RECIPE, progress=False)


def test_another_number_of_channels_is_refused():
    with pytest.raises(ValueError, match="64"):
        pretrain(Spectra(np.ones((4, 32)), None, EnergyAxis(n_channels=32)), model(), settings=RECIPE, progress=False)


def test_a_diverging_run_stops_with_advice():
    m = model()
    with torch.no_grad():
        m.decoder.pred.weight.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="learning rate below"):
        pretrain(spectra(), m, settings=RECIPE, progress=False)


@pytest.mark.parametrize("preset", ["huge", "", "Tiny"])
def test_unknown_presets(preset):
    with pytest.raises(ValueError, match="preset"):
        pretrain(spectra(), preset, epochs=1, progress=False)


def test_the_published_recipe():
    p = PretrainSettings.published()
    assert (p.epochs, p.batch_size, p.learning_rate, p.betas, p.clip, p.augment) == (100, 256, 1e-4, (0.9, 0.95), 0.5, False)
    assert PretrainSettings.published(epochs=2).epochs == 2


def test_an_epoch_without_augmentation_shows_every_spectrum_once():
    x = torch.as_tensor(spectra(10).counts, dtype=torch.float32)
    plain = PretrainSettings(epochs=2, batch_size=4, augment=False)
    epochs = [torch.cat([draw_batch(x, 3 * e + i, plain)[0] for i in range(3)]) for e in range(2)]
    for e in epochs:
        assert torch.equal(e.sum(1).sort().values, x.sum(1).sort().values)
    assert not torch.equal(*epochs)


@given(total=st.integers(1, 500), warmup=st.floats(0, 0.9))
@settings(max_examples=50, deadline=None)
def test_learning_rate_stays_between_zero_and_its_peak(total, warmup):
    rates = [rate_at(i, total, 2.0, warmup) for i in range(total)]
    assert min(rates) >= 0 and max(rates) <= 2.0 + 1e-12


def test_default_epochs_never_fall_below_a_hundred():
    assert default_epochs(10, 128) == 1500 and default_epochs(10**6, 128) == 100


def test_a_preset_learns_the_channel_statistics():
    m = as_model("tiny", Spectra(np.random.default_rng(0).poisson(50, (9, 2048)), None), 0)
    assert m.normaliser.mean.abs().sum() > 0 and m.normaliser.std.min() > 0


def test_reconstruction_r2_of_the_mean_is_not_positive():
    s = spectra(40)
    m = as_model(model(), s, 0)
    m.normaliser.learn(torch.as_tensor(s.counts, dtype=torch.float32))
    with torch.no_grad():
        m.decoder.pred.weight.zero_(); m.decoder.pred.bias.zero_()  # guesses the channel's mean everywhere
    assert abs(reconstruction_r2(m, s, s)) < 1e-5


@pytest.mark.parametrize("augment", [True, False])
@pytest.mark.parametrize("kind", ["int32", "uint16", "float64"])
def test_from_disk_as_from_memory_bit_for_bit(tmp_path, monkeypatch, augment, kind):
    monkeypatch.setenv("MAX_NB_CACHE", str(tmp_path / "cache"))
    s, recipe = spectra(23), PretrainSettings(epochs=2, batch_size=4, seed=1, augment=augment)
    here = Spectra(s.counts.astype(kind) * (1.5 if kind == "float64" else 1), s.info, AXIS)
    there = Spectra.from_parquet(here.to_parquet(tmp_path / "x.parquet"), memory_map=True)
    a, b = (pretrain(x, "tiny", settings=recipe, progress=False) for x in (here, there))
    assert there.on_disk and torch.equal(weights(a.model), weights(b.model)) and a.history.loss.tolist() == b.history.loss.tolist()


def test_a_run_from_memory_is_resumed_from_disk(tmp_path, monkeypatch):
    monkeypatch.setenv("MAX_NB_CACHE", str(tmp_path / "cache"))
    there = Spectra.from_parquet(spectra().to_parquet(tmp_path / "x.parquet"), memory_map=True)
    pretrain(spectra(), model(), settings=RECIPE, out=tmp_path / "run", progress=False)
    pretrain(there, model(), settings=RECIPE, out=tmp_path / "run", resume=True, progress=False)


def test_statistics_of_parts_are_those_of_the_whole(tmp_path, monkeypatch):
    monkeypatch.setenv("MAX_NB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("max_nb.pretrain.STATISTICS_OF", 10)
    here = Spectra(np.random.default_rng(0).poisson(50, (41, 64)), None, AXIS)
    there = Spectra.from_parquet(here.to_parquet(tmp_path / "x.parquet"), memory_map=True)
    whole, parts = (as_model("tiny", s, 0).normaliser for s in (here, there))
    assert torch.allclose(whole.mean, parts.mean, rtol=1e-6) and torch.allclose(whole.std, parts.std, rtol=1e-6)


def test_mixtures_take_only_what_they_need():
    class Watched:
        "Counts that note which rows are asked for."
        def __init__(self, counts): self.counts, self.rows = counts, 0
        def __len__(self): return len(self.counts)
        def __getitem__(self, rows): self.rows += np.size(rows); return self.counts[rows]
    watched = Watched(spectra(200).counts)
    mixed = mix_and_recount(watched, 7, torch.Generator().manual_seed(0))
    assert watched.rows == 21 and torch.equal(mixed, mix_and_recount(torch.as_tensor(watched.counts), 7, torch.Generator().manual_seed(0)))
    assert pick(watched.counts, torch.tensor([[1, 2]])).dtype == torch.float32


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="private memory is limited and measured as Linux does")
def test_an_archive_larger_than_the_memory_allowed():
    script = Path(__file__).parents[1] / "benchmarks" / "streaming.py"
    command = [sys.executable, script, "--spectra", 125_000, "--channels", 512, "--allowed", 225, "--batch", 16, "--steps", 3, "--json", "--jobs", "write", "on disk", "in memory"]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    write, disk, memory = map(json.loads, done.stdout.splitlines())
    assert "failed" not in write and "failed" not in disk and "failed" in memory, done.stdout
    assert disk["VmData_mb"] < 225 < 125_000 * 512 * 4 / 2**20 and disk["loss"] > 0
