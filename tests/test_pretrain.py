"Pre-training: mixtures, determinism, checkpoints, and what it refuses."
import errno
import json
import os
import signal
import subprocess
import sys
import threading
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings, strategies as st

from max_nb.energy import EnergyAxis
from max_nb.mae import MAX, MAXConfig, random_mask
from max_nb.pretrain import (PretrainSettings, add_gradients, as_model, batch_rows, best_precision, check_settings, default_epochs, draw_batch, drift, held_out_r2, load_checkpoint, make_trainer, mix_and_recount,
                             mixing_weights, one_step, pick, pretrain, pretrain_as_published, previous, rate_at, reconstruction_r2, save_checkpoint, shares, sweep)
from max_nb.simulate import simulate_archive
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


def send(number, after=5):
    "A hook that sends this signal to its own process after so many epochs."
    def hook(run):
        if len(run.history) == after:
            os.kill(os.getpid(), number)
    return hook


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_sigterm_finish_the_step_and_leave_a_checkpoint(tmp_path, number):
    recipe, before = PretrainSettings(epochs=2000, batch_size=4, seed=1), signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt, match="resumes"):
        pretrain(spectra(), model(), settings=recipe, out=tmp_path, progress=False, on_epoch=send(number))
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert 15 <= state["step"] <= 16 and [p.name for p in tmp_path.iterdir()] == ["checkpoint.pt"] and signal.getsignal(number) == before


def test_ctrl_c_without_a_folder_says_that_nothing_was_kept():
    with pytest.raises(KeyboardInterrupt, match="nothing was kept"):
        pretrain(spectra(), model(), epochs=20, batch_size=4, progress=False, on_epoch=send(signal.SIGINT))


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


def two_checkpoints(folder, steps=(4, 6)):
    "A run that was left after the last of these steps, having saved at each; returns the newest checkpoint."
    t = make_trainer(model(), spectra().counts, RECIPE, folder)
    while t.step < steps[-1]:
        one_step(t)
        if t.step in steps:
            save_checkpoint(t)
    return folder / "checkpoint.pt"


def cut_short(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def change_a_weight(path):
    "One weight, in a file that is otherwise as torch writes it."
    state = torch.load(path, weights_only=True)
    state["weights"]["decoder.pred.bias"][0] += 1e-6
    torch.save(state, path)


def change_a_byte(path):
    "In the middle of the largest tensor's bytes."
    data, weight = bytearray(path.read_bytes()), torch.load(path, weights_only=True)["weights"]["encoder.blocks.0.mlp.fc1.weight"]
    data[data.index(weight.numpy().tobytes()) + 1000] ^= 64
    path.write_bytes(data)


def empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("harm", [cut_short, change_a_weight, change_a_byte, empty])
def test_where_the_newest_checkpoint_is_broken_the_previous_one_is_used(tmp_path, harm):
    whole = pretrain(spectra(), model(), settings=RECIPE, progress=False)
    harm(two_checkpoints(tmp_path))
    with pytest.warns(UserWarning, match=r"checkpoint\.pt: not a whole checkpoint.*going on from checkpoint-previous\.pt, step 4"):
        resumed = pretrain(spectra(), model(5), settings=RECIPE, out=tmp_path, resume=True, progress=False)
    assert torch.equal(weights(whole.model), weights(resumed.model))


def test_where_both_checkpoints_are_broken_the_run_does_not_begin(tmp_path):
    newest = two_checkpoints(tmp_path)
    cut_short(newest)
    change_a_weight(previous(newest))
    with pytest.raises(ValueError, match=r"checkpoint\.pt: not a whole.*checkpoint-previous\.pt: not a whole.*resume=False"):
        pretrain(spectra(), model(), settings=RECIPE, out=tmp_path, resume=True, progress=False)


def test_a_broken_checkpoint_does_not_push_out_the_good_one(tmp_path):
    newest = two_checkpoints(tmp_path)
    cut_short(newest)
    def stop(run): raise RuntimeError("stop here")
    with pytest.warns(UserWarning), pytest.raises(RuntimeError, match="stop here"):
        pretrain(spectra(), model(), settings=RECIPE, out=tmp_path, resume=True, progress=False, on_epoch=stop)
    assert torch.load(newest, weights_only=True)["step"] == 4 and not previous(newest).exists()


@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
@settings(max_examples=60, deadline=None)
def test_any_flipped_bit_is_seen_or_does_not_matter(tmp_path_factory, place, bit):
    path = tmp_path_factory.getbasetemp() / "flipped" / "checkpoint.pt"
    if not path.exists():
        two_checkpoints(path.parent)
    identity, good = torch.load(path, weights_only=True)["identity"], path.read_bytes()
    bad = bytearray(good)
    bad[int(place * len(bad))] ^= 1 << bit
    copy = path.with_name("copy.pt")
    copy.write_bytes(bad)
    try:
        state = load_checkpoint(copy, identity)
    except ValueError:
        return
    assert all(torch.equal(a, b) for a, b in zip(state["weights"].values(), load_checkpoint(path, identity)["weights"].values()))


def test_a_checkpoint_from_before_there_were_checksums_is_read(tmp_path):
    path = two_checkpoints(tmp_path)
    state = torch.load(path, weights_only=True)
    del state["sha256"]
    torch.save(state, path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pretrain(spectra(), model(), settings=RECIPE, out=tmp_path, resume=True, progress=False)


KILLED = """
import os, random, signal, sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
import test_pretrain as here
import max_nb.pretrain as P
import accelerate, tqdm.auto # before the forks, so that each of them is quick

def child(folder, at=None):
    P.SAVE_EVERY_S = 0 # after each step
    if at is not None: # in the middle of a write, between the two moves
        moves, move = [], os.replace
        def replace(a, b):
            moves.append(b)
            if len(moves) == at: os.kill(os.getpid(), signal.SIGKILL)
            move(a, b)
        os.replace = replace
    P.pretrain(here.spectra(), here.model(), settings=here.LONG, out=folder, resume=True, progress=False)

def run(folder, delay=None, at=None):
    pid = os.fork()
    if not pid:
        try: child(folder, at); os._exit(0)
        except BaseException as e: print(repr(e), flush=True); os._exit(1)
    if delay is not None: time.sleep(delay); os.kill(pid, signal.SIGKILL)
    return os.waitpid(pid, 0)[1]

def parts(folder): return len(list(Path(folder).glob(".checkpoint*")))

chance, killed, left = random.Random({seed}), 0, 0
whole, broken = sys.argv[1:]
began = time.monotonic(); assert run(whole) == 0; lasts = time.monotonic() - began
for at in (1, 2, 5, 8): # the odd ones: before the newest becomes the previous one; the even ones: before the new one takes its place
    assert run(broken, at=at) == signal.SIGKILL
while (status := run(broken, delay=chance.uniform(0.2, 0.6) * lasts)) == signal.SIGKILL and killed < 5: killed += 1; left += parts(broken)
if status == signal.SIGKILL: assert run(broken) == 0
print(killed, left, parts(broken))
"""
LONG = PretrainSettings(epochs=10, batch_size=4, seed=2)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks, to be killed and started anew quickly")
@pytest.mark.parametrize("seed", [0])
def test_killed_at_any_moment_and_resumed_equals_uninterrupted_bit_for_bit(tmp_path, seed):
    script = KILLED.format(tests=str(Path(__file__).parent), seed=seed)
    done = subprocess.run([sys.executable, "-c", script, tmp_path / "whole", tmp_path / "broken"], capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    killed, _, parts = map(int, done.stdout.split())
    assert killed >= 1 and parts == 0
    whole, broken = (MAX.from_pretrained(tmp_path / name) for name in ("whole", "broken"))
    assert torch.equal(weights(whole), weights(broken))
    assert pd.read_csv(tmp_path / "whole" / "history.csv").loss.tolist() == pd.read_csv(tmp_path / "broken" / "history.csv").loss.tolist()


def test_a_full_disk_leaves_the_last_good_checkpoint(tmp_path, monkeypatch):
    whole = pretrain(spectra(), model(), settings=RECIPE, progress=False)
    newest = two_checkpoints(tmp_path)
    before = newest.read_bytes(), previous(newest).read_bytes()
    def full(*_, **__): raise OSError(errno.ENOSPC, "No space left on device")
    with monkeypatch.context() as m:
        m.setattr("max_nb.pretrain.torch.save", full)
        with pytest.raises(OSError, match="step 9 could not be written.*No space left.*checkpoint.pt is as it was"):
            pretrain(spectra(), model(), settings=RECIPE, out=tmp_path, resume=True, progress=False)
    assert before == (newest.read_bytes(), previous(newest).read_bytes())
    assert {p.name for p in tmp_path.iterdir()} == {"checkpoint.pt", "checkpoint-previous.pt"}
    assert torch.equal(weights(whole.model), weights(pretrain(spectra(), model(5), settings=RECIPE, out=tmp_path, resume=True, progress=False).model))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits the size of files as Linux does")
def test_a_write_that_the_system_cuts_off_leaves_the_last_good_checkpoint(tmp_path):
    import resource
    newest = two_checkpoints(tmp_path)
    before, limits = newest.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))
        with pytest.raises(OSError, match="could not be written"):
            pretrain(spectra(), model(), settings=RECIPE, out=tmp_path, resume=True, progress=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert newest.read_bytes() == before and {p.name for p in tmp_path.iterdir()} == {"checkpoint.pt", "checkpoint-previous.pt"}


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


@pytest.mark.parametrize("augment", [True, False])
def test_a_diverging_run_stops_with_step_rows_and_advice(augment):
    m, recipe = model(), replace(RECIPE, augment=augment)
    with torch.no_grad():
        m.decoder.pred.weight.fill_(float("nan"))
    rows = batch_rows(12, 0, recipe).flatten().unique().tolist()
    with pytest.raises(FloatingPointError, match=f"the loss is nan at step 0 .seed 1, spectra in rows {', '.join(map(str, rows))}.*learning rate below 0.001"):
        pretrain(spectra(), m, settings=recipe, progress=False)


def test_a_gradient_that_is_not_finite_changes_nothing(tmp_path):
    newest = two_checkpoints(tmp_path, (4,))
    t = make_trainer(model(), spectra().counts, RECIPE, None)
    next(t.model.parameters()).register_hook(lambda g: g * float("inf"))
    before = weights(t.model).clone()
    with pytest.raises(FloatingPointError, match="gradient's norm"):
        one_step(t)
    assert torch.equal(weights(t.model), before) and t.step == 0 and torch.load(newest, weights_only=True)["step"] == 4


def test_a_run_that_diverges_leaves_the_checkpoint_from_before(tmp_path, monkeypatch):
    monkeypatch.setattr("max_nb.pretrain.SAVE_EVERY_S", 0)
    m = model()
    def spoil(run):
        with torch.no_grad():
            run.model.decoder.pred.bias.fill_(float("inf"))
    with pytest.raises(FloatingPointError, match="step 3"):
        pretrain(spectra(), m, settings=RECIPE, out=tmp_path, progress=False, on_epoch=lambda run: spoil(run) if len(run.history) == 1 else None)
    # the step after which the model was spoilt had been closed; the one before it is whole and finite
    state = torch.load(tmp_path / "checkpoint-previous.pt", weights_only=True)
    assert state["step"] == 2 and all(v.isfinite().all() for v in state["weights"].values())


def test_the_rows_named_are_those_that_were_taken():
    class Watched:
        "Counts that note which rows are asked for."
        def __init__(self, counts): self.counts, self.rows = counts, []
        def __len__(self): return len(self.counts)
        def __getitem__(self, rows): self.rows.append(rows); return self.counts[rows]
    for recipe in (RECIPE, replace(RECIPE, augment=False)):
        watched = Watched(spectra().counts)
        draw_batch(watched, 5, recipe)
        assert np.array_equal(watched.rows[0], batch_rows(12, 5, recipe))


def test_the_second_ctrl_c_does_not_wait():
    def twice(run):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(KeyboardInterrupt) as stopped:
        pretrain(spectra(), model(), settings=RECIPE, progress=False, on_epoch=twice)
    assert not stopped.value.args


@pytest.mark.parametrize("wrong, word", [
    (dict(epochs=0), "epochs is 0"), (dict(epochs=-1), "epochs is -1"), (dict(epochs=1.5), "epochs is 1.5"), (dict(batch_size=0), "batch_size is 0"),
    (dict(learning_rate=0), "learning_rate is 0"), (dict(learning_rate=-1e-3), "learning_rate is -0.001"), (dict(learning_rate=float("nan")), "learning_rate is nan"),
    (dict(mask_ratio=0), "mask_ratio is 0"), (dict(mask_ratio=1), "mask_ratio is 1"), (dict(mask_ratio=-0.1), "mask_ratio is -0.1"), (dict(mask_ratio=1.5), "mask_ratio is 1.5"),
    (dict(mask_ratio=0.95), "hides 8 of the model's 8 patches"), (dict(warmup=1), "warmup is 1"), (dict(clip=0), "clip is 0"), (dict(weight_decay=-1), "weight_decay is -1"),
    (dict(betas=(0.9, 1.0)), "betas"), (dict(seed=1.5), "seed is 1.5"), (dict(seed=-1), "seed is -1"), (dict(accumulate=0), "accumulate is 0"), (dict(vary=0.5), "vary is 0.5"), (dict(vary=-0.1), "vary is -0.1"), (dict(vary="much"), "vary is 'much'"), (dict(mixed_precision="half"), "mixed_precision is 'half'"),
    (dict(log_with="abacus"), "abacus"), (dict(config=dict(loss_on="all")), "config"),
])
def test_settings_that_cannot_work_are_refused_before_anything_starts(tmp_path, wrong, word):
    with pytest.raises(ValueError, match=word):
        pretrain(spectra(), model(), out=tmp_path / "out", progress=False, **{"epochs": 1, **wrong})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("value, word", [(float("nan"), r"counts\[3, 7\] is nan"), (-1, r"counts\[3, 7\] is -1"), (float("inf"), "inf")])
def test_counts_that_cannot_be_are_named(value, word):
    s = spectra()
    s.counts = s.counts.astype(float)
    s.counts[3, 7] = value # after Spectra has checked them
    for x in (s, s.counts):
        with pytest.raises(ValueError, match=word):
            pretrain(x, model(), settings=RECIPE, progress=False)


def test_no_counts_at_all():
    with pytest.raises(ValueError, match="12 of 12 spectra hold no counts"):
        pretrain(Spectra(np.zeros((12, 64)), None, AXIS), model(), settings=RECIPE, progress=False)


def test_of_settings_and_their_entries_only_one_may_be_given():
    for twice in (dict(epochs=4), dict(seed=3), dict(learning_rate=0.1)):
        with pytest.raises(ValueError, match=f"{next(iter(twice))} given beside settings"):
            pretrain(spectra(), model(), settings=RECIPE, progress=False, **twice)


def test_a_preset_needs_an_energy_axis():
    with pytest.raises(ValueError, match="expected Spectra"):
        pretrain(spectra().counts, "tiny", epochs=1, progress=False)


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
    kept = {"MALLOC_MMAP_THRESHOLD_": str(2**25), "MALLOC_TRIM_THRESHOLD_": str(2**30)}  # the worst case: what is freed is not given back to the system
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, env={**os.environ, **kept, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    write, disk, memory = map(json.loads, done.stdout.splitlines())
    assert "failed" not in write and "failed" not in disk and "failed" in memory, done.stdout
    assert disk["VmData_mb"] < 225 < 125_000 * 512 * 4 / 2**20 and disk["loss"] > 0


@given(n=st.integers(1, 40), processes=st.integers(1, 5), accumulate=st.integers(1, 4))
@settings(max_examples=100, deadline=None)
def test_shares_cover_the_batch_once_with_weights_that_add_up(n, processes, accumulate):
    parts = [part for rank in range(processes) for part in shares(n, processes, rank, accumulate)]
    assert len(parts) == processes * accumulate and sum(weight for _, weight in parts) == pytest.approx(1)
    rows = np.concatenate([np.arange(n)[rows] for rows, weight in parts if weight])
    assert np.array_equal(rows, np.arange(n)) and all(len(np.arange(n)[rows]) >= 1 for rows, _ in parts)
    assert all(weight == pytest.approx(len(np.arange(n)[rows]) / n) for rows, weight in parts if weight)


@pytest.mark.parametrize("augment", [True, False])
@pytest.mark.parametrize("accumulate", [2, 3, 5])
def test_accumulated_gradients_are_those_of_the_whole_batch(accumulate, augment):
    recipe = replace(RECIPE, augment=augment, batch_size=5)
    whole, parts = (pretrain(spectra(), model(), settings=replace(recipe, accumulate=a), progress=False) for a in (1, accumulate))
    assert np.allclose(whole.history.loss, parts.history.loss, rtol=1e-4)
    t = make_trainer(model(), spectra().counts, recipe, None)
    (batch, generator), gradients = draw_batch(t.counts, 0, recipe), []
    mask = random_mask(len(batch), SMALL.n_patches, 0.5, generator)
    for a in (1, accumulate):
        t.optimizer.zero_grad()
        add_gradients(t.model, t.accelerator, batch, mask, a)
        gradients.append(torch.cat([p.grad.flatten() for p in t.model.parameters()]))
    largest = gradients[0].abs().max().item()
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6 * largest)
    assert largest > 1e-3


def test_how_the_arithmetic_is_done_is_part_of_a_runs_identity(tmp_path):
    pretrain(spectra(), model(), settings=RECIPE, out=tmp_path, progress=False)
    with pytest.raises(ValueError, match="accumulate was None, is now 2"):
        pretrain(spectra(), model(), settings=replace(RECIPE, accumulate=2), out=tmp_path, resume=True, progress=False)


def test_bf16_learns_alike_and_leaves_an_ordinary_model(tmp_path):
    full, half = (pretrain(spectra(), model(), settings=replace(RECIPE, epochs=5, mixed_precision=p), progress=False) for p in ("no", "bf16"))
    assert np.allclose(full.history.loss, half.history.loss, rtol=0.05) and not np.array_equal(full.history.loss, half.history.loss)
    assert half.model(spectra().counts, seed=0).reconstruction.dtype == torch.float32 and weights(half.model).dtype == torch.float32
    assert "forward" not in vars(half.model), "a trained model is not left wrapped in autocast"
    again = pretrain(spectra(), model(), settings=replace(RECIPE, epochs=5), progress=False)
    assert torch.equal(weights(full.model), weights(again.model))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_fp16_without_a_gpu_is_refused_and_leaves_nothing_behind():
    with pytest.raises(ValueError, match="needs a GPU"):
        pretrain(spectra(), model(), settings=replace(RECIPE, mixed_precision="fp16"), progress=False)
    a, b = (pretrain(spectra(), model(), settings=RECIPE, progress=False) for _ in range(2))
    assert torch.equal(weights(a.model), weights(b.model))


PROCESSES = """
import sys
sys.path.insert(0, {tests!r})

def work(folder):
    import os
    os.environ["ACCELERATE_USE_CPU"] = "true"
    import test_pretrain as here
    from dataclasses import replace
    from max_nb.pretrain import pretrain
    for name, changes in here.PARTS.items():
        pretrain(here.spectra(), here.model(), settings=replace(here.RECIPE, **changes), out=f"{{folder}}/{{name}}", progress=False)
    import signal
    import max_nb.pretrain as P
    step = P.one_step
    def interrupted(t):
        step(t)
        if t.step == 4 and t.accelerator.process_index == 1: signal.raise_signal(signal.SIGTERM) # one of the two is asked to stop
    P.one_step = interrupted
    plain = dict(settings=replace(here.RECIPE, **here.PARTS["plain"]), out=f"{{folder}}/stopped", progress=False)
    try: pretrain(here.spectra(), here.model(), **plain)
    except KeyboardInterrupt as e: assert "stopped after step 4 of 9" in str(e), e
    else: raise AssertionError("not stopped")
    pretrain(here.spectra(), here.model(7), resume=True, **plain)

if __name__ == "__main__":
    from accelerate import notebook_launcher
    notebook_launcher(work, (sys.argv[1],), num_processes=2, use_port={port!r})
"""
# Of 12 spectra, batches of 5 leave one of 2 for the end of an epoch, so that of four parts some are empty.
PARTS = {"plain": dict(batch_size=4, accumulate=1, augment=True), "uneven": dict(batch_size=5, accumulate=2, augment=False)}


def free_port():
    import socket
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return str(s.getsockname()[1])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="notebook_launcher forks")
def test_two_processes_give_the_loss_curve_of_one(tmp_path):
    for name, changes in PARTS.items():
        pretrain(spectra(), model(), settings=replace(RECIPE, **changes | dict(accumulate=1)), out=tmp_path / "1" / name, progress=False)
    script = PROCESSES.format(tests=str(Path(__file__).parent), port=free_port())
    command = [sys.executable, "-c", script, tmp_path / "2"]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ("plain", "uneven"):
        one, two = (pd.read_csv(tmp_path / p / name / "history.csv") for p in "12")
        assert np.allclose(one.loss, two.loss, rtol=1e-4), (one.loss, two.loss)
        one, two = (weights(MAX.from_pretrained(tmp_path / p / name)) for p in "12")
        assert torch.allclose(one, two, atol=1e-3) and not torch.equal(one, weights(model()))
    plain, stopped = (weights(MAX.from_pretrained(tmp_path / "2" / name)) for name in ("plain", "stopped"))
    assert torch.equal(plain, stopped), "stopped by a signal to one of them, and resumed"


def remembering():
    "A tracker of accelerate that remembers what it was told."
    from accelerate.tracking import GeneralTracker
    class Notes(GeneralTracker):
        name, requires_logging_directory, main_process_only = "notes", False, True
        def __init__(self): super().__init__(); self.rows, self.config, self.finished = [], None, 0
        @property
        def tracker(self): return self.rows
        def start(self): pass
        def store_init_configuration(self, values): self.config = values
        def log(self, values, step=None, **_): self.rows.append((step, values))
        def finish(self): self.finished += 1
    return Notes()


def test_a_tracker_is_told_each_epoch_and_closed():
    notes = remembering()
    run = pretrain(spectra(), model(), settings=RECIPE, progress=False, log_with=notes)
    assert [step for step, _ in notes.rows] == run.history.step.tolist() and [v["loss"] for _, v in notes.rows] == run.history.loss.tolist()
    assert notes.config["batch_size"] == "4" and notes.finished == 1
    quiet = pretrain(spectra(), model(), settings=RECIPE, progress=False)
    assert torch.equal(weights(run.model), weights(quiet.model)) and len(notes.rows) == 3


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_tracker_that_is_not_installed_is_named(tmp_path, name):
    try:
        __import__(name)
    except ImportError:
        with pytest.raises(ValueError, match=name):
            pretrain(spectra(), model(), settings=RECIPE, out=tmp_path, progress=False, log_with=name)
    else:
        pytest.skip(f"{name} is installed")


def test_trackers_are_not_imported_unless_asked_for():
    code = "import sys; sys.path.insert(0, sys.argv[1]); import test_pretrain as h; h.pretrain(h.spectra(), h.model(), settings=h.RECIPE, progress=False); print(*{m.split('.')[0] for m in sys.modules} & {'tensorboard', 'wandb', 'ipywidgets', 'plotly'})"
    done = subprocess.run([sys.executable, "-c", code, str(Path(__file__).parent)], capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0 and not done.stdout.strip(), done.stdout + done.stderr


def test_the_hook_sees_the_run_so_far_and_does_not_change_it():
    seen = []
    def hook(run):
        seen.append((len(run.history), run.model.training, run.settings))
        torch.manual_seed(len(seen))
    watched = pretrain(spectra(), model(), settings=RECIPE, progress=False, on_epoch=hook)
    assert seen == [(1, False, RECIPE), (2, False, RECIPE), (3, False, RECIPE)]
    assert torch.equal(weights(watched.model), weights(pretrain(spectra(), model(), settings=RECIPE, progress=False).model))


def test_published_schedule_step_by_step():
    "100 epochs of 2 steps: 10 epochs of warm-up, 90 of cosine; each epoch all spectra in batches of 256, clipped at 0.5."
    s, seen = Spectra(np.random.default_rng(0).poisson(5, (300, 64)), None, AXIS), []
    recipe = PretrainSettings.published()
    t = make_trainer(model(), s.counts, recipe, None)
    assert (t.per_epoch, t.total) == (2, 200)
    for group in t.optimizer.param_groups:
        assert group["betas"] == (0.9, 0.95) and group["weight_decay"] in (0.01, 0.0)
    clip = t.accelerator.clip_grad_norm_
    t.accelerator.clip_grad_norm_ = lambda p, norm: (seen.append((norm, t.optimizer.param_groups[0]["lr"])), clip(p, norm))[1]
    for step in (0, 9, 19, 20, 110, 199):
        t.step = step
        t.losses = []
        one_step(t)
    norms, rates = zip(*seen)
    assert set(norms) == {0.5} and np.allclose(rates, [1e-4 / 20, 1e-4 / 2, 1e-4, 1e-4, 0.5e-4, 0.5e-4 * (1 + np.cos(np.pi * 179 / 180))], rtol=1e-6)
    assert len(draw_batch(s.counts, 0, recipe)[0]) == 256 and len(draw_batch(s.counts, 1, recipe)[0]) == 44


@pytest.mark.parametrize("transform", ["instance", "channel", "log"])
@pytest.mark.parametrize("loss_on", ["hidden", "all"])
def test_the_published_recipe_in_one_call(transform, loss_on):
    s = Spectra(np.random.default_rng(0).poisson(5, (9, 64)), None, AXIS)
    run = pretrain_as_published(s, transform, loss_on, preset="tiny", changes=dict(epochs=1, batch_size=5, mask_ratio=0.75), progress=False)
    c = run.model.config
    assert (c.normalisation, c.loss_on, c.n_window, c.patch_size, run.settings.augment, run.settings.mask_ratio) == (transform, loss_on, 64, 16, False, 0.75)
    x = torch.as_tensor(s.counts, dtype=torch.float32)
    ours = run.model.patches(x).flatten(1)
    if transform == "instance":
        assert torch.allclose(ours, (x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True), atol=1e-5)
    if transform == "log":
        assert torch.allclose(ours, torch.log(x + 1))
    if transform == "channel":
        assert torch.allclose(ours.mean(0), torch.zeros(64), atol=1e-4)


def test_a_transform_that_was_not_published():
    with pytest.raises(ValueError, match="transform is 'cube root'"):
        pretrain_as_published(spectra(), "cube root")


def cores(n=12):
    return Spectra(spectra(n).counts, pd.DataFrame({"core": list("abc") * (n // 3)}), AXIS)


STUDY = dict(over=dict(mask_ratio=(0.3, 0.6), normalisation=("log", "instance")), test=0.34, max_kev=1.28, patch_size=8, epochs=2, batch_size=4, progress=False)


def test_a_sweep_is_the_runs_one_by_one_and_its_order_is_that_of_the_values():
    table = sweep(cores(), seeds=(0, 3), **STUDY)
    assert table.columns.tolist() == ["mask_ratio", "normalisation", "seed", "score"] and len(table) == 8 and table.score.notna().all()
    from max_nb.spectra import grouped_split
    train, test = grouped_split(cores(), 0.34)
    run = pretrain(train, epochs=2, batch_size=4, mask_ratio=0.6, seed=3, config=dict(normalisation="log", max_kev=1.28, patch_size=8), progress=False)
    row = table[(table.mask_ratio == 0.6) & (table.normalisation == "log") & (table.seed == 3)]
    assert held_out_r2(run.model, train, test) == pytest.approx(row.score.item(), rel=1e-6)


def test_a_sweep_that_is_stopped_goes_on_where_it_was(tmp_path, monkeypatch):
    import max_nb.pretrain as P
    whole, trained = sweep(cores(), **STUDY), []
    real = P.pretrain
    def watched(*args, **options):
        if len(trained) == 2:
            trained.clear()
            raise KeyboardInterrupt
        trained.append(options["out"].name)
        return real(*args, **options)
    monkeypatch.setattr(P, "pretrain", watched)
    with pytest.raises(KeyboardInterrupt):
        sweep(cores(), out=tmp_path, **STUDY)
    assert len(list(tmp_path.glob("*/scores.json"))) == 2 and not list(tmp_path.glob("*/checkpoint*"))
    again = sweep(cores(), out=tmp_path, **STUDY)
    assert trained == ["mask_ratio=0.6,normalisation=log,seed=0", "mask_ratio=0.6,normalisation=instance,seed=0"]
    pd.testing.assert_frame_equal(whole, again)
    assert len(sweep(cores(), out=tmp_path, score=total, **STUDY).columns) == 5 and len(trained) == 2, "another score trains nothing"


def total(model, train, test):
    return dict(size=len(weights(model)), of=len(train) + len(test))


def test_a_sweep_in_a_folder_of_another_study_is_refused(tmp_path):
    sweep(cores(), out=tmp_path, **STUDY)
    with pytest.raises(ValueError, match="another study: settings"):
        sweep(cores(), out=tmp_path, **STUDY | dict(epochs=3))
    with pytest.raises(ValueError, match="another study: data"):
        sweep(Spectra(cores().counts + 1, cores().info, AXIS), out=tmp_path, **STUDY)


@pytest.mark.parametrize("wrong, word", [
    (dict(over=dict(mask_ratio=(0.5, 1.0))), "mask_ratio is 1.0"), (dict(over=dict(normalisation=("log", "cube"))), "cube"), (dict(over=dict(colour=("red",))), "colour"),
    (dict(over=dict(seed=(1, 2))), "seeds="), (dict(preset="huge"), "preset"), (dict(by="province"), "province"), (dict(test=1.0), "test is 1.0"), (dict(epochs=0), "epochs is 0"),
])
def test_a_sweep_that_cannot_work_is_refused_before_anything_starts(tmp_path, wrong, word):
    with pytest.raises(ValueError, match=word):
        sweep(cores(), out=tmp_path / "out", **STUDY | wrong)
    assert not (tmp_path / "out").exists()


def test_a_cell_that_diverges_scores_nan_and_is_not_kept(tmp_path):
    with pytest.warns(UserWarning, match="learning rate below 1e"):
        table = sweep(cores(), dict(learning_rate=(1e30, 1e-3)), test=0.34, max_kev=1.28, patch_size=8, epochs=4, batch_size=4, out=tmp_path, progress=False)
    assert table.score.isna().tolist() == [True, False] and len(list(tmp_path.glob("*/scores.json"))) == 1


def test_a_perfect_guess_is_perfect_in_any_units():
    s = spectra(20)
    m = model()
    m.normaliser.learn(torch.as_tensor(s.counts, dtype=torch.float32))
    m.reconstruct = lambda counts, mask: counts
    for units in ("sqrt-channel", "log", "instance"):
        assert reconstruction_r2(m, s, s, units=units) == 1


@pytest.mark.parametrize("entry, value", [("hide", "peaks"), ("wander", -1.0), ("wander", float("nan"))])
def test_what_is_hidden_and_how_far_the_scale_moves_is_checked(entry, value):
    with pytest.raises(ValueError, match=entry):
        check_settings(PretrainSettings(epochs=1, **{entry: value}))


@pytest.mark.parametrize("changes", [dict(hide="bands"), dict(hide="elements"), dict(wander=0.5)])
def test_other_ways_to_hide_and_to_drift_train(changes):
    s = simulate_archive(n_cores=1, n_per_core=12, seed=3, progress=False)
    run = pretrain(s, settings=PretrainSettings(epochs=2, batch_size=6, **changes), progress=False)
    assert np.isfinite(run.history["loss"]).all()


@pytest.mark.parametrize("shift, stretch", [(0.0, 0.0), (0.3, 0.0), (-1.5, 2.0), (0.0, -0.7)])
def test_drift_moves_the_mean_channel_and_loses_nothing_inside(shift, stretch):
    counts = torch.zeros(1, 1024, dtype=torch.float64); counts[0, 500:524] = torch.arange(24.0, dtype=torch.float64)
    moved = drift(counts, torch.tensor([[shift]]), torch.tensor([[stretch]]))
    place = lambda x: ((torch.arange(1024) + 0.5) * x).sum() / x.sum()
    assert moved.sum().item() == pytest.approx(counts.sum().item()) and (moved >= -1e-9).all()
    assert (place(moved) - place(counts)).item() == pytest.approx(shift + stretch * place(counts).item() / 512, abs=1e-3)


def test_two_processes_of_one_machine_give_the_losses_of_one(tmp_path):
    "In a script of its own, as a user would: new processes read it, too."
    script = tmp_path / "run.py"
    script.write_text("import sys, numpy as np\nfrom max_nb.pretrain import pretrain\nfrom max_nb.simulate import simulate_archive\n"
                      "if __name__ == '__main__':\n"
                      "    s = simulate_archive(n_cores=1, n_per_core=20, seed=1, progress=False)\n"
                      "    one, two = (pretrain(s, epochs=3, batch_size=10, out=f'{sys.argv[1]}/{n}', processes=n, progress=False) for n in (1, 2))\n"
                      "    np.testing.assert_allclose(one.history.loss, two.history.loss, rtol=1e-4)\n"
                      "    assert two.settings == one.settings and not two.model.training\n")
    done = subprocess.run([sys.executable, str(script), str(tmp_path)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("options, message", [(dict(processes=2), "no folder"), (dict(processes=0, out="x"), "whole number"), (dict(processes=2, out="x", on_epoch=print), "on_epoch")])
def test_what_other_processes_cannot_do_is_refused(options, message):
    s = simulate_archive(n_cores=1, n_per_core=4, seed=1, progress=False)
    with pytest.raises(ValueError, match=message):
        pretrain(s, epochs=1, progress=False, **options)


def in_little_room(m, room, said="CUDA out of memory. Tried to allocate 2 GiB"):
    "A model that runs out of memory with more than `room` spectra at a time."
    forward = m.forward
    def small(counts, **how):
        if len(counts) > room:
            raise torch.OutOfMemoryError(said)
        return forward(counts, **how)
    m.forward = small
    return m


def test_a_batch_that_does_not_fit_is_worked_through_in_parts():
    recipe = PretrainSettings(epochs=2, batch_size=8)
    whole = pretrain(spectra(), model(), settings=recipe, progress=False)
    with pytest.warns(UserWarning, match="step 0 did not fit into memory in 2 part.* going on with 4"):
        parts = pretrain(spectra(), in_little_room(model(), 2), settings=recipe, progress=False)
    np.testing.assert_allclose(parts.history.loss, whole.history.loss, rtol=1e-4)


def test_a_spectrum_that_does_not_fit_and_another_error_are_not_tried_again():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(RuntimeError, match="a single spectrum does not fit into memory at step 0; expected a smaller model"):
            pretrain(spectra(), in_little_room(model(), 0), epochs=1, batch_size=4, progress=False)
    with pytest.raises(RuntimeError, match="device-side assert"):
        pretrain(spectra(), in_little_room(model(), 0, "device-side assert"), epochs=1, batch_size=4, progress=False)


def test_automatic_precision_is_what_the_device_does_best(monkeypatch):
    run = pretrain(spectra(), model(), epochs=1, batch_size=4, mixed_precision="auto", progress=False)
    assert run.settings.mixed_precision == ("no" if not torch.cuda.is_available() else best_precision())
    for has, bf16, expected in ((False, False, "no"), (True, False, "fp16"), (True, True, "bf16")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: has)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: bf16)
        assert best_precision() == expected


@pytest.mark.parametrize("augment", [True, False])
def test_what_lies_above_the_window_is_not_trained_on(augment):
    few, recipe = spectra(), replace(RECIPE, augment=augment)
    changed = few.replaced(counts=np.concatenate([few.counts[:, :48], few.counts[:, 48:] * 3 + 7], 1))
    def trained(s): return pretrain(s, MAX(replace(SMALL, max_kev=0.96)), settings=recipe, progress=False)
    torch.manual_seed(0); one = trained(few)
    torch.manual_seed(0); other = trained(changed)
    assert one.model.config.n_window == 48 and torch.equal(weights(one.model), weights(other.model))
    t = make_trainer(MAX(replace(SMALL, max_kev=0.96)), few.counts, replace(RECIPE, wander=0.5), None)
    assert t.counts.shape[1] == 64, "counts drift across the edge"


def test_a_model_that_was_trained_before_is_prepared_anew():
    "accelerate takes a model with its mark for prepared, leaves it on its device and in its precision."
    m, types = model(), []
    def enough(run): raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        pretrain(spectra(), m, settings=replace(RECIPE, mixed_precision="bf16"), progress=False, on_epoch=enough)
    hook = m.encoder.blocks[0].mlp.fc1.register_forward_hook(lambda module, given, out: types.append(out.dtype))
    pretrain(spectra(), m, settings=RECIPE, progress=False)
    hook.remove()
    assert set(types) == {torch.float32}
    assert not vars(m).keys() & {"_is_accelerate_prepared", "_original_forward", "forward"}
