"The whole job: bad input, what is dropped and said, the files it writes, and that it goes on where it stopped."
import json
import re

import numpy as np
import pandas as pd
import pytest

from max_nb import quantify as Q
from max_nb.simulate import laboratory_table, simulate_archive
from max_nb.spectra import Spectra

HASTY = Q.Effort(steps=4, validated=dict(members=2, steps=3), final=dict(members=2, steps=3), folds=2, explained=2)


@pytest.fixture(scope="module")
def archive(): return simulate_archive(n_cores=4, n_per_core=16, seed=5)


@pytest.fixture(scope="module")
def labels(archive): return laboratory_table(archive, per_core=5, seed=5)


@pytest.fixture(scope="module")
def done(archive, labels, tmp_path_factory):
    out = tmp_path_factory.mktemp("job") / "out"
    odd = pd.concat([labels, pd.DataFrame([dict(core="nowhere", depth_mm=10.0, CaCO3=5.0, TOC=0.5)])], ignore_index=True)
    scans = Spectra(np.where(np.arange(len(archive))[:, None] == 3, 0, archive.counts), archive.info.assign(core=archive.info.core.str.replace("-01", "-<b>1")), archive.axis)
    odd["core"] = odd.core.str.replace("-01", "-<b>1")
    return Q.quantify(scans, odd, ("CaCO3", "TOC"), out, rivals=False, effort=HASTY, progress=False), out


def test_every_spectrum_keeps_its_row(done, archive):
    q, _ = done
    assert list(q.predictions.depth_mm) == list(archive.info.depth_mm)
    assert q.predictions.loc[3, ["TOC_predicted", "TOC_lower", "CaCO3_upper"]].isna().all() and q.predictions.TOC_predicted.drop(3).notna().all()
    assert not q.predictions.inside[3] and any("without counts: 1 (first: row 3)" in w for w in q.warnings)


def test_intervals_hold_their_prediction(done):
    t = done[0].predictions.drop(3)
    for name in ("CaCO3", "TOC"): assert (t[f"{name}_lower"] <= t[f"{name}_predicted"]).all() and (t[f"{name}_predicted"] <= t[f"{name}_upper"]).all()


def test_heldout_values_stand_where_they_were_measured(done):
    q, _ = done
    for name in ("CaCO3", "TOC"): assert (q.predictions[f"{name}_heldout"].notna() <= q.predictions[f"{name}_measured"].notna()).all() and q.predictions[f"{name}_heldout"].notna().sum() >= 18
    rows = q.heldout[q.heldout.target == "TOC"]
    assert np.allclose(rows.measured, q.predictions.TOC_measured[rows.row])


def test_what_was_not_used_is_said(done):
    q, _ = done
    assert any("1 of 21 rows of the table of labels were not used" in w for w in q.warnings)
    assert any("set aside in favour" in w for w in q.warnings) and "core &#x27;nowhere" in q.report


def test_files_are_whole(done):
    q, out = done
    assert {p.name for p in out.iterdir()} == {"predictions.csv", "metrics.csv", "heldout.csv", "drivers.csv", "model", "report.html", "pretrained"}
    assert len(pd.read_csv(out / "predictions.csv")) == len(q.predictions)
    from max_nb.regress import MAXRegressor
    good = q.predictions.TOC_predicted.notna().to_numpy()
    assert np.allclose(MAXRegressor.load(out / "model").predict(q.spectra[good]), q.predictions.loc[good, ["CaCO3_predicted", "TOC_predicted"]], atol=1e-6)


def test_report_needs_no_network_and_holds_plotly_once(done):
    report = done[1].joinpath("report.html").read_text()
    page = re.sub(r"<script[^>]*>.*?</script>", "", report, flags=re.S)
    assert not re.search(r"(?:src|href)=['\"]?(?:https?:)?//", page) and "<link" not in page and "@import" not in page
    assert report.count("plotly.js v") == 1 and 4e6 < len(report) < 8e6
    assert "<b>1" not in page and "prefers-color-scheme:dark" in page


def test_nothing_of_the_network_is_needed(done):
    assert set(done[0].seconds) >= {"reading", "pre-training", "validation on held-out groups", "final model", "predicting", "explaining"}


def test_encoder_is_kept_and_used_again(done, archive, labels, monkeypatch):
    q, out = done
    made = json.loads((out / "pretrained" / "made_from.json").read_text())
    assert made["spectra"] == len(archive) - 1 and made["seed"] == 0
    again, said = Q.adapted_encoder(q.spectra[q.predictions.TOC_predicted.notna().to_numpy()], out / "pretrained", epochs=made["epochs"], progress=False)
    assert "kept from an earlier run" in said


@pytest.mark.parametrize("change, said", [
    (dict(targets=("CaCO3", "Opal")), "Opal"),
    (dict(targets=()), "one or more different names"),
    (dict(targets=("TOC", "TOC")), "different names"),
    (dict(group="province"), "no column 'province' to group by"),
    (dict(folds=1), "folds is 1"),
    (dict(coverage=1.0), "coverage is 1.0"),
    (dict(epochs=0), "epochs is 0"),
    (dict(tolerance_mm=-1), "tolerance_mm is -1"),
    (dict(preset="gigantic"), "gigantic"),
    (dict(labels=pd.DataFrame({"core": ["a"]})), "expected|found"),
])
def test_bad_input_is_named(archive, labels, change, said):
    with pytest.raises(ValueError, match=said): Q.quantify(archive, **{**dict(labels=labels, effort=HASTY, progress=False), **change})


def test_scans_that_do_not_exist():
    with pytest.raises(ValueError, match="nowhere.parquet: no such file"): Q.quantify("nowhere.parquet")


def test_folder_of_somebody_else_is_not_touched(archive, labels, tmp_path):
    (tmp_path / "pretrained").mkdir()
    (tmp_path / "pretrained" / "thesis.docx").write_text("do not lose me")
    with pytest.raises(ValueError, match="holds files that max_nb did not write"): Q.quantify(archive, labels, out=tmp_path, effort=HASTY, progress=False)
    assert (tmp_path / "pretrained" / "thesis.docx").read_text() == "do not lose me"


def with_labels(archive, n, cores=4):
    rows = archive.info.groupby("core", sort=False).cumcount().to_numpy()
    keep = (rows < -(-n // cores)) & archive.info.core.isin(archive.cores[:cores]).to_numpy()
    keep &= np.cumsum(keep) <= n
    return Spectra(archive.counts, archive.info.assign(TOC=archive.info.TOC.where(keep)), archive.axis)


def test_no_label_at_all(archive):
    with pytest.raises(ValueError, match=r"too few laboratory values to learn from \(TOC: 0\)"): Q.prepare(with_labels(archive, 0), None, ("TOC",))


def test_few_labels_warn_or_leave_out(archive):
    assert any("first hint" in w for w in Q.prepare(with_labels(archive, 16), None, ("TOC",)).warnings)
    job = Q.prepare(with_labels(archive, 4), None, ("CaCO3", "TOC"))
    assert job.targets == ("CaCO3",) and any("TOC has 4" in w and "left out" in w for w in job.warnings)


def test_labels_of_two_cores_beside_labels_of_four(archive):
    job = Q.prepare(with_labels(archive, 20, 2), None, ("CaCO3", "TOC"))
    assert job.targets == ("CaCO3",) and any("too few groups" in w for w in job.warnings)


def test_one_core_is_cut_into_blocks(archive):
    one = archive[(archive.info.core == archive.cores[0]).to_numpy()]
    job = Q.prepare(one, None, ("TOC",))
    assert job.group_kind == "depth block" and len(set(job.groups)) == 5 and any("Neighbours resemble" in w for w in job.warnings)


def test_no_group_and_no_depth(archive):
    bare = Spectra(archive.counts, archive.info[["CaCO3", "TOC"]], archive.axis)
    assert Q.prepare(bare, None, ("TOC",)).group_kind == "sample"


def test_equal_labels(archive):
    flat = Spectra(archive.counts, archive.info.assign(TOC=1.0), archive.axis)
    with pytest.raises(ValueError, match="all laboratory values of TOC are equal"): Q.prepare(flat, None, ("TOC",))


def test_encoder_of_another_axis(archive):
    from max_nb.mae import MAX
    with pytest.raises(ValueError, match="expected the same axis"): Q.adapted_encoder(archive, None, MAX.from_preset("tiny", gain_kev=0.0204))


def test_strict_encoder_leaves_rivals_alone():
    from sklearn.linear_model import Ridge
    rival = Ridge()
    assert Q.strict_encoder()(rival, None, None) is rival


def test_interrupted_writing_leaves_the_old_report(done, monkeypatch, tmp_path):
    q, _ = done
    Q.save(q, tmp_path)
    before = {p.name: p.stat().st_mtime_ns for p in tmp_path.iterdir()}
    monkeypatch.setattr(type(q.model), "save", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt): Q.save(q, tmp_path)
    assert {p.name: p.stat().st_mtime_ns for p in tmp_path.iterdir()} == before


def test_saving_twice_replaces_the_model(done, tmp_path):
    q, _ = done
    Q.save(q, tmp_path); Q.save(q, tmp_path)
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")] and (tmp_path / "model" / "regressor.json").exists()
