"""The readers of text under drawn input: what is written is read back, and of what is spoilt only ValueError comes out, soon."""
import re
import time
from datetime import datetime

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st

from max_nb.scanners import parse_avaatech, parse_avaatech_name
from messy import RECORDS, new_name, old_name, older_name, spe_text, spectrum

quick = settings(max_examples=200, deadline=None)
SECONDS = 1.0 # for one small text
tenths = lambda low, high: st.integers(10 * low, 10 * high).map(lambda n: n / 10)
cores = st.from_regex(re.compile(r"[A-Z][A-Za-z0-9]{0,6}(-[0-9]{1,3}){0,3}(_[a-z]{3,8})?", re.ASCII), fullmatch=True)
sections = st.from_regex(re.compile(r"[0-9]{3,6}B?|00TC", re.ASCII), fullmatch=True)
positions, dates = tenths(0, 2000), st.datetimes(datetime(1995, 1, 1), datetime(2035, 1, 1)).map(lambda d: d.replace(microsecond=0))
volts, amperes, times, numbers = st.integers(4, 50), st.integers(10, 2000), st.integers(1, 120), st.integers(0, 9)
SMALL = spe_text(spectrum(3, channels=64), section="0048", x_mm=20.0)


def outcome(data):
    "Counts and header, or None for the ValueError, whose text is looked at."
    begin = time.perf_counter()
    try: found = parse_avaatech(data, "folder/file.spe")
    except ValueError as e:
        found, text = None, str(e)
        assert text.startswith("folder/file.spe") and "expected" in text and "\n" not in text and "\r" not in text and len(text) < 400
    assert time.perf_counter() - begin < SECONDS
    if found is None: return None
    counts, info = found
    assert counts.ndim == 1 and counts.dtype.kind == "i" and len(counts) and (counts >= 0).all() and isinstance(info, dict)
    assert all(np.isfinite(v) for k, v in info.items() if k.endswith(("_mm", "_kv", "_ma", "_s")) or k == "cps") and info.get("voltage_kv", 1) > 0
    return found


# ---- written and read back

@quick
@given(st.lists(st.integers(0, 2**40), min_size=16, max_size=80), positions, st.integers(4, 50), st.integers(1, 999), times, times, dates, sections, cores, st.sampled_from("ab"), st.booleans(), st.booleans(), st.booleans(), st.integers(1, 90))
def test_a_file_is_read_back(counts, x, kv, micro, live, more, date, section, core, variant, comma, crlf, from_one, per_line):
    bounds = (int(from_one), len(counts) - 1 + from_one)
    data = spe_text(counts, variant, comma, crlf, bounds, per_line, core=core, section=section, x_mm=x, voltage_kv=float(kv), current_ma=micro / 1000, live_s=live, real_s=live + more, date=date, run=3, replicate=1)
    found, info = outcome(data)
    assert found.tolist() == counts and (info["core"], str(info["section"]), info["run"], info["replicate"], info["voltage_kv"], info["live_s"], info["real_s"]) == (core, section, 3, 1, kv, live, live + more)
    assert info["current_ma"] == pytest.approx(micro / 1000) and pd.Timestamp(info["date"]) == date and (variant == "b" or info["x_mm"] == pytest.approx(x))


@quick
@given(st.sets(st.sampled_from(sorted(set(RECORDS) - {"voltage", "current", "times", "depth", "spec_id"}))))
def test_dropped_records_change_nothing_else(dropped):
    whole, left = outcome(SMALL), outcome(spe_text(spectrum(3, channels=64), **dict(section="0048", x_mm=20.0) | {k: None for k in dropped}))
    assert left[0].tolist() == whole[0].tolist() and left[1] == {k: v for k, v in whole[1].items() if k not in dropped}


@quick
@given(cores, sections, positions, tenths(0, 90), times, volts, amperes, numbers, numbers, st.sampled_from(["No-Filter", "Pd-Thin", "F1", "Cl-Rubber"]), st.booleans(), st.booleans(), st.booleans())
def test_an_old_name_is_read_back(core, section, x, y, live, kv, ua, run, rep, filter, comma, pad, prefix):
    found = parse_avaatech_name(old_name(core, section, x, y, live, kv, ua, filter, run, rep, comma, pad, prefix))
    assert str(found["section"]) == section and core in (found["core"], found["core"].removesuffix(" TC"))
    assert [found[k] for k in ["x_mm", "y_mm", "live_s", "voltage_kv", "current_ma", "run", "replicate"]] == pytest.approx([x, y, live, kv, ua / 1000, run, rep])


@quick
@given(cores, sections, positions, times, volts, amperes, st.booleans(), st.booleans())
def test_an_older_name_is_read_back(core, section, x, live, kv, ua, comma, pad):
    found = parse_avaatech_name(older_name(core, section, x, live, kv, ua, "F1", comma, pad))
    assert str(found["section"]) == section and [found[k] for k in ["x_mm", "live_s", "voltage_kv", "current_ma"]] == pytest.approx([x, live, kv, ua / 1000]) and "run" not in found


@quick
@given(cores, sections, positions, tenths(0, 90), times, volts, amperes, numbers, numbers, dates, tenths(0, 20), tenths(0, 20), st.booleans())
def test_a_new_name_is_read_back(core, section, x, y, live, kv, ua, run, rep, date, dc, cc, comma):
    found = parse_avaatech_name(new_name(core, section, x, y, live, kv, ua, "No-Filter", run, rep, comma, date=date, dc=dc, cc=cc))
    assert str(found["section"]) == section and core in (found["core"], found["core"].removesuffix(" TC")) and pd.Timestamp(found["date"]) == date
    assert [found[k] for k in ["x_mm", "y_mm", "live_s", "voltage_kv", "current_ma", "run", "replicate", "slit_dc_mm", "slit_cc_mm"]] == pytest.approx([x, y, live, kv, ua / 1000, run, rep, dc, cc])


# ---- spoilt

def _cut(data, at, n, new): return data[:at] + data[at + n:]
def _put(data, at, n, new): return data[:at] + new + data[at:]
def _over(data, at, n, new): return data[:at] + new + data[at + len(new):]
def _again(data, at, n, new): return data[:at] + data[max(at - n, 0):at] + data[at:]
def _end(data, at, n, new): return data[:at]


edits = st.tuples(st.sampled_from([_cut, _put, _over, _again, _end]), st.floats(0, 1), st.integers(1, 60), st.binary(min_size=1, max_size=12) | st.sampled_from([b"$", b":", b"\r", b"\n", b" ", b"-", b"e9", b".", b",", b"nan", b"inf", b"\0", b"$DATA:\r\n", b"\xff\xfe", b"9" * 25, b"_", b"+"]))


@quick
@given(st.lists(edits, min_size=1, max_size=6))
def test_spoilt_files(changes):
    data = SMALL
    for change, where, n, new in changes: data = change(data, int(where * len(data)), n, new)
    outcome(data)


@quick
@given(st.binary(max_size=3000))
def test_random_bytes(data): outcome(data)


@quick
@given(st.binary(max_size=400))
def test_random_bytes_behind_a_good_header(data): outcome(SMALL.split(b"$DATA:")[0] + b"$DATA:\r\n" + data)


@quick
@given(st.lists(st.sampled_from([*(k.encode() for k in RECORDS.values()), b"$DATA:", b"0 15", b"1 16", b"0 2047", b"1 2 3 4 5 6 7 8", b"10.0", b"", b"$", b":", b"01-02-2018 03:04:05", b"-1", b"nan"]), max_size=60))
def test_lines_in_any_order(lines): outcome(b"\r\n".join(lines))


@quick
@given(st.text(max_size=200) | st.lists(st.sampled_from(["!", "mm", "kV", "uA", "s", "10", "0", ",", ".", " ", "_", "Run", "Rep", "X", "Y", "DC", "CC", "e", "-", "nan", "inf", ".spe", "SO264", "²", "١"]), max_size=40).map("".join))
def test_random_names(name):
    begin = time.perf_counter()
    try: found = parse_avaatech_name(name)
    except ValueError: found = {}
    assert isinstance(found, dict) and time.perf_counter() - begin < SECONDS
    assert all(np.isfinite(v) for k, v in found.items() if k.endswith(("_mm", "_kv", "_ma", "_s")))


@pytest.mark.parametrize("name", ["1" * 50_000, "_" * 50_000, "!" * 50_000, " " * 50_000 + "mm", "1.0mm" * 10_000, "a_" * 20_000 + "0048 1.0mm", "1 " * 20_000 + "kV", "-1" * 20_000])
def test_names_that_take_long(name):
    begin = time.perf_counter()
    try: parse_avaatech_name(name)
    except ValueError: pass
    assert time.perf_counter() - begin < SECONDS
