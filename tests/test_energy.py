"""Energy axis, lines, line groups and calibration: what does not teach, and therefore is not in the chapter."""
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st

from max_nb.energy import (CHUNK, Detector, EnergyAxis, GAIN_KEV, N_CHANNELS, OFFSET_KEV, SEDIMENT_ELEMENTS, Tube, assign_players, calibration_lines, emission_lines,
                           escape_kev, fit_axes, fit_axis, line_features, line_groups, pileup_sums, resolved)
from max_nb.physics import expected_spectrum
from max_nb.simulate import REGIONS, core_trends, core_truth

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


# --- calibration

ITRAX = dict(nominal=EnergyAxis(0.0102, 0.0), tube=Tube("Mo", 30.0))


def bells(axis, peaks, floor=100.0, widths=1.0):
    "Expected counts (C,): bell curves of given heights at given energies on a flat floor."
    kev = np.array(list(peaks))
    sigma = widths * Detector().fwhm_kev(kev) / np.sqrt(8 * np.log(2))
    return floor + np.exp(-0.5 * ((axis.centers[:, None] - kev) / sigma) ** 2) @ np.array(list(peaks.values()))


MUD = {1.740: 5e3, 2.697: 8e3, 3.313: 3e3, 3.691: 9e3, 4.013: 1.3e3, 4.509: 900.0, 6.400: 2e4, 7.058: 3e3}


def poisson(mean, seed=0): return np.random.default_rng(seed).poisson(mean)


@pytest.fixture(scope="module")
def sediments(): return pd.concat([core_truth(r, core_trends(5, 10.0, np.random.default_rng(i))) for i, r in enumerate(REGIONS)], ignore_index=True)


@quick
@given(st.floats(0.0198, 0.0206), st.floats(-0.03, 0.03), st.integers(0, 1000))
def test_fit_finds_gain_and_offset(gain, offset, seed):
    true = EnergyAxis(gain, OFFSET_KEV + offset)
    fit = fit_axis(poisson(bells(true, MUD), seed))
    assert fit.trusted and not fit.note and fit.axis.n_channels == N_CHANNELS
    assert abs(fit.axis.gain_kev - gain) < 6e-5 and abs(fit.axis.offset_kev - true.offset_kev) < 0.012
    assert abs((7.058 - fit.axis.offset_kev) / fit.axis.gain_kev - (7.058 - true.offset_kev) / gain) < 0.5  # channels


@pytest.mark.parametrize("total, share, channels", [(3e4, 0.9, 1.0), (1e5, 0.95, 0.5), (1e6, 0.95, 0.4)])
def test_fit_on_simulated_sediments(sediments, total, share, channels):
    for gain, offset in ((0.0198, 0.05), (0.0200, -0.002), (0.0204, -0.01), (0.0206, 0.02)):
        found = fit_axes(poisson(expected_spectrum(sediments, total=total, axis=EnergyAxis(gain, offset))))
        good = found[found["trusted"]]
        miss = ((7.058 - good["offset_kev"]) / good["gain_kev"] - (7.058 - offset) / gain).abs()
        assert len(good) >= share * len(found) and miss.quantile(0.95) < channels


def test_one_is_like_many_and_chunks_do_not_matter():
    counts = poisson(np.stack([bells(EnergyAxis(g), MUD) for g in (0.0199, 0.0202, 0.0205)]))
    many = fit_axes(np.tile(counts, (CHUNK // 3 + 2, 1)))
    assert np.allclose(many["gain_kev"], np.tile(many["gain_kev"][:3], CHUNK // 3 + 2), rtol=0, atol=1e-9) and list(many.index) == list(range(len(many)))
    for row, c in zip(many.itertuples(), counts):
        one = fit_axis(c)
        assert np.allclose([one.axis.gain_kev, one.axis.offset_kev], [row.gain_kev, row.offset_kev], atol=1e-7)
        assert one.lines["used"].sum() == row.n_lines and list(one.lines.columns) == ["line", "energy_kev", "channel", "used", "residual_kev"]


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint16, np.float32, np.float64])
def test_type_of_counts_does_not_matter(dtype):
    counts = poisson(bells(EnergyAxis(0.0203), MUD))
    assert np.isclose(fit_axis(counts.astype(dtype)).axis.gain_kev, fit_axis(counts).axis.gain_kev, rtol=1e-9)


HOPELESS = {
    "empty": np.zeros(N_CHANNELS), "flat": np.full(N_CHANNELS, 1000.0), "noise": np.full(N_CHANNELS, 3.0), "slope": 5000 * np.exp(-np.linspace(0, 12, N_CHANNELS)),
    "step": np.where(np.arange(N_CHANNELS) < 250, 2000.0, 10.0), "one line": bells(EnergyAxis(), {3.691: 2e4}), "one channel": np.where(np.arange(N_CHANNELS) == 184, 1e6, 0.0),
    "two close lines": bells(EnergyAxis(), {3.691: 2e4, 4.013: 3e3})}


@pytest.mark.parametrize("name", HOPELESS)
def test_nominal_axis_with_a_reason_where_there_is_nothing_to_fit(name):
    found = fit_axes(np.random.default_rng(3).poisson(HOPELESS[name], (50, N_CHANNELS)))
    assert not found["trusted"].any() and (found["note"] != "").all()
    assert (found["gain_kev"] == GAIN_KEV).all() and (found["offset_kev"] == OFFSET_KEV).all()
    one = fit_axis(poisson(HOPELESS[name]))
    assert one.axis == EnergyAxis() and not one.trusted and one.note


def test_spectra_of_another_instrument_are_seldom_trusted():
    "Half the gain puts lines beside other lines; widths and residuals give away most of these fits, not all."
    for nominal, true in ((EnergyAxis(), EnergyAxis(0.0102, 0.0)), (EnergyAxis(0.0102, 0.0), EnergyAxis())):
        assert fit_axes(np.random.default_rng(3).poisson(bells(true, MUD), (200, N_CHANNELS)), nominal)["trusted"].mean() < 0.3


@quick
@given(st.integers(0, 10_000), st.floats(0.01, 1e4))
def test_pure_noise_is_never_trusted(seed, level):
    found = fit_axes(np.random.default_rng(seed).poisson(level, (20, N_CHANNELS)))
    assert not found["trusted"].any()


@pytest.mark.parametrize("gain, offset", [(0.0215, 0.02), (0.0185, 0.02), (0.02, 0.15), (0.02, -0.11)])
def test_far_from_nominal_is_not_trusted(gain, offset): assert not fit_axis(poisson(bells(EnergyAxis(gain, offset), MUD))).trusted


def test_wide_peaks_are_not_trusted_unless_the_detector_is_told():
    counts = poisson(bells(EnergyAxis(0.0202), {kev: MUD[kev] for kev in (1.740, 3.691, 6.400)}, widths=2.2))
    assert not fit_axis(counts).trusted
    told = fit_axis(counts, detector=Detector(noise_kev=0.28, fano=0.5))
    assert told.trusted and abs(told.axis.gain_kev - 0.0202) < 1e-4


@quick
@given(st.floats(0.0100, 0.0105), st.floats(-0.03, 0.03))
def test_another_tube_and_another_nominal_axis(gain, offset):
    true = EnergyAxis(gain, offset)
    counts = poisson(bells(true, {3.691: 2e4, 4.013: 2e3, 6.400: 4e3, 7.058: 600.0, 14.142: 900.0, 17.443: 500.0}, floor=50.0))
    fit = fit_axis(counts, **ITRAX)
    assert fit.trusted and abs(fit.axis.gain_kev - gain) < 2e-5 and fit.lines.set_index("line").loc[["Sr Ka", "Mo Ka"], "used"].all()


def test_lines_can_be_given():
    lines = pd.DataFrame(dict(element=["Ca", "Fe"], line="Ka", energy_kev=[3.691, 6.400]))
    fit = fit_axis(poisson(bells(EnergyAxis(0.0202), MUD)), lines=lines)
    assert fit.trusted and fit.lines["line"].tolist() == ["Ca Ka", "Fe Ka"] and abs(fit.axis.gain_kev - 0.0202) < 5e-5


def test_marks_of_the_default_lines():
    table = calibration_lines()
    assert set(table.loc[table["mark"], "element"]) == {"Si", "Rh", "K", "Ca", "Fe"} and not ((table["line"].str[0] == "L") & (table["element"] != "Rh")).any()


@settings(max_examples=25, deadline=None)
@given(st.floats(0.002, 0.2), st.floats(-0.5, 0.5), st.integers(1, 600), st.integers(0, 3))
def test_any_axis_gives_an_answer(gain, offset, n_channels, n_spectra):
    found = fit_axes(np.ones((n_spectra, n_channels)), EnergyAxis(gain, offset, n_channels))
    assert len(found) == n_spectra and not found["trusted"].any() and list(found.columns) == ["gain_kev", "offset_kev", "n_lines", "rms_kev", "trusted", "note"]


@pytest.mark.parametrize("counts, named", [
    (np.ones(N_CHANNELS), "shape"), (np.ones((2, 1024)), "shape"), (np.full((1, N_CHANNELS), np.nan), "finite"), (np.full((1, N_CHANNELS), np.inf), "finite"),
    (np.full((1, N_CHANNELS), -1), "at least 0"), (np.full((1, N_CHANNELS), "a"), "type"), (np.ones((1, N_CHANNELS), dtype=bool), "type"), (None, "shape")])
def test_impossible_counts(counts, named):
    with pytest.raises(ValueError, match=named): fit_axes(counts)


@pytest.mark.parametrize("lines", [pd.DataFrame(dict(energy_kev=[3.7])), "Ca", pd.DataFrame()])
def test_impossible_lines(lines):
    with pytest.raises(ValueError, match="lines lack"): fit_axis(np.ones(N_CHANNELS), lines=lines)


@pytest.mark.parametrize("shape", [(), (1, N_CHANNELS), (1024,)])
def test_one_spectrum_has_one_dimension(shape):
    with pytest.raises(ValueError, match="shape"): fit_axis(np.ones(shape))


REAL = Path(__file__).parents[1] / "../shared/real"
needs_real = pytest.mark.skipif(not REAL.exists(), reason="no ../shared/real: real spectra are not at hand")


@needs_real
def test_real_avaatech_spectra():
    found = fit_axes(np.stack(pd.read_parquet(REAL / "marine_sediments.parquet")["spectrum"]))
    good = found[found["trusted"]]
    assert len(good) > 0.8 * len(found) and good["rms_kev"].median() < 0.005
    assert 0.01995 < good["gain_kev"].median() < 0.02005 and abs(good["offset_kev"].median()) < 0.015  # a channel below the nominal offset


@needs_real
@pytest.mark.parametrize("nominal", [EnergyAxis(0.0102, 0.0), EnergyAxis(0.0100, 0.02), EnergyAxis(0.0106, -0.03)])
def test_real_itrax_spectrum_agrees_with_its_settings(nominal):
    text = (REAL / "itrax/L000676.spe").read_bytes().decode("latin1")
    fit = fit_axis(np.array([float(n) for n in re.findall(r"\d+\.\d+\t(\d+\.\d+)\r\n", text)]), nominal, tube=Tube("Mo", 30.0))
    assert fit.trusted and abs(fit.axis.gain_kev - 0.01026698) < 5e-6
    assert abs(fit.axis.offset_kev + 0.00993069) < 0.003  # the settings' offset belongs to the first channel
