"Weights that come with the package: what is listed is there, whole and loadable; anything else is refused by name."
import hashlib
import json
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.base import clone

from max_nb import mae
from max_nb.energy import EnergyAxis
from max_nb.mae import CARD, MAX, MAXConfig, SHIPPED, list_pretrained, load_pretrained, read_card
from max_nb.regress import MAXRegressor
from max_nb.spectra import Spectra

ROOT = Path(__file__).parents[1]
NAME = "max-tiny-sim"
SMALL = dict(n_channels=128, max_kev=2.56, patch_size=8, embed_dim=16, depth=2, num_heads=2, decoder_embed_dim=8, decoder_depth=1, decoder_num_heads=2)


def spectra(n=12, axis=EnergyAxis(), seed=0):
    import pandas as pd
    rng = np.random.default_rng(seed)
    info = pd.DataFrame({"core": list("abcd") * (n // 4), "CaCO3": rng.uniform(5, 90, n), "TOC": rng.uniform(0.1, 2, n)})
    return Spectra(rng.poisson(200, (n, axis.n_channels)), info, axis)


@pytest.fixture
def copy(tmp_path, monkeypatch):
    "A copy of what comes with the package, to be tampered with."
    shutil.copytree(SHIPPED, tmp_path / "pretrained")
    monkeypatch.setattr(mae, "SHIPPED", tmp_path / "pretrained")
    return tmp_path / "pretrained" / NAME


@pytest.fixture
def offline(monkeypatch):
    "A machine on which any use of the network is an error."
    def refuse(*_, **__): raise OSError("no network here")
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def test_what_is_listed(offline):
    table = list_pretrained()
    assert NAME in table.index and table.index.is_unique
    assert {"megabytes", "parameters", "trained_on", "seed", "code_version", "licence", "citation", "r2_simulated_held_out"} <= set(table.columns)
    assert table["megabytes"].sum() < 16 and (table["licence"] == "Apache-2.0").all() and table.notna().all(axis=None)


@pytest.mark.parametrize("name", mae.shipped_names())
def test_every_shipped_model_loads_and_is_what_its_card_says(name, offline):
    model, card = load_pretrained(name), read_card(SHIPPED / name)
    assert card["name"] == name and card["parameters"] == sum(p.numel() for p in model.parameters())
    assert {"recipe", "seed", "code_version", "command", "metrics", "licence", "citation", "trained_on", "sha256"} <= set(card)
    assert "dirty" not in card["code_version"]
    for file, digest in card["sha256"].items():
        assert hashlib.sha256((SHIPPED / name / file).read_bytes()).hexdigest() == digest
    assert not model.training and all(v.isfinite().all() for v in model.state_dict().values())
    assert torch.equal(MAX.from_pretrained(name).encode(spectra()), model.encode(spectra()))


def test_files_of_the_package_together_are_small():
    assert sum(p.stat().st_size for p in SHIPPED.rglob("*") if p.is_file()) < 16e6


def test_it_knows_sediments_that_it_has_not_seen():
    from max_nb.pretrain import reconstruction_r2
    from max_nb.simulate import random_regions, simulate_archive
    held = simulate_archive(6, 20, seed=77, regions=random_regions(6, 77), progress=False)
    assert reconstruction_r2(load_pretrained(NAME), held, held) > 0.8


def test_listing_imports_nothing_heavy():
    code = "import sys; from max_nb.mae import list_pretrained; list_pretrained(); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"accelerate", "shap", "sklearn", "plotly", "matplotlib", "huggingface_hub", "safetensors"} & set(loaded)


@pytest.mark.parametrize("name", ["max-tiny", "", "../pretrained", "max-tiny-sim/", None, 3])
def test_an_unknown_name_is_told_what_there_is(name):
    with pytest.raises(ValueError, match=f"{NAME}"):
        load_pretrained(name)


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named(copy, file):
    (copy / file).unlink()
    with pytest.raises(ValueError, match=file):
        load_pretrained(NAME)


def test_one_changed_bit_is_found_out(copy):
    path = copy / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    for load in (load_pretrained, MAX.from_pretrained):
        with pytest.raises(ValueError, match="model.safetensors has SHA-256"):
            load(NAME)


def test_a_changed_configuration_is_found_out(copy):
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "normalisation": "log"}))
    with pytest.raises(ValueError, match="config.json has SHA-256"):
        load_pretrained(NAME)


@pytest.mark.parametrize("text, word", [("{", "JSON"), ("{}", "expected None"), ('{"sha256": {"model.safetensors": "0"}}', "SHA-256")])
def test_a_broken_card_is_refused(copy, text, word):
    (copy / CARD).write_text(text)
    with pytest.raises(ValueError, match=word):
        load_pretrained(NAME)


def test_loading_is_strict_even_where_the_sums_are_right(copy):
    MAX(MAXConfig(**SMALL)).save_pretrained(copy)
    assert not (copy / CARD).exists()  # it spoke of other weights
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "depth": 3}))
    (copy / CARD).write_text(json.dumps(dict(sha256=mae.file_sums(copy))))
    with pytest.raises(ValueError, match="missing encoder.blocks.2"):
        load_pretrained(NAME)


def test_a_folder_of_the_same_name_does_not_stand_in_for_shipped_weights(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    MAX(MAXConfig(**SMALL)).save_pretrained(NAME)
    assert MAX.from_pretrained(NAME).config.n_channels != 128
    assert MAX.from_pretrained(f"./{NAME}").config.n_channels == 128


def test_a_saved_copy_of_shipped_weights_loads_without_a_card(tmp_path):
    model = load_pretrained(NAME)
    assert torch.equal(MAX.from_pretrained(model.save_pretrained(tmp_path / "m")).encode(spectra()), model.encode(spectra()))


def test_a_name_that_nobody_has(offline):
    with pytest.raises(ValueError, match=f"{NAME}.*Hub"):
        MAX.from_pretrained("nobody/no-such-model")


def test_the_regressor_starts_from_shipped_weights(offline):
    model = MAXRegressor(members=1, steps=1)
    assert clone(model).get_params()["pretrained"] == NAME
    assert torch.equal(model.fit(spectra()).mae_.encoder.cls_token, load_pretrained(NAME).encoder.cls_token)


def test_from_scratch_is_from_scratch():
    fitted = MAXRegressor(None, members=1, steps=1).fit(spectra())
    assert not torch.equal(fitted.mae_.encoder.cls_token, load_pretrained(NAME).encoder.cls_token)


@pytest.mark.parametrize("X", [spectra(axis=EnergyAxis(gain_kev=0.0204)), spectra(axis=EnergyAxis(n_channels=1024)), spectra(axis=EnergyAxis(n_channels=1024)).counts])
def test_spectra_on_another_axis_are_told_what_to_do(X):
    y = np.linspace(1, 50, len(X))
    with pytest.raises(ValueError, match="(?s)max-tiny-sim.*rebin.*pretrained=None"):
        MAXRegressor(targets="CaCO3", members=1, steps=1).fit(X, y)
    MAXRegressor(None, targets="CaCO3", members=1, steps=1).fit(X, y)


def test_rebinned_spectra_are_taken():
    axis = load_pretrained(NAME).config.axis
    MAXRegressor(members=1, steps=1).fit(spectra(axis=EnergyAxis(gain_kev=0.0204)).rebin(axis, outside="drop"))


def test_a_preset_beside_pretrained_weights_is_refused():
    with pytest.raises(ValueError, match="preset is 'base'.*pretrained=None"):
        MAXRegressor(preset="base", members=1, steps=1).fit(spectra())


def test_a_loaded_regressor_fits_again_from_where_it_began(tmp_path):
    first = MAXRegressor(targets="CaCO3", members=1, steps=1).fit(spectra())
    again = MAXRegressor.load(first.save(tmp_path / "m"))
    assert np.array_equal(clone(again).fit(spectra()).predict(spectra()), first.predict(spectra()))
    scratch = MAXRegressor(None, targets="CaCO3", members=1, steps=1).fit(spectra())
    assert MAXRegressor.load(scratch.save(tmp_path / "s")).get_params()["pretrained"] is None


def test_the_command_that_trains_them_goes_on_where_it_stopped(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(ROOT / "tools")
    import train_shipped
    monkeypatch.setattr(train_shipped, "HELD_OUT", dict(seas=2, spectra=4))
    monkeypatch.setattr(train_shipped, "REAL", tmp_path / "none")
    options = f"{NAME} --cores 2 --per-core 8 --steps 3 --batch-size 8 --work {tmp_path / 'work'} --target {tmp_path / 'target'} --stage"
    for stage in ("train", "all"):
        monkeypatch.setattr(sys, "argv", ["train_shipped.py", *options.split(), stage])
        train_shipped.main()
    card = json.loads(capsys.readouterr().out)
    assert card == read_card(tmp_path / "target") and card["recipe"]["steps"] == 4  # whole epochs of two steps
    assert "--cores 2" in card["command"] and list(card["metrics"]) == ["r2_simulated_held_out"]
    assert MAX.from_pretrained(tmp_path / "target").config == load_pretrained(NAME).config
