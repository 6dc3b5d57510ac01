"""A whole archive of Avaatech files, with its mess: what is read, at which depths, in which order, and what the report says of the rest."""
import warnings
import zipfile

import numpy as np
import pandas as pd
import pytest

from max_nb.scanners import Report, parse_avaatech, parse_avaatech_name, read, read_avaatech
from messy import START, counts_of, expected, old_name, older_name, spe_text, spectrum, write_archive

INFO = ["core", "section", "depth_mm", "section_top_mm", "x_mm", "y_mm", "run", "replicate", "voltage_kv", "current_ma", "live_s", "real_s", "cps", "date", "filename", "gain_kev", "offset_kev", "dead_time"]
WHY = [("other voltage", "kV"), ("superseded by rescan", "again|rescan|later"), ("superseded by overlap", "overlap|later"), ("damaged", "expected")]


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MAX_NB_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    folder = tmp_path_factory.mktemp("archive")
    return folder, write_archive(folder)


@pytest.fixture(scope="module")
def got(archive):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return read(archive[0])


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def check(spectra, wanted):
    "The spectra are those of the wanted rows, each with its depth, in order of core and depth."
    info = spectra.info.set_index("filename")
    assert spectra.info["filename"].is_unique and set(info.index) == set(wanted["filename"])
    found, wanted = info, wanted.set_index("filename").loc[info.index]
    for column in ["depth_mm", "section_top_mm", "x_mm", "voltage_kv"]: np.testing.assert_allclose(found[column].astype(float), wanted[column], atol=1e-6, err_msg=column)
    assert found["core"].tolist() == wanted["core"].tolist() and found["section"].astype(str).tolist() == wanted["section"].tolist()
    order = list(zip(found["core"], found["depth_mm"]))
    assert order == sorted(order)


# ---- one file

@pytest.mark.parametrize("variant", ["a", "b"])
@pytest.mark.parametrize("comma", [False, True])
@pytest.mark.parametrize("crlf", [False, True])
@pytest.mark.parametrize("per_line", [1, 10, 2048])
@pytest.mark.parametrize("bounds", [(0, 2047), (1, 2048)])
def test_one_text(variant, comma, crlf, per_line, bounds):
    counts = spectrum(7)
    found, info = parse_avaatech(spe_text(counts, variant, comma, crlf, bounds, per_line, x_mm=20.5, section="0048", cps=3988, live_s=10, real_s=12), "here")
    assert found.tolist() == counts.tolist() and found.dtype.kind == "i"
    assert (info["core"], str(info["section"]), info["run"], info["replicate"]) == ("SO264-09-2", "0048", 1, 0)
    assert (info["voltage_kv"], info["live_s"], info["real_s"]) == (10, 10, 12) and info["current_ma"] == pytest.approx(0.15) and pd.Timestamp(info["date"]) == START
    assert ("x_mm" in info) == ("cps" in info) == (variant == "a")
    if variant == "a": assert (info["x_mm"], info["y_mm"], info["slit_dc_mm"], info["slit_cc_mm"], info["cps"]) == (20.5, 0, 10, 12, 3988)


@pytest.mark.parametrize("drop, absent", [("x_mm", "x_mm"), ("cps", "cps"), ("voltage_kv", "voltage_kv"), ("current_ma", "current_ma"), ("live_s", "live_s"), ("date", "date"), ("core", "core"), ("section", "section"), ("run", "run"), ("user_id", "user_id")])
def test_a_record_without_a_value_is_not_there(drop, absent):
    counts, info = parse_avaatech(spe_text(spectrum(1), **{drop: None}), "here")
    assert absent not in info and len(counts) == 2048 and len(info) >= 10


def test_a_count_rate_of_zero_is_unknown(): assert "cps" not in parse_avaatech(spe_text(spectrum(1), cps=0), "here")[1]


def test_run_and_replicate_may_be_written_with_their_word():
    info = parse_avaatech(spe_text(spectrum(1), run="Run3", replicate="Rep2"), "here")[1]
    assert (info["run"], info["replicate"]) == (3, 2)


@pytest.mark.parametrize("name, wanted", [
    ("SO264-09-2_0000   10.0mm  10s  10kV 150uA No-Filter   0.0mm Run1 Rep0 Sett Low.spe", dict(core="SO264-09-2", section="0000", x_mm=10, y_mm=0, live_s=10, voltage_kv=10, current_ma=0.15, run=1, replicate=0)),
    ("LV28-44-3_0954 1000.0mm  12s  10kV 1200uA F1.spe", dict(core="LV28-44-3", section="0954", x_mm=1000, live_s=12, voltage_kv=10, current_ma=1.2)),
    ("MI18-L8-A!0!0!   2.0!2019-04-16!15-33-35!15!10!1500!2.0!0.0!No-Filter!2.0!6.0!Run1!Rep0!Sett Low.spe",
     dict(core="MI18-L8-A", section="0", x_mm=2, y_mm=0, live_s=15, voltage_kv=10, current_ma=1.5, run=1, replicate=0, slit_dc_mm=2, slit_cc_mm=6)),
    ("SO264-54-2_10430B  70,5mm 10s 10kV 150uA No-Filter 0,0mm Run2 Rep1 Sett Low.spe", dict(core="SO264-54-2", section="10430B", x_mm=70.5, y_mm=0, run=2, replicate=1)),
    ("SO264-09-2_00TC   10.0mm  10s  30kV 150uA Pd-Thin   0.0mm Run1 Rep0 Sett Low.SPE", dict(section="00TC", x_mm=10, voltage_kv=30)),
    ("GC-1_048 Y3.0mm X20.0mm DC10.0mm CC12.0mm 10s 10kV 150uA No-Filter Run1 Rep0 Sett Low.spe", dict(core="GC-1", section="048", x_mm=20, y_mm=3, slit_dc_mm=10, slit_cc_mm=12)),
    ("SO202-37-2_rescan_0048   10.0mm  10s  10kV 150uA No-Filter   0.0mm Run1 Rep0 Sett Low.spe", dict(core="SO202-37-2_rescan", section="0048", x_mm=10))])
def test_names(name, wanted):
    found = parse_avaatech_name(name)
    assert {k: str(found[k]) if k in ("core", "section") else found[k] for k in wanted} == pytest.approx(wanted)
    if "!" in name: assert pd.Timestamp(found["date"]) == pd.Timestamp("2019-04-16 15:33:35")


def test_what_an_older_name_does_not_say_is_not_there():
    found = parse_avaatech_name(older_name("A", "0954", 5))
    assert not {"y_mm", "run", "replicate", "date"} & set(found)


def test_header_over_name_and_name_where_the_header_is_silent(tmp_path):
    path = tmp_path / old_name("SO264-09-2", "0048", 20, kv=30)
    path.write_bytes(spe_text(spectrum(1), section="0048", x_mm=25.0, voltage_kv=10.0, y_mm=None))
    got = read(path)
    row = got.info.iloc[0]
    assert (row["x_mm"], row["voltage_kv"], row["depth_mm"], row["y_mm"]) == (25, 10, 505, 0) and got.counts[0].tolist() == spectrum(1).tolist()
    assert got.report.parts["files"]["note"].str.contains("name").all()


# ---- the archive

def test_exactly_the_kept_files_at_their_depths(archive, got):
    check(got, archive[1][archive[1]["kept"]])


def test_counts_are_those_of_the_files(archive, got):
    rows = archive[1].set_index("filename").loc[got.info["filename"]]
    assert all(np.array_equal(counts, counts_of(row)) for counts, row in zip(got.counts, rows.itertuples()))


def test_the_table_has_the_columns_agreed_on(got):
    flags = [c for c in got.info if str(c).startswith("flag_")]
    assert set(INFO) <= set(got.info.columns) and flags and all(got.info[c].isin([True, False]).all() for c in flags)
    assert got.info["current_ma"].isin([0.15]).mean() > 0.9 and got.info["dead_time"].dropna().between(0, 1).all()
    dates = got.info["date"].dropna()
    assert len(dates) == len(got) and dates.map(lambda d: isinstance(d, str)).all() and pd.to_datetime(dates).dt.year.isin([2018, 2019]).all()


def test_dates_and_runs(archive, got):
    rows = archive[1].set_index("filename").loc[got.info["filename"]]
    assert (pd.to_datetime(got.info["date"]).to_numpy() == rows["scanned"].to_numpy()).all() and (got.info["run"].astype(int).to_numpy() == rows["run"].to_numpy()).all()


def test_fitted_gains(archive, got):
    rows = archive[1].set_index("filename").loc[got.info["filename"]]
    assert (1000 * got.info["gain_kev"].to_numpy() == pytest.approx(rows["gain_ev"].to_numpy(), abs=0.1)) and got.info["offset_kev"].between(-0.03, 0.07).all()


def test_the_report_lists_every_file_once(archive, got):
    folder, truth = archive
    files = got.report.parts["files"].set_index("item")
    assert isinstance(got.report, Report) and sorted(files.index) == sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    assert set(files["status"]) == {"read", "left out", "failed"} and set(files.index[files["status"] == "read"]) == set(truth.loc[truth["kept"], "filename"])
    assert files["spectra"].tolist() == (files["status"] == "read").astype(int).tolist()
    assert (files.loc[files["status"] != "read", "note"].str.len() > 3).all() and set(files.loc[[c for c in truth.attrs["clutter"] if not c.endswith(".xlsx")], "status"]) == {"left out"}


@pytest.mark.parametrize("why, note", WHY)
def test_the_report_says_why(archive, got, why, note):
    files = got.report.parts["files"].set_index("item")
    rows = files.loc[archive[1].loc[archive[1]["why"] == why, "filename"]]
    assert len(rows) and (rows["status"] == ("failed" if why == "damaged" else "left out")).all() and rows["note"].str.contains(note).all() and not rows["note"].str.contains("\n").any()


def test_the_report_names_the_winner(archive, got):
    files = got.report.parts["files"].set_index("item")
    lost = archive[1].query("why == 'superseded by rescan' and core == 'SO264-54-2'")["filename"]
    assert files.loc[lost, "note"].str.contains("10430B").all()


def test_doubtful_files_have_a_remark(archive, got):
    files = got.report.parts["files"].set_index("item")["note"]
    truth = archive[1]
    apart = truth.query("core == 'SO264-09-2' and x_mm == 35")["filename"].item()
    stray = truth.query("core == 'SO264-69-1'")["filename"].item()
    assert "35" in files[apart] and "30" in files[apart] and "SO264-69-2" in files[stray]


def test_the_report_can_be_read_and_is_one_table(got):
    text, frame = str(got.report), got.report.to_frame()
    assert 5 < len(text) < 6000 and "read" in text and {"step", "item", "status", "note"} <= set(frame.columns) and (frame["step"] == "files").sum() == len(got.report.parts["files"])


# ---- options

@pytest.mark.parametrize("options", [dict(voltage_kv=10), dict(voltage_kv=30), dict(voltage_kv=None), dict(zero="x"), dict(zero="first"), dict(overlap="later"), dict(overlap="keep"), dict(voltage_kv=30, zero="first"),
                                     dict(section_unit="cm", overlap="keep"), dict(section_unit="mm", overlap="keep"), dict(section_unit="mm", overlap="keep", zero="first", voltage_kv=None)], ids=str)
def test_options(archive, options):
    folder, truth = archive
    check(read_avaatech(folder, **options), expected(truth, **options))


def test_options_pass_through_read(archive):
    check(read(archive[0], voltage_kv=30), expected(archive[1], 30))


@pytest.mark.parametrize("options, message", [(dict(zero="top"), "zero.*'top'.*expected"), (dict(overlap="earlier"), "overlap.*'earlier'.*expected"), (dict(section_unit="inch"), "section_unit.*'inch'.*expected"), (dict(voltage_kv="ten"), "voltage_kv.*'ten'.*expected"),
                                              (dict(voltage_kv=50), "(?=.*50)(?=.*expected)(?=.*10)(?=.*30)"), (dict(volt=10), "'volt'.*expected")])
def test_options_that_cannot_be(archive, options, message):
    with pytest.raises(ValueError, match=message) as e: read(archive[0], **options)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("seed", [1, 2])
def test_other_archives(tmp_path, seed):
    truth = write_archive(tmp_path, seed, n_cores=5)
    check(read(tmp_path), expected(truth))


def test_a_part_of_the_archive(archive):
    folder, truth = archive
    part = truth[truth["filename"].str.startswith("SO264-54-2/")]
    wanted = expected(part)
    check(read(folder / "SO264-54-2"), wanted.assign(filename=wanted["filename"].str.removeprefix("SO264-54-2/")))


def test_a_zip_of_it_reads_the_same(archive, got, tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as z:
        for path in sorted(archive[0].rglob("*"), reverse=True):
            if path.is_file(): z.write(path, path.relative_to(archive[0]).as_posix())
    again = read(tmp_path / "a.zip")
    assert np.array_equal(again.counts, got.counts) and again.info["filename"].tolist() == got.info["filename"].tolist() and again.info["depth_mm"].tolist() == got.info["depth_mm"].tolist()


def test_a_rescan_without_a_date_still_wins_by_its_folder(tmp_path):
    for folder, seed, date in [("A/Run 1 at  10kV", 1, START), ("A/Rescan_0048/Run 1 at  10kV", 2, None)]:
        path = tmp_path / folder / old_name("A", "0048", 10)
        path.parent.mkdir(parents=True)
        path.write_bytes(spe_text(spectrum(seed), core="A", section="0048", date=date))
    got = read(tmp_path)
    assert len(got) == 1 and got.info["filename"][0].startswith("A/Rescan") and got.counts[0].tolist() == spectrum(2).tolist()


def test_a_copy_of_a_file_is_read_once(tmp_path):
    for folder in ["A", "A/copy of Run 1"]:
        (tmp_path / folder).mkdir()
        (tmp_path / folder / old_name("A", "0048", 10)).write_bytes(spe_text(spectrum(1), core="A", section="0048"))
    got = read(tmp_path)
    assert len(got) == 1 and sorted(got.report.parts["files"]["status"]) == ["left out", "read"]


def test_an_archive_without_a_readable_file(tmp_path):
    (tmp_path / old_name("A", "0048", 10)).write_bytes(spe_text(spectrum(1))[:3000])
    with pytest.raises(ValueError, match="expected") as e: read(tmp_path)
    assert str(tmp_path) in str(e.value) and "\n" not in str(e.value) and len(str(e.value)) < 600
