"""Readers and the join: a matrix of tables as users have them, bad input, and round trips."""
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from max_nb import scanners
from max_nb.energy import EnergyAxis
from max_nb.scanners import FORMATS, Report, join_labels, read, read_labels, read_table, register
from max_nb.spectra import Spectra

REAL = Path(__file__).parents[1] / "../shared/real/marine_sediments.parquet"
N = 20


@pytest.fixture
def s():
    info = pd.DataFrame(dict(core=["A"] * 4 + ["B"] * 3, depth_mm=[0.0, 10, 20, 30, 0, 10, 20], name=[f"x{i}" for i in range(7)]))
    return Spectra(np.random.default_rng(0).poisson(50, (7, N)), info, EnergyAxis(n_channels=N))


def frame(s, first=0, prefix=""):
    return pd.concat([s.info, pd.DataFrame(s.counts, columns=[f"{prefix}{i}" for i in range(first, first + N)])], axis=1)


# ---- tables of spectra

@pytest.mark.parametrize("separator", [";", "\t", ",", "|", " "])
@pytest.mark.parametrize("first, prefix", [(0, ""), (1, ""), (0, "ch"), (1, "channel_")])
def test_any_separator_and_numbering(s, tmp_path, separator, first, prefix):
    frame(s, first, prefix).to_csv(tmp_path / "t.csv", sep=separator, index=False)
    got = read(tmp_path / "t.csv")
    assert np.array_equal(got.counts, s.counts) and got.info["core"].tolist() == s.info["core"].tolist() and got.info["depth_mm"].tolist() == s.info["depth_mm"].tolist()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_any_encoding_and_line_end(s, tmp_path, encoding, end):
    text = frame(s).assign(core="Kärn").to_csv(index=False, sep=";", decimal=",", lineterminator="\n").replace("\n", end)
    (tmp_path / "t.txt").write_bytes(text.encode(encoding))
    got = read(tmp_path / "t.txt")
    assert np.array_equal(got.counts, s.counts) and got.cores.tolist() == ["Kärn"] and got.info["depth_mm"][1] == 10


def test_workbook(s, tmp_path):
    pytest.importorskip("openpyxl")
    frame(s).to_excel(tmp_path / "t.bin", index=False, engine="openpyxl")
    assert np.array_equal(read(tmp_path / "t.bin").counts, s.counts)
    with pd.ExcelWriter(tmp_path / "two.xlsx") as book:
        frame(s).to_excel(book, sheet_name="10kV", index=False)
        frame(s[:2]).to_excel(book, sheet_name="30kV", index=False)
    with pytest.warns(UserWarning, match="read sheet '10kV' of"): assert len(read_table(tmp_path / "two.xlsx")) == 7
    assert len(read_table(tmp_path / "two.xlsx", sheet="30kV")) == 2
    with pytest.raises(ValueError, match=r"no sheet '50kV'; found \['10kV', '30kV'\]"): read_table(tmp_path / "two.xlsx", sheet="50kV")
    (tmp_path / "cut.xlsx").write_bytes((tmp_path / "t.bin").read_bytes()[:900])
    with pytest.raises(ValueError, match="cut.xlsx: starts as a workbook.*expected a whole one"): read(tmp_path / "cut.xlsx")


def test_layouts_seen_in_archives(s, tmp_path):
    one = frame(s).rename(columns=dict(name="composite_id", depth_mm="composite_depth_mm")).set_index("composite_id").assign(section_depth_mm=5, filename="f.spe", section="0048", cps=1000)
    one.to_csv(tmp_path / "one.csv")
    got = read(tmp_path / "one.csv")
    assert got.info["depth_mm"].tolist() == s.info["depth_mm"].tolist() and got.info["section"].tolist() == ["0048"] * 7 and "section_depth_mm" in got.info
    two = frame(s).rename(columns=dict(depth_mm="mid_depth_mm")).assign(**{"TC%": 1.0, "TOC%": [0.5] * 6 + [None], "CaCO3%": 7.0})
    two.to_csv(tmp_path / "two.csv")
    got = read(tmp_path / "two.csv")
    assert np.isnan(got.targets(["TOC", "CaCO3", "TC"])["TOC"][6]) and got.info["depth_mm"][1] == 10


def test_an_axis_of_ones_own(s, tmp_path):
    frame(s).to_csv(tmp_path / "t.csv", index=False)
    axis = EnergyAxis(0.0102, -0.01, N)
    assert read(tmp_path / "t.csv", axis=axis).axis == axis
    with pytest.raises(ValueError, match="t.csv: counts have 20 channels; expected 21"): read(tmp_path / "t.csv", axis=EnergyAxis(n_channels=21))


@pytest.mark.parametrize("change, message", [
    (lambda t: t.drop(columns="7"), "before channel '8' is missing"), (lambda t: t.rename(columns={"0": "100"}), "the first column|missing"), (lambda t: t.assign(**{"3": ["x"] + [1] * 6}), "row 0, column '3': found 'x'"),
    (lambda t: t.assign(**{"3": [-1] + [1] * 6}), r"counts\[0, 3\] is -1"), (lambda t: t.assign(**{"3": [1, None] + [1] * 5}), "row 1, column '3'"), (lambda t: t[["core", "depth_mm"]], "no columns of counts"),
    (lambda t: t.rename(columns=dict(name="core")), "'core'.* more than once")])
def test_bad_table(s, tmp_path, change, message):
    change(frame(s)).to_csv(tmp_path / "bad.csv", index=False)
    with pytest.raises(ValueError, match=message) as e: read_table(tmp_path / "bad.csv")
    assert "bad.csv" in str(e.value)


@pytest.mark.parametrize("content, message", [
    (b"", "no table|not recognised"), (b"\n\n", "not recognised"), (b"just some words\nand others, of a letter", "not recognised|no columns"), (b"\x00\x01\x02\x03binary", "not recognised"), (b"PAR1 is not enough", "cannot be read as Parquet"),
    (b"PK\x03\x04 nor is this", "without columns of counts"), (b'x' * 200_000 + b',\n"' + b'y' * 300_000, "not recognised|no table"), (b"a;b\n1;2\n1;2;3\n", "without columns of counts"), (b"core,TOC\nA,1\n", "for `join_labels`")])
def test_bad_files(tmp_path, content, message):
    (tmp_path / "bad").write_bytes(content)
    with pytest.raises(ValueError, match=message) as e: read(tmp_path / "bad")
    assert str(tmp_path / "bad") in str(e.value) and "\n" not in str(e.value)


def test_torn_line_is_named(s, tmp_path):
    lines = frame(s).to_csv(index=False).splitlines()
    (tmp_path / "torn.csv").write_text("\n".join([*lines[:4], lines[4][:30], *lines[5:]]))
    with pytest.raises(ValueError, match="torn.csv: line 5 of text has .* cells; expected 23"): read(tmp_path / "torn.csv")


def test_missing_path_and_unknown_option(s, tmp_path):
    with pytest.raises(ValueError, match="no such file or folder"): read(tmp_path / "none.csv")
    with pytest.raises(ValueError, match="no such file"): read_table(tmp_path / "none.csv")
    path = s.to_parquet(tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"option 'voltage' is not known for Parquet; expected some of \['axis', 'memory_map'\]"): read(path, voltage=10)


def test_folder(s, tmp_path):
    s[:4].to_parquet(tmp_path / "a.parquet")
    (tmp_path / "deep" / "er").mkdir(parents=True)
    frame(s[4:]).to_csv(tmp_path / "deep" / "er" / "b.csv", index=False)
    (tmp_path / "lab.csv").write_text("core,depth_mm,TOC\nA,0,1\n")
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8\x00")
    got = read(tmp_path)
    assert np.array_equal(got.counts, s.counts) and set(got.info["filename"]) == {"a.parquet", "deep/er/b.csv"}
    assert got.report["files"].set_index("item")["spectra"].to_dict() == {"a.parquet": 4, "deep/er/b.csv": 3, "lab.csv": 0, "photo.jpg": 0}
    assert got.report["files"].query("spectra == 0")["status"].eq("left out").all() and "join_labels" in got.report["files"].set_index("item").loc["lab.csv", "note"]
    (tmp_path / "c.parquet").write_bytes(b"PAR1torn")
    again = read(tmp_path)
    assert np.array_equal(again.counts, s.counts) and "cannot be read as Parquet" in again.report["files"].set_index("item").query("status == 'failed'").loc["c.parquet", "note"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no spectra; the folder is empty; expected"): read(tmp_path / "empty")


def test_a_new_format_is_a_function_and_a_registration(s, tmp_path, monkeypatch):
    monkeypatch.setattr(scanners, "FORMATS", list(FORMATS))
    def reader(path, times=1): return Spectra(times * np.ones((1, 3)), None, EnergyAxis(n_channels=3))
    register("counter", lambda head: head.startswith(b"COUNTS"), lambda path: None)
    register("counter", lambda head: head.startswith(b"COUNTS"), reader)
    (tmp_path / "a.counter").write_text("COUNTS")
    assert read(tmp_path / "a.counter", times=4).counts.sum() == 12 and [f.name for f in scanners.FORMATS].count("counter") == 1


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 10**6), min_size=N, max_size=N), st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=8).map(lambda t: "c" + t), st.floats(0, 1e5).map(lambda d: round(d, 2)),
       st.sampled_from([(";", ","), (",", "."), ("\t", ","), ("\t", "."), (";", ".")]))
def test_written_table_is_read_back(tmp_path, counts, core, depth, marks):
    table = pd.concat([pd.DataFrame({"Core": [core], "depth_mm": [depth]}), pd.DataFrame([counts], columns=[str(i) for i in range(N)])], axis=1)
    table.to_csv(tmp_path / "t.csv", sep=marks[0], decimal=marks[1], index=False)
    got = read(tmp_path / "t.csv")
    assert got.counts.tolist() == [counts] and got.info["core"][0] == core and got.info["depth_mm"][0] == pytest.approx(depth)


# ---- laboratory tables

def lab(**columns): return pd.DataFrame(columns)


def test_two_columns_of_one_meaning():
    with pytest.warns(UserWarning, match="more than one column means 'core'; 'Core ID' is left"): got = read_labels(pd.DataFrame({"Core ID": ["x"], "core": ["A"], "TOC": [1]}))
    assert got["core"].tolist() == ["A"]


@pytest.mark.parametrize("text, message", [
    ("core;depth_mm;TOC\nA;1,5;0.3\n", "decimal marks of both kinds"), ("core;depth_mm\nA;1\n", "no column for any target"), ("core;TOC\nA;-999\n", "found -999"), ("core;TOC\nA;999\n", "expected -10 to 110 wt%"),
    ("core;TOC;TOC\nA;1;1\n", "more than once"), ("core;TOC\nA;1\nA;1;2\n", "line 3"), ("", "no table")])
def test_bad_laboratory_file(tmp_path, text, message):
    (tmp_path / "lab.csv").write_text(text)
    with pytest.raises(ValueError, match=message) as e: read_labels(tmp_path / "lab.csv")
    assert "lab.csv" in str(e.value)


def test_told_the_decimal_mark_both_kinds_are_read(tmp_path):
    (tmp_path / "lab.csv").write_text("core;depth_mm;TOC\nA;1,5;0.3\nA;2;0,4\n")
    got = read_labels(tmp_path / "lab.csv", decimal=",")
    assert got["depth_mm"].tolist() == [1.5, 2] and got["TOC"].tolist() == [0.3, 0.4]


def test_carbonate_by_difference_may_be_negative():
    assert read_labels(lab(core=["A"], CaCO3=[-0.8]))["CaCO3"].tolist() == [-0.8]


def test_named_targets():
    assert read_labels(lab(core=["A"], Ba=[700]), targets=["Ba"]).attrs["targets"] == ["Ba"]
    with pytest.raises(ValueError, match=r"no column for \['opal'\]"): read_labels(lab(core=["A"], TOC=[1]), targets=["TOC", "opal"])


def test_unit_of_a_depth_that_does_not_say():
    assert read_labels(lab(Depth=[1.5], TOC=[1]), depth_unit="cm")["depth_mm"].tolist() == [15]
    with pytest.raises(ValueError, match="depth_unit is 'inch'"): read_labels(lab(Depth=[1.5], TOC=[1]), depth_unit="inch")


# ---- the join

def test_join_by_depth(s):
    got = join_labels(s, pd.DataFrame({"Core": ["a", "A ", "B"], "Depth (cm)": [0.4, 2.1, 1.0], "CaCO3 (wt. %)": [10, 20, 30], "TOC(%)": [1.0, None, 3.0]}))
    assert got.info["CaCO3"].fillna(-1).tolist() == [10, -1, 20, -1, -1, 30, -1] and got.info["TOC"].notna().sum() == 2
    assert isinstance(got.report, Report) and (got.report["labels"]["status"] == "matched").all() and got.report["labels"]["distance_mm"].tolist() == [4, 1, 0]
    assert np.array_equal(got.counts, s.counts) and "TOC" not in s.info and s.report is None


def test_every_row_is_accounted_for(s):
    table = lab(core=["A", "A", "A", "C", "A", "A", "B", None], depth_mm=[0, 50, np.nan, 0, 10, 10, 8, 0], TOC=[1, 2, 3, 4, 5, np.nan, 7, 8])
    whole = join_labels(s, table).report
    report = whole["labels"]
    assert report["status"].tolist() == ["matched", "not matched", "not matched", "not matched", "matched", "no value", "matched", "not matched"]
    assert "20 mm away" in report["note"][1] and "no depth" in report["note"][2] and "'c' was not scanned" in report["note"][3]
    text = whole.summary(most=2)
    assert "8 samples of the laboratory table, 3 matched" in text and "... and 2 more kinds of remark" in text and "TOC of 3 spectra" in text


def test_near_and_equally_near_samples(s):
    got = join_labels(s, lab(core=list("AAAA"), depth_mm=[9, 11, 7, 26], TOC=[1, 2, 9, 4]))
    assert got.info["TOC"][1] == 1.5 and got.info["TOC"][3] == 4
    assert got.report["labels"]["status"].tolist() == ["matched", "matched", "not used", "matched"] and "mean of rows [0, 1]" in got.report["labels"]["note"][0]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("ABC"), st.floats(-20, 60), st.floats(0, 5)), min_size=1, max_size=12), st.floats(0, 30))
def test_join_against_the_slow_way(samples, tolerance):
    info = pd.DataFrame(dict(core=["A"] * 4 + ["B"] * 3, depth_mm=[0.0, 10, 20, 30, 0, 10, 20]))
    s, best = Spectra(np.ones((7, 3)), info, EnergyAxis(n_channels=3)), {}
    for core, depth, toc in samples:
        near = sorted((abs(d - depth), i) for i, (c, d) in enumerate(zip(info["core"], info["depth_mm"])) if c == core and abs(d - depth) <= tolerance + 1e-6)
        if near: best.setdefault(near[0][1], []).append((near[0][0], toc))
    wanted = {i: np.mean([t for d, t in found if np.isclose(d, min(found)[0])]) for i, found in best.items()}
    table = pd.DataFrame(samples, columns=["core", "depth_mm", "TOC"])
    if not wanted:
        with pytest.raises(ValueError, match="no laboratory value found its spectrum"): join_labels(s, table, tolerance_mm=tolerance)
        return
    got = join_labels(s, table, tolerance_mm=tolerance)
    assert got.info["TOC"].dropna().to_dict() == pytest.approx(wanted) and len(got.report["labels"]) == len(samples)


def test_one_core_needs_no_name(s):
    one = s[s.info["core"] == "A"]
    assert join_labels(one, lab(depth_mm=[10], TOC=[1])).info["TOC"][1] == 1
    bare = Spectra(one.counts, one.info[["depth_mm"]], one.axis)
    assert join_labels(bare, lab(core=["Z"], depth_mm=[10], TOC=[1])).info["TOC"][1] == 1
    assert join_labels(bare, lab(depth_mm=[10], TOC=[1])).info["TOC"][1] == 1
    with pytest.raises(ValueError, match="it has no column 'core', and there are 2 cores"): join_labels(s, lab(depth_mm=[10], TOC=[1]))
    with pytest.raises(ValueError, match="the spectra have no column 'core', and there are 2 cores"): join_labels(bare, lab(core=["A", "B"], depth_mm=[10, 0], TOC=[1, 2]))


def test_join_by_identifier(s):
    got = join_labels(s, lab(name=["x3", "x99", "X5"], TOC=[1, 2, 3]))
    assert got.info["TOC"].dropna().to_dict() == {3: 1, 5: 3} and "no spectrum has name 'x99'" in got.report["labels"]["note"][1]
    assert join_labels(s, lab(name=["x3"], depth_mm=[0], core=["A"], TOC=[1]), on="name").info["TOC"][3] == 1
    with pytest.raises(ValueError, match="'A' more than once"): join_labels(s, lab(core=["A"], TOC=[1]), on="core")
    with pytest.raises(ValueError, match="no column 'id'"): join_labels(s, lab(core=["A"], TOC=[1]), on="id")
    with pytest.raises(ValueError, match="nothing to join by"): join_labels(s, lab(core=["A"], TOC=[1]))


def test_numbers_as_names():
    s = Spectra(np.ones((2, 3)), pd.DataFrame(dict(core=[1, 2], depth_mm=[0, 0])), EnergyAxis(n_channels=3))
    assert join_labels(s, lab(core=["2"], depth_mm=[0], TOC=[1])).info["TOC"][1] == 1
    assert join_labels(s, lab(core=[2.0], depth_mm=[0], TOC=[1])).info["TOC"][1] == 1


def test_values_that_were_there_before(s):
    old = Spectra(s.counts, s.info.assign(TOC=[9.0, 8.0] + [np.nan] * 5), s.axis)
    got = join_labels(old, lab(core=["A", "B"], depth_mm=[0, 0], TOC=[1, 2]))
    assert got.info["TOC"].dropna().tolist() == [1, 8, 2] and "1 in place of earlier values" in got.report.summary()


def test_cells_that_are_no_numbers_are_listed(s):
    report = join_labels(s, lab(core=list("AAA"), depth_mm=[0, 10, 20], TOC=["<0.05", "0.3", "bdl"])).report["labels"]
    assert report["status"].tolist() == ["no value", "matched", "no value"] and "TOC is '<0.05', no number" in report["note"][0]


@pytest.mark.parametrize("tolerance", [-1, np.nan])
def test_bad_tolerance(s, tolerance):
    with pytest.raises(ValueError, match="tolerance_mm is"): join_labels(s, lab(core=["A"], depth_mm=[0], TOC=[1]), tolerance_mm=tolerance)


def test_depths_that_are_text(s):
    with pytest.raises(ValueError, match="info column 'depth_mm', row 0"): join_labels(Spectra(s.counts, s.info.assign(depth_mm="deep"), s.axis), lab(core=["A"], depth_mm=[0], TOC=[1]))


def test_nothing_matches_is_one_line(s):
    with pytest.raises(ValueError, match="no laboratory value found its spectrum") as e: join_labels(s, lab(core=["Q"], depth_mm=[0], TOC=[1]))
    assert "\n" not in str(e.value) and "'q' was not scanned" in str(e.value)


def test_from_file_with_commas(s, tmp_path):
    (tmp_path / "lab.csv").write_text("Core;Depth (cm);CaCO3 (wt. %);TOC(%)\nA;0,1;12,5;n.d.\nB;1,0;;0,4\n", encoding="cp1252")
    got = join_labels(s, tmp_path / "lab.csv")
    assert got.info["CaCO3"][0] == 12.5 and got.info["TOC"][5] == 0.4 and str(tmp_path / "lab.csv") in got.report.summary()


@pytest.mark.skipif(not REAL.exists(), reason="the real spectra are not here")
def test_real_file_whatever_its_name(tmp_path):
    shutil.copy(REAL, tmp_path / "scans.dat")
    s = read(tmp_path / "scans.dat")
    got = join_labels(s, lab(sample=s.info["sample"][:5], TOC=[1.0] * 5))
    assert (got.info["TOC"][:5] == 1).all() and (got.report["labels"]["status"] == "matched").all()
