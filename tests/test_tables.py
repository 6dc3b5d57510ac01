"""Text and workbooks as tables, headers, line areas: good files as users have them, and damaged ones."""
import zipfile
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, strategies as st

from max_nb import scanners, tables
from max_nb.tables import decode_text, existing_path, first_cells, head_lines, in_units, is_missing, is_workbook, load_table, looks_like_table, read_head, split_lines, standard_columns, standard_name, to_numbers

REAL = Path(__file__).parents[1] / "../shared/real/itrax"
GERMAN = "Core;Depth (cm);CaCO3 (wt. %)\nA;0,5;12,4\nA;1,5;n.d.\n"
RESULTS_HEADER = "filename\tposition (mm)\tsample surface\tvalidity\tE-gain\tE-offset\tcps\tMSE\tCa\tFe a*2\tMo inc\tDt\t\n"
RESULTS_ROW = "C:\\Data\\XRF data\\L0000{n:02d}.spe\t{x}\t6.47\t{valid}\t0.010267\t-0.009931\t44598\t1.71\t{ca}\t203\t25712\t0.101\t\n"
RESULTS = "C:\\Data\\CD166     06-Oct-20  re-evaluated data\npeakarea\n" + RESULTS_HEADER + RESULTS_ROW.format(n=0, x=10.5, valid=1, ca=207722) + RESULTS_ROW.format(n=1, x=11.5, valid=0, ca=0)
BAXIL = '" Spectrum" ," Sample" ," Live time" ," K -Ka Chi2" ," K -Ka Area" ," K -Ka AreaStd" ," Ca-Ka Area" ," Ca-Ka AreaStd" \na.spe , A , 10 , 0.9 , -12 , 70 , 52110 , 240\nb.spe , A , 10 , 0.9 , 33 , 71 , 60040 , 250\nb.spe , A , 10 , 0.9 , 33 , 71 , 60040 , 250\n'


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def workbook(path, change=lambda t: t, sheets=("10kv", "30kV")):
    table = pd.DataFrame({"Spectrum": ["C:\\x\\a.spe", "b.spe", "b2.spe"], "CoreID": ["SO264-09-2"] * 3, "SectionID": [7, 7, 7], "CoreDepth": [10.0, 20.0, 20.0], "CompositeDepth (mm)": [110.0, 120.0, None], "DateID": [43571.5] * 3,
                          "Throughput": [1, 2, 3], "K -Ka Chi2": 1.0, "K -Ka Area": [5, 6, 7], "Ca-Ka Area": [52110, 60040, -5], "Ca-Ka AreaStd ": [240, 251, 250]})
    with pd.ExcelWriter(path, engine="openpyxl") as book:
        for i, name in enumerate(sheets): change(table.assign(Throughput=i)).to_excel(book, sheet_name=name, index=False)
    return path


# ---- text

@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_text_of_any_encoding(encoding): assert decode_text("Kärn;µg\r\n1;2".encode(encoding)) == "Kärn;µg\r\n1;2"


def test_a_mark_in_front_of_what_is_no_utf_8_is_no_text(): assert decode_text(b"\xef\xbb\xbfK\xe4rn") == "Kärn"


@pytest.mark.parametrize("data", [b"\0", b"PAR1\0\0", b"a;b\n1;\0"])
def test_binary_is_no_text(data):
    with pytest.raises(ValueError, match=rf"a.csv: byte {data.index(0)} is zero, so it is a binary file; expected text"): decode_text(data, "a.csv")
    assert head_lines(data) == first_cells(data) == [] and not looks_like_table(data)


@given(st.binary(max_size=60))
def test_any_bytes_are_text_or_one_error(data):
    try: text = decode_text(data, "a.csv")
    except ValueError as e: assert str(e).startswith("a.csv: ") and head_lines(data) == []
    else: assert head_lines(data) == split_lines(text) and not any(end in line for line in split_lines(text) for end in "\r\n")
    assert isinstance(first_cells(data), list) and looks_like_table(data) in (True, False)


@pytest.mark.parametrize("separator", tables.SEPARATORS)
def test_first_cells_of_any_separator(separator): assert first_cells(("\n" + separator.join(["dirname", '"core"', "3"]) + "\n1").encode()) == ["dirname", "core", "3"]


def test_the_beginning_of_a_file(tmp_path):
    (tmp_path / "a.csv").write_bytes(bytes(tables.HEAD + 9))
    assert len(read_head(tmp_path / "a.csv")) == tables.HEAD and read_head(str(tmp_path / "a.csv"), 4) == b"\0\0\0\0"


# ---- tables

@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "cp1252"])
def test_a_table_of_any_encoding_and_line_end(tmp_path, end, encoding):
    table = load_table(write(tmp_path / "lab", GERMAN.replace("Core", "Körn").replace("\n", end).encode(encoding)))
    assert table.columns[0] == "Körn" and table["Depth (cm)"].tolist() == [0.5, 1.5] and table["CaCO3 (wt. %)"].isna().tolist() == [False, True] and table.attrs["decimal"] == ","


@pytest.mark.parametrize("content, says", [
    ("", "no table"), ("word", "no table"), (b"\0\1;", "binary file; expected text"), ("a;b\n1;2\n1;2;3\n", "line 3 of text has 3 cells; expected 2"), ("a;a\n1;2\n", "'a'.* more than once"),
    ("a;b\n1,5;2.5\n", "decimal marks of both kinds"), (b"PK\x03\x04torn", "starts as a workbook")])
def test_bad_table_is_named(tmp_path, content, says):
    path = write(tmp_path / "lab.csv", content)
    with pytest.raises(ValueError, match=says) as e: load_table(path)
    assert str(e.value).startswith(f"{path}: ") and str(e.value).count(str(path)) == 1


def test_workbook_and_text_are_one(tmp_path):
    pytest.importorskip("openpyxl")
    text = load_table(write(tmp_path / "lab.csv", GERMAN))
    text.to_excel(tmp_path / "lab.dat", index=False, engine="openpyxl")
    assert is_workbook(tmp_path / "lab.dat") and not is_workbook(tmp_path / "lab.csv") and not is_workbook(tmp_path / "none")
    pd.testing.assert_frame_equal(load_table(tmp_path / "lab.dat"), text, check_dtype=False)


def test_nothing_there(tmp_path):
    with pytest.raises(ValueError, match="none.csv: no such file or folder"): existing_path(tmp_path / "none.csv")
    assert existing_path(str(tmp_path)) == tmp_path


def test_numbers_and_gaps():
    cells = pd.Series(["1,5", " -2e1", "n.d.", "", "<0,1", None, 7, pd.Timestamp("2020-01-01")], dtype=object)
    assert to_numbers(cells, ",").fillna(-1).tolist() == [1.5, -20, -1, -1, -1, -1, 7, -1] and is_missing(cells).tolist() == [False, False, True, True, False, True, False, False]


# ---- headers

@pytest.mark.parametrize("header, name, factor", [
    ("CaCO3 (wt. %)", "CaCO3", 1), ("CaCO3 (wt.%)", "CaCO3", 1), ("CaCO3_wt%", "CaCO3", 1), ("CaCO3%", "CaCO3", 1), ("CaCO₃ [%]", "CaCO3", 1), ("caco3", "CaCO3", 1), ("wt% CaCO3", "CaCO3", 1), ("%TOC", "TOC", 1), ("TOC(%)", "TOC", 1),
    ("TOC (mg/g)", "TOC", 0.1), ("TOC [weight %]", "TOC", 1), ("Corg [%]", "TOC", 1), ("TC%", "TC", 1), (" Depth (cm) ", "depth_mm", 10), ("depth_cm", "depth_mm", 10), ("Depth [m]", "depth_mm", 1000), ("mid_depth_mm", "depth_mm", 1),
    ("Composite Depth (mm)", "depth_mm", 1), ("core", "core", 1), ("Core ID", "core", 1), ("CoreID", "core", 1), ("Depth", "Depth", 1), ("section_depth_mm", "section_depth_mm", 1), ("CaCO3_estimate", "CaCO3_estimate", 1),
    ("TOC error (%)", "TOC error (%)", 1), ("Fe", "Fe", 1), ("column", "column", 1), ("", "", 1), (3, "3", 1)])
def test_standard_names(header, name, factor): assert standard_name(header) == (name, factor)


def test_a_depth_that_does_not_say_its_unit():
    table, factors = standard_columns(pd.DataFrame({"Depth": [1.5], "TOC [mg/g]": [4]}), "lab.csv", "cm")
    assert list(table) == ["depth_mm", "TOC"] and factors == dict(depth_mm=10, TOC=0.1)
    with pytest.raises(ValueError, match="depth_unit is 'inch'"): standard_columns(table, "lab.csv", "inch")


def test_a_column_with_text_in_it_is_left_to_the_reader():
    table = in_units(pd.DataFrame({"Depth (cm)": [1.5, 2], "TOC [mg/g]": ["<1", "4"]}), "lab.csv")
    assert table["depth_mm"].tolist() == [15, 20] and table["TOC"].tolist() == ["<1", "4"]


def test_the_names_are_found_where_they_were(): assert scanners.read_areas is tables.read_areas and scanners.standard_name is standard_name


# ---- areas

def test_results_as_a_tidy_table(tmp_path):
    a = tables.read_areas(write(tmp_path / "r.txt", RESULTS))
    assert a["filename"].tolist() == ["L000000.spe", "L000001.spe"] and a["depth_mm"].tolist() == [10.5, 11.5] and a["valid"].tolist() == [True, False]
    assert a.attrs["lines"] == ["Ca", "Fe a*2", "Mo inc"] and list(a.columns[-3:]) == a.attrs["lines"] and a["Ca"][0] == 207722 and a.loc[1, a.attrs["lines"]].isna().all() and a["cps"].tolist() == [44598] * 2


def test_results_as_other_programs_write_them(tmp_path):
    kcps = tables.read_areas(write(tmp_path / "k.txt", RESULTS.replace("\tcps\t", "\tkcps\t").replace("44598", "44.598")))
    comma = tables.read_areas(write(tmp_path / "c.txt", RESULTS.replace("0.1", "0,1").replace("-0.0", "-0,0").replace("0.5\t", "0,5\t").replace("1.5\t", "1,5\t").replace("6.47", "6,47").replace("1.71", "1,71").replace("0.0", "0,0")))
    old = tables.read_areas(write(tmp_path / "o.txt", RESULTS.replace("\t\n", "\n").replace("\n", "\r\n")))
    for a in (kcps, comma, old):
        assert a["cps"].tolist() == [44598] * 2 and a["x_mm"].tolist() == [10.5, 11.5] and a["Ca"][0] == 207722
    twice = tables.read_areas(write(tmp_path / "b.txt", RESULTS.encode("utf-16")))
    assert len(twice) == 2


RESULTS_DAMAGE = {
    "no header": (RESULTS.replace(RESULTS_HEADER, ""), "no header"),
    "no rows": (RESULTS[: RESULTS.index(RESULTS_HEADER)] + RESULTS_HEADER, "no rows below the header"),
    "cut inside a row": (RESULTS[:-30], "line 5 has"),
    "a cell too many": (RESULTS.replace("\t203\t25712\t0.101\t\n", "\t203\t25712\t0.101\t9\n", 1), "line 4 has 13 cells; expected 12"),
    "unknown validity": (RESULTS.replace("6.47\t1\t", "6.47\t2\t"), "row 0, column 'validity': found '2'"),
    "validity empty": (RESULTS.replace("6.47\t1\t", "6.47\t\t"), "row 0, column 'validity': found ''"),
    "text in an area": (RESULTS.replace("207722", "2O7722"), "row 0, column 'Ca': found '2O7722'"),
    "infinite area": (RESULTS.replace("207722", "inf"), "row 0, column 'Ca': found 'inf'"),
    "no validity": (RESULTS.replace("validity", "vanity"), "no column for ['valid']"),
    "no position": (RESULTS.replace("position (mm)", "where"), "no column for ['x_mm']"),
    "an element twice": (RESULTS.replace("\tMo inc", "\tCa"), "the header has ['Ca'] more than once"),
    "both decimal marks": (RESULTS.replace("207722", "2077,22"), "decimal marks of both kinds"),
    "empty": ("", "expected an Itrax Results.txt"),
}


@pytest.mark.parametrize("content, says", RESULTS_DAMAGE.values(), ids=RESULTS_DAMAGE)
def test_results_damaged(tmp_path, content, says):
    path = write(tmp_path / "Results.txt", content)
    with pytest.raises(ValueError) as e: tables.read_areas(path)
    assert str(e.value).startswith(f"{path}: ") and says in str(e.value) and str(e.value).count(str(path)) == 1


def test_baxil(tmp_path):
    path = write(tmp_path / "batch.csv", BAXIL)
    a, error = tables.read_areas(path), tables.read_areas(path, "error")
    assert a["K Ka"].tolist() == [-12, 33, 33] and error["Ca Ka"].tolist() == [240, 250, 250] and a["flag_duplicate"].tolist() == [False, False, True] and a.attrs["lines"] == error.attrs["lines"] == ["K Ka", "Ca Ka"]
    assert a["filename"].tolist() == ["a.spe", "b.spe", "b.spe"] and a["live_s"].tolist() == [10] * 3 and tables.read_areas(path, "chi2").attrs["lines"] == ["K Ka"]
    german = tables.read_areas(write(tmp_path / "g.csv", BAXIL.replace(",", ";").replace("0.9", "0,9").replace("\n", "\r\n").encode("cp1252")))
    assert german["Ca Ka"].tolist() == a["Ca Ka"].tolist()


BAXIL_DAMAGE = {
    "no rows": (BAXIL.splitlines()[0], "no rows below the header"),
    "cut inside a row": (BAXIL[:-12], "line 4 has"),
    "a cell lost": (BAXIL.replace(" , 52110 , 240", " , 52110"), "line 2 has 7 cells; expected 8"),
    "text in an area": (BAXIL.replace("52110", "many"), "row 0, column 'Ca-Ka Area': found 'many'"),
    "a column twice": (BAXIL.replace("Ca-Ka AreaStd", "Ca-Ka Area"), "more than once"),
    "a line twice": (BAXIL.replace("Ca-Ka Area\"", "K-Ka Area\""), "a line stands in the header more than once"),
    "another table": ("core,depth\nA,1\n", "expected an Itrax Results.txt, a bAxil batch"),
    "binary": (b"\x00\x01\x02", "expected an Itrax Results.txt, a bAxil batch"),
}


@pytest.mark.parametrize("content, says", BAXIL_DAMAGE.values(), ids=BAXIL_DAMAGE)
def test_baxil_damaged(tmp_path, content, says):
    path = write(tmp_path / "batch.csv", content)
    with pytest.raises(ValueError) as e: tables.read_areas(path)
    assert str(e.value).startswith(f"{path}: ") and says in str(e.value)


def test_area_quantities(tmp_path):
    path = write(tmp_path / "batch.csv", BAXIL)
    with pytest.raises(ValueError, match="quantity is 'height'; expected one of"): tables.read_areas(path, "height")
    with pytest.raises(ValueError, match=r"batch.csv: no columns of 'cps'; found \['area', 'chi2', 'error'\]"): tables.read_areas(path, "cps")
    with pytest.raises(ValueError, match="expected quantity='area'"): tables.read_areas(write(tmp_path / "r.txt", RESULTS), "error")
    with pytest.raises(ValueError, match="no such file"): tables.read_areas(tmp_path / "none.csv")
    with pytest.raises(ValueError, match="found 'a folder'"): tables.read_areas(tmp_path)


def test_area_workbook(tmp_path):
    pytest.importorskip("openpyxl")
    a = tables.read_areas(workbook(tmp_path / "a.xlsx"))
    assert a["filename"].tolist() == ["a.spe", "b.spe", "b2.spe"] and a["depth_mm"].tolist()[:2] == [110, 120] and a["section"].tolist() == ["7"] * 3 and a["date"][0] == "2019-04-16T12:00:00" and (a["voltage_kv"] == 10).all()
    assert a["flag_duplicate"].tolist() == [False, False, True] and a["Ca Ka"].tolist() == [52110, 60040, -5] and a.attrs["lines"] == ["K Ka", "Ca Ka"] and (a["throughput"] == 0).all()
    assert (tables.read_areas(tmp_path / "a.xlsx", voltage_kv=30)["throughput"] == 1).all() and tables.read_areas(tmp_path / "a.xlsx", "error")["Ca Ka"].tolist() == [240, 251, 250]
    plain = tables.read_areas(workbook(tmp_path / "b.xlsx", lambda t: t.drop(columns="CompositeDepth (mm)").assign(DateID=pd.Timestamp("2019-04-16"))))
    assert plain["depth_mm"].tolist() == [10, 20, 20] and plain["flag_duplicate"].tolist() == [False, False, True] and "no composite depth" in plain.attrs["notes"][0] and plain["date"][0] in ("2019-04-16T00:00:00", None)  # None as long as `_to_numbers` turns dates into numbers


WORKBOOK_DAMAGE = {
    "no sheet of the voltage": (dict(sheets=("30kV", "50kV")), "found the sheets ['30kV', '50kV']; expected one of 10 kV"),
    "two sheets of the voltage": (dict(sheets=("10kV ", "10 kv")), "expected one of 10 kV"),
    "empty sheet": (dict(change=lambda t: t[:0]), "is empty"),
    "text in an area": (dict(change=lambda t: t.astype({"Ca-Ka Area": object}).assign(**{"Ca-Ka Area": ["x", 1, 2]})), "row 0, column 'Ca-Ka Area': found 'x'"),
    "no areas": (dict(change=lambda t: t.iloc[:, :5]), "no columns of 'area'"),
    "text for a depth": (dict(change=lambda t: t.astype({"CoreDepth": object}).assign(CoreDepth=["deep", 1, 2])), "column 'core_depth_mm': found 'deep'"),
}


@pytest.mark.parametrize("options, says", WORKBOOK_DAMAGE.values(), ids=WORKBOOK_DAMAGE)
def test_area_workbook_damaged(tmp_path, options, says):
    pytest.importorskip("openpyxl")
    path = workbook(tmp_path / "a.xlsx", **options)
    with pytest.raises(ValueError) as e: tables.read_areas(path)
    assert str(e.value).startswith(f"{path}: ") and says in str(e.value)


@pytest.mark.parametrize("name", ["xl/workbook.xml", "xl/worksheets/sheet1.xml"])
def test_area_workbook_damaged_inside(tmp_path, name):
    pytest.importorskip("openpyxl")
    with zipfile.ZipFile(workbook(tmp_path / "a.xlsx")) as old, zipfile.ZipFile(tmp_path / "b.xlsx", "w") as new:
        for part in old.namelist(): new.writestr(part, old.read(part)[: 200 if part == name else None])
    with pytest.raises(ValueError, match="b.xlsx: .*expected a whole .xlsx file"): tables.read_areas(tmp_path / "b.xlsx")
    (tmp_path / "cut.xlsx").write_bytes((tmp_path / "a.xlsx").read_bytes()[:900])
    with pytest.raises(ValueError, match="cut.xlsx: found"): tables.read_areas(tmp_path / "cut.xlsx")
    (tmp_path / "torn.xlsx").write_bytes((tmp_path / "a.xlsx").read_bytes().replace(b"PK\x01\x02", b"PK\x09\x09"))
    with pytest.raises(ValueError, match="torn.xlsx: .*expected"): tables.read_areas(tmp_path / "torn.xlsx")


@pytest.mark.skipif(not REAL.is_dir(), reason="no real files here")
def test_results_real():
    a = tables.read_areas(REAL / "CD166_19_S1_Results.txt")
    assert a.shape == (1283, 55) and (~a["valid"]).sum() == 51 and a.loc[~a["valid"], "Ca"].isna().all() and a.loc[a["filename"] == "L000676.spe", "Ca"].item() == 207722 and {"Fe a*2", "Mo inc", "Mo coh"} <= set(a.attrs["lines"])
