"What does not teach: bad input, limits, and equivalences of the forward model."
import hashlib
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st

from max_nb.energy import Detector, EnergyAxis, Tube
from max_nb.physics import (COMPONENTS, ELEMENTS, Scan, as_fractions, component_elements, expected_spectrum, mass_fractions, pile_up, response, simulate_spectra, transmission,
                            tube_lines)
from max_nb.simulate import REGIONS, SOLIDS, laboratory_table, simulate_archive, simulate_core
from max_nb.spectra import Spectra

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


@pytest.mark.parametrize("tube", [Tube(kv=2.5), Tube(kv=80.0), Tube(anode="Xx")])
def test_tubes_that_are_not_simulated(tube):
    with pytest.raises(ValueError, match="expected"): tube_lines(tube)


def test_another_anode_runs():
    molybdenum = expected_spectrum(MUD, tube=Tube(anode="Mo"))
    assert np.isfinite(molybdenum).all() and molybdenum[0, at(2.293)] > molybdenum[0, at(2.1)]


@pytest.mark.parametrize("n_cores, n_per_core, regions", [(0, 5, REGIONS), (2, 0, REGIONS), (2, 5, ())])
def test_empty_archive(n_cores, n_per_core, regions):
    with pytest.raises(ValueError, match="expected at least 1"): simulate_archive(n_cores, n_per_core, regions=regions)


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
    assert info["CaCO3"].between(0, 100).all() and info["TOC"].between(0, 15).all() and info["water"].between(20, 85).all()
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


def test_the_module_is_light():
    code = "import sys, max_nb.simulate; print([m for m in ('torch', 'plotly', 'scipy', 'sklearn', 'matplotlib') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
