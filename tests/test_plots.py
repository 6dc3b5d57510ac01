"Figures: bad input, edge cases, and that no figure needs the network or a widget."
import json

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from hypothesis import given, settings, strategies as st

from max_nb import plots
from max_nb.energy import EnergyAxis
from max_nb.spectra import Spectra

rng = np.random.default_rng(0)
AXIS = EnergyAxis()
SOME = Spectra(rng.poisson(30, (20, AXIS.n_channels)), pd.DataFrame({"core": list("AB") * 10}), AXIS)


def predictions(n=40, cores=2):
    value = rng.random(n)
    table = pd.DataFrame({"core": [f"C{i % cores}" for i in range(n)], "depth_mm": np.arange(n) * 10.0, "TOC_predicted": value, "TOC_lower": value - 0.1, "TOC_upper": value + 0.2})
    return table.assign(TOC_measured=np.where(np.arange(n) % 5 == 0, value, np.nan), inside=np.arange(n) % 7 > 0)


@pytest.mark.parametrize("call, said", [
    (lambda: plots.plot_spectra(SOME, which=np.zeros(20, bool)), "no spectrum chosen of 20"),
    (lambda: plots.plot_history(pd.DataFrame({"epoch": [1]})), "expected at least one with 'loss'"),
    (lambda: plots.plot_downcore(predictions(), "CaCO3"), "no column 'CaCO3_predicted'"),
    (lambda: plots.plot_downcore(predictions().drop(columns="depth_mm")), "no column 'depth_mm'"),
    (lambda: plots.plot_groups(predictions(), by="province"), "no column 'province'"),
    (lambda: plots.plot_predicted([np.nan, 1], [1, np.nan]), "none of 2 rows"),
    (lambda: plots.plot_scores(pd.DataFrame({"name": ["a"]})), "no column 'r2'"),
    (lambda: plots.plot_budget(pd.DataFrame({"name": ["a"], "r2": [1]})), "no column 'budget'"),
    (lambda: plots.plot_drivers(np.ones((3, 2)), ["a"]), "2 groups and 1 names"),
    (lambda: plots.plot_reconstruction(AXIS, SOME.counts[0], None, np.ones(4, bool), np.arange(3)), "3 values for 4 patches"),
])
def test_bad_input_is_named(call, said):
    with pytest.raises(ValueError, match=said): call()


def test_every_figure_is_plain_and_finite_json():
    table = predictions()
    curve = pd.DataFrame({"name": ["a"] * 4, "budget": [10, 10, 20, 20], "seed": [0, 1, 0, 1], "r2": [0.1, 0.2, 0.5, 0.6]})
    figures = [plots.plot_spectra(SOME), plots.plot_spectra(SOME, which=[1, 2], names="core"), plots.plot_reconstruction(AXIS, SOME.counts[0]), plots.plot_downcore(table), plots.plot_groups(table),
               plots.plot_predicted(table.TOC_measured, table.TOC_predicted, table.core), plots.plot_budget(curve), plots.plot_scores(curve), plots.plot_drivers(rng.normal(size=(5, 3)), list("abc"), rng.random((5, 3))),
               plots.plot_waterfall(rng.normal(size=3), 1.0, list("abc")), plots.plot_history(pd.DataFrame({"loss": [2.0, 1.0]}))]
    for figure in figures:
        assert type(figure) is go.Figure and len(json.loads(figure.to_json())["data"])
        assert figure.layout.template.layout.paper_bgcolor == "rgba(0,0,0,0)"


def test_many_spectra_stay_light():
    many = Spectra(np.tile(SOME.counts, (50, 1)), None, AXIS)
    assert sum(len(t.x) for t in plots.plot_spectra(many).data) < 4000


def test_zero_counts_do_not_break_the_logarithm():
    figure = plots.plot_spectra(Spectra(np.zeros((3, AXIS.n_channels)), None, AXIS), lines=None)
    assert all((np.asarray(t.y) == 0.5).all() for t in figure.data)


def test_long_cores_keep_their_laboratory_points():
    table = predictions(3000, 1)
    figure = plots.plot_downcore(table)
    shown = {t.name: len(t.x) for t in figure.data}
    assert shown["laboratory"] == table.TOC_measured.notna().sum() and shown["predicted"] <= 400 + shown["laboratory"]


@pytest.mark.parametrize("cores", [1, 2, 7, 13])
def test_one_panel_a_core(cores):
    figure = plots.plot_downcore(predictions(60, cores))
    assert len({t.xaxis for t in figure.data}) == cores


def test_names_with_markup_do_not_leave_the_script():
    html = plots.plot_downcore(predictions().assign(core="</script><b>x")).to_html(include_plotlyjs=False)
    assert "</script><b>" not in html


def test_a_constant_target_has_no_r2():
    assert "undefined" in plots.agreement(np.ones(3), np.array([1.0, 1.1, 0.9]))


@given(st.lists(st.booleans(), min_size=1, max_size=40))
@settings(max_examples=50, deadline=None)
def test_runs_cover_exactly_what_is_hidden(mask):
    runs = plots.hidden_runs(np.array(mask), np.arange(len(mask) + 1))
    covered = np.zeros(len(mask), bool)
    for begin, end in runs.astype(int): covered[begin:end] = True
    assert (covered == np.array(mask)).all() and (len(runs) < 2 or (runs[1:, 0] > runs[:-1, 1]).all())


@given(st.integers(0, 2**24 - 1), st.floats(0, 1))
@settings(max_examples=30, deadline=None)
def test_fade_keeps_the_colour(number, alpha):
    parts = plots.fade(f"#{number:06x}", alpha)[5:-1].split(",")
    assert [int(p) for p in parts[:3]] == [number >> 16, number >> 8 & 255, number & 255] and float(parts[3]) == alpha


def test_the_interval_breaks_off_where_a_spectrum_has_none():
    table = predictions(8, 1)
    table.loc[3, ["TOC_predicted", "TOC_lower", "TOC_upper"]] = np.nan
    band = next(t for t in plots.plot_downcore(table).data if t.name == "interval")
    depth, value = np.array(band.y, float), np.array(band.x, float)
    above, below = np.r_[0:3, 2:-1:-1], np.r_[4:8, 7:3:-1]
    assert np.isnan(depth[6]) and np.isnan(value[6]) and np.isfinite(np.delete(value, 6)).all()
    assert np.array_equal(depth[:6], 10.0 * above) and np.array_equal(depth[7:], 10.0 * below)
    assert np.allclose(value[:3], table.TOC_lower[:3]) and np.allclose(value[3:6], table.TOC_upper[2::-1])


def test_the_legend_has_what_only_a_later_panel_shows():
    table = predictions(40, 2)
    first = table.core == "C0"
    table["inside"] = first | (table.depth_mm != 10)
    table.loc[first, "TOC_measured"] = np.nan
    table.loc[1, "TOC_measured"] = 0.5
    table.loc[first, ["TOC_lower", "TOC_upper"]] = np.nan
    figure = plots.plot_downcore(table)
    named = [t.name for t in figure.data if t.showlegend]
    assert sorted(named) == ["interval", "laboratory", "outside the domain", "predicted"]
    assert [len(t.x) for t in figure.data if t.name == "outside the domain"] == [1]
    assert [t.xaxis for t in figure.data if t.name == "interval"] == ["x2"]
    assert "laboratory" in [t.name for t in plots.plot_groups(table).data if t.showlegend]


def test_a_spectrum_without_prediction_is_not_called_outside():
    table = predictions(8, 1).assign(inside=np.arange(8) != 3)
    table.loc[3, ["TOC_predicted", "TOC_lower", "TOC_upper"]] = np.nan
    assert "outside the domain" not in [t.name for t in plots.plot_downcore(table).data]
