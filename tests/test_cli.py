"The command: one line and status 2 for whatever is wrong, and the four verbs."
import os
import subprocess
import sys

import pandas as pd
import pytest

from max_nb.quantify import main
from max_nb.spectra import Spectra


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scans")
    assert main(["simulate", "--cores", "3", "--per-core", "8", "--labels-per-core", "4", "--out", f"{folder}/a.parquet", "--labels", f"{folder}/lab.csv"]) == 0
    return folder


def run(*args):
    try: return main([str(a) for a in args])
    except SystemExit as stop: return stop.code


def test_simulate_hides_the_truth_under_another_name(scans):
    s, lab = Spectra.from_parquet(scans / "a.parquet"), pd.read_csv(scans / "lab.csv")
    assert len(s) == 24 and "true_TOC" in s.info and "TOC" not in s.info and len(lab) == 12 and {"core", "depth_mm", "CaCO3", "TOC"} <= set(lab)


@pytest.mark.parametrize("args, said", [
    (["quantify"], "required"),
    (["quantify", "{}/missing.parquet", "--out", "{}/o"], "no such file"),
    (["quantify", "{}/a.parquet", "--out", "{}/o"], "CaCO3"),
    (["quantify", "{}/a.parquet", "{}/missing.csv", "--out", "{}/o"], "missing.csv"),
    (["quantify", "{}/a.parquet", "{}/a.parquet", "--out", "{}/o"], "a.parquet"),
    (["quantify", "{}/a.parquet", "{}/lab.csv", "--targets", "Opal", "--out", "{}/o"], "Opal"),
    (["quantify", "{}/a.parquet", "{}/lab.csv", "--targets", ",", "--out", "{}/o"], "names separated by commas"),
    (["quantify", "{}/a.parquet", "{}/lab.csv", "--group", "province", "--out", "{}/o"], "no column 'province'"),
    (["quantify", "{}/a.parquet", "{}/lab.csv", "--coverage", "90", "--out", "{}/o"], "coverage is 90"),
    (["quantify", "{}/a.parquet", "{}/lab.csv", "--folds", "many", "--out", "{}/o"], "invalid int"),
    (["quantify", "{}/a.parquet", "{}/lab.csv", "--pretrained", "{}", "--out", "{}/o"], "expected|neither"),
    (["quantify", "{}/lab.csv", "--out", "{}/o"], "found|expected"),
    (["simulate", "--cores", "0", "--out", "{}/x.parquet"], "n_cores is 0"),
    (["simulate", "--scanner", "geotek", "--out", "{}/x.parquet"], "expected avaatech or itrax"),
    (["pretrain", "{}/a.parquet", "--preset", "gigantic", "--out", "{}/m"], "gigantic"),
    (["ingest", "{}/missing", "--out", "{}/x.parquet"], "no such file"),
    (["ingest", "{}/a.parquet", "--out", "{}/lab.csv/x.parquet"], "lab.csv"),
    (["dance"], "invalid choice"),
    ([], "required"),
])
def test_bad_input_is_one_line_and_status_2(scans, args, said, capsys):
    import re
    capsys.readouterr()
    assert run(*[a.replace("{}", str(scans)) for a in args]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and err.startswith("max-nb") and re.search(said, err) and "Traceback" not in err


def test_nothing_is_left_behind_by_bad_input(scans):
    assert not (scans / "o").exists() and not (scans / "x.parquet").exists()


def test_ingest_writes_the_same_spectra(scans, capsys):
    assert run("ingest", scans / "a.parquet", "--out", scans / "new" / "b.parquet") == 0
    a, b = Spectra.from_parquet(scans / "a.parquet"), Spectra.from_parquet(scans / "new" / "b.parquet")
    assert (a.counts == b.counts).all() and a.info.equals(b.info) and "24 spectra" in capsys.readouterr().out


def test_pretrain_leaves_a_model(scans):
    from max_nb.mae import MAX
    assert run("pretrain", scans / "a.parquet", "--epochs", 1, "--out", scans / "model") == 0
    assert MAX.from_pretrained(scans / "model").config.n_channels == 2048


def test_interrupt_is_status_130(scans, monkeypatch, capsys):
    def stop(*args, **options): raise KeyboardInterrupt
    monkeypatch.setattr("max_nb.quantify.quantify", stop)
    assert run("quantify", scans / "a.parquet", "--out", scans / "o") == 130
    assert capsys.readouterr().err.count("\n") == 1


def test_help_is_fast_and_imports_nothing_heavy():
    code = "import sys, max_nb.quantify; print([m for m in ('torch', 'sklearn', 'shap', 'plotly', 'scipy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_pretrain_leaves_a_large_archive_on_disk(scans, tmp_path, monkeypatch):
    monkeypatch.setenv("MAX_NB_CACHE", str(tmp_path / "cache"))
    assert run("pretrain", scans / "a.parquet", "--out", tmp_path / "small", "--epochs", 1) == 0 and not (tmp_path / "cache").exists()
    monkeypatch.setattr("max_nb.spectra.LARGE", 1000)
    assert run("pretrain", scans / "a.parquet", "--out", tmp_path / "large", "--epochs", 1) == 0 and len(list((tmp_path / "cache").iterdir())) == 1
    small, large = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("small", "large"))
    assert small == large
