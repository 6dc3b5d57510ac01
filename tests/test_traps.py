"""Traps found on reading the readers again: each once gave a wrong depth, a wrong label, or a stale answer without a word."""
import zipfile

import numpy as np
import pandas as pd
import pytest

from max_nb import scanners
from max_nb.energy import EnergyAxis
from max_nb.scanners import FORMATS, ingest, join_labels, read, register
from max_nb.spectra import Spectra
from messy import old_name, spe_text

COUNTS = np.random.default_rng(0).poisson(20, 2048)


def spe(folder, name, **header):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(spe_text(COUNTS, **header))


def line(n=20, **columns):
    counts = np.arange(n)[:, None] * 100 + np.ones((n, 4))
    return Spectra(counts, pd.DataFrame(dict(core="A", depth_mm=np.arange(n) * 10.0, **columns)), EnergyAxis(n_channels=4))


@pytest.mark.parametrize("header, name, depth, core", [("95", "0095", 960, "C1"), ("100", "00100", 110, "C1"), ("0", "00TC", 10, "C1 TC"), ("10430", "10430B", 10440, "C1"), ("1", "00TC2", 10, "C1 TC2")])
def test_the_name_knows_the_padding_of_sections(tmp_path, header, name, depth, core):
    spe(tmp_path, old_name("C1", name, 10), core="C1", section=header, x_mm=10.0)
    row = read(tmp_path).info.iloc[0]
    assert row["depth_mm"] == depth and row["core"] == core


def test_a_running_number_is_no_section(tmp_path):
    for i in range(3): spe(tmp_path, f"scan_00{i}.spe", core="C", section=None, x_mm=10.0 * i)
    assert read(tmp_path).info["depth_mm"].isna().all()


def test_what_was_written_is_not_read_again(tmp_path):
    for i in range(3): spe(tmp_path / "in", old_name("C1", "0000", 10 * i), core="C1", section="0000", x_mm=10.0 * i)
    for _ in range(3): report = ingest(tmp_path / "in", tmp_path / "in" / "all.parquet")
    assert len(Spectra.from_parquet(tmp_path / "in" / "all.parquet")) == 3 and "written by this package" in str(report)
    (tmp_path / "in" / "all.parquet").unlink()
    assert [len(read(tmp_path / "in", cache=tmp_path / "in" / "kept")) for _ in range(3)] == [3, 3, 3]
    assert "unchanged" in read(tmp_path / "in", cache=tmp_path / "in" / "kept").report.where


def test_a_changed_reader_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr(scanners, "FORMATS", list(FORMATS))
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.cnt").write_text("COUNTS")
    for height in (1, 2):
        exec(f"def r(path): return Spectra(np.full((1, 20), {height} + len(str(path)) * 0), None, EnergyAxis(n_channels=20))" + "\n" + "x = 1" * (height - 1), here := dict(Spectra=Spectra, np=np, EnergyAxis=EnergyAxis))
        if height == 2: exec("def r(path):\n    wide = 20\n    return Spectra(np.full((1, wide), 2), None, EnergyAxis(n_channels=wide))", here)
        register("counter", lambda head: head.startswith(b"COUNTS"), here["r"])
        assert read(tmp_path / "in", cache=tmp_path / "kept").counts[0, 0] == height


def test_one_core_in_two_spellings(tmp_path):
    for i in range(3):
        spe(tmp_path / "a", old_name("SO264-09-2", "0000", 10 * i), core="SO264-09-2", section="0000", x_mm=10.0 * i)
        spe(tmp_path / "Rescan", old_name("SO264_09_2", "0000", 10 * i), core="SO264_09_2", section="0000", x_mm=10.0 * i)
    assert len(read(tmp_path)) == 3


def test_the_mean_is_of_the_sample_that_is_used():
    got = join_labels(line(), pd.DataFrame(dict(core="A", depth_mm=[100.0, 104.0], TOC=[1.0, 2.0])), several="mean")
    assert got.info["TOC"][10] == 1 and got.info["n_averaged"][10] == 3 and got.counts[10, 0] == 1001
    with pytest.raises(ValueError, match="several voltages"): join_labels(line(voltage_kv=[10.0, 30.0] * 10), pd.DataFrame(dict(core="A", depth_mm=[100.0], TOC=[1.0])), several="mean")


def test_labels_without_a_core_or_a_unit_are_not_guessed():
    indexed = pd.DataFrame(dict(core=["A", "B"], depth_mm=[50.0, 50.0], TOC=[1.0, 2.0])).set_index("core")
    assert join_labels(line(), indexed).info["TOC"].dropna().tolist() == [1.0]
    nameless = join_labels(line(), pd.DataFrame(dict(core=["A", None], depth_mm=[50.0, 60.0], TOC=[1.0, 2.0])))
    assert "no core" in nameless.report["labels"]["note"][1]
    with pytest.raises(ValueError, match="'Depth' states no unit"): join_labels(line(n=3, section=["1", "2", "3"]), pd.DataFrame(dict(core="A", Depth=[1.0], section="2", TOC=[1.0])))
    with pytest.raises(ValueError, match="same name"): join_labels(line(), pd.DataFrame([[0.0, 1.0, 2.0]], columns=["depth_mm", "TOC", "TOC"]))
    with pytest.raises(ValueError, match="no rows"): join_labels(line(), indexed.iloc[:0])
    for bad in (dict(tolerance_mm="5"), dict(offset_mm="5"), dict(on="core", several="all")):
        with pytest.raises(ValueError, match="expected"): join_labels(line(), indexed, **bad)


def test_own_axes_follow_a_rebinning():
    wide = np.zeros((1, 100)); wide[0, 50] = 1000
    s = Spectra(wide, pd.DataFrame(dict(gain_kev=[0.0204], offset_kev=[0.02])), EnergyAxis(0.02, 0.02, 100))
    fine = s.rebin(EnergyAxis(0.01, 0.015, 200))
    for once in (s.aligned(), fine.aligned(EnergyAxis(0.02, 0.02, 100))):
        assert once.counts.sum() == pytest.approx(1000) and (once.counts[0] * once.axis.centers).sum() / 1000 == pytest.approx(0.02 + 50 * 0.0204, abs=0.002)


def test_archives_with_repeated_or_damaged_members(tmp_path):
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(tmp_path / "twice.zip", "w") as z:
        for _ in range(2): z.writestr("x/" + old_name("C1", "0000", 10), spe_text(COUNTS, core="C1", section="0000", x_mm=10.0))
    assert "stands twice" in str(read(tmp_path / "twice.zip").report)
    with zipfile.ZipFile(tmp_path / "torn.zip", "w", zipfile.ZIP_LZMA) as z: z.writestr("a.spe", spe_text(COUNTS))
    data = bytearray((tmp_path / "torn.zip").read_bytes())
    data[60:90] = b"\xff" * 30
    (tmp_path / "torn.zip").write_bytes(data)
    with pytest.raises(ValueError, match="cannot be unpacked|no spectra"): read(tmp_path / "torn.zip")


def test_options_are_checked_before_anything_is_read(tmp_path):
    spe(tmp_path, old_name("C1", "0000", 10), core="C1", section="0000", x_mm=10.0)
    for bad in (dict(zero="bogus"), dict(voltage_kv=-10), dict(overlap="x"), dict(section_unit={"other": "mm"})):
        with pytest.raises(ValueError, match="expected"): read(tmp_path, **bad)
    assert read(tmp_path, section_unit={"c1": "mm"}).info["depth_mm"].tolist() == [10]


def test_a_numbered_trigger_core_is_at_home_in_its_core(tmp_path):
    spe(tmp_path / "C1", old_name("C1", "0000", 10), core="C1", section="0000", x_mm=10.0)
    spe(tmp_path / "C1", old_name("C1", "00TC2", 10), core="C1", section="00TC2", x_mm=10.0)
    got = read(tmp_path)
    assert got.cores.tolist() == ["C1", "C1 TC2"] and not got.report["files"]["note"].str.contains("in the folder of").any()
