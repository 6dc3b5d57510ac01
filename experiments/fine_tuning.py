"""How much of the encoder should learn from the labels? Frozen, partial, LoRA and full fine-tuning against number of labels.

    python experiments/fine_tuning.py                    # all of it; every fit is a row of the csv, and what is there is not done again
    python experiments/fine_tuning.py --stage table      # the tables from what is there
    python experiments/fine_tuning.py --stage calibrate  # a few labels from a new core or province: with and without `calibrate`
    python experiments/fine_tuning.py --stage time       # seconds of a whole fit with five members, by number of labels

Single networks (`members=1`) that start from the weights in the package, with the steps that go with the number of labels. Real spectra (ln TOC and ln CaCO3): `inner`, the
training part of a random split, of which three tenths are tested on: what `tune="auto"` does is decided there; `random`, 70/30 of all labelled spectra; `province`, three tenths of the provinces held out. Simulated: 30 cores of five seas, one of which is held out. Five seeds: of the split, the labels and the network. LoRA needs
`pip install 'max_nb[lora]'` and is left out without it.
"""
import argparse
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from common import DATA, HERE
from max_nb.evaluate import budget_split, ln_r2
from max_nb.regress import MAXRegressor
from max_nb.simulate import random_regions, simulate_archive
from max_nb.spectra import Spectra

ARMS = {"frozen": dict(tune="frozen"), "partial": dict(tune="partial"), "full": dict(tune="full", early_stopping=False), "lora": dict(tune="lora"),
        "full, stopped early": dict(tune="full", early_stopping=True), "frozen, adapted": dict(tune="frozen", adapt=True),
        **{f"full, {n} steps": dict(tune="full", early_stopping=False, steps=n) for n in (200, 250, 300, 400)}}
ALL = 10_000  # every label there is
KEY = ["data", "target", "split", "seed", "labels", "arm"]


def plan(seeds, arms) -> list[dict]:
    "Every fit, the dearest questions last."
    def cells(data, target, split, labels, arms): return [dict(zip(KEY, (data, target, split, s, n, a))) for s in seeds for n in labels for a in arms]
    main = ("frozen", "partial", "full")
    decide = [c for n in (10, 20, 32, 64, 115) for c in cells("real", "TOC", "inner", (n,), main + (("lora",) if n in (32, 64, 115) else ()))]
    decide += cells("real", "CaCO3", "inner", (10, 20), main) + cells("real", "TOC", "inner", (115,), ("full, stopped early",))
    todo = [c for split in ("random", "province") for c in cells("real", "TOC", split, (10, 32, 64, ALL), ("frozen",)) + cells("real", "CaCO3", split, (10, 32), ("frozen",))]
    todo += cells("simulated", "TOC", "region", (10, 64, 165, 600), ("frozen",)) + cells("simulated", "CaCO3", "region", (10, 64, 165, 600), ("frozen",))
    todo += [c for split in ("random", "province") for c in cells("real", "TOC", split, (10, 32, 64, ALL), main[1:])]
    todo += cells("simulated", "TOC", "region", (10, 64, 165), main[1:])
    todo += [c for split in ("random", "province") for c in cells("real", "CaCO3", split, (10, 32), main[1:])]
    todo += cells("real", "TOC", "random", (32, ALL), ("lora",)) + cells("real", "TOC", "province", (ALL,), ("lora",)) + cells("real", "TOC", "random", (ALL,), ("full, stopped early",))
    todo += [c for split in ("random", "province") for c in cells("real", "TOC", split, (64,), ("frozen, adapted",))]
    todo += cells("simulated", "TOC", "region", (600,), ("full", "full, stopped early"))
    shorter = [c for split, n in (("inner", 64), ("inner", 115), ("random", 64)) for c in cells("real", "TOC", split, (n,), ("full", "full, 300 steps", "full, 400 steps"))]
    shorter += [c for target, n in (("TOC", 64), ("TOC", 32), ("CaCO3", 20)) for c in cells("real", target, "inner", (n,), [f"full, {k} steps" for k in (200, 250, 300)])]
    once = {tuple(c.values()): c for c in decide + todo + shorter}
    return [c for c in once.values() if c["arm"] in arms]


def simulated() -> Spectra:
    "30 cores of five seas that do not exist, 40 spectra each."
    regions = random_regions(5, seed=100)
    s = simulate_archive(n_cores=30, n_per_core=40, seed=100, regions=regions, progress=False)
    return Spectra(s.counts, s.info.assign(province=s.info.region), s.axis, s.meta)


def split_of(s: Spectra, cell: dict) -> tuple[np.ndarray, np.ndarray]:
    "Rows to test on and rows to train on, in the order in which they are granted. `inner`: both from the training part of `random`, whose last three tenths are tested on."
    by = {"random": None, "inner": None, "province": "province", "region": "province"}[cell["split"]]
    held, order = budget_split(s, cell["target"], cell["seed"], test=0.2 if cell["split"] == "region" else 0.3, by=by)
    if cell["split"] != "inner": return held, order
    cut = len(order) - round(0.3 * len(order))
    return order[cut:], order[:cut]


def by_sample(cell: dict) -> bool:
    return cell["split"] in ("random", "inner")


def one(s: Spectra, cell: dict) -> dict:
    "Fit one network and score it. Adaptation sees what the strict protocol allows: spectra that are not of the test part, nor of its provinces."
    held, order = split_of(s, cell)
    rows, group = order[: cell["labels"]], s.info["province"].to_numpy()
    y = s.info[cell["target"]].to_numpy(float)
    gone = np.isin(np.arange(len(s)), held) if by_sample(cell) else np.isin(group, group[held])
    model = MAXRegressor(targets=cell["target"], members=1, seed=cell["seed"], **ARMS[cell["arm"]])
    began = time.monotonic()
    model.fit(s[rows], y[rows], groups=group[rows], **(dict(unlabelled=s[~gone]) if model.adapt else {}))
    seconds, p = time.monotonic() - began, model.predict(s[held])
    return dict(cell, n=len(rows), r2_ln=ln_r2(y[held], p), rmse=float(np.sqrt(np.mean((p - y[held]) ** 2))), seconds=round(seconds, 2))


def fit_all(a, data: dict) -> None:
    path = a.out / "fine_tuning.csv"
    done = set(map(tuple, pd.read_csv(path)[KEY].itertuples(index=False))) if path.exists() else set()
    for cell in plan(range(a.seeds), [x for x in a.arms if x != "lora" or find_spec("peft")]):
        if tuple(cell.values()) in done: continue
        row = pd.DataFrame([one(data[cell["data"]], cell)])
        row.to_csv(path, mode="a", header=not path.exists(), index=False)
        print(*cell.values(), f"{row.r2_ln[0]:.3f}", f"{row.seconds[0]:.0f} s", flush=True)


NEW = {"a core of a seen sea": "core", "a core of an unseen sea": "province", "an unseen province": "province"}


def calibrate_all(a, data: dict) -> None:
    "For each core (real: province) a model that has not seen it, and the same model calibrated on a few of its labels; scores are those of its other samples."
    path = a.out / "calibrate.csv"
    done = set(pd.read_csv(path)[["tune", "kind", "target", "seed"]].itertuples(index=False, name=None)) if path.exists() else set()
    for tune in a.tunes:
        for kind, by in NEW.items():
            s, targets = (data["real"], ["TOC"]) if kind == "an unseen province" else (data["simulated"], ["CaCO3", "TOC"])
            for target in targets:
                for seed in range(a.seeds):
                    if (tune, kind, target, seed) in done: continue
                    rows = [r for core in chosen_cores(s, kind, seed) for r in calibrate_one(s, target, core, by, seed, tune)]
                    pd.DataFrame([dict(tune=tune, kind=kind, target=target, seed=seed) | r for r in rows]).to_csv(path, mode="a", header=not path.exists(), index=False)
                    print(tune, kind, target, seed, flush=True)


def chosen_cores(s: Spectra, kind: str, seed: int) -> list:
    "Every province that has labels; of the simulated cores, one of each sea, another for each seed."
    if kind == "an unseen province": return sorted(s.info.province[s.info.TOC.notna()].unique())
    return [sorted(set(cores))[seed % cores.nunique()] for _, cores in s.info.groupby("province").core]


def calibrate_one(s: Spectra, target: str, core, by: str, seed: int, tune: str) -> list[dict]:
    "Scores for 5, 10 and 20 labels of one core."
    y, place = s.info[target].to_numpy(float), s.info["core" if "core" in s.info and core in set(s.info.core) else "province"].to_numpy()
    here, known = place == core, np.isfinite(y)
    shut = np.isin(s.info[by], s.info[by][here].unique())
    order = np.random.default_rng(seed).permutation(np.flatnonzero(known & ~shut))[:165]
    model = MAXRegressor(targets=target, seed=seed, tune=tune, members=5 if tune == "frozen" else 1).fit(s[order], y[order], groups=place[order])
    rows = np.random.default_rng(seed + 1).permutation(np.flatnonzero(known & here))
    return [dict(core=core, labels=n, n_test=len(rows) - n, **calibration_scores(model, s, y, rows[:n], rows[n:])) for n in (5, 10, 20) if len(rows) - n >= 5]


def calibration_scores(model, s: Spectra, y: np.ndarray, few: np.ndarray, rest: np.ndarray) -> dict:
    "RMSE in wt% on the rest before and after, and by the mean of the few; coverage and width of the 90 % intervals after."
    after, rmse = model.calibrate(s[few], y[few]), lambda p: float(np.sqrt(np.mean((p - y[rest]) ** 2)))
    low, high = after.predict_interval(s[rest])[:, 0].T
    return dict(before=rmse(model.predict(s[rest])), after=rmse(after.predict(s[rest])), mean=rmse(np.full(len(rest), y[few].mean())),
                inside=float(((y[rest] >= low) & (y[rest] <= high)).mean()), width=float((high - low).mean()))


def calibration_table(rows: pd.DataFrame) -> pd.DataFrame:
    "Means over cores and seeds; `better`: share of the cases in which calibrating helped."
    g = rows.assign(better=rows.after < rows.before).groupby(["tune", "kind", "target", "labels"])
    return g[["before", "after", "mean", "better", "inside", "width"]].mean().round(3).assign(cases=g.size())


def time_all(a, data: dict) -> None:
    "Seconds of a whole fit with five members on two processors."
    s = data["simulated"]
    for n in (16, 64, 1200):
        rows = np.random.default_rng(0).permutation(len(s))[:n]
        for options in (dict(), dict(tune="frozen"), dict(tune="full")):
            began = time.monotonic()
            model = MAXRegressor(n_jobs=2, **options).fit(s[rows])
            print(f"{n} labels, tune {options.get('tune', 'auto')} ({model.tune_}): {time.monotonic() - began:.0f} s", flush=True)


def table(cells: pd.DataFrame, metric: str = "r2_ln") -> pd.DataFrame:
    "Mean and standard deviation over seeds, a column for each number of labels."
    named = cells.assign(labels=cells.labels.map(lambda n: "all" if n == ALL else str(n)))
    text = named.groupby(["data", "target", "split", "arm", "labels"])[metric].agg(lambda v: f"{v.mean():.2f} ± {v.std():.2f}" + ("" if len(v) == 5 else f" ({len(v)})")).unstack("labels")
    return text[[c for c in ("10", "20", "32", "64", "115", "165", "600", "all") if c in text]].fillna("")


def gains(cells: pd.DataFrame, over: str = "frozen") -> pd.DataFrame:
    "Each arm minus `over`, paired by split and seed: mean and standard error."
    wide = cells.pivot_table(index=["data", "target", "split", "labels", "seed"], columns="arm", values="r2_ln")
    d = wide.sub(wide[over], axis=0).drop(columns=over).stack().dropna().groupby(["data", "target", "split", "arm", "labels"])
    return pd.DataFrame(dict(gain=d.mean(), standard_error=d.std() / np.sqrt(d.count()), seeds=d.count())).round(3)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS), help="for --stage fit")
    parser.add_argument("--stage", choices=("fit", "calibrate", "time", "table", "all"), default="all")
    parser.add_argument("--tunes", nargs="+", default=["frozen"], help="for --stage calibrate")
    parser.add_argument("--out", type=Path, default=HERE)
    a = parser.parse_args()
    torch.set_num_threads(1)
    if a.stage in ("fit", "all"):
        if not a.data.exists(): raise SystemExit(f"{a.data}: no such file; the experiment needs the real spectra")
        fit_all(a, dict(real=Spectra.from_parquet(a.data), simulated=simulated()))
    if a.stage in ("calibrate", "all"): calibrate_all(a, dict(real=Spectra.from_parquet(a.data), simulated=simulated()))
    if a.stage == "time": time_all(a, dict(simulated=simulated()))
    if a.stage in ("calibrate", "table", "all") and (a.out / "calibrate.csv").exists(): print(calibration_table(pd.read_csv(a.out / "calibrate.csv")).to_string(), end="\n\n")
    if a.stage in ("table", "all"):
        cells = pd.read_csv(a.out / "fine_tuning.csv")
        print(table(cells).to_string(), gains(cells).to_string(), sep="\n\n")


if __name__ == "__main__":
    main()
