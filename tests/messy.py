"""Archives of Avaatech files as they are found on disks, with a table of what a reader should make of each file.

Made up from the mess listed in the notes on formats: two variants of the text, three styles of names, section tops in cm and mm,
rescans, overlaps, a trigger core, folders that lie, clutter. The same seed gives the same bytes.
"""
import re
import zipfile
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd

LINES_KEV = {"Si Ka": (1.740, 30), "K Ka": (3.314, 12), "Ca Ka": (3.692, 100), "Ca Kb": (4.013, 13), "Fe Ka": (6.404, 80), "Fe Kb": (7.058, 11)}
RECORDS = dict(core="$Core_ID:", section="$Section_ID:", depth="$Depth:", run="$Run_ID:", x_mm="$X_Position:", y_mm="$Y_Position:", replicate="$Replicate_ID:", slit_dc_mm="$Slit_DC:", slit_cc_mm="$Slit_CC:",
               cps="$TotalCPS:", spec_id="$SPEC_ID:", user_id="$USER_ID:", voltage="$ACC_VOLT:", current="$TUBE_CUR:", times="$MEAS_TIM:", date="$DATE_MEA:")
OLDER_RECORDS = ("core", "section", "run", "replicate", "spec_id", "user_id", "voltage", "current", "times", "date")
START = datetime(2018, 5, 14, 8, 0, 0)


# ---- spectra and files

def spectrum(
    seed: int, # randomness comes only from here
    gain_ev: float = 20.0, # 20.0 to 20.4 are seen; channel i at gain_ev * (i + 1)
    voltage_kv: float = 10.0, # the continuum ends there
    channels: int = 2048,
    total: float = 40_000, # counts, about
) -> np.ndarray: # (channels,) int64
    "Lines of Si, K, Ca and Fe on a continuum, with counting noise."
    rng = np.random.default_rng(seed)
    kev = gain_ev / 1000 * np.arange(1, channels + 1)
    shape = 0.1 * np.clip(1 - kev / voltage_kv, 0, None) * (1 - np.exp(-kev))
    for energy, height in LINES_KEV.values():
        if energy < voltage_kv: shape = shape + height * rng.uniform(0.7, 1.3) * np.exp(-0.5 * ((kev - energy) / (0.04 + 0.004 * energy)) ** 2) / 25
    return rng.poisson(shape * total / shape.sum())


def _number(value: float, comma: bool, digits: int = 1) -> str:
    return f"{value:.{digits}f}".replace(".", "," if comma else ".")


def header_values(comma: bool, variant: str, core="SO264-09-2", section="0000", depth="0.0", run=1, x_mm=10.0, y_mm=0.0, replicate=0, slit_dc_mm=10.0, slit_cc_mm=12.0, cps=4000,
                  spec_id="Spectrum", user_id="Operator", voltage_kv=10.0, current_ma=0.15, live_s=10, real_s=12, date=START) -> dict: # RECORDS' keys: text, or None
    "The value lines of a header; what is None has no record."
    text = lambda value, digits=1: None if value is None else _number(value, comma, digits)
    unit = dict(a=("", ""), b=(" kV", " mA"))[variant]
    return dict(core=core, section=section, depth=depth, run=run, x_mm=text(x_mm), y_mm=text(y_mm), replicate=replicate, slit_dc_mm=text(slit_dc_mm), slit_cc_mm=text(slit_cc_mm), cps=cps, spec_id=spec_id, user_id=user_id,
                voltage=None if voltage_kv is None else text(voltage_kv) + unit[0], current=None if current_ma is None else text(current_ma, 3) + unit[1],
                times=None if live_s is None else f"{live_s} {real_s}", date=f"{date:%m-%d-%Y %H:%M:%S}" if isinstance(date, datetime) else date)


def spe_text(
    counts, # (C,) numbers, or texts where a test wants to spoil them
    variant: str = "a", # "a": a blank line after each record; "b": the older kind, without X position, count rate and blank lines
    decimal_comma: bool = False,
    crlf: bool = True,
    bounds: tuple | None = None, # the line after $DATA:; None: 0 and C - 1
    per_line: int = 10, # counts a line
    encoding: str = "utf-8",
    **header, # core, section, depth, run, x_mm, y_mm, replicate, slit_dc_mm, slit_cc_mm, cps, spec_id, user_id, voltage_kv, current_ma, live_s, real_s, date; None drops the record
) -> bytes:
    "One Avaatech file. With nothing dropped, variant a has X at line index 13, the count rate at 28 and counts from 49, variant b counts from 22."
    if variant not in ("a", "b"): raise ValueError(f"variant is {variant!r}; expected 'a' or 'b'")
    values = header_values(decimal_comma, variant, **header)
    kept = [k for k in RECORDS if values[k] is not None and (variant == "a" or k in OLDER_RECORDS)]
    lines = [line for k in kept for line in (RECORDS[k], str(values[k]), "")[:3 if variant == "a" and k != "date" else 2]]
    lines += ["$DATA:", "{} {}".format(*(bounds or (0, len(counts) - 1)))]
    cells = [str(c) for c in counts]
    lines += [" ".join(f"{c:>7}" for c in cells[i:i + per_line]) for i in range(0, len(cells), per_line)]
    end = "\r\n" if crlf else "\n"
    return (end.join(lines) + end).encode(encoding)


def old_name(core, section, x, y=0.0, live=10, kv=10, ua=150, filter="No-Filter", run=1, rep=0, comma=False, pad=True, prefix=False, **_) -> str:
    "As in `SO264-09-2_0000   10.0mm  10s  10kV 150uA No-Filter   0.0mm Run1 Rep0 Sett Low.spe`; without `pad`, one blank everywhere; with `prefix`, X and Y before the positions."
    at, across = f"{_number(x, comma):>7}", f"{_number(y, comma):>6}"
    if prefix: at, across = f" X{at.strip()}", f" Y{across.strip()}"
    name = f"{core}_{section}{at}mm  {live}s  {kv:g}kV {ua:g}uA {filter}{across}mm Run{run} Rep{rep} Sett Low.spe"
    return name if pad else re.sub(r"\s+", " ", name)


def older_name(core, section, x, live=12, kv=10, ua=1200, filter="F1", comma=False, pad=True, **_) -> str:
    "As in `LV28-44-3_0954 1000.0mm  12s  10kV 1200uA F1.spe`: no Y, run, replicate."
    name = f"{core}_{section}{_number(x, comma):>7}mm  {live}s  {kv:g}kV {ua:g}uA {filter}.spe"
    return name if pad else re.sub(r"\s+", " ", name)


def new_name(core, section, x, y=0.0, live=10, kv=10, ua=150, filter="No-Filter", run=1, rep=0, comma=False, core_id="0", depth=None, date=START, dc=10.0, cc=12.0, **_) -> str:
    "Seventeen fields, as in `MI18-L8-A!0!0!   2.0!2019-04-16!15-33-35!15!10!1500!2.0!0.0!No-Filter!2.0!6.0!Run1!Rep0!Sett Low.spe`."
    number = lambda value: _number(value, comma)
    fields = [core, core_id, section, f"{number(x if depth is None else depth):>6}", f"{date:%Y-%m-%d}", f"{date:%H-%M-%S}", live, f"{kv:g}", f"{ua:g}", number(x), number(y), filter, number(dc), number(cc), f"Run{run}", f"Rep{rep}", "Sett Low.spe"]
    return "!".join(map(str, fields))


# ---- what is true of a file

def section_top(section: str, unit: str | None = None) -> float: # mm
    "Top of a section by its text: 5 or 6 digits are mm, fewer are cm; a letter after them means a scan done again; TC is a trigger core, at 0."
    if section.endswith("TC"): return 0.0
    digits = re.fullmatch(r"(\d+)[A-Z]?", section)[1]
    return int(digits) * dict(cm=10.0, mm=1.0)[unit or ("mm" if len(digits) >= 5 else "cm")]


def core_of(core: str, section: str) -> str:
    return f"{core} TC" if section.endswith("TC") else core


def _scan(core, section, xs, folder, kv=10, day=0, lost=None, name=old_name, gain_ev=20.0, header_x=None, drop=(), run=1, comma=False, pad=True, prefix=False, **text) -> list[dict]:
    "One section scanned once at one voltage: a row of truth and the making of each file. `lost`: {x: why}; `header_x`: {x in the name: x in the header}; `drop`: records without a value."
    rows = []
    for i, x in enumerate(xs):
        date, at = START + timedelta(days=day, seconds=30 * i), (header_x or {}).get(x, x)
        why = (lost or {}).get(x, "")
        path = f"{folder}/{name(core, section, x, kv=kv, run=run, comma=comma, pad=pad, prefix=prefix, date=date, depth=section_top(section) + x)}"
        header = dict(core=core, section=section, x_mm=at, voltage_kv=float(kv), run=run, date=date) | {k: None for k in drop}
        rows.append(dict(filename=path, core=core_of(core, section), section=section, section_top_mm=section_top(section), x_mm=float(at), depth_mm=section_top(section) + at, voltage_kv=float(kv), run=run,
                         kept=kv == 10 and not why, why="other voltage" if kv != 10 else why, lost=why, scanned=date, gain_ev=gain_ev, make=dict(header=header, decimal_comma=comma, **text)))
    return rows


def counts_of(row) -> np.ndarray: # (C,)
    "The counts of one row of the table of truth."
    return spectrum(int(row.seed), row.gain_ev, row.voltage_kv)


def _bytes(row: pd.Series) -> bytes:
    make = dict(row["make"])
    data = spe_text(counts_of(row), **make.pop("header"), **make)
    return data[: len(data) * 3 // 4] if row["why"] == "damaged" else data


# ---- cores, one kind of mess each

def _steps(first, step, n): return [float(first + step * i) for i in range(n)]


def _plain(i: int, rng) -> list[dict]:
    "Two sections that follow each other, habits drawn at random."
    core, mm, step, first = f"GC-{i + 1:02d}", bool(rng.integers(2)), int(rng.choice([5, 10])), int(rng.choice([0, 5, 10, 70]))
    habit = dict(name=[old_name, older_name, new_name][rng.integers(3)], comma=bool(rng.integers(2)), crlf=bool(rng.integers(2)), per_line=int(rng.choice([1, 8, 10])), pad=bool(rng.integers(2)),
                 variant="ab"[rng.integers(2)], gain_ev=float(rng.choice([20.0, 20.2, 20.4])))
    return [row for j, top in enumerate([0, 200]) for row in _scan(core, f"{top:05d}" if mm else f"{top // 10:04d}", _steps(first, step, 5), f"{core}/Run 1 at  10kV", day=10 * i + j, **habit)]


def _units() -> list[dict]:
    "SO264-09-2: 0048 beside 048, 30 kV beside 10 kV, a trigger core, a folder that lies, a header that disagrees with the name."
    core, xs = "SO264-09-2", _steps(10, 10, 6)
    rows = _scan(core, "0000", xs, f"{core}/Run 1 at  10kV", 10, 100, header_x={30.0: 35.0}) + _scan(core, "0000", xs[:4], f"{core}/Run 2 at  30kV", 30, 101, run=2)
    rows += _scan(core, "0048", xs[:3], f"{core}/Run 1 at  10kV", 10, 102, comma=True, crlf=False) + _scan(core, "048", xs[3:], f"{core}/Run 1 at  10kV", 10, 102.1, pad=False)
    rows += _scan(core, "0100", xs[:3], f"{core}/Run 2 at  50kV", 10, 103, prefix=True, gain_ev=20.4) + _scan(core, "0100", xs[3:5], f"{core}/Run 1 at  10kV", 30, 104)
    return rows + _scan(core, "00TC", xs[:4], f"{core}/Run 1 at  10kV", 10, 105)


def _by_hand() -> list[dict]:
    "SO264-54-2: tops in mm of 5 and 6 digits; some positions of 10430 were scanned again by hand as 10430B."
    core, folder, xs = "SO264-54-2", "SO264-54-2/Run 1 at  10kV", _steps(0, 10, 5)
    again = {x: "superseded by rescan" for x in xs[1:4]}
    return _scan(core, "09430", xs, folder, 10, 110) + _scan(core, "10430", xs, folder, 10, 111, again) + _scan(core, "10430B", xs[1:4], folder, 10, 112) + _scan(core, "011430", xs, folder, 10, 113, bounds=(1, 2048))


def _rescanned() -> list[dict]:
    "SO264-69-2: a folder of rescans with the same names; a file of another core lies here; a damaged file; 30 kV was not scanned again."
    core, xs = "SO264-69-2", _steps(70, 10, 6)
    again = {x: "superseded by rescan" for x in xs[2:5]}
    rows = _scan(core, "0169", xs, f"{core}/Run 1 at  10kV", 10, 120, {xs[3]: "damaged"})
    for j, section in enumerate(["0269", "0369"]):
        rows += _scan(core, section, xs, f"{core}/Run 1 at  10kV", 10, 121 + j, again) + _scan(core, section, xs, f"{core}/Run 2 at  30kV", 30, 123 + j, run=2)
        rows += _scan(core, section, xs[2:5], f"{core}/Rescan_0269&0369/Run 1 at  10kV", 10, 140 + j, gain_ev=20.2)
    return rows + _scan("SO264-69-1", "0469", [80.0], f"{core}/Run 1 at  10kV", 10, 125)


def _overlapping() -> list[dict]:
    "SO264-28-2: three sections that overlap; the middle one was scanned last, so it wins on both sides."
    core, folder, low = "SO264-28-2", "SO264-28-2/Run 1 at  10kV", "superseded by overlap"
    return (_scan(core, "0000", _steps(10, 10, 10), folder, 10, 130, {90.0: low, 100.0: low}) + _scan(core, "0008", _steps(10, 10, 10), folder, 10, 135)
            + _scan(core, "0017", _steps(7, 10, 6), folder, 10, 132, {7.0: low}))


def _older() -> list[dict]:
    "LV28-44-3: the older text and names, two folders for one core, a third run in a folder that tells depths."
    core, how = "LV28-44-3", dict(variant="b", name=older_name)
    rows = _scan(core, "0454", _steps(5, 5, 5), "LV28-44-3/Run 1 at  10kV", 10, 90, **how) + _scan(core, "0554", _steps(5, 5, 5), "LV28-44-3 (554-1113cm)/Run 1 at  10kV", 10, 91, comma=True, drop=["user_id"], **how)
    rows += _scan(core, "0854", _steps(0, 10, 3) + [990.0, 1000.0], "LV28-44-3 (554-1113cm)/Run 1 at  10kV", 10, 92, pad=False, crlf=False, **how)
    return rows + _scan(core, "0957", _steps(0, 10, 4), "LV28-44-3 (554-1113cm)/Run 3 at  10kV_937-1138cm", 10, 93, run=3, per_line=1, **how)


def _new_style() -> list[dict]:
    "MI18-L8-A: names of seventeen fields, records without a value left out of the header."
    core, how = "MI18-L8-A", dict(name=new_name, crlf=False)
    rows = _scan(core, "0", _steps(2, 2, 5), core, 10, 330, drop=["x_mm", "cps"], **how) + _scan(core, "0012", _steps(5, 5, 5), core, 10, 331, drop=["voltage_kv", "depth", "run"], comma=True, **how)
    return rows + _scan(core, "0030", _steps(0, 5, 4), core, 10, 332, drop=["section", "user_id", "y_mm", "live_s"], **how)


def _clutter(folder: Path) -> list[str]: # names
    "What lies about in archives and holds no spectra."
    texts = {"readme.txt": b"Scanned in May 2018.\r\nSee the photos for the cracks, core 3; ask before use.\r\n", "SO264-09-2/notes.csv": b"core,depth_mm,TOC\nSO264-09-2,10,0.4\n", "Thumbs.db": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(512),
             "SO264-09-2/.DS_Store": b"\x00\x00\x00\x01Bud1" + bytes(200), "SO264-54-2/photo 1.jpg": b"\xff\xd8\xff\xe0\x00\x10JFIF\x00" + bytes(range(256)) * 4}
    for name, data in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    with zipfile.ZipFile(folder / "overview.xlsx", "w") as book: book.writestr(zipfile.ZipInfo("xl/workbook.xml", (2018, 9, 18, 14, 4, 0)), "<workbook/>")
    (folder / "SO264-28-2" / "Run 2 at  30kV").mkdir(parents=True, exist_ok=True)
    return [*texts, "overview.xlsx"]


def write_archive(
    folder: str | Path, # made if it is not there
    seed: int = 0, # randomness comes only from here
    n_cores: int = 3, # plain cores, beside the seven cores of mess
    mess: bool = True, # False: the plain cores only, nothing lost, nothing lying about
) -> pd.DataFrame: # a row a file, in order of names; `.attrs["clutter"]`: files that hold no spectra
    "Write an archive. Columns: filename, core, section, section_top_mm, x_mm, depth_mm, voltage_kv, run, kept, why, lost, scanned, gain_ev, seed; `kept` and `why` hold for 10 kV, `lost` for the file's own voltage."
    folder, rng = Path(folder), np.random.default_rng(seed)
    kinds = [_units, _by_hand, _rescanned, _overlapping, _older, _new_style] if mess else []
    rows = pd.DataFrame([row for i in range(n_cores) for row in _plain(i, rng)] + [row for kind in kinds for row in kind()])
    rows["seed"] = 100_000 * seed + np.arange(len(rows))
    for i in rng.permutation(len(rows)):
        path = folder / rows.loc[i, "filename"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_bytes(rows.loc[i]))
    truth = rows.drop(columns="make").sort_values("filename", ignore_index=True)
    truth.attrs["clutter"] = _clutter(folder) if mess else []
    return truth


# ---- what a reader should return

def expected(
    truth: pd.DataFrame, # of write_archive
    voltage_kv: float | None = 10, # None: all of them
    zero: str = "x", # "x": depth = top + X; "first": top + X - first X of the section
    overlap: str = "later", # "keep": sections may overlap; a rescan still takes the place of the original
    section_unit: str | None = None, # "cm", "mm"; None: by the number of digits
) -> pd.DataFrame: # rows of truth that are read, section_top_mm and depth_mm by the options, in order of core and depth
    "The rules written out by themselves, so that `kept` can be checked against them."
    rows = truth[truth["lost"] != "damaged"].copy()
    if voltage_kv is not None: rows = rows[rows["voltage_kv"] == voltage_kv]
    rows["section_top_mm"] = [section_top(s, section_unit) for s in rows["section"]]
    first = rows.groupby(["core", "voltage_kv", "section_top_mm"])["x_mm"].transform("min") if zero == "first" else 0
    rows["depth_mm"] = rows["section_top_mm"] + rows["x_mm"] - first
    rows = rows.sort_values("scanned").drop_duplicates(["core", "voltage_kv", "section_top_mm", "x_mm"], keep="last")
    if overlap == "later": rows = _later_section_wins(rows)
    return rows.sort_values(["core", "depth_mm", "voltage_kv"], ignore_index=True)


def _later_section_wins(rows: pd.DataFrame) -> pd.DataFrame:
    "Without the spectra that lie between the first and last depth of a section of the same core and voltage that was begun later."
    spans = rows.groupby(["core", "voltage_kv", "section_top_mm"]).agg(begun=("scanned", "min"), low=("depth_mm", "min"), high=("depth_mm", "max")).reset_index()
    pairs = rows.reset_index().merge(spans, on=["core", "voltage_kv"], suffixes=("", "_other"))
    own = pairs.merge(spans[["core", "voltage_kv", "section_top_mm", "begun"]], on=["core", "voltage_kv", "section_top_mm"], suffixes=("_other", ""))
    beaten = own[(own["begun_other"] > own["begun"]) & own["depth_mm"].between(own["low"], own["high"]) & (own["section_top_mm"] != own["section_top_mm_other"])]
    return rows.drop(index=beaten["index"].unique())
