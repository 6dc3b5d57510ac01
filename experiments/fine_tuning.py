"""How much of the encoder should learn from the labels? Frozen, partial, LoRA and full fine-tuning against number of labels.

    python experiments/fine_tuning.py                    # all of it; every fit is a row of the csv, and what is there is not done again
    python experiments/fine_tuning.py --stage table      # the tables from what is there
    python experiments/fine_tuning.py --stage calibrate  # a few labels from a new core or province: with and without `calibrate`
    python experiments/fine_tuning.py --stage time       # seconds of a whole fit with five members, by number of labels

Single networks (`members=1`) that start from the weights in the package, with the steps that go with the number of labels. Real spectra (ln TOC and ln CaCO3): `random`, 70/30 of
the labelled spectra; `province`, three tenths of the provinces held out. Simulated: 30 cores of five seas, one of which is held out. Five seeds: of the split, the labels and the network. LoRA needs
`pip install 'max_nb[lora]'` and is left out without it.
"""
import argparse
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from max_nb.evaluate import budget_split, ln_r2
from max_nb.regress import MAXRegressor
from max_nb.simulate import random_regions, simulate_archive
from max_nb.spectra import Spectra

HERE = Path(__file__).parent
DATA = HERE.parent.parent / "shared" / "real" / "marine_sediments.parquet"
ARMS = {"frozen": dict(tune="frozen"), "partial": dict(tune="partial"), "full": dict(tune="full"), "lora": dict(tune="lora"),
        "full, stopped early": dict(tune="full", early_stopping=True), "frozen, adapted": dict(tune="frozen", adapt=True)}
ALL = 10_000  # every label there is
KEY = ["data", "target", "split", "seed", "labels", "arm"]


def plan(seeds, arms) -> list[dict]:
    "Every fit, the dearest questions last."
    def cells(data, target, split, labels, arms): return [dict(zip(KEY, (data, target, split, s, n, a))) for s in seeds for n in labels for a in arms]
    main = ("frozen", "partial", "full")
    todo = [c for split in ("random", "province") for c in cells("real", "TOC", split, (10, 32, 64, ALL), ("frozen",)) + cells("real", "CaCO3", split, (10, 32), ("frozen",))]
    todo += cells("simulated", "TOC", "region", (10, 64, 165, 600), ("frozen",)) + cells("simulated", "CaCO3", "region", (10, 64, 165, 600), ("frozen",))
    todo += [c for split in ("random", "province") for c in cells("real", "TOC", split, (10, 32, 64, ALL), main[1:])]
    todo += cells("simulated", "TOC", "region", (10, 64, 165), main[1:])
    todo += [c for split in ("random", "province") for c in cells("real", "CaCO3", split, (10, 32), main[1:])]
    todo += cells("real", "TOC", "random", (32, ALL), ("lora",)) + cells("real", "TOC", "province", (ALL,), ("lora",)) + cells("real", "TOC", "random", (ALL,), ("full, stopped early",))
    todo += [c for split in ("random", "province") for c in cells("real", "TOC", split, (64,), ("frozen, adapted",))]
    todo += cells("simulated", "TOC", "region", (600,), ("full", "full, stopped early"))
    return [c for c in todo if c["arm"] in arms]


def simulated() -> Spectra:
    "30 cores of five seas that do not exist, 40 spectra each."
    regions = random_regions(5, seed=100)
    s = simulate_archive(n_cores=30, n_per_core=40, seed=100, regions=regions, progress=False)
    return Spectra(s.counts, s.info.assign(province=s.info.region), s.axis, s.meta)


def split_of(s: Spectra, cell: dict) -> tuple[np.ndarray, np.ndarray]:
    "Rows to test on and rows to train on, in the order in which they are granted."
    by = {"random": None, "province": "province", "region": "province"}[cell["split"]]
    return budget_split(s, cell["target"], cell["seed"], test=0.2 if cell["split"] == "region" else 0.3, by=by)


def one(s: Spectra, cell: dict) -> dict:
    "Fit one network and score it. Adaptation sees what the strict protocol allows: spectra that are not of the test part, nor of its provinces."
    held, order = split_of(s, cell)
    rows, group = order[: cell["labels"]], s.info["province"].to_numpy()
    y = s.info[cell["target"]].to_numpy(float)
    gone = np.isin(np.arange(len(s)), held) if cell["split"] == "random" else np.isin(group, group[held])
    model = MAXRegressor(targets=cell["target"], members=1, seed=cell["seed"], **ARMS[cell["arm"]])
    began = time.monotonic()
    model.fit(s[rows], y[rows], groups=group[rows], **(dict(unlabelled=s[~gone]) if model.adapt else {}))
    seconds, p = time.monotonic() - began, model.predict(s[held])
    return dict(cell, n=len(rows), r2_ln=ln_r2(y[held], p), rmse=float(np.sqrt(np.mean((p - y[held]) ** 2))), seconds=round(seconds, 2))


def fit_all(a, data: dict) -> None:
    path = a.out / "fine_tuning.csv"
    done = set(map(tuple, pd.read_csv(path)[KEY].itertuples(index=False))) if path.exists() else set()
    for cell in plan(range(a.seeds), [x for x in ARMS if x != "lora" or find_spec("peft")]):
        if tuple(cell.values()) in done: continue
        row = pd.DataFrame([one(data[cell["data"]], cell)])
        row.to_csv(path, mode="a", header=not path.exists(), index=False)
        print(*cell.values(), f"{row.r2_ln[0]:.3f}", f"{row.seconds[0]:.0f} s", flush=True)


def table(cells: pd.DataFrame, metric: str = "r2_ln") -> pd.DataFrame:
    "Mean and standard deviation over seeds, a column for each number of labels."
    named = cells.assign(labels=cells.labels.map(lambda n: "all" if n == ALL else str(n)))
    text = named.groupby(["data", "target", "split", "arm", "labels"])[metric].agg(lambda v: f"{v.mean():.2f} ± {v.std():.2f}" + ("" if len(v) == 5 else f" ({len(v)})")).unstack("labels")
    return text[[c for c in ("10", "32", "64", "165", "600", "all") if c in text]].fillna("")


def gains(cells: pd.DataFrame, over: str = "frozen") -> pd.DataFrame:
    "Each arm minus `over`, paired by split and seed: mean and standard error."
    wide = cells.pivot_table(index=["data", "target", "split", "labels", "seed"], columns="arm", values="r2_ln")
    d = wide.sub(wide[over], axis=0).drop(columns=over).stack().groupby(["data", "target", "split", "arm", "labels"])
    return pd.DataFrame(dict(gain=d.mean(), standard_error=d.std() / np.sqrt(d.count()), seeds=d.count())).round(3)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--stage", choices=("fit", "calibrate", "time", "table", "all"), default="all")
    parser.add_argument("--out", type=Path, default=HERE)
    a = parser.parse_args()
    torch.set_num_threads(1)
    if a.stage in ("fit", "all"):
        if not a.data.exists(): raise SystemExit(f"{a.data}: no such file; the experiment needs the real spectra")
        fit_all(a, dict(real=Spectra.from_parquet(a.data), simulated=simulated()))
    if a.stage in ("table", "all"):
        cells = pd.read_csv(a.out / "fine_tuning.csv")
        print(table(cells).to_string(), gains(cells).to_string(), sep="\n\n")


if __name__ == "__main__":
    main()
