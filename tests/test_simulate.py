"What does not teach: bad input, limits, and equivalences of the forward model."
import hashlib
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st

from max_nb.energy import Detector, EnergyAxis, Tube
from max_nb.physics import (COMPONENTS, ELEMENTS, SCANNERS, Scan, as_fractions, component_elements, expected_spectrum, mass_fractions, pile_up, response, simulate_spectra, transmission,
                            tube_lines)
from max_nb.simulate import (HEADS, LAYERS, NO_LAYERS, REGIONS, SESSIONS, SOLIDS, ages, bioturbated, core_layers, core_trends, core_truth, diary, end_members, laboratory_table,
                             random_regions, sections, simulate_archive, simulate_core, simulate_cores)
from max_nb.spectra import Spectra, write_parquet

MUD = pd.DataFrame([dict(CaCO3=10.0, opal=6.0, shale=30.0, water=52.0, salt=2.0)])


def at(kev):
    return EnergyAxis().channel_of(kev)


@pytest.fixture(scope="module")
def archive():
    return simulate_archive(n_cores=7, n_per_core=12, seed=3, step_mm=50.0)


@pytest.mark.parametrize("table, words", [
    (pd.DataFrame(dict(core=["a"])), "expected elements"),
    (pd.DataFrame(dict(CaCO3=[50.0], water=[np.nan])), "row 0"),
    (pd.DataFrame(dict(CaCO3=[120.0], water=[-20.0])), "numbers >= 0"),
    (pd.DataFrame(dict(CaCO3=[0.5], water=[0.5])), "add up to 1"),
    (pd.DataFrame(dict(Ca=[40.0], C=[12.0], O=[20.0])), "add up to 72"),
    (pd.DataFrame(dict(CaCO3=[50.0, 50.0], water=[50.0, 10.0]), index=["good", "bad"]), "row bad"),
])
def test_composition_that_does_not_add_up(table, words):
    with pytest.raises(ValueError, match=words): as_fractions(table)


@pytest.mark.parametrize("formula, words", [("CaUO4", "U is not simulated"), ("no formula!", "is no formula")])
def test_bad_formula(formula, words):
    with pytest.raises(ValueError, match=words): mass_fractions(formula)


@pytest.mark.parametrize("tube", [Tube(kv=2.5), Tube(kv=80.0)])
def test_tubes_that_are_not_simulated(tube):
    with pytest.raises(ValueError, match="expected"): tube_lines(tube)


def test_another_anode_runs():
    molybdenum = expected_spectrum(MUD, tube=Tube(anode="Mo"))
    assert np.isfinite(molybdenum).all() and molybdenum[0, at(2.293)] > molybdenum[0, at(2.1)]


@pytest.mark.parametrize("n_cores, n_per_core, regions", [(0, 5, REGIONS), (2, 0, REGIONS), (2, 5, ())])
def test_empty_archive(n_cores, n_per_core, regions):
    with pytest.raises(ValueError, match="expected at least 1"): simulate_archive(n_cores, n_per_core, regions=regions)


@pytest.mark.parametrize("options, words", [
    (dict(n_jobs=0), "n_jobs is 0"), (dict(n_jobs=-2), "n_jobs is -2"), (dict(step_mm=0.0), "step_mm is 0"), (dict(step_mm=-5.0), "step_mm is -5"), (dict(step_mm=np.nan), "step_mm is nan"),
])
def test_impossible_archives(options, words):
    with pytest.raises(ValueError, match=words): simulate_cores(2, 5, **options)  # at once, not when the first core is asked for


def test_impossible_regions():
    with pytest.raises(ValueError, match="regions: 0; expected at least 1"): random_regions(0)
    with pytest.raises(ValueError, match="moon_dust"): replace(REGIONS[0], sources=("shale", "moon_dust"))
    with pytest.raises(ValueError, match="expected two sources"): replace(REGIONS[0], sources=("shale",))
    with pytest.raises(ValueError, match="Emperor.*toc is -1"): replace(REGIONS[0], toc=-1.0)
    with pytest.raises(ValueError, match="toc is 0"): replace(REGIONS[0], toc=0.0)
    with pytest.raises(ValueError, match="ash_per_m is nan"): replace(REGIONS[0], ash_per_m=np.nan)


def test_impossible_cores():
    with pytest.raises(ValueError, match="n is 0"): simulate_core(REGIONS[0], "none", n=0)
    with pytest.raises(ValueError, match="step_mm is 0"): simulate_core(REGIONS[0], "none", step_mm=0.0)


@pytest.mark.parametrize("options, words", [
    (dict(error={"TOC": -0.1}), "error of TOC is -0.1"), (dict(relative={"TOC": np.nan}), "error of TOC is nan"), (dict(relative={"Hg": 0.1}), "info lacks Hg"),
    (dict(duplicates=1.5), "duplicates is 1.5"), (dict(missing=-0.1), "missing is -0.1"), (dict(slice_mm=-1.0), "slice_mm is -1"),
])
def test_impossible_laboratories(archive, options, words):
    with pytest.raises(ValueError, match=words): laboratory_table(archive, per_core=3, **options)


def test_laboratory_refuses(archive):
    with pytest.raises(ValueError, match="expected 1 to 12"): laboratory_table(archive, per_core=13)
    with pytest.raises(ValueError, match="expected 1 to 12"): laboratory_table(archive, per_core=0)
    with pytest.raises(ValueError, match="info lacks Hg"): laboratory_table(archive, error={"Hg": 0.1})
    with pytest.raises(ValueError, match="info lacks core"): laboratory_table(Spectra(archive.counts, archive.info.drop(columns="core")))


def test_every_component_adds_up():
    assert np.allclose(component_elements().sum(axis=1), 100)
    assert list(component_elements().index) == list(COMPONENTS)


def test_elements_and_components_give_the_same_spectrum():
    elements = pd.DataFrame(100 * as_fractions(MUD), columns=list(ELEMENTS))
    assert np.allclose(expected_spectrum(MUD), expected_spectrum(elements))


def test_order_and_company_do_not_matter():
    three = pd.concat([MUD, MUD.assign(CaCO3=30.0, shale=10.0), MUD.assign(opal=20.0, shale=16.0)], ignore_index=True)
    together = expected_spectrum(three, film_um=[0.0, 5.0, 10.0])
    for i, film in enumerate([0.0, 5.0, 10.0]):
        assert np.allclose(together[i], expected_spectrum(three[i:i + 1], film_um=film)[0], rtol=1e-10)


def test_total_is_kept_but_for_pile_up():
    no_pairs = Scan(pair_s=0.0)
    totals = np.array([1e4, 1e6])
    counts = expected_spectrum(pd.concat([MUD, MUD]), total=totals, scan=no_pairs)
    assert np.allclose(counts.sum(1), totals) and np.allclose(counts[1], 100 * counts[0])


def test_time_and_current_are_proportional_without_pile_up():
    one = expected_spectrum(MUD, scan=Scan(pair_s=0.0))
    twice = expected_spectrum(MUD, tube=replace(Tube(), current_ma=2 * Tube().current_ma), scan=Scan(pair_s=0.0))
    assert np.allclose(twice, 2 * one) and np.allclose(expected_spectrum(MUD, scan=Scan(pair_s=0.0, live_s=20.0)), 2 * one)


def test_nothing_above_the_voltage_without_pile_up():
    detector = replace(Detector(), noise_kev=0.05)
    counts = expected_spectrum(MUD, detector=detector, scan=Scan(pair_s=0.0))[0]
    assert counts[at(10.5):].sum() < 1e-6 * counts.sum()
    assert expected_spectrum(MUD)[0][at(10.5):].sum() > 100


def test_water_film_dims_light_elements_most():
    bare, wet = (expected_spectrum(MUD, film_um=f, scan=Scan(pair_s=0.0))[0] for f in (0.0, 20.0))
    ratio = [wet[at(e)] / bare[at(e)] for e in (1.487, 1.740, 3.692, 6.404)]
    assert ratio == sorted(ratio) and ratio[0] < 0.35 and ratio[-1] > 0.9


def test_more_of_an_element_is_more_of_its_line():
    steps = pd.concat([MUD.assign(CaCO3=10.0 + d, shale=30.0 - d) for d in (0, 5, 10, 20)])
    assert (np.diff(expected_spectrum(steps)[:, at(3.692)]) > 0).all()


@settings(max_examples=12, deadline=None)
@given(st.lists(st.floats(0.01, 1.0), min_size=len(COMPONENTS), max_size=len(COMPONENTS)))
def test_any_mixture_has_a_spectrum(parts):
    mixture = pd.DataFrame([100 * np.array(parts) / sum(parts)], columns=list(COMPONENTS))
    assert np.isclose(as_fractions(mixture).sum(), 1)
    counts = expected_spectrum(mixture)
    assert np.isfinite(counts).all() and (counts >= 0).all() and counts.sum() > 1e4


@settings(max_examples=12, deadline=None)
@given(st.floats(1.0, 10.0))
def test_one_photon_gives_at_most_one_count(kev):
    row = response(np.array([kev]))[0]
    assert (row >= 0).all() and row.sum() <= 1 + 1e-9


@settings(max_examples=12, deadline=None)
@given(st.floats(0.0, 10.0), st.floats(1.0, 10.0))
def test_layers_multiply(mg, kev):
    assert np.isclose(transmission("H2O", mg, [kev]) ** 2, transmission("H2O", 2 * mg, [kev]))


def test_pile_up_conserves_photons():
    counts = expected_spectrum(MUD, scan=Scan(pair_s=0.0))
    piled = pile_up(counts)
    lost = counts.sum() - piled.sum()  # each pair is one count instead of two
    assert np.isclose(lost, counts.sum() ** 2 * Scan().pair_s / Scan().live_s, rtol=1e-3)


def test_resolution_and_axis_move_the_counts_as_they_should():
    shifted = EnergyAxis(EnergyAxis().gain_kev, EnergyAxis().offset_kev - EnergyAxis().gain_kev)
    a, b = expected_spectrum(MUD, scan=Scan(pair_s=0.0))[0], expected_spectrum(MUD, scan=Scan(pair_s=0.0, threshold_kev=-5.0), axis=shifted)[0]
    assert abs(a[100:600].argmax() + 1 - b[100:600].argmax()) == 0
    sharp = expected_spectrum(MUD, detector=replace(Detector(), noise_kev=0.05))[0]
    assert sharp[at(6.404)] > a[at(6.404)]


def test_seed_decides_and_nothing_else(archive):
    assert np.array_equal(simulate_spectra(MUD, seed=4), simulate_spectra(MUD, seed=4))
    assert not np.array_equal(simulate_spectra(MUD, seed=4), simulate_spectra(MUD, seed=5))
    np.random.seed(1)
    again = simulate_archive(n_cores=7, n_per_core=12, seed=3, step_mm=50.0)
    assert np.array_equal(again.counts, archive.counts) and again.info.equals(archive.info)
    assert laboratory_table(archive, 3, seed=1).equals(laboratory_table(archive, 3, seed=1))


def test_same_counts_in_another_process(archive):
    code = "from max_nb.simulate import simulate_archive as s; import hashlib; print(hashlib.sha256(s(7, 12, 3, 50.0).counts.tobytes()).hexdigest())"
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert there.strip() == hashlib.sha256(archive.counts.tobytes()).hexdigest()


def test_what_an_archive_contains(archive):
    info = archive.info
    assert list(info.columns[:3]) == ["core", "region", "depth_mm"] and len(archive.cores) == 7 and info["region"].nunique() == 6
    assert np.allclose(info[["CaCO3", "detrital", *SOLIDS]].sum(axis=1), 100) and np.allclose(info[list(ELEMENTS)].sum(axis=1), 100)
    assert np.allclose(info[["first_source", "second_source", *LAYERS]].sum(axis=1), info["detrital"]) and np.allclose(info["salt"] / info["water"], 0.035 / 0.965)
    assert info["CaCO3"].between(0, 100).all() and info["TOC"].between(0, 15).all() and info["water"].between(20, 90).all()
    assert archive.counts.dtype.kind == "i" and 2e5 < archive.counts.sum(1).mean() < 3e6 and info.notna().all().all()


def test_an_archive_survives_parquet(archive, tmp_path):
    archive.to_parquet(tmp_path / "a.parquet")
    back = Spectra.from_parquet(tmp_path / "a.parquet")
    assert np.array_equal(back.counts, archive.counts) and np.allclose(back.info["TOC"], archive.info["TOC"])


def test_a_truth_can_be_scanned_again(archive):
    again = simulate_spectra(archive.info[:5], film_um=archive.info["film_um"][:5])
    assert again.shape == archive.counts[:5].shape


def test_laboratory_values_are_near_the_truth(archive):
    lab = laboratory_table(archive, per_core=6, seed=2)
    both = lab.merge(archive.info, on=["core", "depth_mm"], suffixes=("", "_true"))
    assert len(lab) == len(both) == 42 and not lab.duplicated(["core", "depth_mm"]).any()
    assert 0.4 < (both["CaCO3"] - both["CaCO3_true"]).std() < 1.4
    exact = laboratory_table(archive, per_core=6, error={"TOC": 0.0}, seed=2).merge(archive.info, on=["core", "depth_mm"], suffixes=("", "_true"))
    assert np.array_equal(exact["TOC"], exact["TOC_true"])


def test_one_core_of_one_sample():
    assert len(simulate_core(REGIONS[2], "one", n=1)) == 1


HASHES = """
import hashlib, sys
from max_nb.simulate import random_regions, simulate_archive
a = simulate_archive(5, 30, seed=11, regions=random_regions(4, seed=2), n_jobs=int(sys.argv[1]))
print(hashlib.sha256(a.counts.tobytes()).hexdigest(), hashlib.sha256(a.info.to_csv().encode()).hexdigest())
"""


def test_threads_processes_and_blas_do_not_matter():
    def run(jobs, threads): return subprocess.run([sys.executable, "-c", HASHES, str(jobs)], capture_output=True, text=True, check=True, env={**os.environ, "OMP_NUM_THREADS": str(threads)}).stdout
    assert run(1, 1) == run(2, 2) == run(-1, 1)


def test_core_k_does_not_depend_on_the_archive(archive):
    fewer = list(simulate_cores(3, 12, seed=3, step_mm=50.0, n_jobs=1))
    for k, core in enumerate(fewer):
        assert np.array_equal(core.counts, archive.counts[12 * k : 12 * k + 12]) and core.info["core"].iloc[0] == archive.cores[k]


def test_cores_are_made_as_they_are_taken(monkeypatch):
    made = []
    monkeypatch.setattr("max_nb.simulate.simulate_core", lambda region, core, *a, **k: made.append(core) or core)
    cores = simulate_cores(100, 5, n_jobs=2, progress=False)
    assert not made and next(cores) == "EMP-01" and len(made) <= 8


def test_an_archive_goes_straight_to_parquet(archive, tmp_path):
    path = write_parquet(tmp_path / "a.parquet", simulate_cores(7, 12, seed=3, step_mm=50.0))
    back = Spectra.from_parquet(path)
    assert np.array_equal(back.counts, archive.counts) and list(back.info.columns) == list(archive.info.columns)


def test_every_spectrum_knows_its_instrument(archive):
    info = archive.info
    assert info["session"].between(0, SESSIONS - 1).all() and info["head"].isin(list(HEADS)).all() and info["contact"].isin(["good", "crack", "lifted foil", "section end"]).all()
    assert (info.groupby("core")[["session", "head", "voltage_kv", "current_ma", "noise_kev", "foil_um", "air_mm"]].nunique() == 1).all().all()
    assert info["gain_kev"].between(0.0198, 0.0205).all() and info["strength"].between(0, 3).all() and (info["gap_mm"] > 0).all() and (info["x_mm"] >= 0).all()
    old, new = (np.mean([s.detector.noise_kev for k in range(20) for s in diary(k) if s.head == head]) for head in HEADS)
    assert old > new


def test_true_axis_brings_the_peaks_home(archive):
    good = archive[(archive.info["contact"] == "good").to_numpy()].aligned()
    iron = good.counts[:, at(6.1) : at(6.7)].argmax(1) + at(6.1)
    assert np.abs(np.median(iron) - at(6.40)) <= 1


def test_a_poor_contact_costs_soft_lines_first():
    core = simulate_core(REGIONS[1], "one", n=40, seed=1)
    clean, gap = (expected_spectrum(core.info, gap_mm=g)[:, at(1.6):at(6.6)].sum(0) for g in (0.0, 2.0))
    ratio = gap / clean
    assert ratio[at(1.74) - at(1.6)] < ratio[at(3.69) - at(1.6)] < ratio[at(6.4) - at(1.6)] < 1


def test_layers_have_sharp_bases_and_diffuse_tops():
    layers = pd.DataFrame(dict(kind=["ash", "turbidite"], top_mm=[200.0, 600.0], base_mm=[240.0, 800.0], missing_kyr=[0.0, 0.0]))
    truth = core_truth(REGIONS[4], core_trends(240, 5.0, np.random.default_rng(0), layers), layers).set_index("depth_mm")
    assert truth.loc[245.0, "ash"] == 0 and truth.loc[235.0, "ash"] == 97 and 30 < truth.loc[195.0, "ash"] < 97 and truth.loc[50.0, "ash"] < 10
    assert truth.loc[795.0, "sand"] > 60 and truth.loc[605.0, "mud"] > 50 and truth.loc[805.0, ["sand", "mud"]].sum() == 0
    assert truth.loc[600.0:795.0, "age_kyr"].nunique() == 1 and truth.loc[200.0:235.0, "layer"].eq("ash").all()
    assert truth.loc[795.0, "water"] < truth.loc[805.0, "water"]


def test_water_is_pressed_out_and_salt_stays():
    long = core_truth(replace(REGIONS[0], water_productivity=0.0), core_trends(600, 5.0, np.random.default_rng(0)).assign(water=0.0))
    assert long["water"].is_monotonic_decreasing and 2 < long["water"].iloc[0] - long["water"].iloc[-1] < 6
    sea = simulate_core(REGIONS[5], "one", n=30, seed=2).info
    assert np.allclose(sea["Cl"] / sea["water"], end_members().loc["salt", "Cl"] / 100 * 0.035 / 0.965, rtol=1e-6)


def test_sections_are_about_a_metre():
    cut = sections(np.arange(0, 10_000, 5.0), np.random.default_rng(0))
    assert cut.groupby("section")["x_mm"].max().iloc[:-1].between(900, 1080).all() and cut["section"].is_monotonic_increasing and (cut["past_end"] > 0).mean() < 0.03


def some_layers(depths):
    edges = np.sort(depths)
    top, base = edges[0::2][: len(edges) // 2], edges[1::2]
    return pd.DataFrame(dict(kind=["turbidite"] * len(base), top_mm=top, base_mm=base, missing_kyr=np.zeros(len(base))))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(0, 1000), min_size=0, max_size=8), st.floats(1.0, 200.0))
def test_time_never_runs_back(depths, rate):
    age = ages(np.arange(0, 1000, 7.0), rate, some_layers(depths) if len(depths) > 1 else NO_LAYERS)
    assert (np.diff(age) >= 0).all() and age[-1] <= 1000 / rate + 1e-9


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(0, 100), min_size=2, max_size=30), st.floats(0.0, 100.0), st.integers(0, 2**30))
def test_burrowing_stays_within_what_fell(fallen, mixed, bits):
    fallen = np.array(fallen)[:, None]
    at_once = np.array([bool(bits >> i & 1) for i in range(len(fallen))])
    buried = bioturbated(fallen, 10.0 * np.arange(len(fallen)), at_once, mixed)
    assert buried.min() >= fallen.min() - 1e-9 and buried.max() <= fallen.max() + 1e-9 and np.array_equal(buried[at_once], fallen[at_once])


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.floats(1.0, 60.0))
def test_any_sea_has_mud_that_adds_up(seed, step):
    region = random_regions(1, seed)[0]
    layers = core_layers(region, 40 * step, np.random.default_rng(seed))
    truth = core_truth(region, core_trends(40, step, np.random.default_rng(seed), layers), layers)
    assert np.allclose(truth[["CaCO3", "detrital", *SOLIDS]].sum(axis=1), 100) and np.allclose(truth[list(ELEMENTS)].sum(axis=1), 100)
    assert (truth[["CaCO3", "TOC", *SOLIDS, *LAYERS, *ELEMENTS]] >= 0).all().all() and truth["TOC"].max() <= 15.5 and truth["age_kyr"].is_monotonic_increasing


def test_seas_differ_and_are_reproducible():
    seas = random_regions(40, seed=4)
    assert seas[:7] == random_regions(7, seed=4) and seas != random_regions(40, seed=5) and len({s.code for s in seas}) == 40
    toc = np.array([s.toc for s in seas])
    assert 0.2 < np.median(toc) < 1 and toc.max() / toc.min() > 5 and len({s.sources for s in seas}) > 20


def test_laboratory_duplicates_missing_and_slices(archive):
    lab = laboratory_table(archive, per_core=12, duplicates=1.0, seed=4)
    assert len(lab) == 168 and (lab.groupby(["core", "depth_mm"]).size() == 2).all() and not lab.duplicated().any()
    assert laboratory_table(archive, per_core=6, missing=1.0)[["CaCO3", "TOC"]].isna().all().all()
    whole = laboratory_table(archive, per_core=1, error={"TOC": 0.0}, slice_mm=1e4).set_index("core")["TOC"]
    assert np.allclose(whole, archive.info.groupby("core", sort=False)["TOC"].mean().loc[whole.index])
    assert laboratory_table(archive.info, per_core=3, seed=1).equals(laboratory_table(archive, per_core=3, seed=1))


def test_relative_errors_grow_with_the_value(archive):
    twice = laboratory_table(archive, per_core=12, error={"CaCO3": 0.0}, relative={"CaCO3": 0.1}, duplicates=1.0).groupby(["core", "depth_mm"])["CaCO3"].agg(["mean", "std"])
    assert 0.06 < (twice["std"] / twice["mean"]).median() / 0.67 < 0.14


def test_the_module_is_light():
    code = "import sys, max_nb.simulate; print([m for m in ('torch', 'plotly', 'scipy', 'sklearn', 'matplotlib') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_another_scanner_makes_whole_archives():
    settings_ = SCANNERS["itrax"]
    archive = simulate_archive(2, 6, seed=1, progress=False, **settings_)
    assert archive.axis == settings_["axis"] and archive.info["voltage_kv"].between(28, 32).all()
    total = archive.counts.sum(0)
    strontium, beside = (total[archive.axis.channel_of(kev)] for kev in (14.16, 13.7))
    assert strontium > 1.1 * beside  # its K line, out of reach at 10 kV


def test_processes_make_the_same_cores_as_threads(monkeypatch):
    import max_nb.simulate as simulate
    threads = [c.counts for c in simulate_cores(3, 6, seed=4, n_jobs=2, progress=False)]
    monkeypatch.setattr(simulate, "PROCESSES_FROM", 1)
    processes = [c.counts for c in simulate_cores(3, 6, seed=4, n_jobs=2, progress=False)]
    assert all(np.array_equal(a, b) for a, b in zip(threads, processes, strict=True))
