"""Damage: files and trees that are broken, odd or hostile. Each one reads right, or gives one clear error; none harms its neighbours."""
import contextlib
import io
import os
import shutil
import signal
import sys
import tempfile
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from max_nb.scanners import parse_avaatech, read
from messy import counts_of, expected, old_name, spe_text, spectrum, write_archive

NAME, GOOD_NAME = old_name("SO264-09-2", "0048", 20), old_name("SO264-09-2", "0048", 30)
COUNTS = spectrum(1)
ITRAX = Path(__file__).parents[1] / "../shared/real/itrax/L000676.spe"


def made(**header): return spe_text(COUNTS, **dict(section="0048", x_mm=20.0) | header)


GOOD, OTHER = made(), made(x_mm=30.0)
HEAD, DATA = GOOD.split(b"$DATA:")


def swap(old, new): # a good file with one piece of text replaced
    assert GOOD.count(old) == 1
    return GOOD.replace(old, new)


def cells(at, cell): # a good file with one count replaced by a text
    return spe_text([*COUNTS[:at], cell, *COUNTS[at + 1:]], section="0048", x_mm=20.0)


@contextlib.contextmanager
def within(seconds):
    "Stop what hangs."
    def late(*_): raise TimeoutError(f"not done after {seconds} s")
    if not hasattr(signal, "SIGALRM"): yield; return
    before = signal.signal(signal.SIGALRM, late)
    left, _ = signal.setitimer(signal.ITIMER_REAL, seconds)
    try: yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, left)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture(autouse=True)
def quiet_and_quick():
    with warnings.catch_warnings(), within(30):
        warnings.simplefilter("error")
        yield


@pytest.fixture(autouse=True)
def temporary(tmp_path_factory, monkeypatch):
    "A temporary folder of the test's own, two levels deep, so that what escapes from it is seen; and a cache of its own."
    monkeypatch.setenv("MAX_NB_CACHE", str(tmp_path_factory.mktemp("cache")))
    deep = tmp_path_factory.mktemp("temporary") / "one" / "two"
    deep.mkdir(parents=True)
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    yield deep.parents[1]
    assert [p for p in deep.parents[1].rglob("*") if not p.is_dir()] == []


def complaint(path, **options):
    "The one error that reading gives: the file's name, what was expected, one line."
    with pytest.raises(ValueError) as e: read(path, **options)
    text = str(e.value)
    assert path.name in text and "expected" in text and "\n" not in text and len(text) < 400
    return text


def beside_a_good_one(tree, name):
    "Read a tree in which the file `name` lies beside a good one; the row of the report on it."
    (tree / "good").mkdir(exist_ok=True)
    (tree / "good" / GOOD_NAME).write_bytes(OTHER)
    got = read(tree)
    assert got.info["filename"].tolist() == [f"good/{GOOD_NAME}"] and got.counts.tolist() == [COUNTS.tolist()]
    frame = got.report.to_frame().query("step == 'files'").set_index("item")
    assert frame.index.is_unique and frame.loc[f"good/{GOOD_NAME}", "status"] == "read"
    return frame.loc[name] if name in frame.index else None


def listed(row):
    assert row is not None and row["status"] in ("failed", "left out") and row["spectra"] == 0 and len(row["note"]) > 3 and "\n" not in row["note"]


# ---- files that read right

TOLERATED = {
    "as it should be": GOOD,
    "LF": made().replace(b"\r\n", b"\n"),
    "CR alone": made().replace(b"\r\n", b"\r"),
    "mixed line ends": HEAD + b"$DATA:" + DATA.replace(b"\r\n", b"\n"),
    "a byte order mark": b"\xef\xbb\xbf" + GOOD,
    "cp1252 in a value": swap(b"Operator", "Jürgen".encode("cp1252")),
    "utf-8 in a value": swap(b"Operator", "Jürgen µ 中".encode()),
    "channels from 1": made(bounds=(1, 2048)),
    "one count a line": made(per_line=1),
    "all counts in a line": made(per_line=2048),
    "tabs between counts": HEAD + b"$DATA:" + DATA.replace(b"    ", b"\t"),
    "blank lines everywhere": GOOD.replace(b"\r\n", b"\r\n\r\n"),
    "no blank lines": GOOD.replace(b"\r\n\r\n", b"\r\n"),
    "blanks after keys and values": b"\r\n".join(line + b"  " for line in GOOD.split(b"\r\n")),
    "no line end at the end": GOOD.rstrip(),
    "blank lines at the end": GOOD + b"\r\n \r\n\t\r\n",
    "a key twice with one value": swap(b"$Y_Position:", b"$X_Position:\r\n20.0\r\n\r\n$Y_Position:"),
    "unknown keys": swap(b"$Y_Position:", b"$Colour:\r\ngrey\r\n\r\n$Y_Position:"),
    "an unknown key after the counts": GOOD + b"$ROI:\r\n0\r\n",
    "lower-case keys": swap(b"$X_Position:", b"$x_position:").replace(b"$DATA:", b"$data:"),
    "a key without its value": swap(b"\r\n20.0\r\n", b"\r\n\r\n"),
    "a header without voltage": made(voltage_kv=None),
    "a header without position": made(x_mm=None),
    "an older header": made(variant="b"),
    "decimal commas": made(decimal_comma=True),
    "more than one token": swap(b"10.0\r\n\r\n$TUBE_CUR:", b"10.0 kV 3\r\n\r\n$TUBE_CUR:"),
    "keys in another order": b"\r\n".join([b"$ACC_VOLT:", b"10", b"$X_Position:", b"20", b"$Section_ID:", b"0048", b"$Core_ID:", b"SO264-09-2", b"$DATA:"]) + DATA,
    "a live time of 0": made(live_s=0),
    "live time above real time": made(live_s=14, real_s=12),
    "an impossible date": made(date="13-45-2018 99:00:00"),
    "a date in words": made(date="yesterday"),
    "a long value": made(user_id="x" * 100_000),
    "a value that looks like a key": made(user_id="$money"),
}


@pytest.mark.parametrize("data", TOLERATED.values(), ids=TOLERATED)
def test_odd_and_right(data, tmp_path):
    (tmp_path / NAME).write_bytes(data)
    got = read(tmp_path / NAME)
    row = got.info.iloc[0]
    assert got.counts.tolist() == [COUNTS.tolist()] and (row["core"], str(row["section"])) == ("SO264-09-2", "0048") and (row["x_mm"], row["depth_mm"], row["voltage_kv"]) == (20, 500, 10)
    (tmp_path / GOOD_NAME).write_bytes(OTHER)
    assert read(tmp_path).info["depth_mm"].tolist() == [500, 510]


@pytest.mark.parametrize("date", ["13-45-2018 99:00:00", "yesterday", "00-00-0000 00:00:00"])
def test_a_date_that_is_none_is_missing(date, tmp_path):
    (tmp_path / NAME).write_bytes(made(date=date))
    got = read(tmp_path / NAME)
    assert pd.isna(got.info["date"][0]) and "date" in got.report.parts["files"]["note"].item().lower()


def test_letters_of_other_languages_in_the_core(tmp_path):
    for folder, encoding in [("a", "utf-8"), ("b", "cp1252")]:
        (tmp_path / folder).mkdir()
        path = tmp_path / folder / old_name("Kärn-1", "0048", 20)
        path.write_bytes(made(core="Kärn-1", encoding=encoding))
        assert read(path).info["core"].tolist() == ["Kärn-1"]


def test_a_name_of_bytes_that_are_not_utf_8(tmp_path):
    path = tmp_path / os.fsdecode(NAME.replace("SO264-09-2", "Kärn").encode("cp1252"))
    try: path.write_bytes(GOOD)
    except (OSError, UnicodeError): pytest.skip("such names cannot be made here")
    for got in [read(path), read(tmp_path)]:
        assert got.info["depth_mm"].tolist() == [500] and got.info["filename"][0].encode("utf-8") and str(got.report).encode("utf-8")
    path.write_bytes(GOOD[:5000])
    with pytest.raises(ValueError, match="expected") as e: read(path)
    assert str(e.value).encode("utf-8")


def test_large_counts(tmp_path):
    (tmp_path / NAME).write_bytes(cells(5, 2**40))
    assert read(tmp_path / NAME).counts[0, 5] == 2**40


def test_empty_spectrum(tmp_path):
    (tmp_path / NAME).write_bytes(spe_text(np.zeros(2048, int), section="0048", x_mm=20.0))
    got = read(tmp_path / NAME)
    assert got.counts.sum() == 0 and (got.info["gain_kev"][0], got.info["offset_kev"][0]) == (0.02, 0.02)


def test_another_number_of_channels(tmp_path):
    (tmp_path / NAME).write_bytes(spe_text(COUNTS[:1024], section="0048", x_mm=20.0))
    got = read(tmp_path / NAME)
    assert got.counts.tolist() == [COUNTS[:1024].tolist()] and got.axis.n_channels == 1024


# ---- files that cannot be read

ODD_CELLS = ["NaN", "nan", "inf", "-1", "-0.5", "12.5", "12,5", "0x1F", "1_000", "1e3x", "abc", "1-2", "--", "9" * 30, "1e400", "12\x00", "\ufeff7", "$"]
BROKEN = {f"count {cell!r}"[:40]: cells(1000, cell) for cell in ODD_CELLS} | {
    "empty": b"",
    "blanks": b" \r\n\t\r\n" * 50,
    "a null byte": b"\0",
    "nulls only": bytes(20_000),
    "binary": np.random.default_rng(0).bytes(20_000),
    "binary behind a good header": HEAD + b"$DATA:\r\n0 2047\r\n" + np.random.default_rng(1).bytes(8192),
    "cut in the header": GOOD[:100],
    "cut in a key": GOOD[:GOOD.index(b"$MEAS_TIM:") + 5],
    "cut after $DATA:": HEAD + b"$DATA:",
    "cut after the bounds": HEAD + b"$DATA:\r\n0 2047\r\n",
    "cut in the counts": GOOD[:len(GOOD) * 2 // 3],
    "cut before the last count": GOOD.rstrip().rsplit(b" ", 1)[0],
    "nulls at the end, as after a crash": GOOD[:8000] + bytes(4096),
    "no $DATA:": HEAD + DATA,
    "$DATA: twice": GOOD + b"$DATA:" + DATA,
    "no bounds": HEAD + b"$DATA:\r\n" + DATA.split(b"\r\n", 2)[2],
    "one bound": swap(b"0 2047\r\n", b"2047\r\n"),
    "bounds of words": swap(b"0 2047\r\n", b"first last\r\n"),
    "bounds reversed": made(bounds=(2047, 0)),
    "bounds absurd": made(bounds=(0, 999_999_999)),
    "bounds beyond all numbers": made(bounds=(0, "9" * 40)),
    "bounds negative": made(bounds=(-2048, -1)),
    "bounds with fractions": made(bounds=("0.0", "2047.5")),
    "one channel": spe_text([5]),
    "fewer counts": spe_text(COUNTS[:-8], bounds=(0, 2047)),
    "more counts": spe_text([*COUNTS, 1], bounds=(0, 2047)),
    "one count missing": spe_text(COUNTS[:-1], bounds=(1, 2048)),
    "words after the counts": GOOD + b"end of file\r\n",
    "numbers after the counts": GOOD + b"1 2 3\r\n",
    "two files in one": GOOD + OTHER,
    "a million tokens": HEAD + b"$DATA:\r\n0 2047\r\n" + b"1 " * 1_000_000,
    "a token of a million digits": HEAD + b"$DATA:\r\n0 2047\r\n" + b"1" * 1_000_000,
    "position is text": swap(b"\r\n20.0\r\n", b"\r\nabc\r\n"),
    "position is NaN": swap(b"\r\n20.0\r\n", b"\r\nNaN\r\n"),
    "position is infinite": swap(b"\r\n20.0\r\n", b"\r\n1e999\r\n"),
    "position has two marks": swap(b"\r\n20.0\r\n", b"\r\n1.020,5\r\n"),
    "voltage is text": swap(b"10.0\r\n\r\n$TUBE_CUR:", b"ten\r\n\r\n$TUBE_CUR:"),
    "voltage is negative": made(voltage_kv=-10.0),
    "voltage is 0": made(voltage_kv=0.0),
    "a key twice with two values": swap(b"$Y_Position:", b"$X_Position:\r\n25.0\r\n\r\n$Y_Position:"),
    "every other line lost": b"\r\n".join(GOOD.split(b"\r\n")[::2]),
    "a web page": b"<!DOCTYPE html><html><body>$Core_ID: not found</body></html>",
    "a pointer to a large file": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
}


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN)
def test_broken(data, tmp_path):
    (tmp_path / NAME).write_bytes(data)
    with within(5): complaint(tmp_path / NAME)
    with within(5): listed(beside_a_good_one(tmp_path, NAME))


@pytest.mark.parametrize("kind, wanted", [("fewer counts", ["2040", "2048"]), ("more counts", ["2049", "2048"]), ("bounds absurd", ["999999999", "2048"]), ("position is text", ["X_Position", "abc"]), ("voltage is text", ["ACC_VOLT", "ten"]),
                                          ("count '-1'", ["-1", "1000"]), ("count 'abc'", ["abc", "1000"]), ("count '12,5'", ["12,5", "1000"]), ("bounds of words", ["first last"]), ("a key twice with two values", ["X_Position", "20", "25"])])
def test_the_error_says_what_was_found(kind, wanted):
    with pytest.raises(ValueError) as e: parse_avaatech(BROKEN[kind], "some/where.spe")
    assert all(word in str(e.value) for word in ["some/where.spe", "expected", *wanted])


# ---- files of which either is fair, but not a wrong spectrum nor another kind of error

EITHER = {
    "UTF-16": GOOD.decode().encode("utf-16"),
    "UTF-16 without a mark": GOOD.decode().encode("utf-16-le"),
    "a key without its colon": swap(b"$X_Position:", b"$X_Position"),
    "key and value on a line": GOOD.replace(b":\r\n", b": "),
    "a blank before the keys": GOOD.replace(b"$", b" $"),
    "a header of 10 MB": made(user_id="x" * 10_000_000),
    "100,000 keys": swap(b"$Y_Position:", b"".join(b"$K%d:\r\n1\r\n" % i for i in range(100_000)) + b"$Y_Position:"),
    "counts with a point and nothing behind": made().replace(b" 0\r\n", b" 0.\r\n"),
    "counts with .0": spe_text([f"{c}.0" for c in COUNTS], section="0048", x_mm=20.0),
    "digits of another script": cells(3, "".join(chr(0x660 + int(d)) for d in str(COUNTS[3]))),
    "a plus sign": cells(3, f"+{COUNTS[3]}"),
    "a negative live time": made(live_s=-10),
    "live time is text": swap(b"10 12\r\n", b"ten twelve\r\n"),
    "one time only": swap(b"10 12\r\n", b"10\r\n"),
    "a null byte in a value": swap(b"Operator", b"Oper\0ator"),
    "a form feed in the data": HEAD + b"$DATA:" + DATA.replace(b"\r\n", b"\x0c\r\n", 5),
    "a substitute character at the end": GOOD + b"\x1a",
    "behind a line of its own": b"Avaatech\r\n" + GOOD,
}


@pytest.mark.parametrize("data", EITHER.values(), ids=EITHER)
def test_fair_either_way(data, tmp_path):
    (tmp_path / NAME).write_bytes(data)
    with within(5):
        try: got = read(tmp_path / NAME)
        except ValueError: complaint(tmp_path / NAME); listed(beside_a_good_one(tmp_path, NAME)); return
    row = got.info.iloc[0]
    assert got.counts.tolist() == [COUNTS.tolist()] and (row["core"], row["depth_mm"], row["voltage_kv"]) == ("SO264-09-2", 500, 10)
    assert not row["live_s"] < 0


@pytest.mark.parametrize("name", ["x.spe", "no extension", "scan.txt", "SO264-09-2.spe", "1.spe", "!!!!!!!!!!!!!!!!.spe", "_.spe", "mm.spe", "Ω_0048  20.0mm 10s 10kV 150uA.spe", "-rf.spe", "x" * 200 + ".spe", " .spe", "a\tb.spe", "%s{0}.spe", "[a-z]*.spe"])
def test_names_that_say_nothing(name, tmp_path):
    (tmp_path / name).write_bytes(made(y_mm=0.0))
    row = read(tmp_path / name).info.iloc[0]
    assert (row["core"], row["depth_mm"], row["voltage_kv"], row["run"]) == ("SO264-09-2", 500, 10, 1)
    (tmp_path / name).write_bytes(GOOD[:-200])
    complaint(tmp_path / name)


@pytest.mark.parametrize("data", [made(x_mm=None), made(section=None), made(core=None), made(section="ABC"), made(section="1" * 25), made(voltage_kv=None)], ids=["no position", "no section", "no core", "section of letters", "section of 25 digits", "no voltage"])
def test_what_neither_header_nor_name_tells_is_missing_or_complained_of(data, tmp_path):
    (tmp_path / "x.spe").write_bytes(data)
    try: got = read(tmp_path / "x.spe")
    except ValueError: complaint(tmp_path / "x.spe"); return
    assert got.counts.tolist() == [COUNTS.tolist()]
    if data != made(voltage_kv=None): assert pd.isna(got.info["depth_mm"][0]) or got.info["depth_mm"][0] >= 1e20 or data == made(core=None)
    assert got.report.to_frame()["note"].fillna("").str.len().max() > 3


# ---- trees

@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / NAME)
    with within(5):
        row = beside_a_good_one(tmp_path, NAME)
        if row is not None: listed(row)
        complaint(tmp_path / NAME)


def link(path, target):
    try: path.symlink_to(target)
    except OSError: pytest.skip("no symbolic links here")


def test_a_broken_link(tmp_path):
    link(tmp_path / NAME, tmp_path / "gone.spe")
    row = beside_a_good_one(tmp_path, NAME)
    if row is not None: listed(row)
    with pytest.raises(ValueError, match="no such file|expected"): read(tmp_path / NAME)


@pytest.mark.parametrize("target", ["..", ".", "loop.spe"])
def test_a_loop_of_links(tmp_path, target):
    link(tmp_path / "loop.spe", target)
    row = beside_a_good_one(tmp_path, "loop.spe")
    if row is not None: listed(row)


def test_a_link_to_a_good_file(tmp_path):
    (tmp_path / "tree").mkdir()
    (tmp_path / NAME).write_bytes(GOOD)
    link(tmp_path / "tree" / NAME, tmp_path / NAME)
    assert read(tmp_path / "tree" / NAME).info["depth_mm"].tolist() == [500]


def test_a_folder_named_like_a_file(tmp_path):
    (tmp_path / NAME).mkdir()
    (tmp_path / NAME / "inside.spe").write_bytes(made(x_mm=40.0))
    (tmp_path / GOOD_NAME).write_bytes(OTHER)
    assert read(tmp_path).info["depth_mm"].tolist() == [510, 520]
    (tmp_path / NAME / "inside.spe").unlink()
    assert read(tmp_path).info["depth_mm"].tolist() == [510]
    with pytest.raises(ValueError, match="expected"): read(tmp_path / NAME)


@pytest.mark.skipif(sys.platform == "win32" or getattr(os, "geteuid", lambda: 1)() == 0, reason="permissions do not bind here")
def test_permission_denied(tmp_path):
    (tmp_path / NAME).write_bytes(GOOD)
    (tmp_path / NAME).chmod(0)
    complaint(tmp_path / NAME)
    listed(beside_a_good_one(tmp_path, NAME))


@pytest.mark.skipif(sys.platform == "win32" or getattr(os, "geteuid", lambda: 1)() == 0, reason="permissions do not bind here")
def test_a_closed_folder(tmp_path):
    (tmp_path / "closed").mkdir()
    (tmp_path / "closed" / NAME).write_bytes(GOOD)
    (tmp_path / "closed").chmod(0)
    try: beside_a_good_one(tmp_path, f"closed/{NAME}")
    finally: (tmp_path / "closed").chmod(0o700)


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), FileNotFoundError(2, "No such file or directory"), OSError(5, "Input/output error"), OSError(116, "Stale file handle")], ids=lambda e: type(e).__name__ + str(e.errno))
def test_a_file_that_cannot_be_opened(error, tmp_path, monkeypatch):
    "A file may vanish, or a disk fail, between listing and reading."
    (tmp_path / NAME).write_bytes(GOOD)
    def failing(real):
        def fake(file, *args, **options):
            if not isinstance(file, int) and Path(os.fsdecode(file)).name == NAME: raise type(error)(error.errno, error.strerror, str(file))
            return real(file, *args, **options)
        return fake
    for place, real in {"builtins.open": io.open, "io.open": io.open, "os.open": os.open}.items(): monkeypatch.setattr(place, failing(real))
    listed(beside_a_good_one(tmp_path, NAME))
    complaint(tmp_path / NAME)


def test_two_numbers_of_channels(tmp_path):
    (tmp_path / NAME).write_bytes(spe_text(COUNTS[:1024], section="0048", x_mm=20.0))
    (tmp_path / old_name("SO264-09-2", "0048", 40)).write_bytes(made(x_mm=40.0))
    (tmp_path / GOOD_NAME).write_bytes(OTHER)
    got = read(tmp_path)
    files = got.report.parts["files"].set_index("item")
    assert got.info["depth_mm"].tolist() == [510, 520] and got.counts.shape == (2, 2048)
    assert files.loc[NAME, "status"] in ("left out", "failed") and "1024" in files.loc[NAME, "note"] and "2048" in files.loc[NAME, "note"]


@pytest.mark.skipif(not ITRAX.exists(), reason="no Itrax file at hand")
def test_two_instruments_in_one_tree(tmp_path):
    (tmp_path / NAME).write_bytes(GOOD)
    shutil.copy(ITRAX, tmp_path / "L000676.spe")
    try: got = read(tmp_path)
    except ValueError as e: assert "expected" in str(e) and "\n" not in str(e) and len(str(e)) < 400; return
    row = got.report.to_frame().query("item == 'L000676.spe' and step == 'files'").iloc[0]
    assert COUNTS.tolist() in got.counts.tolist() and (row["status"] == "read" or len(row["note"]) > 3)


def test_many_bad_files_and_one_good(tmp_path):
    for i, data in enumerate(BROKEN.values()): (tmp_path / f"{i}.spe").write_bytes(data)
    row = beside_a_good_one(tmp_path, "0.spe")
    listed(row)
    files = read(tmp_path).report.parts["files"]
    assert len(files) == len(BROKEN) + 1 and (files["status"] == "read").sum() == 1
    assert len(str(read(tmp_path).report)) < 20_000


def test_only_bad_files(tmp_path):
    for i, data in enumerate(BROKEN.values()): (tmp_path / f"{i}.spe").write_bytes(data)
    with pytest.raises(ValueError, match="expected") as e: read(tmp_path)
    assert str(tmp_path) in str(e.value) and "\n" not in str(e.value) and len(str(e.value)) < 600


def test_deep_and_long_paths(tmp_path):
    folder = tmp_path.joinpath(*["Run 1 at  10kV äöü 中"] * 12, "d" * 200)
    try: folder.mkdir(parents=True); (folder / NAME).write_bytes(GOOD)
    except OSError: pytest.skip("paths so long cannot be made here")
    got = read(tmp_path)
    assert got.info["filename"].tolist() == [(folder / NAME).relative_to(tmp_path).as_posix()] and got.info["depth_mm"].tolist() == [500]


# ---- zips

def zipped(path, members): # {name: bytes} or [(name, bytes)]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as z, warnings.catch_warnings():
        warnings.simplefilter("ignore") # of names that stand twice
        for name, data in members.items() if isinstance(members, dict) else members: z.writestr(name, data)
    return path


def either(path):
    "Read, or one clear error; None for the error."
    try: return read(path)
    except ValueError: complaint(path)


def test_zip_of_a_good_tree(tmp_path):
    truth = write_archive(tmp_path / "a", n_cores=1)
    path = zipped(tmp_path / "a.zip", {p.relative_to(tmp_path / "a").as_posix(): p.read_bytes() for p in (tmp_path / "a").rglob("*") if p.is_file()})
    got = read(path)
    wanted = expected(truth)
    assert got.info["filename"].tolist() == wanted["filename"].tolist() and got.info["depth_mm"].tolist() == pytest.approx(wanted["depth_mm"].tolist())
    assert all(np.array_equal(counts, counts_of(row)) for counts, row in zip(got.counts, wanted.itertuples())) and len(got.report.parts["files"]) == len(truth) + len(truth.attrs["clutter"])


def test_zip_with_another_ending(tmp_path): assert read(zipped(tmp_path / "archive.bin", {NAME: GOOD})).info["depth_mm"].tolist() == [500]


@pytest.mark.parametrize("evil", ["../escaped.spe", "../../escaped.spe", "a/../../escaped.spe", "..\\escaped.spe", "/{}/escaped.spe", "//escaped.spe", "C:\\escaped.spe", "a/./../b/../../../escaped.spe"])
def test_zip_that_climbs_out(evil, tmp_path, temporary):
    (tmp_path / "outside").mkdir()
    path = zipped(tmp_path / "evil.zip", {evil.format(tmp_path / "outside"): GOOD, f"good/{GOOD_NAME}": OTHER})
    got = either(path)
    assert not [p for root in (tmp_path, temporary) for p in root.rglob("*escaped*")] and not list((tmp_path / "outside").iterdir())
    assert got is None or f"good/{GOOD_NAME}" in got.info["filename"].tolist()


def test_zip_with_a_link(tmp_path):
    (tmp_path / "secret.spe").write_bytes(GOOD)
    member = zipfile.ZipInfo(NAME)
    member.external_attr = 0o120777 << 16
    got = either(zipped(tmp_path / "link.zip", [(member, str(tmp_path / "secret.spe")), (f"good/{GOOD_NAME}", OTHER)]))
    assert got is None or got.info["filename"].tolist() == [f"good/{GOOD_NAME}"]


@pytest.mark.parametrize("members", [{NAME: b"0 " * (64 << 20)}, {f"{i}/{NAME}": bytes(16 << 20) for i in range(12)}, [(NAME, GOOD), ("readme.txt", bytes(200 << 20))]], ids=["one large member", "many members", "beside a good file"])
def test_zip_bomb(members, tmp_path):
    path = zipped(tmp_path / "bomb.zip", members)
    assert path.stat().st_size < 2 << 20
    with within(20): got = either(path)
    assert got is None or got.info["filename"].tolist() == [NAME]


def test_zip_in_a_zip(tmp_path):
    inner = zipped(tmp_path / "inner.zip", {NAME: GOOD}).read_bytes()
    for _ in range(4): inner = zipped(tmp_path / "inner.zip", {"inner.zip": inner}).read_bytes()
    (tmp_path / "inner.zip").unlink()
    got = either(zipped(tmp_path / "outer.zip", {"inner.zip": inner, f"good/{GOOD_NAME}": OTHER}))
    assert got is None or f"good/{GOOD_NAME}" in got.info["filename"].tolist()
    assert got is None or "inner.zip" in " ".join(got.report.parts["files"]["item"])


def test_zip_with_a_password(tmp_path):
    data = bytearray(zipped(tmp_path / "locked.zip", {NAME: GOOD}).read_bytes())
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "locked.zip").write_bytes(data)
    assert re_any(complaint(tmp_path / "locked.zip"), "password", "encrypted")


def re_any(text, *words): return any(word in text.lower() for word in words)


@pytest.mark.parametrize("damage", [lambda d: d[:len(d) // 2], lambda d: d[:-10], lambda d: d[:30], lambda d: b"PK\x05\x06" + bytes(18), lambda d: d[:200] + bytes(300) + d[500:], lambda d: b"PK\x03\x04",
                                    lambda d: d[:d.index(b"PK\x01\x02")] + d[d.index(b"PK\x01\x02"):].replace(b"\x08\x00", b"\x63\x00", 1)], ids=["half", "tail lost", "head only", "empty zip", "counts overwritten", "signature only", "unknown compression"])
def test_torn_zip(damage, tmp_path):
    path = zipped(tmp_path / "a.zip", {NAME: GOOD})
    path.write_bytes(damage(path.read_bytes()))
    with within(5): complaint(path)


def test_zip_with_a_damaged_member(tmp_path):
    path = zipped(tmp_path / "a.zip", [(f"good/{GOOD_NAME}", OTHER), (NAME, GOOD)])
    data = bytearray(path.read_bytes())
    at = data.rindex(b"PK\x03\x04") + 30 + len(NAME) + 500
    data[at:at + 40] = bytes(40)
    path.write_bytes(data)
    got = either(path)
    assert got is None or got.info["filename"].tolist() == [f"good/{GOOD_NAME}"] and NAME in got.report.parts["files"].query("status != 'read'")["item"].tolist()


def test_zip_with_a_name_twice(tmp_path):
    got = either(zipped(tmp_path / "twice.zip", [(NAME, GOOD), (NAME, GOOD)]))
    assert got is None or got.counts.tolist() == [COUNTS.tolist()]


def test_zip_without_spectra(tmp_path): complaint(zipped(tmp_path / "none.zip", {"readme.txt": b"nothing here", "folder/": b""}))
