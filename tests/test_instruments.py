"""Itrax spectra, the layout of MAX, the hub, handheld files: good files as users have them, and damaged ones."""
import struct
import sys
import types
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from max_nb import scanners as instruments
from max_nb.energy import N_CHANNELS, EnergyAxis
from max_nb.spectra import Spectra
from test_tables import BAXIL, RESULTS, write

REAL = Path(__file__).parents[1] / "../shared/real/itrax"
AXIS = EnergyAxis(0.01026698, -0.00993069)
COUNTS = np.random.default_rng(0).poisson(30, N_CHANNELS)
HEADER = {"Date:": "22-Sep-20", "Time:": "8:08 PM", "Sample name:": "CD166-19", "Section name:": "S1", "Position": "11.0\tmm", "E0": "0.0\tkeV", "E1": "1.0\tkeV/channel", "sample surface": "6.47\tcm", "Tube anode:": "Mo",
          "Tube voltage:": "30\tkV", "Tube current:": "30\tmA", "number_mca_channels": "2048.000000\tno:", "livetime": "13.48\tseconds", "runtime": "15.0\tseconds", "input_count_rate": "44598.5\tcps"}
SETTINGS = "[detector parameters]\nkeV/channel 2 = 0.01026698\nenergy offset 2 = -0.00993069\nFWHM slope 2 = 0.0099\n"


def itrax(counts=COUNTS, header=HEADER, end="\r", row_end="\r\n", form="{}.000\t{}.000"):
    top = "".join(f"{k}\t{v}{end}" for k, v in header.items()) + f"channel\tcontent\t\t{end}"
    return (top + "".join(form.format(i, c) + row_end for i, c in enumerate(counts, 1))).encode()


def without(key):
    return {k: v for k, v in HEADER.items() if k != key}


def max_folder(at, n=3):
    for i in range(n):
        write(at / "spe" / f"{i}.csv", "\n".join(map(str, COUNTS + i)) + "\n")
        write(at / "target" / f"{i}.csv", f"{12.5 + i}")
    write(at / "info.csv", "dirname,core,composite_depth_mm\n" + "".join(f"{i}.csv,A,{10 * i}\n" for i in range(n)))
    write(at / "val.csv", "dirname,core,composite_depth_mm\n2.csv,A,20\n")
    return at


def record(kind, data):
    return struct.pack("<HI", kind, len(data)) + data


def pdz25(phases, start=-10.0, ev=20.0, n=N_CHANNELS):
    data = record(25, "pdz25".encode("utf-16-le") + struct.pack("<I", 1))
    for phase, c in enumerate(phases):
        data += record(3, struct.pack("<I4L5f2f6hh2flfhf8Hf3hI", phase, *[int(c.sum())] * 3, 0, 10, 10, 1, 0, 9, 15, 25, 13, 25, 0, 0, 0, 0, 1, -20, 25, 0, ev, 0, start, 2024, 5, 3, 1, 10, 0, 0, 0, 1013, n, 25, 0, 1)
                       + "x".encode("utf-16-le") + struct.pack("<h", 1) + struct.pack(f"<{len(c)}L", *c))
    return data


def pdz24(c, ev=20.085):
    return struct.pack("<hih", 257, 23, len(c)) + bytes(42) + struct.pack("<d", ev) + bytes(104) + struct.pack("<2f", 15, 25) + bytes(184) + struct.pack("<f", 9) + struct.pack(f"<{len(c)}i", *c)


@pytest.fixture
def spe(tmp_path):
    "An Itrax spectrum in a folder `XRF data`, settings one level up."
    write(tmp_path / "core" / "settings.dfl", SETTINGS)
    return write(tmp_path / "core" / "XRF data" / "L000000.spe", itrax())


@pytest.fixture
def untrusted(monkeypatch):
    fit = types.SimpleNamespace(axis=EnergyAxis(), trusted=False, lines=None, note="one line found")
    monkeypatch.setattr(instruments, "fit_axis", lambda counts, nominal, **options: fit)


def stand_in(records):
    module = types.ModuleType("pdz_tool")
    module.PDZTool = lambda path: types.SimpleNamespace(parse=lambda: records)
    return module


# ---- Itrax

@pytest.mark.parametrize("end, row_end", [("\r", "\r\n"), ("\r\n", "\r\n"), ("\n", "\n"), ("\r", "\r")])
@pytest.mark.parametrize("form", ["{}.000\t{}.000", "{}\t{}", "{},000\t{},000"])
def test_itrax_any_line_end_and_number(end, row_end, form):
    counts, info = instruments._itrax_parse(itrax(end=end, row_end=row_end, form=form), "a.spe")
    assert counts.dtype == np.int32 and np.array_equal(counts, COUNTS)
    assert info["core"] == "CD166-19" and info["section"] == "S1" and info["depth_mm"] == info["x_mm"] == 11.0 and info["voltage_kv"] == 30 and info["current_ma"] == 30
    assert info["live_s"] == 13.48 and info["cps"] == 44598.5 and info["date"] == "2020-09-22T20:08:00" and info["anode"] == "Mo" and info["surface_cm"] == 6.47


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "cp1252"])
def test_itrax_any_encoding(encoding):
    data = itrax(header={**HEADER, "Sample name:": "Kärn"}).decode().encode(encoding)
    counts, info = instruments._itrax_parse(data, "a.spe")
    assert np.array_equal(counts, COUNTS) and info["core"] == "Kärn" and instruments._is_itrax(data)


@pytest.mark.parametrize("key, name", [("livetime", "live_s"), ("Tube voltage:", "voltage_kv"), ("sample surface", "surface_cm"), ("number_mca_channels", ""), ("Sample name:", "core"), ("Date:", "date")])
def test_itrax_a_key_that_can_be_missing(key, name):
    counts, info = instruments._itrax_parse(itrax(header=without(key)), "a.spe")
    assert np.array_equal(counts, COUNTS) and (not name or pd.isna(info[name]))


def test_itrax_of_1024_channels():
    half = {**HEADER, "number_mca_channels": "1024.000000\tno:"}
    assert len(instruments._itrax_parse(itrax(COUNTS[:1024], half), "a.spe")[0]) == 1024


ITRAX_DAMAGE = {
    "empty": (b"", "no line 'channel<TAB>content'"),
    "header alone": (itrax()[:300], "no line 'channel<TAB>content'"),
    "cut at a row": (itrax(COUNTS[:2000]), "found 2000 channels; expected 2048"),
    "cut inside a row": (itrax(COUNTS[:100]) + b"101.0", "row 101 of the counts: found '101.0'"),
    "no rows": (itrax([]), "found 0 channels; expected 2048"),
    "no position": (itrax(header=without("Position")), "header: found 'no key' for 'Position'"),
    "position empty": (itrax(header={**HEADER, "Position": "\tmm"}), "expected a number of mm"),
    "position in furlongs": (itrax(header={**HEADER, "Position": "3\tfurlong"}), "found the unit 'furlong'"),
    "text in the header": (itrax(header={**HEADER, "livetime": "long\tseconds"}), "key 'livetime': found 'long'; expected a number"),
    "a channel missing": (itrax().replace(b"\n500.000\t", b"\n501.000\t"), "row 500 of the counts: found channel 501; expected 500"),
    "a line missing": (itrax().replace(b"500.000\t%d.000\r\n" % COUNTS[499], b"", 1), "expected 500"),
    "a channel twice": (itrax().replace(b"\n501.000\t", b"\n500.000\t"), "found channel 500; expected 501"),
    "out of order": (itrax().replace(b"\n7.000\t", b"\nx.000\t").replace(b"\n8.000\t", b"\n7.000\t").replace(b"\nx.000\t", b"\n8.000\t"), "found channel 8; expected 7"),
    "numbered from 0": (itrax(form="{}.000\t{}.000").replace(b"\r1.000\t", b"\r0.000\t"), "row 1 of the counts: found channel 0; expected 1"),
    "text in counts": (itrax(["many", *COUNTS[1:]]), "row 1 of the counts: found '1.000\\tmany.000'"),
    "negative": (itrax([*COUNTS[:9], -3, *COUNTS[10:]]), "channel 10: found -3"),
    "not a number": (itrax([*COUNTS[:9], "nan", *COUNTS[10:]], form="{}\t{}"), "channel 10: found nan"),
    "infinite": (itrax([*COUNTS[:9], "inf", *COUNTS[10:]], form="{}\t{}"), "channel 10: found inf"),
    "half a count": (itrax([*COUNTS[:9], 2.5, *COUNTS[10:]], form="{}\t{}"), "channel 10: found 2.5"),
    "too large": (itrax([*COUNTS[:9], 10**12, *COUNTS[10:]], form="{}\t{}"), "channel 10: found 1e"),
    "binary": (itrax()[:500] + b"\0\0" + itrax()[500:], "byte 500 is zero"),
    "three cells": (itrax(form="{}\t{}\t0"), "row 1 of the counts"),
    "another number of channels": (itrax(header={**HEADER, "number_mca_channels": "4096\tno:"}), "found 2048 channels; expected 4096"),
}


@pytest.mark.parametrize("data, says", ITRAX_DAMAGE.values(), ids=ITRAX_DAMAGE)
def test_itrax_damaged(spe, data, says):
    spe.write_bytes(data)
    with pytest.raises(ValueError) as e: instruments.read_itrax(spe)
    assert str(e.value).startswith(f"{spe}: ") and says in str(e.value) and "expected" in str(e.value)


def test_itrax_folder_joins_settings_and_results(spe):
    for n in (1, 2): write(spe.with_name(f"L00000{n}.spe"), itrax(COUNTS + n, {**HEADER, "Position": f"{10 + n}\tmm"}))
    write(spe.parents[1] / "Results.txt", RESULTS)
    s = instruments.read_itrax(spe.parents[1])
    assert s.axis == AXIS and s.counts.shape == (3, N_CHANNELS) and s.info["filename"].tolist() == [f"XRF data/L00000{n}.spe" for n in range(3)]
    assert s.info["valid"].tolist()[:2] == [True, False] and pd.isna(s.info["valid"][2]) and any("1 spectra are not in Results.txt" in n for n in s.report["remarks"]["note"].tolist())
    assert (s.info["gain_kev"] == AXIS.gain_kev).all() and s.report["files"]["status"].tolist() == ["read"] * 3
    s.to_parquet(spe.with_name("all.parquet"))
    assert Spectra.from_parquet(spe.with_name("all.parquet")).info["filename"].tolist() == s.info["filename"].tolist()
    assert "valid" not in instruments.read_itrax(spe.parents[1], results=False).info
    assert instruments.read_itrax(spe.parents[1], core="C").cores.tolist() == ["C"]


def test_itrax_scale_in_the_order_of_trust(spe, monkeypatch):
    write(spe.parents[1] / "Results.txt", RESULTS)
    other = write(spe.parents[2] / "other.dfl", SETTINGS.replace("0.01026698", "0.0103"))
    mine = EnergyAxis(0.0104, 0.0, N_CHANNELS)
    assert instruments.read_itrax(spe, other, axis=mine).axis == mine
    assert instruments.read_itrax(spe, other).axis.gain_kev == 0.0103
    assert instruments.read_itrax(spe).axis == AXIS
    (spe.parents[1] / "settings.dfl").unlink()
    s = instruments.read_itrax(spe)
    assert s.axis == EnergyAxis(0.010267, -0.009931) and "E-gain" in s.report["remarks"]["note"].tolist()[0]
    (spe.parents[1] / "Results.txt").unlink()
    asked = {}
    def fit_axis(counts, nominal, **options):
        asked.update(counts=counts, nominal=nominal, **options)
        return types.SimpleNamespace(axis=mine, trusted=True, note="")
    monkeypatch.setattr(instruments, "fit_axis", fit_axis)
    write(spe.with_name("L000001.spe"), itrax(COUNTS + 1))
    s = instruments.read_itrax(spe.parents[1])
    assert s.axis == mine and np.array_equal(asked["counts"], 2 * COUNTS + 1) and asked["nominal"].n_channels == N_CHANNELS and "fitted" in s.report["remarks"]["note"].tolist()[0]


def test_itrax_drifting_scale_is_kept_row_by_row(spe):
    (spe.parents[1] / "settings.dfl").unlink()
    write(spe.with_name("L000001.spe"), itrax())
    write(spe.parents[1] / "Results.txt", RESULTS.replace("\t0\t0.010267", "\t0\t0.010269"))
    s = instruments.read_itrax(spe.parents[1])
    assert s.axis.gain_kev == pytest.approx(0.010268) and s.info["gain_kev"].tolist() == [0.010267, 0.010269]


def test_itrax_without_any_scale(spe, untrusted):
    (spe.parents[1] / "settings.dfl").unlink()
    with pytest.raises(ValueError, match=r"XRF data: no energy scale: .*one line found.*expected settings= .* or axis="): instruments.read_itrax(spe)


SETTINGS_DAMAGE = {
    "no scale": ("[detector parameters]\nFWHM slope 2 = 0.1\n", "found nothing for 'keV/channel'"),
    "no offset": ("[detector parameters]\nkeV/channel 2 = 0.01\n", "found nothing for 'energy offset'"),
    "text": (SETTINGS.replace("0.01026698", "unknown"), "found ['unknown'] for 'keV/channel'"),
    "two scales": (SETTINGS + "keV/channel 3 = 0.02\n", "for 'keV/channel'; expected one line"),
    "gain of zero": (SETTINGS.replace("0.01026698", "0"), "gain_kev is 0.0"),
    "empty": ("", "found nothing for 'keV/channel'"),
    "binary": (b"\0\0\0", "byte 0 is zero, so it is a binary file; expected text"),
}


@pytest.mark.parametrize("content, says", SETTINGS_DAMAGE.values(), ids=SETTINGS_DAMAGE)
def test_settings_damaged(spe, content, says):
    bad = write(spe.parents[2] / "bad.dfl", content)
    with pytest.raises(ValueError) as e: instruments.read_itrax(spe, settings=bad)
    assert str(e.value).startswith(f"{bad}: ") and says in str(e.value)


@pytest.mark.parametrize("text", [SETTINGS.replace(" = ", "="), SETTINGS.replace("\n", "\r\n"), SETTINGS.replace("\n", "\r"), SETTINGS.replace("0.0", "0,0"), SETTINGS + "keV/channel 3 = 0.01026698\n"])
def test_settings_as_other_programs_write_them(spe, text):
    write(spe.parents[1] / "settings.dfl", text)
    assert instruments.read_itrax(spe).axis == AXIS


def test_itrax_questions_to_the_user(spe, tmp_path):
    write(spe.parents[1] / "again.dfl", SETTINGS)
    assert instruments.read_itrax(spe).axis == AXIS  # two settings that agree
    write(spe.parents[1] / "again.dfl", SETTINGS.replace("0.01026698", "0.0103"))
    with pytest.raises(ValueError, match=r"settings \['again.dfl', 'settings.dfl'\] hold different"): instruments.read_itrax(spe)
    (spe.parents[1] / "again.dfl").unlink()
    for name in ("a.txt", "b.txt"): write(spe.parents[1] / name, RESULTS)
    with pytest.raises(ValueError, match=r"found \['a.txt', 'b.txt'\] beside the spectra; expected one of them in results="): instruments.read_itrax(spe)
    assert instruments.read_itrax(spe, results=spe.parents[1] / "b.txt").info["valid"].tolist() == [True]
    with pytest.raises(ValueError, match="no such file"): instruments.read_itrax(spe, results=tmp_path / "none.txt")
    with pytest.raises(ValueError, match="2048 channels and axis= has 20"): instruments.read_itrax(spe, axis=EnergyAxis(n_channels=20), results=False)
    with pytest.raises(ValueError, match="found no Itrax spectrum"): instruments.read_itrax(write(tmp_path / "empty" / "a.txt", "no").parent)


def test_itrax_damaged_file_is_listed_if_not_strict(spe):
    write(spe.with_name("L000001.spe"), itrax(COUNTS[:10]))
    with pytest.raises(ValueError, match="L000001.spe: found 10 channels"): instruments.read_itrax(spe.parent)
    s = instruments.read_itrax(spe.parent, strict=False)
    assert len(s) == 1 and s.report["files"]["status"].tolist() == ["read", "failed"] and "found 10 channels" in ": ".join(s.report["files"].loc[1, ["item", "note"]]).replace("spe/1.csv: target", "target")
    spe.write_bytes(itrax(COUNTS[:10]))
    with pytest.raises(ValueError, match="none of its 2 Itrax files can be read"): instruments.read_itrax(spe.parent, strict=False)


def test_itrax_sections_with_scales_of_their_own(tmp_path):
    for name, gain in (("S1", "0.01026698"), ("S2", "0.01026700")):
        write(tmp_path / name / "a.spe", itrax(header={**HEADER, "Section name:": name}))
        write(tmp_path / name / "settings.dfl", SETTINGS.replace("0.01026698", gain))
    write(tmp_path / "S2" / "Results.txt", RESULTS.replace("L000000", "a"))
    s = instruments.read_itrax(tmp_path)
    assert s.axis == AXIS and s.info["gain_kev"].tolist() == [0.01026698, 0.010267] and s.info["section"].tolist() == ["S1", "S2"] and any("has 2 sections" in n for n in s.report["remarks"]["note"].tolist())
    assert pd.isna(s.info["valid"][0]) and s.info["valid"][1]
    write(tmp_path / "S2" / "settings.dfl", SETTINGS.replace("0.01026698", "0.0104"))
    with pytest.raises(ValueError, match=r"energy scales differ by up to 272 eV between S1/a.spe and S2/a.spe; expected less than half a channel"): instruments.read_itrax(tmp_path)


def test_itrax_files_of_different_length(spe):
    write(spe.with_name("L000001.spe"), itrax(COUNTS[:1024], {**HEADER, "number_mca_channels": "1024\tno:"}))
    with pytest.raises(ValueError, match="L000001.spe: found 1024 channels; expected 2048, as in L000000.spe"): instruments.read_itrax(spe.parent)


def test_itrax_nothing_above_the_top_is_looked_at(spe, untrusted):
    s = instruments._itrax_files([spe], spe.parents[1])
    assert s.axis == AXIS
    with pytest.raises(ValueError, match="no energy scale"): instruments._itrax_files([spe], spe.parent)


@pytest.mark.skipif(not REAL.is_dir(), reason="no real files here")
def test_itrax_real_file_and_where_its_channel_1_is():
    "The peaks of Ca Ka and Fe Ka lie where offset + gain x (number - 1) puts them; with x number they would lie 10 eV off."
    s = instruments.read_itrax(REAL)
    assert s.counts.sum() == 586272 and s.info["valid"][0] and s.axis == AXIS and s.info["dead_time"][0] == pytest.approx(0.101, abs=5e-4)
    y = s.counts[0].astype(float)
    for kev, within in ((3.6905, 0.003), (6.399, 0.004)):  # means of the doublets Ka1 and Ka2
        near = slice(s.axis.channel_of(kev) - 5, s.axis.channel_of(kev) + 6)
        a, b, _ = np.polyfit(s.axis.centers[near] - kev, np.log(y[near]), 2, w=np.sqrt(y[near]))
        assert abs(-b / (2 * a)) < within


# ---- the layout of MAX, and the hub

def test_max_layout(tmp_path):
    s = instruments.read_xpt(max_folder(tmp_path / "m"), target="CaCO3")
    assert s.counts.dtype == np.int32 and np.array_equal(s.counts, COUNTS + np.arange(3)[:, None]) and s.info["CaCO3"].tolist() == [12.5, 13.5, 14.5] and s.info["depth_mm"].tolist() == [0, 10, 20] and s.axis == EnergyAxis()
    assert s.info["dirname"].tolist() == ["0.csv", "1.csv", "2.csv"] and s.info["filename"].tolist() == [f"spe/{i}.csv" for i in range(3)] and s.report["files"]["status"].tolist() == ["read"] * 3
    part = instruments.read_xpt(tmp_path / "m", info="val.csv")
    assert len(part) == 1 and "target/ was not read" in part.report["remarks"]["note"][0] and "CaCO3" not in part.info


def test_max_layout_as_it_also_occurs(tmp_path):
    at = max_folder(tmp_path / "m")
    write(at / "spe" / "0.csv", "\r\n".join(f"{c}.0" for c in COUNTS))
    write(at / "info.csv", "filename,core,mid_depth_mm\r\n0.csv,A,5\r\n")
    assert np.array_equal(instruments.read_xpt(at).counts[0], COUNTS) and instruments._is_xpt(at)
    write(at / "info.csv", "dirname,core,filename\n0.csv,A,L1 10kV.spe\n")
    assert instruments.read_xpt(at).info["source"].tolist() == ["L1 10kV.spe"]


MAX_DAMAGE = {
    "spectrum missing": (lambda at: (at / "spe/1.csv").unlink(), "spe/1.csv: no such file"),
    "spectrum short": (lambda at: write(at / "spe/1.csv", "1\n2\n"), "spe/1.csv: found 2 counts; expected 2048"),
    "spectrum long": (lambda at: write(at / "spe/1.csv", "1\n" * 2049), "spe/1.csv: found 2049 counts"),
    "spectrum empty": (lambda at: write(at / "spe/1.csv", ""), "spe/1.csv: found 0 counts"),
    "a header": (lambda at: write(at / "spe/1.csv", "counts\n" + "1\n" * 2048), "spe/1.csv: line 1: found 'counts'"),
    "text": (lambda at: write(at / "spe/1.csv", "1\n" * 9 + "x\n" + "1\n" * 2038), "spe/1.csv: line 10: found 'x'"),
    "negative": (lambda at: write(at / "spe/1.csv", "-1\n" * 2048), "spe/1.csv: channel 1: found -1 (2048 such)"),
    "not a number": (lambda at: write(at / "spe/1.csv", "nan\n" * 2048), "spe/1.csv: channel 1: found nan"),
    "half counts": (lambda at: write(at / "spe/1.csv", "0.5\n" * 2048), "spe/1.csv: channel 1: found 0.5"),
    "binary": (lambda at: write(at / "spe/1.csv", b"\x00\xff\xfe" * 40), "spe/1.csv: line 1"),
    "target missing": (lambda at: (at / "target/1.csv").unlink(), "target/1.csv: found 'no such file'"),
    "target is text": (lambda at: write(at / "target/1.csv", "high"), "target/1.csv: found 'high'; expected one number"),
    "target not measured": (lambda at: write(at / "target/1.csv", "nan"), "target/1.csv: found 'nan'"),
}


@pytest.mark.parametrize("harm, says", MAX_DAMAGE.values(), ids=MAX_DAMAGE)
def test_max_layout_damaged(tmp_path, harm, says):
    harm(max_folder(tmp_path))
    with pytest.raises(ValueError) as e: instruments.read_xpt(tmp_path, target="TOC")
    assert says in str(e.value) and str(e.value).startswith(str(tmp_path))
    s = instruments.read_xpt(tmp_path, target="TOC", strict=False)
    assert s.info["TOC"].tolist() == [12.5, 14.5] and s.report["files"]["status"].tolist() == ["read", "failed", "read"] and says in ": ".join(s.report["files"].loc[1, ["item", "note"]]).replace("spe/1.csv: target", "target")


MAX_TABLES = {
    "no table": (None, "no table 'info.csv'; found ['val.csv']"),
    "way out": ("dirname,core\n../../x.csv,A\n", "row 0, column 'dirname': found '../../x.csv'"),
    "numbers for names": ("dirname,core\n1,A\n2,A\n", "row 0, column 'dirname': found"),
    "a name twice": ("dirname,core\n1.csv,A\n1.csv,A\n", "row 1, column 'dirname': found '1.csv'; expected the name of a file in spe/, each once"),
    "unequal rows": ("dirname,core\n1.csv,A\n2.csv\n", "line 3 of text has 1 cells; expected 2"),
    "empty": ("", "expected"),
    "no rows": ("dirname,core\n", "found no rows below ['dirname', 'core']"),
    "quote left open": ('dirname,core\n"1.csv,A\n', "info.csv: "),
}


@pytest.mark.parametrize("table, says", MAX_TABLES.values(), ids=MAX_TABLES)
def test_max_table_damaged(tmp_path, table, says):
    max_folder(tmp_path)
    (tmp_path / "info.csv").unlink() if table is None else write(tmp_path / "info.csv", table)
    with pytest.raises(ValueError) as e: instruments.read_xpt(tmp_path)
    assert says in str(e.value)


def test_hub(tmp_path, monkeypatch):
    hub, asked = pytest.importorskip("huggingface_hub"), {}
    max_folder(tmp_path / "train")
    monkeypatch.setattr(hub, "snapshot_download", lambda repo, **options: asked.update(options, repo=repo) or str(tmp_path))
    s = instruments.read_hub(part="train", info="val.csv", target="TOC", revision="v1", cache_dir=tmp_path / "cache", offline=True)
    assert len(s) == 1 and s.info["TOC"].tolist() == [14.5] and asked["allow_patterns"] == ["train/val.csv", "train/spe/*", "train/target/*"]
    assert asked["repo"] == "paoyw/max-dataset" and asked["repo_type"] == "dataset" and asked["local_files_only"] is True and asked["revision"] == "v1" and asked["cache_dir"] == tmp_path / "cache"
    with pytest.raises(ValueError, match="found no 'info.csv' in 'test'; expected .* part="): instruments.read_hub(part="test")


@pytest.mark.parametrize("error", [OSError("Network is unreachable"), ConnectionError(""), RuntimeError("401 Client Error\nand more"), ValueError("bad name")])
def test_hub_without_network(monkeypatch, error):
    hub = pytest.importorskip("huggingface_hub")
    def fail(*args, **options): raise error
    monkeypatch.setattr(hub, "snapshot_download", fail)
    with pytest.raises(ValueError) as e: instruments.read_hub("paoyw/max-dataset", part="train")
    assert "paoyw/max-dataset: cannot be downloaded" in str(e.value) and "hf download paoyw/max-dataset --repo-type dataset" in str(e.value) and "read_xpt('COPY/train')" in str(e.value) and "\n" not in str(e.value)


def test_hub_offline_and_nothing_in_the_cache(tmp_path):
    pytest.importorskip("huggingface_hub")
    with pytest.raises(ValueError, match="cannot be downloaded"): instruments.read_hub(cache_dir=tmp_path, offline=True)


# ---- handheld

def test_pdz_by_the_real_package_on_files_made_for_it(tmp_path):
    pytest.importorskip("pdz_tool")
    both = np.stack([COUNTS, COUNTS + 5])
    s = instruments.read_pdz(write(tmp_path / "a.pdz", pdz25(both)))
    assert np.array_equal(s.counts, both) and s.axis == EnergyAxis(0.02, -0.01) and s.info["voltage_kv"].tolist() == [15, 15] and s.info["current_ma"].tolist() == [0.025] * 2 and s.info["live_s"].tolist() == [9, 9] and s.info["date"][0] == "2024-05-01T10:00:00"
    assert np.array_equal(instruments.read_pdz(tmp_path / "a.pdz", phase=1).counts, both[1:]) and "not tried on a real file" in s.report["remarks"]["note"].tolist()[0]
    old = instruments.read_pdz(write(tmp_path / "b.pdz", pdz24(COUNTS)))
    assert np.array_equal(old.counts[0], COUNTS) and old.axis.gain_kev == pytest.approx(0.020085) and old.axis.offset_kev == 0 and "does not tell" in old.report["remarks"]["note"][1]
    for cut in (30, 3000, len(pdz25(both)) - 1, len(pdz25(both)) - 9000):
        with pytest.raises(ValueError, match="a.pdz: found .*cut off"): instruments.read_pdz(write(tmp_path / "a.pdz", pdz25(both)[:cut]))
    with pytest.raises(ValueError, match="b.pdz: found 0 counts; expected 2048"): instruments.read_pdz(write(tmp_path / "b.pdz", pdz24(COUNTS)[:4000]))


GOOD = dict(phase_number=0, channels=N_CHANNELS, ev_per_channel=20.0, channel_start=-10.0, tube_voltage=15.0, tube_current=25.0, total_live=9.0, total_packet_time=10.0, spectrum_data=COUNTS.tolist())
PDZ_DAMAGE = {
    "no record": ({}, "found 0 whole spectra"),
    "nothing parsed": (None, "found 0 whole spectra"),
    "no counts": ({"XRF Spectrum": {k: v for k, v in GOOD.items() if k != "spectrum_data"}}, "found 0 counts; expected 2048"),
    "counts lost": ({"XRF Spectrum": {**GOOD, "spectrum_data": [1, 2]}}, "found 2 counts; expected 2048"),
    "no scale": ({"XRF Spectrum": {k: v for k, v in GOOD.items() if k != "ev_per_channel"}}, "energy scale cannot be used"),
    "gain of zero": ({"XRF Spectrum": {**GOOD, "ev_per_channel": 0.0}}, "energy scale cannot be used"),
    "negative": ({"XRF Spectrum": {**GOOD, "spectrum_data": [-1] * N_CHANNELS}}, "channel 1: found -1"),
}


@pytest.mark.parametrize("records, says", PDZ_DAMAGE.values(), ids=PDZ_DAMAGE)
def test_pdz_damaged(tmp_path, monkeypatch, records, says):
    path = write(tmp_path / "a.pdz", pdz25([COUNTS]))
    monkeypatch.setitem(sys.modules, "pdz_tool", stand_in({"XRF Spectrum": GOOD}))
    assert np.array_equal(instruments.read_pdz(path).counts[0], COUNTS)
    monkeypatch.setitem(sys.modules, "pdz_tool", stand_in(records))
    with pytest.raises(ValueError) as e: instruments.read_pdz(path)
    assert str(e.value).startswith(f"{path}: ") and says in str(e.value)


def test_pdz_phases(tmp_path, monkeypatch):
    path = write(tmp_path / "a.pdz", pdz25([COUNTS, COUNTS]))
    monkeypatch.setitem(sys.modules, "pdz_tool", stand_in({"XRF Spectrum": [GOOD, {**GOOD, "phase_number": 1, "ev_per_channel": 10.0}]}))
    with pytest.raises(ValueError, match="different energy scales .* choose with phase="): instruments.read_pdz(path)
    assert instruments.read_pdz(path, phase=1).axis.gain_kev == 0.01
    with pytest.raises(ValueError, match=r"found the phases \[0, 1\]; expected phase 7"): instruments.read_pdz(path, phase=7)
    monkeypatch.setitem(sys.modules, "pdz_tool", stand_in({"XRF Spectrum": GOOD}))  # one of two passed over
    with pytest.raises(ValueError, match="found 1 whole spectra of 2"): instruments.read_pdz(path)


def test_pdz_without_the_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pdz_tool", None)
    with pytest.raises(ValueError, match=r"a.pdz: .* pip install 'max_nb\[pdz\]'"): instruments.read_pdz(write(tmp_path / "a.pdz", pdz25([COUNTS])))
    with pytest.raises(ValueError, match="found b'PK"): instruments.read_pdz(write(tmp_path / "b.pdz", b"PK\x03\x04"))
    def fails(path): raise RuntimeError("Unknown PDZ version")
    module = types.ModuleType("pdz_tool")
    module.PDZTool = fails
    monkeypatch.setitem(sys.modules, "pdz_tool", module)
    with pytest.raises(ValueError, match="a.pdz: cannot be read by pdz-tool .*Unknown PDZ version"): instruments.read_pdz(tmp_path / "a.pdz")


# ---- recognised by content

HEADS = {"_is_itrax": itrax(), "_is_itrax_settings": SETTINGS.encode(), "is_itrax_results": RESULTS.encode(), "is_baxil": BAXIL.encode(), "_is_pdz": pdz25([COUNTS])}
OTHERS = [b"", b"\0", b"PAR1\0\0", b"PK\x03\x04", b"core,depth\nA,1\n", b"$Core_ID:\nA\n\n$DATA:\n0 2047\n1 2 3\n", b"\xff\xfe", "Gehalt (µg)".encode("cp1252"), b"\x01\x01", b"\x19\x00"]


@pytest.mark.parametrize("name", HEADS)
def test_each_kind_is_recognised_by_its_own_test_alone(name):
    recognises = getattr(instruments, name)
    assert recognises(HEADS[name]) and recognises(HEADS[name][: 1 << 16])
    assert not any(recognises(head) for head in [*OTHERS, *(h for n, h in HEADS.items() if n != name)])
    if name != "_is_pdz":
        text = HEADS[name].decode()
        assert all(recognises(text.encode(e)) for e in ("utf-8-sig", "utf-16", "cp1252")) and recognises(text.replace("\n", "\r\n").encode())


def test_old_pdz_and_the_layout_of_max_are_recognised(tmp_path):
    assert instruments._is_pdz(pdz24(COUNTS)) and not instruments._is_pdz(pdz24(COUNTS[:7]))
    assert instruments._is_xpt(max_folder(tmp_path / "m")) and not instruments._is_xpt(tmp_path) and not instruments._is_xpt(tmp_path / "m" / "info.csv") and not instruments._is_xpt(tmp_path / "m" / "spe")


# ---- any damage at all

def harmed(data, cuts):
    "The bytes with some of them cut out, repeated or replaced."
    for at, size, new in cuts:
        at = int(at * len(data))
        data = data[:at] + new + data[at + size:]
    return data


CUTS = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 40), st.binary(max_size=6) | st.sampled_from([b"\t", b"\r", b"\n", b",", b"-1", b"nan", b"\xb5", b"1e999"])), min_size=1, max_size=4)


@pytest.mark.parametrize("name, data, read_it", [
    ("a.spe", itrax(), lambda path: instruments.read_itrax(path, axis=EnergyAxis(), results=False)),
    ("settings.dfl", SETTINGS.encode(), lambda path: instruments._settings_axis(path, N_CHANNELS)),
    ("Results.txt", RESULTS.encode(), instruments.read_areas),
    ("batch.csv", BAXIL.encode(), instruments.read_areas),
    ("a.pdz", pdz25([COUNTS]), instruments.read_pdz),
], ids=lambda v: v if isinstance(v, str) else "")
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=CUTS)
def test_damage_is_read_right_or_is_one_error(tmp_path, name, data, read_it, cuts):
    path = write(tmp_path / name, harmed(data, cuts))
    try: got = read_it(path)
    except ValueError as e: assert name in str(e) and "\n" not in str(e).strip()
    else:
        if isinstance(got, Spectra): assert got.counts.shape[1] == got.axis.n_channels and (got.counts >= 0).all()
