"""Label efficiency, accuracy on seen and unseen provinces, transfer to new regions: the network and every rival, five seeds.

    python experiments/evaluation.py --jobs 2              # all of it; goes on where it stopped: what is done is not done again
    python experiments/evaluation.py --stage report        # the table and the figures from what is there
    python experiments/evaluation.py --quick               # a small one of each, to see that everything runs (no result)

Parts:
- `labels`: real spectra, random 70/30 splits, a third of the labels and all of them (and a few in between), ln R2 on the test part.
- `provinces`: real spectra, every province held out in turn, all other labels; RMSE and ln R2 over all held-out values.
- `transfer`: a simulated archive of 30 cores in 5 seas that do not exist, every sea held out in turn, with 0 and 10 labels of its own. With 10, all methods learn from them as from the others; "MAX, calibrated" is fitted to the others and then calibrated on the 10.

Intervals (90 %, by `ConformalByCore`) and the flags of `applicability` are judged on `provinces` and `transfer`, for the methods in INTERVALS.

Protocols: *strict*: spectra of the test part are seen by nobody in any form. *adapted*: they are seen without labels, as a user always has the scans of what is to be predicted. A method's name says which (", adapted").
Each cell (part, target, method, seed, labels) is one file in `out/evaluation/cells`, written in one step. Nothing is chosen by what comes out.
"""
import argparse
import re
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, RegressorMixin

from common import DATA, HERE, keep_cell, kept_cells, label_name, markdown, save_svg, svg_pyplot
from max_nb.baselines import rivals
from max_nb.evaluate import ConformalByCore, applicability, coverage_report, cross_validate_by_core, flag_skill, label_budget_curve, ln_r2, new_core_curve, paired_bootstrap, paired_gain, scores
from max_nb.regress import MAXRegressor
from max_nb.scanners import join_labels
from max_nb.simulate import laboratory_table, random_regions, simulate_archive
from max_nb.spectra import Spectra, write_atomically

PARTS = ("labels", "provinces", "transfer")
TARGETS = ("CaCO3", "TOC")
BUDGETS = {"TOC": (32, 55, 110, None), "CaCO3": (8, 13, 26, None)}  # 55 of 165 and 13 of 39: one third
THIRD = {"TOC": 55, "CaCO3": 13}
OURS, SCRATCH = "MAX", "MAX, from scratch"


class Calibrated(RegressorMixin, BaseEstimator):
    "A fit on all groups but the one with the fewest labels, the new one; then `calibrate` on these few."

    def __init__(self, estimator, target: str):
        self.estimator, self.target = estimator, target

    def fit(self, X, y=None, groups=None):
        known = X.info[self.target].notna().to_numpy()
        new = groups == pd.Series(groups[known]).value_counts().idxmin()
        self.model_ = self.estimator.fit(X[known & ~new], groups=groups[known & ~new]).calibrate(X[known & new])
        return self

    def predict(self, X):
        return self.model_.predict(X)


# name -> options of MAXRegressor. A further variant is a further line.
NETWORKS = {
    OURS: dict(),                                       # the weights that come with the package: simulated spectra alone
    SCRATCH: dict(pretrained=None),
    "MAX, five networks": dict(members=5),              # as it comes
    "MAX, four grids": dict(grids=4),
    "MAX, frozen": dict(tune="frozen"),
    "MAX small, frozen": dict(pretrained="max-small-sim", tune="frozen"),
    "MAX, adapted": dict(adapt=True, tune="frozen"),
}
# what a method takes part in, where not in all; "few": `transfer` with 10 labels of the new sea
ONLY = {OURS: ("labels", "provinces", "transfer"), SCRATCH: ("labels",), "MAX, five networks": ("labels",), "MAX, four grids": ("labels",), "MAX, frozen": ("provinces", "transfer", "few"), "MAX small, frozen": ("provinces", "transfer"),
        "MAX, adapted": ("provinces", "transfer"), "forest": ("labels", "provinces"), "boosting": ("labels", "provinces"), "CNN": ("labels",), "ChemoMAE + ridge": ("labels",)}
ADAPTED_RIVALS = ("NMF+SVR",)                           # whose features can make use of unlabelled spectra of the test part
CLOSEST = ("NMF+SVR", "extra trees")                    # rivals that come near with few labels
INTERVALS = ("MAX, frozen", "ridge")                    # wrapped in ConformalByCore where whole groups are held out
SLOW = ("MAX, five networks", "MAX, four grids", "CNN", "ChemoMAE + ridge") # with all labels only
FEWER_SEEDS = {"MAX, adapted": 2, "MAX small, frozen": 2} # where whole groups are held out, to stay within two hours
LEAN = dict(members=1)                                  # single networks; the rivals are single models too


def methods(a, part: str) -> dict:
    "name -> function (seed, targets) that makes an estimator, of the methods that take part."
    def network(options): return lambda seed, targets: MAXRegressor(targets=targets, seed=seed, **{**LEAN, **a.network, **options})
    def with_intervals(make): return lambda seed, targets: ConformalByCore(make(seed, targets), targets, seed=seed)
    found = {name: network(options) for name, options in NETWORKS.items()}
    found |= {name: (lambda seed, targets, name=name: rivals(targets, seed, networks=True)[name]) for name in rivals(networks=True)}
    if part != "labels":
        found |= {f"{name}, adapted": found[name] for name in ADAPTED_RIVALS}
    if part == "few":
        found["MAX, calibrated"] = lambda seed, targets: Calibrated(found["MAX, frozen"](seed, targets), *targets)
    if part in ("provinces", "transfer"):
        found |= {name: with_intervals(found[name]) for name in INTERVALS}
    wanted = {name: make for name, make in found.items() if part in ONLY.get(name, (*PARTS, "few")) and (not a.methods or name in a.methods)}
    if not a.chemomae:
        wanted.pop("ChemoMAE + ridge", None)
    return wanted


def is_adapted(name: str) -> bool:
    return name.endswith(", adapted")


# the data

def real(a) -> Spectra:
    if not a.data.exists():
        raise SystemExit(f"{a.data}: no such file; these parts need the real spectra (--parts transfer does not)")
    return Spectra.from_parquet(a.data)


def seas(a, seed: int) -> Spectra:
    "Five seas, 30 cores, ten samples of each in the laboratory; the shipped weights have not seen these seas."
    path = a.out / "seas" / f"{seed}.parquet"
    if not path.exists():
        archive = simulate_archive(a.cores, a.per_core, seed=9000 + seed, regions=random_regions(5, seed=9000 + seed), progress=False)
        table = laboratory_table(archive, per_core=10, seed=seed)
        join_labels(archive.replaced(info=archive.info[["core", "region", "depth_mm"]]), table).to_parquet(path)
    return Spectra.from_parquet(path)


# the cells

def cells(a) -> list[tuple]:
    "(part, method, seed, target, labels), cheap ones first within a seed."
    order = list(rivals()) + list(NETWORKS)
    out = []
    for seed in range(a.seeds):
        for part in a.parts:
            for name in sorted(methods(a, part), key=lambda n: order.index(n) if n in order else len(order)):
                out += [(part, name, seed, t, b) for t in TARGETS for b in ([None] if name in SLOW else a.budgets[t])] if part == "labels" else [(part, name, seed, "both", None)]
        if "transfer" in a.parts:
            out += [("transfer", name, seed, "TOC", 10) for name in methods(a, "few")]
    return [c for c in out if c[0] == "labels" or c[2] < FEWER_SEEDS.get(c[1], a.seeds)]


def cell_path(a, cell) -> Path:
    part, name, seed, target, labels = cell
    return a.out / "cells" / f"{part}-{re.sub(r'[^A-Za-z0-9]+', '_', name)}-{seed}-{target}-{label_name(labels)}.csv"


def run_cell(a, cell) -> str:
    "Fit, predict, keep."
    part, name, seed, target, labels = cell
    path = cell_path(a, cell)
    if path.exists():
        return ""
    make, targets = methods(a, part if labels is None or part == "labels" else "few")[name], list(TARGETS) if target == "both" else [target]
    if part == "labels":
        row = label_budget_curve({name: lambda s: make(s, (target,))}, real(a), target, budgets=[labels], seeds=[seed]).assign(target=target)
    elif target == "both":
        s = real(a) if part == "provinces" else seas(a, seed)
        by, split = ("province", "core") if part == "provinces" else ("core", "region")
        row = cross_validate_by_core(make(seed, tuple(targets)), s, targets, by=by, folds=10, seed=seed, split=split, adapt=is_adapted(name))
    else:
        row = new_core_curve({name: lambda s: make(s, (target,))}, seas(a, seed), target, budgets=(labels,), seeds=[seed], by="region", adapt=is_adapted(name))
    keep_cell(path, row, name=name, part=part, seed=seed, labels=label_name(labels))
    return path.stem


# the report

def collected(a, part: str, kind: str = "both") -> pd.DataFrame:
    files = [p for p in (cell_path(a, c) for c in cells(a) if c[0] == part and (part == "labels" or c[3] == kind)) if p.exists()]
    return pd.concat([pd.read_csv(p) for p in files], ignore_index=True) if files else pd.DataFrame()


def pm(values) -> str:
    "Mean ± standard deviation over seeds."
    v = np.asarray(values, float)
    return f"{v.mean():.2f} ± {v.std(ddof=1):.2f}" if len(v) > 1 else f"{v.mean():.2f}"


def label_rows(a, curve: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    "ln R2 by number of labels; the pre-trained network with a third of the labels against the one from scratch with all."
    wide = curve.groupby(["target", "name", "budget"]).r2_ln.agg(pm).unstack("budget").reset_index()
    said = []
    for target, rows in curve.groupby("target"):
        third = rows[(rows.name == OURS) & (rows.budget == a.third[target])].set_index("seed").r2_ln
        full = rows[(rows.name == SCRATCH) & rows.labels.eq("all")].set_index("seed").r2_ln
        d = (third - full).dropna()
        if len(d):
            said.append(f"{target}: pre-trained with a third of the labels minus from scratch with all: {d.mean():+.3f} (standard error {d.std() / np.sqrt(len(d)):.3f}, {len(d)} seeds).")
        for other in (SCRATCH, *CLOSEST):
            pair = rows[rows.name.isin([OURS, other])]
            pair = pair[pair.groupby(["budget", "seed"]).name.transform("nunique") == 2]  # of a run that is not done yet, what is there
            if pair.seed.nunique() > 1:
                said += [f"{target}, {int(g.budget)} labels: {OURS} minus {other} {g.gain:+.3f} ± {g.standard_error:.3f} (better in {int(g.wins)} of {int(g.seeds)})." for g in paired_gain(pair, OURS, other, "r2_ln").itertuples()]
    return wide, said


def fold_rows(table: pd.DataFrame, each: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    "RMSE, ln R2 and their spread over seeds of every method, held out whole (`each` as from `seed_scores`); ours against every other, paired by group and seed."
    rows = each.groupby(["target", "name"])[["rmse", "r2", "r2_ln"]].agg(pm).reset_index()
    rows["seeds"] = each.groupby(["target", "name"]).seed.nunique().to_numpy()
    rows["order"] = each.groupby(["target", "name"]).rmse.mean().to_numpy()
    said = []
    for target, t in table.groupby("target"):
        for ours in [n for n in NETWORKS if n in set(t.name) and n != SCRATCH]:
            for other in sorted(set(t.name) - set(NETWORKS)):
                if is_adapted(ours) != is_adapted(other):
                    continue
                x, y = t[t.name == ours].assign(group=lambda v: v.held), t[t.name == other].assign(group=lambda v: v.held)
                if set(x.seed) == set(y.seed):
                    b = paired_bootstrap(x, y).iloc[0]
                    said.append(f"{target}: {ours} {b.rmse_a:.2f}, {other} {b.rmse_b:.2f} wt%; difference {b.difference:+.2f} ({b.low:+.2f} to {b.high:+.2f}), p = {b.p:.2f}, {b.groups} groups, {b.seeds} seeds.")
    return rows.sort_values(["target", "order"]).drop(columns="order"), said


def all_scores(tables: dict, each: dict) -> pd.DataFrame:
    "Every method's scores by part, target, seed and number of labels, of what is there."
    keep = ["part", "target", "name", "seed", "labels", "rmse", "r2", "r2_ln"]
    rows = [tables[part][keep].sort_values(keep[:4]) if part == "labels" else each[part].assign(part=part, labels=0 if part == "transfer" else "all")[keep] for part in tables]
    return pd.concat(rows, ignore_index=True).round(4)


def seed_scores(table: pd.DataFrame) -> pd.DataFrame:
    "RMSE, R2 and ln R2 over all held-out values, by target, method and seed."
    def one(t):
        found = scores(t.measured, t.predicted)
        return pd.Series(dict(rmse=found["rmse"], r2=found["r2"], r2_ln=ln_r2(t.measured.clip(lower=0.01).to_numpy(), t.predicted.to_numpy())))
    return table.groupby(["target", "name", "seed"]).apply(one, include_groups=False).reset_index()


def interval_rows(table: pd.DataFrame) -> pd.DataFrame:
    "Share of held-out values within their 90 % interval, over all and in the worst and best group, and the interval's mean width; `table` has those that have one."
    def one(t):
        r = coverage_report(t.assign(group=t.held, target="")).set_index("group")
        groups = r.coverage.drop("pooled")
        return pd.Series(dict(inside=r.coverage["pooled"], worst=groups.min(), best=groups.max(), width=r.width["pooled"]))
    each = table.groupby(["target", "name", "seed"]).apply(one, include_groups=False)
    return each.groupby(["target", "name"]).agg(pm).reset_index()


def held_out_flags(s: Spectra, by: str) -> pd.DataFrame:
    "Flags of the labelled spectra, the reference of each group being all the others; index: row of `s`."
    place, known = s.info[by].to_numpy(), s.info[list(TARGETS)].notna().any(axis=1).to_numpy()
    held = [(place == g) & known for g in pd.unique(place[known])]
    return pd.concat([applicability(s[known & ~rows], s[rows]).set_index(np.flatnonzero(rows)) for rows in held])


def flag_rows(a, part: str, table: pd.DataFrame) -> pd.DataFrame:
    "Do the flags rank the errors? Spearman correlation, RMSE inside and outside."
    rows = []
    if part == "provinces":
        flags = dict.fromkeys(table.seed, held_out_flags(real(a), "province"))
    else:
        flags = {seed: held_out_flags(seas(a, seed), "region") for seed in table.seed.unique()}
    for (target, name, seed), t in table.groupby(["target", "name", "seed"]):
        rows.append(dict(target=target, name=name, **flag_skill(flags[seed].loc[t["sample"]].reset_index(drop=True), (t.predicted - t.measured).to_numpy())))
    return pd.DataFrame(rows).groupby(["target", "name"])[["rank_strangeness", "rmse_inside", "rmse_outside"]].agg(pm).reset_index()


def figures(a, tables: dict, each: dict) -> None:
    "Three figures; matplotlib, as SVG."
    plt = svg_pyplot()
    if "labels" in tables:
        curve = tables["labels"]
        curve = curve[~curve.name.isin([*SLOW, "mean"])]  # points without a line, and far below
        fig, axes = plt.subplots(1, 2, figsize=(10, 4), constrained_layout=True)
        for ax, (target, rows) in zip(axes, curve.groupby("target")):
            for name, r in rows.groupby("name"):
                by = r.groupby("budget").r2_ln
                ax.errorbar(by.mean().index, by.mean().clip(lower=-0.5), by.std().fillna(0) if name in NETWORKS else None, ms=4, capsize=2, label=name, **look(name, sorted(curve.name.unique())))
            ax.set(title=f"{target}, random splits", xlabel="laboratory values", ylabel="R² of ln (networks: ± standard deviation over seeds)", xscale="log", ylim=(-0.5, 1))
            ax.set_xticks(sorted(rows.budget.unique()), labels=[str(int(b)) for b in sorted(rows.budget.unique())])
            ax.minorticks_off()
        axes[-1].legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
        save_svg(fig, a.out / "labels.svg")
    for part, what in (("provinces", "held-out provinces, real spectra"), ("transfer", "unseen regions, simulated archives")):
        if part not in tables:
            continue
        fig, axes = plt.subplots(1, 2, figsize=(11, 0.3 * each[part].name.nunique() + 1.4), constrained_layout=True)
        for ax, (target, rows) in zip(axes, each[part].groupby("target")):
            by = rows.groupby("name").rmse
            order, seeds = by.mean().sort_values(ascending=False).index, by.count()
            for y, name in enumerate(order):
                ours = name in NETWORKS
                ax.errorbar(by.mean()[name], y, xerr=np.nan_to_num(by.std()[name]), fmt="D" if ours else "o", capsize=3, color="#D55E00" if ours else "#0072B2")
            ax.set(title=f"{target}: {what}", xlabel="RMSE, wt% (mean and standard deviation over seeds)", yticks=range(len(order)), yticklabels=[n if seeds[n] == seeds.max() else f"{n} ({seeds[n]} seeds)" for n in order])
            ax.set_xlim(left=0)
        save_svg(fig, a.out / f"{part}.svg")


def look(name: str, names: list) -> dict:
    "Line and marker of a method, no two alike: eight colours that the colour-blind tell apart, then the same ones dashed."
    i, colours = names.index(name), ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#888888")
    return dict(color=colours[i % 8], ls="-" if i < 8 else "--", marker="os^vDPX*"[i % 8], lw=2 if name in NETWORKS else 0.9)


def report(a, tables: dict, each: dict) -> str:
    parts = ["# Evaluation" + (" (quick: a test of the script, no result)" if a.quick else ""), f"Made by `experiments/evaluation.py`, {a.seeds} seeds; mean ± standard deviation over seeds."]
    titles = dict(labels="Label efficiency: R² of ln y on the test part, by number of labels", provinces="Real spectra, every province held out", transfer="Simulated archives, every sea held out, no labels of its own")
    for part, table in tables.items():
        rows, said = label_rows(a, table) if part == "labels" else fold_rows(table, each[part])
        parts += [f"## {titles[part]}", markdown(rows), "\n".join(f"- {line}" for line in said)]
        if part != "labels" and len(bounded := table[table.lower.notna()]):
            parts += [f"### Intervals of 90 %: share inside, {part}", markdown(interval_rows(bounded)), f"### Flags: rank correlation with the error, {part}", markdown(flag_rows(a, part, bounded))]
    few = collected(a, "transfer", "TOC")
    if len(few):
        rmse = few.groupby(["name", "seed"]).apply(lambda t: np.sqrt((t.rmse ** 2 * t.n).sum() / t.n.sum()), include_groups=False)
        parts += ["## Simulated archives, TOC of a new sea with 10 labels of its own, RMSE in wt%", markdown(rmse.groupby("name").agg(pm).rename("rmse").reset_index())]
    return "\n\n".join(parts) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--methods", nargs="+", help="names of the methods to run here (default: all)")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=1, help="cells at the same time, each in a process of its own")
    parser.add_argument("--stage", choices=("run", "report", "all"), default="all")
    parser.add_argument("--quick", action="store_true", help="one seed, few steps, few labels: only to see that it runs")
    parser.add_argument("--out", type=Path)
    a = parser.parse_args()
    a.out = a.out or HERE / "out" / ("evaluation-quick" if a.quick else "evaluation")
    a.cores, a.per_core, a.budgets, a.third, a.network = 30, 40, BUDGETS, THIRD, {}
    if a.quick:
        a.seeds, a.cores, a.per_core, a.network = 1, 10, 16, dict(steps=5)
        a.budgets = {"TOC": (55, None), "CaCO3": (13, None)}
        a.methods = a.methods or ["mean", "ridge", *NETWORKS]
    from importlib.util import find_spec
    from joblib import Parallel, delayed
    a.chemomae = find_spec("chemomae") is not None
    if not a.chemomae:
        print("left out, as the package is not installed: ChemoMAE + ridge: pip install 'max_nb[chemomae]'", flush=True)
    if a.stage != "report":
        todo = [c for c in cells(a) if not cell_path(a, c).exists()]
        print(f"{len(todo)} of {len(cells(a))} cells to do", flush=True)
        for i, done in enumerate(Parallel(n_jobs=a.jobs, return_as="generator_unordered")(delayed(run_cell)(a, c) for c in todo), start=1):
            print(f"{i}/{len(todo)} {done}", flush=True)
    if a.stage != "run":
        kept_cells(a)
        tables = {part: table for part in a.parts if len(table := collected(a, part))}
        each = {part: seed_scores(table) for part, table in tables.items() if part != "labels"}
        text, numbers = report(a, tables, each), all_scores(tables, each)
        write_atomically(a.out / "evaluation.csv", lambda p: numbers.to_csv(p, index=False))
        write_atomically(a.out / "evaluation.md", lambda p: p.write_text(text, encoding="utf-8"))
        figures(a, tables, each)
        print(text)


if __name__ == "__main__":
    main()
