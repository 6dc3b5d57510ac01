"""Energy axis, lines and line groups: what does not teach, and therefore is not in the chapter."""
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from max_nb.energy import (Detector, EnergyAxis, GAIN_KEV, N_CHANNELS, OFFSET_KEV, SEDIMENT_ELEMENTS, Tube, assign_players, emission_lines, escape_kev,
                           line_features, line_groups, pileup_sums, resolved)

quick = settings(max_examples=40, deadline=None)
axes = st.builds(EnergyAxis, st.floats(0.001, 0.2), st.floats(-0.5, 0.5), st.integers(1, 3000))


def test_nominal_axis():
    axis = EnergyAxis()
    assert (axis.gain_kev, axis.offset_kev, axis.n_channels) == (GAIN_KEV, OFFSET_KEV, N_CHANNELS) == (0.02, 0.02, 2048)
    assert axis == EnergyAxis() and hash(axis) == hash(EnergyAxis()) and axis != EnergyAxis(0.0204)


@pytest.mark.parametrize("arguments, named", [
    (dict(gain_kev=0), "gain_kev"), (dict(gain_kev=-0.02), "gain_kev"), (dict(gain_kev=np.nan), "gain_kev"), (dict(gain_kev=np.inf), "gain_kev"),
    (dict(offset_kev=np.nan), "offset_kev"), (dict(n_channels=0), "n_channels"), (dict(n_channels=2.5), "n_channels"), (dict(n_channels=-4), "n_channels")])
def test_impossible_axis(arguments, named):
    with pytest.raises(ValueError, match=f"{named} is .*expected"): EnergyAxis(**arguments)


@quick
@given(axes)
def test_channels_and_energies_are_inverse(axis):
    assert np.array_equal(axis.channel_of(axis.centers), np.arange(axis.n_channels))
    assert axis.edges.shape == (axis.n_channels + 1,) and np.allclose(np.diff(axis.edges), axis.gain_kev)


@quick
@given(axes, st.floats(0, 1))
def test_channel_is_the_nearest(axis, share):
    kev = axis.edges[0] + share * (axis.edges[-1] - axis.edges[0])
    channel = axis.channel_of(min(max(kev, axis.edges[0]), axis.edges[-1]))
    assert isinstance(channel, int) and abs(axis.centers[channel] - kev) <= np.abs(axis.centers - kev).min() + 1e-9


@pytest.mark.parametrize("kev", [-1.0, 0.0, 41.0, np.nan, np.inf, [1.0, 50.0]])
def test_energy_off_the_axis(kev):
    with pytest.raises(ValueError, match="keV is off the axis; expected 0.01 to 40.97"): EnergyAxis().channel_of(kev)


@pytest.mark.parametrize("element", ["Xx", "", "ca", "Calcium", 20, None])
def test_unknown_element(element):
    with pytest.raises(ValueError, match="no chemical element"): emission_lines((element,))


def test_lines_are_sorted_scaled_and_within_bounds():
    lines = emission_lines(max_kev=7.0, min_kev=1.5)
    assert lines["energy_kev"].is_monotonic_increasing and lines["energy_kev"].between(1.5, 7.0).all()
    assert lines["intensity"].between(0, 1, inclusive="right").all() and not lines.isna().any(axis=None)
    assert emission_lines(("Ca", "Ca")).equals(emission_lines("Ca"))
    assert list(emission_lines(()).columns) == ["element", "line", "energy_kev", "intensity"] and len(emission_lines(())) == 0


def test_shells_are_scaled_apart():
    lines = emission_lines("Fe", max_kev=10, min_kev=0).set_index("line")["intensity"]
    assert lines["Ka"] == 1 and lines["La"] == 1


@pytest.mark.parametrize("energy, escape", [(3.692, 1.952), (6.404, 4.664)])
def test_escape(energy, escape): assert escape_kev(energy) == pytest.approx(escape, abs=0.002)


def test_escape_takes_arrays():
    assert np.isnan(escape_kev(np.array([1.0, 3.0]))).tolist() == [True, False]


@quick
@given(st.floats(0, 0.3), st.floats(0.5, 40), st.floats(0.5, 40))
def test_width_grows_with_energy_and_resolution_is_symmetric(noise, a, b):
    detector = Detector(noise_kev=noise)
    assert (detector.fwhm_kev(a) <= detector.fwhm_kev(b)) == (a <= b) or np.isclose(a, b)
    assert resolved(a, b, detector) == resolved(b, a, detector) and not resolved(a, a, detector)


def test_width_against_numbers_of_the_data_sheet():
    assert Detector(noise_kev=0).fwhm_kev(5.895) == pytest.approx(0.117, abs=0.002)  # the Fano limit of silicon at Mn Ka


def test_pileup_counts_each_pair_once():
    lines = emission_lines(("Si", "Ca"))
    sums = pileup_sums(lines)
    assert len(sums) == len(lines) * (len(lines) + 1) // 2 and sums["line"].is_unique
    assert sums["energy_kev"].min() == pytest.approx(2 * lines["energy_kev"].min())


@settings(max_examples=15, deadline=None)
@given(st.floats(0.005, 0.05), st.floats(-0.1, 0.1), st.integers(60, 3000), st.lists(st.sampled_from([*SEDIMENT_ELEMENTS, "Br", "Sr", "V", "Ni"]), max_size=8, unique=True))
def test_groups_are_a_partition(gain, offset, n_channels, elements):
    axis = EnergyAxis(gain, offset, n_channels)
    groups = line_groups(axis, tuple(elements))
    assert np.array_equal(np.sort(np.concatenate(list(groups.values()))), np.arange(n_channels))
    assert all(len(c) and (np.diff(c) > 0).all() for c in groups.values())


@pytest.mark.parametrize("element, kev", [("Mg", 1.254), ("Al", 1.487), ("Si", 1.740), ("P", 2.014), ("S", 2.308), ("Cl", 2.622), ("Ar", 2.958), ("K", 3.314), ("Ca", 3.692),
                                          ("Ca", 4.013), ("Ti", 4.511), ("Cr", 5.415), ("Mn", 5.899), ("Fe", 6.404), ("Fe", 7.058), ("Fe", 4.664), ("Ca", 7.38), ("Ca", 7.70), ("Ca", 8.03)])
def test_each_line_lies_in_a_group_of_its_element(element, kev):
    channel = EnergyAxis().channel_of(kev)
    name = next(n for n, c in line_groups().items() if channel in c)
    assert element in [part.split()[0] for part in name.split(" + ")]


def test_overlaps_carry_both_names():
    names = list(line_groups())
    assert "Cl K + Rh L" in names and "P K + Ca escape" in names and "Br L + Al K" in line_groups(elements=(*SEDIMENT_ELEMENTS, "Br"))
    assert "above 10 keV" in names and "below 0.7 keV" in names and 20 <= len(names) <= 27


def test_another_tube_and_a_better_detector_change_the_players():
    assert "Cl K" in line_groups(tube=Tube(anode="Mo")) and not any("Rh" in n for n in line_groups(tube=Tube(anode="Mo")))
    assert "Cl K" in line_groups(detector=Detector(noise_kev=0.0, fano=0.05))


def test_every_feature_has_a_player():
    features = line_features()
    assigned = assign_players(features)
    assert len(assigned) == len(features) and assigned["player"].notna().all()
    assert set(features["kind"]) == {"alpha", "beta", "escape", "pileup"}
