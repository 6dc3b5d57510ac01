"""Spectra: bad input of many kinds, round trips, and properties."""
import hashlib
import os
import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra import numpy as hnp

from max_nb.energy import EnergyAxis
from max_nb.spectra import (Spectra, as_counts, as_targets, cache_folder, fingerprint, grouped_split, rebin_counts, write_atomically,
                             write_parquet)

quick = settings(max_examples=30, deadline=None)
AXIS = EnergyAxis(0.5, 0.5, 6)
REAL = Path(__file__).parents[1] / "../shared/real/marine_sediments.parquet"


@pytest.fixture
def s():
    rng = np.random.default_rng(0)
    info = pd.DataFrame(dict(core=list("AABBCC"), depth_mm=[0, 10] * 3, TOC=[0.1, np.nan, 0.3, 0.4, np.nan, 0.6], CaCO3=[1, 2, 3, 4, 5, 6]))
    return Spectra(rng.poisson(9, (6, 6)), info, AXIS)


@pytest.mark.parametrize("counts, message", [
    ([[1, 2, 3]], "3 channels; expected 6"), ([1] * 6, "shape"), (np.ones((2, 6, 1)), "shape"), ([[1] * 5 + [-1]], r"counts\[0, 5\] is -1"), ([[1.0] * 5 + [np.nan]], r"\[0, 5\] is nan"),
    ([[1.0] * 6, [np.inf] * 6], r"\[1, 0\] is inf"), ([["1"] * 6], "type"), ([[True] * 6], "type bool"), ([[1] * 6, [1] * 5], "different length|inhomogeneous"), (np.ones((1, 6), complex), "type complex"),
    (np.full((1, 6), "x", dtype=object), "type object"), (None, "type object")])
def test_bad_counts(counts, message):
    with pytest.raises(ValueError, match=message): Spectra(counts, None, AXIS)


@pytest.mark.parametrize("info, message", [
    (pd.DataFrame(dict(core=["A"])), "1 rows; expected 2"), (dict(core=["A", "B"]), "is a dict; expected a DataFrame"), (pd.DataFrame(dict(spectrum=[1, 2])), "column 'spectrum'"),
    (pd.DataFrame([[1, 2], [3, 4]], columns=["a", "a"]), r"same name: \['a'\]")])
def test_bad_info(info, message):
    with pytest.raises(ValueError, match=message): Spectra(np.ones((2, 6)), info, AXIS)


def test_info_is_a_copy_with_rows_from_zero(s):
    info = s.info[::-1]
    other = Spectra(s.counts, info, AXIS)
    other.info.loc[0, "core"] = "Z"
    assert info["core"].iloc[0] == "C" and isinstance(other.info.index, pd.RangeIndex)


def test_named_and_multiple_indexes_become_columns(s):
    assert list(Spectra(s.counts, s.info.set_index("core"), AXIS).info)[0] == "core"
    assert list(Spectra(s.counts, s.info.set_index(["core", "depth_mm"]), AXIS).info)[:2] == ["core", "depth_mm"]


def test_without_info(s):
    bare = Spectra(s.counts, axis=AXIS)
    assert len(bare[2:]) == 4 and "no columns" in repr(bare) and len(bare.info) == 6


@pytest.mark.parametrize("rows, expected", [(0, [0]), (-1, [5]), (np.int64(2), [2]), ([3, 1, 1], [3, 1, 1]), (slice(None, None, 2), [0, 2, 4]), ([], []), ((1, 2), [1, 2]),
                                            ([True, False] * 3, [0, 2, 4]), (pd.Series([False] * 5 + [True], index=range(5, -1, -1)), [5])])
def test_picking(s, rows, expected):
    got = s[rows]
    assert np.array_equal(got.counts, s.counts[expected]) and got.info["CaCO3"].tolist() == s.info["CaCO3"].iloc[expected].tolist() and got.axis == AXIS


@pytest.mark.parametrize("rows, error", [([True], ValueError), ([0.5], ValueError), ("core", ValueError), ([[0, 1]], ValueError), (6, IndexError), ([0, 9], IndexError)])
def test_bad_picking(s, rows, error):
    with pytest.raises(error): s[rows]


def test_iteration_array_and_pickle(s):
    assert [len(x) for x in s] == [1] * 6 and np.array_equal(np.asarray(s), s.counts)
    assert np.array_equal(pickle.loads(pickle.dumps(s)).counts, s.counts)


def test_cores_and_missing_columns(s):
    assert s.cores.tolist() == ["A", "B", "C"]
    with pytest.raises(ValueError, match=r"no column 'core'; found \['TOC'\]"): Spectra(s.counts, s.info[["TOC"]], AXIS).cores


@pytest.mark.parametrize("column, found", [(["a"] + [1] * 5, "'a'"), ([np.inf] + [1] * 5, "'inf'"), (["1,5"] + [1] * 5, "1,5")])
def test_targets_that_are_no_numbers(s, column, found):
    with pytest.raises(ValueError, match=f"info column 'TOC', row 0: found .*{found.strip(chr(39))}.*expected a finite number"): Spectra(s.counts, s.info.assign(TOC=pd.Series(column, dtype=object)), AXIS).targets("TOC")


@pytest.mark.parametrize("dtype", ["Int64", "Float64", "object", "float32", "string"])
def test_targets_of_any_type(s, dtype):
    column = pd.Series([1, 2, None, 4, 5, 6], dtype=object if dtype == "object" else "Float64").astype(dtype if dtype != "Int64" else "Int64") if dtype != "float32" else pd.Series([1, 2, np.nan, 4, 5, 6], dtype=dtype)
    got = Spectra(s.counts, s.info.assign(TOC=column), AXIS).targets(["TOC"])
    assert got["TOC"].dtype == float and np.isnan(got["TOC"][2]) and got["TOC"][5] == 6


# ---- Parquet

tables = st.integers(0, 6).flatmap(lambda n: st.tuples(
    hnp.arrays(st.sampled_from([np.int32, np.uint16, np.int64, np.float32, np.float64]), (n, 6), elements=st.integers(0, 60_000)),
    st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")), min_size=n, max_size=n),
    st.lists(st.one_of(st.none(), st.floats(0, 100)), min_size=n, max_size=n)))


@settings(max_examples=30, deadline=None)
@given(tables, st.floats(0.001, 1), st.floats(-1, 1))
def test_write_and_read_back(tmp_path_factory, table, gain, offset):
    counts, names, toc = table
    before = Spectra(counts, pd.DataFrame(dict(core=pd.Series(names, dtype="str"), TOC=pd.Series(toc, dtype=float))), EnergyAxis(gain, offset, 6), dict(voltage_kv="10"))
    path = before.to_parquet(tmp_path_factory.mktemp("p") / "x.parquet")
    after = Spectra.from_parquet(path)
    assert np.array_equal(after.counts, before.counts) and after.counts.dtype == before.counts.dtype
    assert after.axis == before.axis and after.meta == before.meta
    pd.testing.assert_frame_equal(after.info, before.info, check_dtype=len(before) > 0)


def test_write_is_atomic(s, tmp_path, monkeypatch):
    path = s.to_parquet(tmp_path / "a.parquet")
    before = path.read_bytes()
    def fail(*_): raise OSError("disk full")
    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError): s[:2].to_parquet(path)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["a.parquet"]


def write(path, spectrum, meta=None, **columns):
    pq.write_table(pa.table(dict(columns, spectrum=spectrum)).replace_schema_metadata(meta or dict(energy_gain_kev="0.5", energy_offset_kev="0.5")), path)
    return path


@pytest.mark.parametrize("spectrum, message", [
    (pa.array([[1, 2], [3]]), "row 1 of column 'spectrum' has 1 counts"), (pa.array([[1, 2], None]), "row 1 of column 'spectrum'"), (pa.array([[1, None]]), "row 0 of column 'spectrum' lacks a count"),
    (pa.array([1, 2]), "holds int64; expected lists"), (pa.array([["a"]]), "expected lists of counts"), (pa.array([[1, -2]]), r"counts\[0, 1\] is -2"),
    (pa.array([[1.0, float("nan")]]), r"counts\[0, 1\] is nan"), (pa.array([[1, 2], None], pa.list_(pa.int32(), 2)), "row 1 of column 'spectrum'|cannot be read as Parquet")])  # the last: pyarrow 18 cannot read its own file
def test_bad_spectrum_column(tmp_path, spectrum, message):
    path = write(tmp_path / "bad.parquet", spectrum)
    with pytest.raises(ValueError, match=message) as e: Spectra.from_parquet(path)
    assert "bad.parquet" in str(e.value)


def test_bad_files(tmp_path):
    with pytest.raises(ValueError, match="no such file"): Spectra.from_parquet(tmp_path / "none.parquet")
    with pytest.raises(ValueError, match="no such file"): Spectra.from_parquet(tmp_path)
    (tmp_path / "text.parquet").write_text("hello")
    with pytest.raises(ValueError, match="text.parquet: cannot be read as Parquet"): Spectra.from_parquet(tmp_path / "text.parquet")
    good = write(tmp_path / "cut.parquet", pa.array([[1, 2]] * 50))
    good.write_bytes(good.read_bytes()[:-20])
    with pytest.raises(ValueError, match="cut.parquet: cannot be read"): Spectra.from_parquet(good)
    pq.write_table(pa.table(dict(a=[1])), tmp_path / "other.parquet")
    with pytest.raises(ValueError, match=r"no column 'spectrum' among \['a'\]"): Spectra.from_parquet(tmp_path / "other.parquet")


def test_axis_in_the_schema(tmp_path):
    spectrum = pa.array([[1, 2]])
    assert Spectra.from_parquet(write(tmp_path / "a", spectrum)).axis == EnergyAxis(0.5, 0.5, 2)
    with pytest.warns(UserWarning, match="no complete energy axis"): assert Spectra.from_parquet(write(tmp_path / "b", spectrum, dict(x="y"))).axis == EnergyAxis(n_channels=2)
    with pytest.raises(ValueError, match="axis cannot be used"): Spectra.from_parquet(write(tmp_path / "c", spectrum, dict(energy_gain_kev="wide", energy_offset_kev="0")))
    with pytest.raises(ValueError, match="axis cannot be used"): Spectra.from_parquet(write(tmp_path / "d", spectrum, dict(energy_gain_kev="-1", energy_offset_kev="0")))
    assert Spectra.from_parquet(write(tmp_path / "e", spectrum), axis=EnergyAxis(1, 1, 2)).axis.gain_kev == 1
    with pytest.raises(ValueError, match="e: counts have 2 channels; expected 3"): Spectra.from_parquet(tmp_path / "e", axis=EnergyAxis(1, 1, 3))


# ---- rebinning

@quick
@given(hnp.arrays(np.int64, (3, 6), elements=st.integers(0, 10**6)), st.floats(0.05, 3))
def test_rebin_conserves_counts(counts, gain):
    low, high = AXIS.edges[[0, -1]]
    wide = EnergyAxis(gain, low + gain / 2 - 0.01, int(np.ceil((high - low) / gain)) + 1)
    got = Spectra(counts, None, AXIS).rebin(wide).counts
    assert np.allclose(got.sum(1), counts.sum(1)) and (got >= 0).all()
    centre = lambda c, axis: (c * axis.centers).sum(1)
    assert (np.abs(centre(got, wide) - centre(counts, AXIS)) <= (gain + AXIS.gain_kev) / 2 * counts.sum(1) + 1e-6).all()


@quick
@given(hnp.arrays(np.int64, (2, 6), elements=st.integers(0, 1000)), st.integers(1, 7))
def test_rebin_to_finer_channels_and_back(counts, parts):
    fine = EnergyAxis(AXIS.gain_kev / parts, AXIS.edges[0] + AXIS.gain_kev / parts / 2, AXIS.n_channels * parts)
    assert np.allclose(Spectra(counts, None, AXIS).rebin(fine).rebin(AXIS, outside="drop").counts, counts)


def test_rebin_against_the_slow_way():
    rng = np.random.default_rng(1)
    counts, old, new = rng.poisson(20, (4, 30)), EnergyAxis(0.31, 0.2, 30), EnergyAxis(0.17, 1.1, 25)
    slow = np.zeros((4, 25))
    for i, (a, b) in enumerate(zip(old.edges, old.edges[1:])):
        for j, (c, d) in enumerate(zip(new.edges, new.edges[1:])): slow[:, j] += counts[:, i] * max(0, min(b, d) - max(a, c)) / (b - a)
    assert np.allclose(rebin_counts(counts, old, new), slow)


def test_rebin_outside(s):
    with pytest.raises(ValueError, match="would lose .* expected an axis that covers them, or outside='drop'"): s.rebin(EnergyAxis(0.5, 0.5, 3))
    with pytest.raises(ValueError, match="outside is 'clip'"): s.rebin(EnergyAxis(0.5, 0.5, 3), outside="clip")
    assert np.allclose(s.rebin(EnergyAxis(0.5, 0.5, 3), outside="drop").counts, s.counts[:, :3])
    assert np.allclose(s.rebin(EnergyAxis(1, 50, 3), outside="drop").counts, 0)
    assert s.rebin(AXIS).counts.dtype == s.counts.dtype


# ---- concat and split

def test_concat(s):
    assert np.array_equal(Spectra.concat([s[:2], s[2:]]).counts, s.counts)
    parts = [Spectra(s.counts, s.info, AXIS, meta) for meta in (dict(a="1", b="2"), dict(a="1", b="3"))]
    assert Spectra.concat(parts).meta == dict(a="1")
    with pytest.raises(ValueError, match="nothing to concatenate"): Spectra.concat([])
    with pytest.raises(ValueError, match="axes differ"): Spectra.concat([s, Spectra(s.counts, s.info, EnergyAxis(0.4, 0.5, 6))])


@quick
@given(st.lists(st.integers(0, 5), min_size=2, max_size=40).filter(lambda g: len(set(g)) > 1), st.floats(0.01, 0.99), st.integers(0, 99))
def test_split_keeps_groups_whole(groups, test, seed):
    s = Spectra(np.ones((len(groups), 6)), pd.DataFrame(dict(core=groups, row=range(len(groups)))), AXIS)
    a, b = grouped_split(s, test, seed=seed)
    again = grouped_split(s, test, seed=seed)
    assert len(a) and len(b) and not set(a.cores) & set(b.cores)
    assert sorted([*a.info["row"], *b.info["row"]]) == list(range(len(groups))) and again[1].info.equals(b.info)


@pytest.mark.parametrize("arguments, message", [(dict(test=0), "test is 0"), (dict(test=1.0), "test is 1.0"), (dict(by="region"), "no column 'region'"), (dict(by="one"), "holds 1 group"), (dict(by="gap"), "empty in row 2")])
def test_bad_split(s, arguments, message):
    s.info["one"], s.info["gap"] = "x", ["a", "b", None, "a", "b", "a"]
    with pytest.raises(ValueError, match=message): grouped_split(s, **arguments)


# ---- what estimators call

def test_as_counts_takes_what_users_have(s):
    torch = pytest.importorskip("torch")
    for X in (s, s.counts, s.counts.tolist(), pd.DataFrame(s.counts), torch.tensor(s.counts), torch.tensor(s.counts, dtype=torch.float32, requires_grad=True), list(s), pd.DataFrame(s.counts).astype("Int64")):
        assert np.array_equal(as_counts(X), s.counts)


@pytest.mark.parametrize("X, message", [
    (np.ones(6), "two dimensions"), (np.ones((0, 6)), "at least one spectrum"), (np.ones((2, 0)), "at least one"), ([], "shape|expected"), (None, "type object"), ("scan.csv", "type"),
    (pd.DataFrame(dict(core=["A"], c0=[1])), r"no numbers: \['core'\]"), (np.array([[1.0, np.nan]]), r"counts\[0, 1\] is nan"), (pd.DataFrame(dict(a=[1, None])), r"counts\[1, 0\] is nan"), ([[1, 2], [3]], "different length")])
def test_bad_X(X, message):
    with pytest.raises(ValueError, match=message): as_counts(X)


def test_as_targets_takes_what_users_have(s):
    wanted = s.info[["CaCO3", "TOC"]].to_numpy()
    for y in (None, wanted, s.info, s.info[["TOC", "CaCO3"]], wanted.tolist()): assert np.array_equal(as_targets(s, y, ("CaCO3", "TOC")), wanted, equal_nan=True)
    for y in (s.info["TOC"], s.info["TOC"].to_numpy(), s.info["TOC"].set_axis(list("zyxwvu")), None): assert as_targets(s, y, "TOC").shape == (6, 1)
    assert np.array_equal(as_targets(list(s), None, ("CaCO3", "TOC")), wanted, equal_nan=True)
    assert as_targets(s.counts, wanted).dtype == np.float64


@pytest.mark.parametrize("y, targets, message", [
    (None, ("Fe",), "no column 'Fe'"), (None, None, "no targets are named"), ([1, 2], "TOC", "2 rows; expected 6"), (np.ones((6, 2)), "TOC", "2 columns; expected 1"), (np.ones((6, 1, 1)), "TOC", "shape"),
    (["n.d."] * 6, "TOC", "found 'n.d.'"), ([np.inf] * 6, "TOC", "row 0: found 'inf'"), (pd.DataFrame(dict(a=[1] * 6)), ("CaCO3", "TOC"), "1 columns; expected 2"), ([[1], [2, 3]] * 3, None, "different length")])
def test_bad_y(s, y, targets, message):
    with pytest.raises(ValueError, match=message): as_targets(s, y, targets)


def test_y_is_needed_with_plain_counts(s):
    with pytest.raises(ValueError, match="y is None and X is a ndarray"): as_targets(s.counts, None, "TOC")


def test_cross_validation_of_scikit_learn_takes_spectra(s):
    sklearn = pytest.importorskip("sklearn")
    from sklearn.base import BaseEstimator, RegressorMixin
    from sklearn.model_selection import GroupKFold, cross_val_predict

    class Mean(RegressorMixin, BaseEstimator):
        def fit(self, X, y):
            self.mean_ = as_targets(X, y).mean() + 0 * as_counts(X).sum()
            return self
        def predict(self, X): return np.full(len(as_counts(X)), self.mean_)

    got = cross_val_predict(Mean(), s, s.info["CaCO3"].to_numpy(), groups=s.info["core"], cv=GroupKFold(3))
    assert got[0] == pytest.approx(np.mean([3, 4, 5, 6]))


@pytest.mark.skipif(not REAL.exists(), reason="the real spectra are not here")
def test_real_file(tmp_path):
    s = Spectra.from_parquet(REAL)
    assert s.counts.shape == (708, 2048) and s.axis == EnergyAxis() and s.meta["voltage_kv"] == "10"
    assert s.targets(["TOC", "CaCO3"]).notna().sum().tolist() == [235, 55]
    assert np.array_equal(Spectra.from_parquet(s.to_parquet(tmp_path / "r.parquet")).counts, s.counts)
    train, test = grouped_split(s, by="province", test=0.3)
    assert 0.15 < len(test) / len(s) < 0.45 and not set(train.info["province"]) & set(test.info["province"])
    with pytest.raises(ValueError, match="province"): s.cores


# ---- archives larger than memory

@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MAX_NB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@settings(max_examples=30, deadline=None)
@given(tables)
def test_mapped_equals_in_memory(tmp_path_factory, table):
    counts, names, toc = table
    folder = tmp_path_factory.mktemp("m")
    path = Spectra(counts, pd.DataFrame(dict(core=pd.Series(names, dtype="str"), TOC=pd.Series(toc, dtype=float))), AXIS, dict(a="1")).to_parquet(folder / "x.parquet")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MAX_NB_CACHE", str(folder / "cache"))
        here, there = Spectra.from_parquet(path), Spectra.from_parquet(path, memory_map=True)
    assert np.array_equal(here.counts, there.counts) and here.counts.dtype == there.counts.dtype and here.info.equals(there.info) and (here.axis, here.meta) == (there.axis, there.meta)
    assert fingerprint(here) == fingerprint(there) and (not len(counts) or there.on_disk)


def test_mapped_spectra_are_cut_split_and_joined_like_others(s, tmp_path, cache):
    there = Spectra.from_parquet(s.to_parquet(tmp_path / "x.parquet"), memory_map=True)
    for rows in (slice(1, 4), slice(None, None, -2), [True, False] * 3, [5, 0, 0], 2):
        assert np.array_equal(there[rows].counts, s[rows].counts) and there[rows].info.equals(s[rows].info)
        assert np.shares_memory(there[rows].counts, there.counts) == isinstance(rows, slice) and there[rows].counts.flags.writeable != isinstance(rows, slice)
    for a, b in zip(grouped_split(there, 0.3), grouped_split(s, 0.3)): assert np.array_equal(a.counts, b.counts) and a.info.equals(b.info)
    assert np.array_equal(Spectra.concat([there, s]).counts, np.r_[s.counts, s.counts]) and np.array_equal(there.rebin(EnergyAxis(1, 0.75, 3)).counts, s.rebin(EnergyAxis(1, 0.75, 3)).counts)
    assert np.array_equal(pickle.loads(pickle.dumps(there)).counts, s.counts) and np.array_equal(Spectra.from_parquet(there.to_parquet(tmp_path / "y.parquet")).counts, s.counts)
    with pytest.raises(ValueError, match="read-only"): there.counts[0, 0] = 1


def test_the_cache_follows_the_file(s, tmp_path, cache):
    path = s.to_parquet(tmp_path / "x.parquet")
    first = Spectra.from_parquet(path, memory_map=True)
    kept = list(cache.iterdir())
    again = Spectra.from_parquet(path, memory_map=True)
    assert len(kept) == 1 and list(cache.iterdir()) == kept
    s[:3].to_parquet(path)
    os.utime(path, ns=(1, 1))
    assert len(Spectra.from_parquet(path, memory_map=True)) == 3 and len(list(cache.iterdir())) == 1 and not kept[0].exists()
    assert np.array_equal(first.counts, s.counts) and np.array_equal(again.counts, s.counts), "what is open stays whole"


@pytest.mark.parametrize("given, expected", [(dict(MAX_NB_CACHE="a", XDG_CACHE_HOME="b"), Path("a")), (dict(MAX_NB_CACHE="", XDG_CACHE_HOME="b"), Path("b/max_nb")), (dict(MAX_NB_CACHE="", XDG_CACHE_HOME=""), Path.home() / ".cache/max_nb")])
def test_cache_folder(monkeypatch, given, expected):
    for name, value in given.items(): monkeypatch.setenv(name, value)
    assert cache_folder() == expected


def test_bad_counts_are_not_kept(tmp_path, cache):
    for spectrum, message in ((pa.array([[1, 2], [3]]), "row 1 of column 'spectrum' has 1 counts"), (pa.array([[1, 2], [3, -4]]), r"counts\[1, 1\] is -4"), (pa.array([[1, None]]), "row 0")):
        with pytest.raises(ValueError, match=f"bad.parquet: .*{message}"): Spectra.from_parquet(write(tmp_path / "bad.parquet", spectrum), memory_map=True)
        assert list(cache.iterdir()) == []


def test_size_decides_where_counts_are(s, tmp_path, cache, monkeypatch):
    path = s.to_parquet(tmp_path / "x.parquet")
    assert not Spectra.from_parquet(path, memory_map=None).on_disk
    monkeypatch.setattr("max_nb.spectra.LARGE", 6 * 6 * 8 - 1)
    assert Spectra.from_parquet(path, memory_map=None).on_disk


def test_rows_are_named_beyond_the_first_thousand(tmp_path, cache):
    lists = [[1, 2]] * 3000
    lists[2500] = [1]
    with pytest.raises(ValueError, match="row 2500 of column 'spectrum' has 1 counts; expected 2"): Spectra.from_parquet(write(tmp_path / "a", pa.array(lists)))
    lists[2500] = [1, -7]
    with pytest.raises(ValueError, match=r"counts\[2500, 1\] is -7; .* \(bad: 1 values in 1 of 3000 spectra\)"): Spectra.from_parquet(write(tmp_path / "b", pa.array(lists)))
    lists[2500] = [1, None]
    with pytest.raises(ValueError, match="row 2500 of column 'spectrum' lacks a count"): Spectra.from_parquet(write(tmp_path / "c", pa.array(lists)), memory_map=True)


@quick
@given(st.lists(st.integers(0, 1500), min_size=1, max_size=6))
def test_parts_are_written_one_below_the_other(tmp_path_factory, sizes):
    counts = np.arange(6 * sum(sizes)).reshape(-1, 6)
    whole, ends = Spectra(counts, pd.DataFrame(dict(core=np.arange(len(counts)).astype(str))), AXIS, dict(a="1")), np.cumsum([0, *sizes])
    path = write_parquet(tmp_path_factory.mktemp("w") / "x.parquet", (whole[i:j] for i, j in zip(ends, ends[1:])), "int32")
    back, groups = Spectra.from_parquet(path), pq.ParquetFile(path).metadata
    assert np.array_equal(back.counts, counts) and back.counts.dtype == np.int32 and back.info["core"].tolist() == whole.info["core"].tolist() and back.meta == whole.meta
    assert max((groups.row_group(i).num_rows for i in range(groups.num_row_groups)), default=0) < 2048


def test_types_of_parts(s, tmp_path):
    gap = Spectra(s.counts.astype(float), s.info.assign(TOC=None, core="Z")[["TOC", "CaCO3", "depth_mm", "core"]], AXIS)
    back = Spectra.from_parquet(write_parquet(tmp_path / "x.parquet", [s, gap]))
    assert back.counts.dtype == s.counts.dtype and list(back.info) == list(s.info) and back.targets("TOC")["TOC"].isna().sum() == 8
    assert Spectra.from_parquet(write_parquet(tmp_path / "y.parquet", [gap, gap])).info["TOC"].isna().all()


def test_a_buffer_that_is_used_again_does_no_harm(tmp_path):
    buffer = np.zeros((2, 6), int)
    def parts():
        for k in range(3): buffer[:] = k; yield Spectra(buffer, None, AXIS)
    assert Spectra.from_parquet(write_parquet(tmp_path / "x.parquet", parts())).counts[:, 0].tolist() == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("change, message", [
    (lambda s: Spectra(s.counts, s.info, EnergyAxis(0.4, 0.5, 6)), "part 1 has axis .*0.4.*expected .*0.5.*as in part 0"), (lambda s: Spectra(s.counts, s.info.drop(columns="TOC"), AXIS), "part 1 has columns .*expected .*'TOC'"),
    (lambda s: Spectra(s.counts, s.info.assign(TOC="n.d."), AXIS), "part 1, column 'TOC' holds .*string.*expected double"), (lambda s: Spectra(s.counts + 0.5, s.info, AXIS), "part 1 holds counts .*int64 cannot hold"),
    (lambda s: Spectra(s.counts * 1e30, s.info, AXIS), "int64 cannot hold"), (lambda s: Spectra(s.counts, s.info, AXIS, dict(a="1")), "part 1 has meta {'a': '1'}; expected {}")])
def test_parts_that_do_not_fit(s, tmp_path, change, message):
    with pytest.raises(ValueError, match=f"x.parquet: .*{message}"): write_parquet(tmp_path / "x.parquet", [s, change(s)])
    assert list(tmp_path.iterdir()) == []


def test_nothing_to_write(tmp_path):
    with pytest.raises(ValueError, match="x.parquet: no parts to write"): write_parquet(tmp_path / "x.parquet", [])
    assert list(tmp_path.iterdir()) == []


def test_write_atomically(tmp_path):
    path = write_atomically(tmp_path / "a" / "b.csv", lambda part: part.write_text("one"))
    def broken(part): part.write_text("tw"); raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt): write_atomically(path, broken)
    assert path.read_text() == "one" and os.listdir(path.parent) == ["b.csv"]
    (tmp_path / "plain").write_text("")
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode, "as open to others as any new file"


def test_columns_without_gaps(s):
    assert s.column("core", whole=True).equals(s.info["core"])
    with pytest.raises(ValueError, match="info column 'TOC' is empty in row 1; expected a value for every spectrum"): s.column("TOC", whole=True)
    assert s.column("TOC").isna().sum() == 2


@pytest.mark.parametrize("n", [0, 3, 2500])
def test_fingerprint_is_that_of_the_bytes(n):
    counts = np.random.default_rng(0).poisson(5, (n, 6))
    assert fingerprint(counts) == fingerprint(Spectra(counts, None, AXIS)) == hashlib.sha256(counts.tobytes() + str(counts.shape).encode()).hexdigest()[:16]
    assert fingerprint(counts[:, ::-1]) == fingerprint(np.ascontiguousarray(counts[:, ::-1])) and fingerprint(counts, AXIS) != fingerprint(counts)
