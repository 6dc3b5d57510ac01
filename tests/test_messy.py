"""The archive that the readers are tested on: its layout, its rules, and that it is the same each time."""
import numpy as np
import pytest

from messy import LINES_KEV, counts_of, expected, new_name, old_name, older_name, section_top, spe_text, spectrum, write_archive


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    folder = tmp_path_factory.mktemp("messy")
    return folder, write_archive(folder)


def test_lines_stand_where_the_formats_notes_say():
    counts = np.arange(2048)
    lines = spe_text(counts, x_mm=30.0, cps=1234, crlf=False).decode().split("\n")
    assert (lines[13], lines[28], lines[48], lines[49].split()[:3]) == ("30.0", "1234", "0 2047", ["0", "1", "2"])
    lines = spe_text(counts, "b", crlf=False).decode().split("\n")
    assert lines[21] == "0 2047" and lines[22].split()[:3] == ["0", "1", "2"] and not any("X_Pos" in line or "CPS" in line for line in lines)
    assert spe_text(counts, "b", user_id=None, crlf=False).decode().split("\n")[19] == "0 2047"
    text = spe_text(counts, decimal_comma=True).decode()
    assert "\r\n10,0\r\n" in text and "0,150" in text and text.endswith("\r\n") and "\r\n0\r\n" not in text.split("$DATA:")[1]


def test_names_are_those_of_the_examples():
    assert old_name("SO264-09-2", "0000", 10) == "SO264-09-2_0000   10.0mm  10s  10kV 150uA No-Filter   0.0mm Run1 Rep0 Sett Low.spe"
    assert older_name("LV28-44-3", "0954", 1000) == "LV28-44-3_0954 1000.0mm  12s  10kV 1200uA F1.spe"
    name = new_name("MI18-L8-A", "0", 2, live=15, ua=1500, dc=2, cc=6)
    assert name == "MI18-L8-A!0!0!   2.0!2018-05-14!08-00-00!15!10!1500!2.0!0.0!No-Filter!2.0!6.0!Run1!Rep0!Sett Low.spe" and name.count("!") == 16
    assert "  " not in old_name("A", "0000", 10, pad=False) and "X10,0mm" in old_name("A", "0000", 10, prefix=True, comma=True)


@pytest.mark.parametrize("section, top", [("0000", 0), ("0048", 480), ("048", 480), ("010430", 10430), ("10430", 10430), ("10430B", 10430), ("00TC", 0), ("0", 0), ("01430", 1430)])
def test_section_tops(section, top): assert section_top(section) == top


@pytest.mark.parametrize("gain_ev", [20.0, 20.4])
def test_lines_stand_at_their_energies(gain_ev):
    counts = sum(spectrum(seed, gain_ev) for seed in range(20))
    for line in ["Si Ka", "Ca Ka", "Fe Ka"]:
        channel = round(1000 * LINES_KEV[line][0] / gain_ev) - 1
        assert abs(counts[channel - 15:channel + 16].argmax() - 15) <= 1
    assert counts[int(10_000 / gain_ev) + 1:].sum() == 0 and spectrum(0, voltage_kv=30)[600:].sum() > 0


def test_the_same_seed_gives_the_same_bytes(archive, tmp_path):
    folder, truth = archive
    assert write_archive(tmp_path / "again").equals(truth)
    assert all((tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes() for name in [*truth["filename"], *truth.attrs["clutter"]])
    assert not write_archive(tmp_path / "other", seed=1)["seed"].isin(truth["seed"]).any()


def test_the_table_has_a_row_for_every_file(archive):
    folder, truth = archive
    assert {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()} == {*truth["filename"], *truth.attrs["clutter"]} and truth["filename"].is_unique
    assert len(truth) < 250 and set(truth["why"]) == {"", "other voltage", "superseded by rescan", "superseded by overlap", "damaged"} and (truth["kept"] == (truth["why"] == "")).all()
    assert sum(p.is_dir() and not any(p.iterdir()) for p in folder.rglob("*")) == 1


@pytest.mark.parametrize("seed", range(2))
def test_what_is_kept_agrees_with_the_rules(tmp_path, seed):
    truth = write_archive(tmp_path, seed)
    assert expected(truth).sort_values("filename")["filename"].tolist() == truth.loc[truth["kept"], "filename"].tolist()
    assert expected(truth, 30).sort_values("filename")["filename"].tolist() == truth.loc[(truth["voltage_kv"] == 30) & (truth["lost"] == ""), "filename"].tolist()
    assert expected(truth, None)["filename"].nunique() == len(expected(truth)) + len(expected(truth, 30))
    kept = expected(truth, overlap="keep")
    assert set(truth.loc[truth["why"] == "superseded by overlap", "filename"]) == set(kept["filename"]) - set(expected(truth)["filename"])
    for options in [dict(), dict(zero="first")]:
        depths = expected(truth, **options).groupby("core")["depth_mm"]
        assert (depths.apply(lambda d: d.diff().min()).dropna() > 0).all()


def test_mess_is_there(archive):
    folder, truth = archive
    read = lambda row: (folder / row.filename).read_bytes()
    assert truth.set_index("filename")["depth_mm"].sort_values().index.tolist() != truth["filename"].tolist()
    assert {"SO264-09-2 TC", "SO264-69-1", "LV28-44-3", "MI18-L8-A"} <= set(truth["core"]) and {"10430B", "0048", "048", "011430"} <= set(truth["section"])
    assert {b"\r\n" in read(row) for row in truth.itertuples()} == {True, False} and {b"$X_Position:" in read(row) for row in truth.itertuples()} == {True, False}
    assert {0, 2, 5, 7, 10, 70} <= set(truth.groupby(["core", "section"])["x_mm"].min()) and {True, False} == {"!" in name for name in truth["filename"]}
    lying = truth[truth["filename"].str.contains("at  50kV")]
    assert (lying["voltage_kv"] == 10).all() and lying["kept"].all()
    row = truth.query("kept and core == 'SO264-54-2'").iloc[0]
    assert [int(c) for c in read(row).decode().split("$DATA:")[1].split()[2:]] == counts_of(row).tolist()


def test_a_plain_archive(tmp_path):
    truth = write_archive(tmp_path, mess=False, n_cores=2)
    assert len(truth) == 20 and truth["kept"].all() and truth.attrs["clutter"] == []
