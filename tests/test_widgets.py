"Widgets without a browser: the plain functions behind them, every control of every explorer, clicks, errors, bad input."
import json
import sys
import types

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from max_nb import widgets as w
from max_nb.energy import EnergyAxis
from max_nb.mae import MAX, load_pretrained
from max_nb.plots import empty_figure
from max_nb.simulate import simulate_archive
from max_nb.spectra import Spectra

PLAYERS = ["Ca K", "Fe K", "Ar K"]


class Explained:
    "What the explorers use of a shap.Explanation."

    def __init__(self, n, seed=0, targets=None):
        rng = np.random.default_rng(seed)
        self.data = rng.random((n, len(PLAYERS)))
        self.values, self.base_values, self.feature_names, self.targets = (self.data - 0.5) * [8, -4, 0.1], np.full(n, 5.0), PLAYERS, targets


@pytest.fixture(scope="module")
def archive():
    return simulate_archive(n_cores=3, n_per_core=6, seed=0, progress=False)


@pytest.fixture(scope="module")
def model():
    return load_pretrained("max-tiny-sim")


def predictions(s):
    table = s.info[["core", "depth_mm"]].copy()
    table["TOC_predicted"] = s.info["TOC"] + 0.1
    return table.assign(TOC_lower=table["TOC_predicted"] - 0.3, TOC_upper=table["TOC_predicted"] + 0.3, TOC_measured=s.info["TOC"].where(np.arange(len(s)) % 2 == 0))


def heldout(n=12):
    rng = np.random.default_rng(0)
    measured = rng.random(n)
    return pd.DataFrame(dict(target="TOC", held=np.repeat(["A", "B", "C"], n // 3), measured=measured, predicted=measured + np.repeat([0.0, 0.5, -0.1], n // 3), lower=measured - 1, upper=measured + 1))


def curve():
    rows = [dict(name=name, budget=b, seed=k, r2=0.5 + 0.01 * b + gain + 0.1 * k, rmse=1.0 - gain) for name, gain in (("MAX", 0.1), ("mean", 0.0)) for b in (8, 16) for k in range(3)]
    return pd.DataFrame(rows)


@pytest.fixture
def explorers(archive, model):
    return {
        "spectrum": w.spectrum_explorer(archive), "mixer": w.composition_mixer(seed=1), "mask": w.mask_explorer(archive, model), "monitor": w.pretraining_monitor(4, archive),
        "downcore": w.downcore_explorer(archive, predictions(archive), {"TOC": Explained(len(archive))}), "prediction": w.prediction_explorer(heldout()),
        "attribution": w.attribution_explorer({"conditional": Explained(18), "drop": Explained(18, 1)}, archive), "budget": w.label_budget_explorer(curve()),
    }


def test_plain_turns_everything_into_json():
    held = dict(a=np.arange(3), b=np.array([1.0, np.nan, np.inf]), c=(np.float32(2), None, "x"), d=pd.Series([1.5]), e=np.array(["u", "v"]), f=np.bool_(True), g=float("nan"))
    assert json.loads(json.dumps(w.plain(held), allow_nan=False)) == {"a": [0, 1, 2], "b": [1.0, None, None], "c": [2.0, None, "x"], "d": [1.5], "e": ["u", "v"], "f": True, "g": None}


def test_redraw_reaches_the_state_from_any_other():
    figures = [empty_figure(title="one").add_scatter(x=[1, 2], y=[1, 2], name="a"), empty_figure(title="two", x="keV").add_scatter(x=[1], y=[5], name="b", mode="lines").add_scatter(x=[], y=[]), empty_figure().add_scatter(y=np.array([3.0, np.nan]))]
    figures[1].update_layout(shapes=[dict(type="line", x0=0, x1=1, y0=0, y1=1)])
    states = [w.figure_state(f) for f in figures]
    view, shown = go.FigureWidget(states[0]), states[0]
    for state in [states[1], states[2], states[0], states[1]]:
        shown = w.redraw(view, shown, state)
        now = w.figure_state(view)
        for trace, wanted in zip(now["data"], state["data"]):
            assert {k: v for k, v in trace.items() if k != "uid"} == wanted
        assert all(trace["visible"] is False for trace in now["data"][len(state["data"]):])
        assert (now["layout"].get("shapes") or []) == (state["layout"].get("shapes") or []) and (now["layout"].get("title") or {}).get("text") == (state["layout"].get("title") or {}).get("text")


def test_redraw_refuses_traces_of_another_kind():
    line, bar = w.figure_state(go.Figure().add_scatter(y=[1])), w.figure_state(go.Figure().add_bar(y=[1]))
    with pytest.raises(ValueError, match="'scatter' would become 'bar'"):
        w.redraw(go.FigureWidget(line), line, bar)


def test_all_controls_of_all_explorers_change_the_figure_and_none_fails(explorers):
    def others(c):
        if isinstance(c.value, bool): return [not c.value]
        if isinstance(c.value, tuple): return [(), tuple(c._options_values[:2]), tuple(c._options_values)]
        if hasattr(c, "_options_values"): return [v for v in c._options_values if v != c.value]
        return [c.min, c.max]
    for name, explorer in explorers.items():
        for label, control in explorer.controls.items():
            before, changed = json.dumps(explorer.shown, allow_nan=False), False
            for value in others(control):
                control.value = value
                assert explorer.problem is None, (name, label, value, explorer.problem)
                changed |= json.dumps(explorer.shown, allow_nan=False) != before
            assert changed or (name, label) in {("monitor", "epoch"), ("downcore", "target"), ("prediction", "target"), ("attribution", "most")}, (name, label)


def test_the_page_shows_what_the_plain_figure_shows(explorers):
    for explorer in explorers.values():
        for control in explorer.controls.values():
            if isinstance(control.value, bool): control.value = not control.value
        assert isinstance(explorer.figure, go.Figure) and not isinstance(explorer.figure, go.FigureWidget) and explorer.figure.layout.width is None
        for living, still in zip(explorer.view.data, explorer.figure.data):
            assert w.plain(living.to_plotly_json().get("y")) == w.plain(still.to_plotly_json().get("y"))


def test_every_control_has_a_name(explorers):
    assert all(c.description for e in explorers.values() for c in e.controls.values())


def test_display_has_a_living_and_a_still_figure(explorers, monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda data, raw: shown.append(data))
    explorers["prediction"]._ipython_display_()
    assert shown[0]["application/vnd.jupyter.widget-view+json"]["model_id"] == explorers["prediction"].model_id
    assert len(json.loads(json.dumps(shown[0]["application/vnd.plotly.v1+json"], allow_nan=False))["data"]) == 4


def test_colab_is_told_to_show_widgets(monkeypatch):
    told = []
    colab = types.ModuleType("google.colab")
    colab.output = types.SimpleNamespace(enable_custom_widget_manager=lambda: told.append(True))
    monkeypatch.setitem(sys.modules, "google", types.ModuleType("google"))
    monkeypatch.setitem(sys.modules, "google.colab", colab)
    w.prediction_explorer(heldout())
    assert told == [True]


def test_an_error_is_told_and_escaped_and_does_not_stay():
    def draw(k):
        if k == 1: raise ValueError("<b>no</b>")
        return empty_figure().add_scatter(y=[k])
    e = w.Explorer(draw, dict(k=w.slider("k", 0, 0, 3)))
    e.controls["k"].value = 1
    assert "ValueError" in e.note.value and "<b>no" not in e.note.value and isinstance(e.problem, ValueError)
    e.controls["k"].value = 2
    assert e.note.value == "" and e.problem is None and list(e.view.data[0].y) == [2]


def test_a_page_that_has_drawn_the_newest_figure_keeps_it():
    e = w.Explorer(lambda n: go.Figure().add_scatter(x=[0, 1], y=[0, n]), dict(n=w.slider("n", 1, 0, 5)))
    first, answer = e.view, dict(trace_deltas=[], trace_edit_id=-1)
    first._js2py_traceDeltas = answer
    assert e.view is first
    e.controls["n"].value = 3
    first._js2py_traceDeltas = answer  # only the first answer counts
    assert e.view is first and list(first.data[0].y) == [0, 3]


@pytest.mark.parametrize("kev, label", [(1.74, "Si Ka"), (3.31, "K Ka"), (4.01, "Ca Kb"), (4.51, "Ti Ka"), (7.06, "Fe Kb"), (4.66, "Fe Ka escape"), (7.38, "Ca Ka + Ca Ka")])
def test_candidates(kev, label):
    assert label in w.peak_candidates(kev)["label"].tolist()[:2]


def test_candidates_lie_within_reach_and_none_is_named_twice():
    for kev in np.arange(1, 9, 0.1):
        found = w.peak_candidates(kev)
        assert found["label"].is_unique and (found["off_kev"].abs() < 0.2).all()


def test_marks_of_no_element(archive):
    fig = w.draw_spectra(archive, (), ())
    assert len(fig.layout.shapes) == 1 and all(not len(t.x) for t in fig.data)


def test_more_than_six_spectra_draw_six(archive):
    assert sum(bool(t.name) for t in w.draw_spectra(archive, tuple(range(9)), ("Ca",)).data) == 6


def test_rows_are_named_once(archive):
    double = Spectra.concat([archive, archive])
    assert len(set(w.row_names(double))) == len(double) and w.row_names(Spectra(archive.counts)) == [f"row {i}" for i in range(len(archive))]


def test_long_lists_are_thinned(archive):
    many = archive[np.tile(np.arange(len(archive)), 60)]
    assert len(w.offered(many)) == w.MOST and w.offered(many)[-1][1] == len(many) - 1


def test_a_mixture_adds_up_and_more_carbonate_is_more_calcium():
    ca = EnergyAxis().channel_of(3.69)
    few, many = (w.mixed_counts({**w.MIXER, "CaCO3": c}, noise=False) for c in (5.0, 60.0))
    assert np.isclose(w.mixture(w.MIXER).sum(axis=1)[0], 100) and many[ca] > 2 * few[ca]


@pytest.mark.parametrize("parts", [{"CaCO3": 0.0, "opal": 0.0}, {"CaCO3": -1.0, "opal": 5.0}])
def test_no_mixture(parts):
    with pytest.raises(ValueError, match="expected none below 0"):
        w.mixture(parts)


def test_empty_mixture_is_said_under_the_figure(explorers):
    mixer = explorers["mixer"]
    for name in w.MIXER: mixer.controls[name].value = 0.0
    assert "expected none below 0" in mixer.note.value


def test_the_mask_is_what_the_list_says(archive, model):
    e = w.mask_explorer(archive, model)
    e.controls["hidden"].value = (11, 12)
    assert e.view.layout.title.text.startswith("2 of 32 patches") and len(e.view.layout.shapes) == 1
    shown = e.view.data[1]
    gone = [x for x, y in zip(shown.x, shown.y) if y is None]
    assert np.allclose([gone[0], gone[-1]], [archive.axis.centers[11 * 16], archive.axis.centers[13 * 16 - 1]])
    for x in (-5.0, 99.0): e.click(0, x=x)
    assert e.controls["hidden"].value == (0, 11, 12, 31)


def test_masks_differ_by_draw_and_keep_the_ratio(archive, model):
    e, seen = w.mask_explorer(archive, model), set()
    for draw in range(1, 4):
        e.controls["seed"].value = draw
        seen.add(e.controls["hidden"].value)
    assert len(seen) == 3 and {len(h) for h in seen} == {16}


def test_monitor_takes_runs_and_goes_on_after_a_second_training(archive, model):
    monitor = w.pretraining_monitor(2, archive)
    def run(n): return types.SimpleNamespace(model=model, history=pd.DataFrame(dict(epoch=range(1, n + 1), loss=1 / np.arange(1, n + 1), seconds=np.arange(n) + 1.0)))
    for n in (1, 2, 3): monitor(run(n))
    assert monitor.problem is None and len(monitor.guesses) == 3 and monitor.controls["epoch"].value == 3
    monitor(run(1))
    assert monitor.problem is None and len(monitor.guesses) == 1 and monitor.view.layout.title.text.startswith("epoch 1 of 2")
    monitor(None)
    assert "AttributeError" in monitor.note.value


def test_monitor_finds_itself_a_spectrum(model):
    monitor = w.pretraining_monitor()
    monitor(types.SimpleNamespace(model=model, history=pd.DataFrame(dict(epoch=[5, 6], loss=[1.0, 0.5], seconds=[1.0, 2.0]))))
    assert monitor.problem is None and len(monitor.guesses) == 2 and monitor.controls["epoch"].value == 6


def test_downcore_takes_partial_explanations_and_none(archive):
    bare = w.downcore_explorer(archive, predictions(archive)[["core", "depth_mm", "TOC_predicted"]])
    assert "not explained" in bare.view.layout.xaxis3.title.text
    part = w.downcore_explorer(archive, predictions(archive), {"TOC": Explained(2)}, rows=[1, 4])
    assert not len(part.view.data[6].x)
    part.controls["step"].value = 1
    assert len(part.view.data[6].x) == 3


def test_downcore_of_cores_of_different_length(archive):
    part = archive[np.r_[0:6, 6:8, 12]]
    e = w.downcore_explorer(part, predictions(part))
    e.controls["step"].value = 5
    for core in e.controls["core"].options:
        e.controls["core"].value = core
        assert e.problem is None and e.view.layout.title.text.startswith(core)


def test_errors_of_cores():
    found = w.core_errors(heldout()).set_index("held")
    assert np.allclose(found.loc[["A", "B", "C"], "rmse"], [0, 0.5, 0.1]) and np.allclose(found.loc[["A", "B", "C"], "bias"], [0, 0.5, -0.1])
    assert w.core_errors(heldout())["held"].tolist() == ["B", "C", "A"]


def test_a_point_picks_its_core():
    e, table = w.prediction_explorer(heldout()), heldout()
    e.click(0, x=table["measured"][5], y=table["predicted"][5])
    assert e.controls["core"].value == "B"


def test_groups_stand_in_for_held():
    assert w.prediction_explorer(heldout().rename(columns={"held": "group"})).controls["core"].options == ("all", "A", "B", "C")


def test_top_players_over_all_explanations():
    a, b = Explained(3), Explained(3)
    a.values, b.values = np.array([[1.0, -5, 0]] * 3), np.array([[0.0, 1, 9]] * 3)
    assert w.top_players(dict(a=a, b=b), 0, 2) == ["Ar K", "Fe K"]


def test_one_explanation_has_no_all():
    e = w.attribution_explorer(Explained(4))
    assert e.controls["chosen"].options == ("contribution",) and "no spectra" in e.view.layout.xaxis3.title.text


def test_differences_by_split():
    d = w.paired_differences(curve(), "r2", 8, "mean")
    assert np.allclose(d[d["name"] == "MAX"]["difference"], 0.1) and np.allclose(d[d["name"] == "mean"]["difference"], 0)
    assert "MAX beats mean on 3 of 3 splits" in w.label_budget_explorer(curve()).view.layout.title.text


def test_lower_errors_are_better():
    e = w.label_budget_explorer(curve())
    e.controls["metric"].value = "rmse"
    assert "MAX beats mean on 3 of 3" in e.view.layout.title.text


@pytest.mark.parametrize("make, message", [
    (lambda s: w.spectrum_explorer(s.counts), "expected Spectra"),
    (lambda s: w.spectrum_explorer(s[[]]), "at least one"),
    (lambda s: w.composition_mixer(-1), "seed is -1"),
    (lambda s: w.mask_explorer(s, 3), "expected a MAX"),
    (lambda s: w.mask_explorer(s, "no-such-model"), "no-such-model"),
    (lambda s: w.mask_explorer(s, MAX.from_preset("tiny", gain_kev=0.01)), "rebin"),
    (lambda s: w.pretraining_monitor(0), "total is 0"),
    (lambda s: w.pretraining_monitor(3, s, row=99), "row is 99"),
    (lambda s: w.pretraining_monitor(3, s, mask_ratio=1.0), "mask_ratio is 1.0"),
    (lambda s: w.downcore_explorer(s, predictions(s)[:3]), "3 predictions for 18 spectra"),
    (lambda s: w.downcore_explorer(s, predictions(s).drop(columns="core")), "core"),
    (lambda s: w.downcore_explorer(s, s.info[["core", "depth_mm"]]), "_predicted"),
    (lambda s: w.downcore_explorer(s, predictions(s), {"TOC": Explained(2)}), "rows="),
    (lambda s: w.prediction_explorer(pd.DataFrame()), "at least one row"),
    (lambda s: w.prediction_explorer(heldout().drop(columns="measured")), "lacks ..measured"),
    (lambda s: w.attribution_explorer({}), "at least one"),
    (lambda s: w.attribution_explorer({"a": Explained(3), "b": Explained(4)}), "same number"),
    (lambda s: w.attribution_explorer(Explained(3), s), "same number"),
    (lambda s: w.attribution_explorer("nothing"), "expected an explanation"),
    (lambda s: w.label_budget_explorer(curve().drop(columns=["r2", "rmse"])), "at least one score"),
    (lambda s: w.label_budget_explorer(curve().drop(columns="seed")), "seed"),
])
def test_bad_input_is_one_clear_error(make, message, archive):
    with pytest.raises(ValueError, match=message):
        make(archive)


@pytest.mark.parametrize("options", [dict(pattern="stripes"), dict(ratio=1.0), dict(ratio=-0.1)])
def test_no_such_mask(options, model):
    with pytest.raises(ValueError):
        w.draw_hidden(model.config, **options)
