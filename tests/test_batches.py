"""Many files at once: what the quick ways make of them is what the careful ones do, and copies, zips, failures and second laboratory tables keep their place in the report."""
import zipfile

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st

from max_nb import scanners
from max_nb.energy import EnergyAxis, fit_axis
from max_nb.scanners import ingest, join_labels, parse_avaatech, parse_avaatech_name, read
from max_nb.spectra import Spectra, measure_counts
from messy import new_name, old_name, spe_text, spectrum
from test_fuzz import SMALL, edits
from test_instruments import COUNTS, HEADER, SETTINGS, itrax
from test_traps import line, spe


def one_by_one(name, data):
    try: return parse_avaatech(data, name)
    except ValueError as e: return str(e).removeprefix(f"{name}: ")


def same(found, wanted):
    if isinstance(wanted, str) or isinstance(found, str): return found == wanted
    return found[0].tolist() == wanted[0].tolist() and found[1] == wanted[1]


# ---- the quick way is the careful way

@settings(max_examples=300, deadline=None)
@given(st.lists(st.lists(edits, max_size=3), min_size=1, max_size=5))
def test_a_batch_is_read_as_its_files_are(spoilt):
    files = []
    for i, changes in enumerate(spoilt):
        data = SMALL
        for change, where, n, new in changes: data = change(data, int(where * len(data)), n, new)
        files.append((f"{i}.spe", data))
    for found, (name, data) in zip(scanners._parse_batch(files)[0], files): assert same(found, one_by_one(name, data))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.integers(0, 10**9) | st.sampled_from([0, 9, 10, 99, 9999, 10**4, 10**8 - 1, 10**8, 2**31 - 1, 2**31, 2**40]), min_size=16, max_size=16), min_size=1, max_size=4), st.sampled_from([" ", "  ", "\t", "\r\n", "\n", "\x0b"]), st.booleans())
def test_numbers_of_any_length(rows, blank, zeros):
    head = SMALL.partition(b"$DATA:")[0] + b"$DATA:\r\n0 15\r\n"
    files = [(str(i), head + blank.join(f"{n:012d}" if zeros else str(n) for n in row).encode()) for i, row in enumerate(rows)]
    assert [found[0].tolist() for found in scanners._parse_batch(files)[0]] == rows


@pytest.mark.parametrize("data", [spe_text(spectrum(1), v, comma, crlf, bounds) for v in "ab" for comma in (False, True) for crlf in (False, True) for bounds in ((0, 2047), (1, 2048))] + [
    spe_text(spectrum(1), cps=0), spe_text(spectrum(1), date="no date"), spe_text(spectrum(1), core="Größe", encoding="cp1252"), spe_text(spectrum(1), core="A$B"), spe_text(spectrum(1)).replace(b"\r\n", b"\r"),
    b"\xef\xbb\xbf" + spe_text(spectrum(1)), spe_text(spectrum(1)).decode().encode("utf-16"), spe_text(spectrum(1)).replace(b"$Depth:", b"$Core_ID:"), spe_text(spectrum(1)).replace(b"$USER_ID:", b"$data:"),
    spe_text(spectrum(1)).replace(b"$", b"  $"), spe_text(spectrum(1)).replace(b"10.0", b"10.0\0"), spe_text(spectrum(1)) + b"$END:\r\n1\r\n", spe_text(spectrum(1)) + b"$DATA:\r\n0 1\r\n1 2"])
def test_variants_in_a_batch(data):
    good = spe_text(spectrum(2))
    for found, wanted in zip(scanners._parse_batch([("a", good), ("b", data), ("c", good)])[0], (good, data, good)): assert same(found, one_by_one("b", wanted))


def test_clipped_spectra_are_those_with_a_plateau():
    counts = np.random.default_rng(0).poisson(2000, (6, 300))
    counts[1, 50:53] = counts[2, [50, 52, 54]] = 60_000
    counts[3, 7], counts[4, 8] = 2**16 - 1, 2**16
    assert measure_counts(counts)["clipped"].tolist() == [False, True, False, True, False, False]
    assert measure_counts(counts // 1000)["clipped"].any() == False and measure_counts(counts[:0])["clipped"].tolist() == []


def test_fit_axis_and_its_lines_are_one_fit(monkeypatch):
    from max_nb import energy
    fits, fit_lines = [], energy._fit_lines
    monkeypatch.setattr(energy, "_fit_lines", lambda *a: fits.append(1) or fit_lines(*a))
    assert fit_axis(spectrum(0, total=1e6)).trusted and len(fits) == 1


# ---- copies

@pytest.mark.parametrize("copied", ["{stem} (1).spe", "Copy of {stem}.spe", "{stem} - Copy.spe", "../Run 1 at  10kV - Copy/{stem}.spe", "../elsewhere/another name altogether, as long as can be, longer than the first one was, and longer still.spe"])
@pytest.mark.parametrize("drop", [{}, dict(core=None, section=None)])
def test_a_copied_file_is_left_out(tmp_path, copied, drop):
    if drop and "another name" in copied: pytest.skip("then nothing says which core it is of")
    for x in (0.0, 10.0, 20.0):
        name = old_name("SO1", "0048", x)
        spe(tmp_path / "SO1" / "Run 1 at  10kV", name, **dict(core="SO1", section="0048", x_mm=x) | drop)
    target = tmp_path / "SO1" / "Run 1 at  10kV" / copied.format(stem=name.removesuffix(".spe"))
    target.parent.mkdir(exist_ok=True)
    target.write_bytes((tmp_path / "SO1" / "Run 1 at  10kV" / name).read_bytes())
    got = read(tmp_path)
    files = got.report["files"].set_index("item")
    assert got.info["depth_mm"].tolist() == [480, 490, 500] and got.cores.tolist() == ["SO1"]
    assert (files["status"] == "left out").sum() == 1 and files["note"][files["status"] == "left out"].iloc[0] == f"a copy of 'SO1/Run 1 at  10kV/{name}'" and "a copy of" in str(got.report)


def test_scans_that_only_look_alike_stay(tmp_path):
    for i in range(3): spe(tmp_path, f"a{i}.spe", core="C", section="0048", x_mm=10.0, replicate=i)
    (tmp_path / "b.spe").write_bytes(spe_text(spectrum(9), core="C", section="0048", x_mm=20.0))
    (tmp_path / "c.spe").write_bytes(spe_text(spectrum(8), core="C", section="0048", x_mm=20.0))
    assert len(read(tmp_path)) == 5


@pytest.mark.parametrize("name", ["SO1_0048 10.0mm 10s 10kV 150uA.spe", new_name("SO1", "0048", 10.0) + ".spe"])
def test_what_a_computer_writes_into_a_name_is_not_the_scanners(name):
    stem = name.removesuffix(".spe")
    for copied in (f"Copy of {stem}.spe", f"{stem} (12).spe", f"{stem} - Copy.SPE", f"{stem} - Kopie (2).spe", f"Kopie von {stem}"): assert parse_avaatech_name(copied) == parse_avaatech_name(name)


# ---- Itrax among others

@pytest.fixture
def two_instruments(tmp_path):
    for name, kv in (("L1", 30), ("L2", 30), ("L3", 50)): (tmp_path / f"{name}.spe").write_bytes(itrax(COUNTS + int(name[1]), HEADER | {"Tube voltage:": f"{kv}\tkV", "Position": f"{name[1]}.0\tmm"}))
    (tmp_path / "settings.dfl").write_text(SETTINGS)
    for x, kv in ((0.0, 10), (10.0, 10), (20.0, 30)): spe(tmp_path / "avaatech", old_name("C1", "0000", x, kv=kv), core="C1", section="0000", x_mm=x, voltage_kv=float(kv))
    return tmp_path


def test_voltage_holds_for_both_instruments_if_it_is_asked_for(two_instruments):
    status = lambda got: got.report["files"].set_index("item").drop("settings.dfl")["status"].value_counts().to_dict()
    kv = lambda **options: sorted(read(two_instruments, onto=EnergyAxis(), **options).info["voltage_kv"].tolist())
    assert kv() == [10, 10, 30, 30, 50] and kv(voltage_kv=None) == [10, 10, 30, 30, 30, 50] and kv(voltage_kv=30) == [30, 30, 30]
    got = read(two_instruments, onto=EnergyAxis(), voltage_kv=50)
    assert got.info["filename"].tolist() == ["L3.spe"] and status(got) == {"left out": 5, "read": 1} and got.report["files"]["note"].eq("30 kV; 50 kV asked for").sum() == 3
    with pytest.raises(ValueError, match="17 kV asked for"): read(two_instruments, onto=EnergyAxis(), voltage_kv=17)


def test_a_copied_itrax_file_is_left_out(two_instruments):
    (two_instruments / "L1 (1).spe").write_bytes((two_instruments / "L1.spe").read_bytes())
    got = read(two_instruments, voltage_kv=30, onto=EnergyAxis())
    assert sorted(got.info["filename"])[:2] == ["L1.spe", "L2.spe"] and "a copy of 'L1.spe'" in got.report["files"]["note"].tolist()


def test_each_file_fails_for_its_own_reason(two_instruments):
    for i, path in enumerate(sorted((two_instruments / "avaatech").glob("*"))): path.write_bytes(path.read_bytes()[: -400 * (i + 1)])
    rows = read(two_instruments).report["files"]
    notes = rows.loc[rows["item"].str.startswith("avaatech"), "note"]
    assert (rows.loc[notes.index, "status"] == "failed").all() and notes.nunique() == 3 and notes.str.contains("expected 2048").all()
    for path in two_instruments.glob("L*.spe"): path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(ValueError, match=r"found 19\d\d channels; expected 2048|expected 2048, as"): read(two_instruments)


@pytest.mark.parametrize("said, anode", [("Molybdenum", "Mo"), ("molybdenum tube", "Mo"), ("Mo", "Mo"), ("MO", "Mo"), ("Chromium", "Cr"), ("Cr-tube", "Cr"), ("", None), ("unobtainium", "unobtainium")])
def test_anodes_written_out(tmp_path, said, anode):
    (tmp_path / "L1.spe").write_bytes(itrax(header=HEADER | {"Tube anode:": said}))
    (tmp_path / "settings.dfl").write_text(SETTINGS)
    assert read(tmp_path).info.get("anode", pd.Series([None]))[0] == anode


# ---- ingest

@pytest.mark.parametrize("options", [{}, dict(energy="align"), dict(onto=EnergyAxis(0.04, 0.03, 1024)), dict(energy="nominal", voltage_kv=None)])
def test_a_zip_and_aligned_spectra_stream(tmp_path, monkeypatch, options):
    with zipfile.ZipFile(tmp_path / "cruise.zip", "w") as archive:
        archive.writestr("notes.txt", "a note")
        for i in range(9): archive.writestr(old_name("C1", "0000", 10 * i, kv=10 if i % 3 else 30), spe_text(spectrum(i, gain_ev=20.1), core="C1", section="0000", x_mm=10.0 * i, voltage_kv=10.0 if i % 3 else 30.0))
    whole = read(tmp_path / "cruise.zip", **options)
    monkeypatch.setattr(scanners, "SLICE", 2)
    monkeypatch.setattr(scanners, "BATCH", 4)
    monkeypatch.setattr(scanners, "_together", None)  # all in memory
    report = ingest(tmp_path / "cruise.zip", tmp_path / "new" / "cruise.parquet", **options)
    parts = Spectra.from_parquet(tmp_path / "new" / "cruise.parquet")
    assert np.allclose(parts.counts, whole.counts) and parts.axis == whole.axis and parts.info["filename"].tolist() == whole.info["filename"].tolist()
    assert report["files"].sort_values("item")["status"].tolist() == whole.report["files"].sort_values("item")["status"].tolist() and list((tmp_path / "new").iterdir()) == [tmp_path / "new" / "cruise.parquet"]


@pytest.mark.parametrize("call", [lambda path: read(path, cache=False), lambda path: ingest(path, path.parent / "out.parquet")])
def test_each_file_is_opened_once(tmp_path, monkeypatch, call):
    for i in range(5): spe(tmp_path / "in", old_name("C1", "0000", 10 * i), core="C1", section="0000", x_mm=10.0 * i)
    opened, open_ = [], scanners.read_head
    monkeypatch.setattr(scanners, "read_head", lambda path, *more: opened.append(path) or open_(path, *more))
    call(tmp_path / "in")
    assert len(opened) == len(set(opened)) == 5


# ---- two laboratory tables

def test_a_second_table_keeps_what_was_said_of_the_first():
    first = join_labels(line(), pd.DataFrame(dict(core="A", depth_mm=[50.0, 5000.0], TOC=[1.0, 2.0])))
    second = join_labels(first, pd.DataFrame(dict(core="A", depth_mm=[60.0, 70.0, 7000.0], CaCO3=[1.0, 2.0, 3.0])))
    third = join_labels(second, pd.DataFrame(dict(core="A", depth_mm=[80.0], TN=[0.1])))
    assert [len(third.report[step]) for step in ("earlier labels", "labels", "earlier targets", "targets")] == [5, 1, 2, 1]
    assert str(third.report).count("samples of") == 2 and "TOC of 1" in str(third.report) and third.report.to_frame()["step"].nunique() == 4
