"""Do the recipes that won the short ablations still win at full length, after fine-tuning? And how long until a fixed error?

    python experiments/recipes.py                      # all of it, resumable: what is done is not done again
    python experiments/recipes.py --only 0 2           # some seeds: several processes share the work
    python experiments/recipes.py --stage table        # the tables from what is there
    python experiments/recipes.py --recipes default published --spectra 19200 --out experiments/out/recipes-19200    # a fifth of the training; tables under this folder's name

Each recipe pre-trains the tiny network on one simulated archive (60 cores from as many seas, 6,000 spectra; archive, weights and masks by seed)
for as many spectra seen (`--spectra`), and on no real one. Judged on real spectra: (1) fine-tuned with `MAXRegressor` as it comes (single
networks) on 64 labels of TOC and 32 of CaCO3, random 70/30 splits, R2 and RMSE of ln y; (2) during training, after each pass over the archive,
the few-label error of `ablations.py` (ridge on frozen tokens; samples `near` and a province `unseen`) beside the processor time used so far.
The second gives the time to a fixed error: the one that the published recipe has at its end.
"""
import argparse
import json
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from ablations import SEEDS, VARIANTS, few_label_errors, load, recipe, tokens
from common import DATA, HERE, markdown, save_svg, svg_pyplot
from max_nb.evaluate import label_budget_curve
from max_nb.mae import MAX
from max_nb.pretrain import as_model, pretrain
from max_nb.regress import MAXRegressor
from max_nb.simulate import REGIONS, random_regions, simulate_archive
from max_nb.spectra import Spectra, write_atomically

RECIPES = ("default", "normalisation: sqrt-instance", "loss: units of counting noise", "hide: 30 %", "hide: 75 %", "hide: 90 %", "first guess: 16 components", "published")
HIDDEN = {0.3: "hide: 30 %", 0.5: "default", 0.75: "hide: 75 %", 0.9: "hide: 90 %"}  # share of patches: recipe
LABELS = {"TOC": 64, "CaCO3": 32}


class Watch:
    "After each epoch: processor time spent in training, and the few-label error."
    def __init__(self, parts: dict, seed: int):
        self.parts, self.seed, self.rows, self.judging, self.began = parts, seed, [], 0.0, time.process_time()

    def __call__(self, run) -> None:
        now = time.process_time()
        errors = few_label_errors("real", self.parts, {k: tokens(run.model, s) for k, s in self.parts.items()}, self.seed)
        self.rows.append(dict(step=int(run.history["step"].iloc[-1]), seconds=now - self.began - self.judging, **errors))
        self.judging += time.process_time() - now


def archive(a, seed: int) -> Spectra:
    regions = (*REGIONS, *random_regions(a.cores, seed))[: a.cores]
    return simulate_archive(a.cores, 100, seed=seed, regions=regions, progress=False)


def train(a, name: str, seed: int, spectra: Spectra, folder: Path) -> MAX:
    "As `ablations.train_model`, with the watch; kept in `folder`."
    settings, config = recipe(name, spectra, seed, a.spectra)
    torch.manual_seed(seed)
    model, watch = as_model("tiny", spectra, seed, config), Watch(load("real", seed), seed)
    if VARIANTS[name].change:
        model = VARIANTS[name].change(model)
    model = pretrain(spectra, model, settings=settings, progress=False, on_epoch=watch).model
    write_atomically(folder / "watch.csv", lambda p: pd.DataFrame(watch.rows).to_csv(p, index=False))
    model.save_pretrained(folder)
    return model


def fine_tuned(folder: Path, seed: int, s: Spectra) -> list[dict]:
    rows = []
    for target, n in LABELS.items():
        make = lambda k: MAXRegressor(MAX.from_pretrained(folder), targets=(target,), seed=k, members=1)
        rows.append(label_budget_curve({"MAX": make}, s, target, budgets=[n], seeds=[seed]).iloc[0][["r2_ln", "rmse"]].to_dict() | dict(target=target, labels=n))
    return rows


def folder_of(a, name: str, seed: int) -> Path:
    return a.out / f"{name.replace(' ', '_').replace(':', '').replace(',', '')}-{seed}"


def run(a) -> None:
    s = Spectra.from_parquet(DATA)
    for seed in a.only:
        spectra = None
        for name in a.recipes:
            folder = folder_of(a, name, seed)
            if (folder / "cells.json").exists():
                continue
            folder.mkdir(parents=True, exist_ok=True)
            if not (folder / "model.safetensors").exists():
                spectra = archive(a, seed) if spectra is None else spectra
                train(a, name, seed, spectra, folder)
            rows = [dict(recipe=name, seed=seed) | r for r in fine_tuned(folder, seed, s)]
            write_atomically(folder / "cells.json", lambda p: p.write_text(json.dumps(rows)))
            print(seed, name, [(r["target"], round(r["r2_ln"], 3)) for r in rows], pd.read_csv(folder / "watch.csv").iloc[-1].round(3).to_dict(), flush=True)


# ---- tables

def cells(a) -> pd.DataFrame:
    rows = [r for p in sorted(a.out.glob("*/cells.json")) for r in json.loads(p.read_text())]
    return pd.DataFrame(rows)


def watches(a) -> pd.DataFrame:
    found = [pd.read_csv(folder_of(a, name, seed) / "watch.csv").assign(recipe=name, seed=seed) for name in a.recipes for seed in a.only if (folder_of(a, name, seed) / "cells.json").exists()]
    w = pd.concat(found, ignore_index=True)
    parts = {part: [c for c in w if c.endswith(f", {part}")] for part in ("near", "unseen")}
    return w.assign(**{part: np.exp(np.log(w[columns]).mean(axis=1)) for part, columns in parts.items()})


def spread(v: pd.Series) -> str:
    return f"{v.mean():.3f} ± {v.sem():.3f}"


def summary(fits: pd.DataFrame, w: pd.DataFrame) -> pd.DataFrame:
    "R2 of ln y after fine-tuning, few-label error at the end, each with its paired change from the default (mean ± standard error over seeds)."
    fits = fits.pivot_table(index=["recipe", "seed"], columns="target", values="r2_ln")
    ends = w.sort_values("step").groupby(["recipe", "seed"]).last()[["near", "unseen", "seconds"]]
    rows = {}
    for name in w["recipe"].unique():
        row = {}
        for table, columns in ((fits, fits.columns), (ends, ("near", "unseen"))):
            for c in columns:
                mine, base = table[c].loc[name], table[c].loc["default"]
                label = f"R2 of ln {c}" if c in LABELS else f"few-label RMSE, {c}"
                row[label] = spread(mine)
                row[f"{label}, change"] = "" if name == "default" else spread((mine - base).dropna())
        rows[name] = row | dict(seconds=f"{ends['seconds'].loc[name].median():.0f}", seeds=len(fits.loc[name]))
    return pd.DataFrame(rows).T


def time_to_error(w: pd.DataFrame, part: str) -> pd.DataFrame:
    "Processor seconds until the few-label error is as low as the published recipe's at its end, by seed; nan: not within its run."
    rows = []
    for seed, t in w.sort_values("step").groupby("seed"):
        if not (t["recipe"] == "published").any():
            continue
        last = t[t["recipe"] == "published"].iloc[-1]
        for name, own in t.groupby("recipe"):
            there = own[own[part] <= last[part]]
            seconds = there["seconds"].iloc[0] if len(there) else np.nan
            rows.append(dict(recipe=name, seed=seed, error=last[part], seconds=seconds, times_faster=last["seconds"] / seconds))
    return pd.DataFrame(rows)


def mask_figure(fits: pd.DataFrame, path: Path) -> None:
    "R2 of ln y with few labels against the share of patches that pre-training hid: a line for each seed that all shares have, and their mean with its standard deviation."
    plt = svg_pyplot()
    fig, axes = plt.subplots(1, len(LABELS), figsize=(7, 3), constrained_layout=True)
    for ax, (target, n) in zip(axes, LABELS.items()):
        found = fits[fits.target == target].pivot_table(index="recipe", columns="seed", values="r2_ln").reindex(HIDDEN.values()).dropna(axis=1)
        ax.plot(list(HIDDEN), found, "o-", color="#0072B2", ms=3, lw=0.7)
        ax.errorbar(list(HIDDEN), found.mean(axis=1), found.std(axis=1), color="#D55E00", marker="s", capsize=3)
        ax.set(title=f"{target}, {n} labels", xlabel="share of patches hidden in pre-training", ylabel="R² of ln, real spectra", xlim=(0, 1))
    save_svg(fig, path)


def tables(a) -> None:
    fits, w = cells(a), watches(a)
    if set(HIDDEN.values()) <= set(fits["recipe"]):
        mask_figure(fits, HERE / f"{a.out.name}_mask.svg")
    write_atomically(HERE / f"{a.out.name}.csv", lambda p: fits.to_csv(p, index=False, float_format="%.4f"))
    write_atomically(HERE / f"{a.out.name}_during.csv", lambda p: w.drop(columns=["near", "unseen"]).to_csv(p, index=False, float_format="%.4f"))
    print(markdown(summary(fits, w).reset_index(names="")))
    for part in ("near", "unseen") if (w["recipe"] == "published").any() else ():
        t = time_to_error(w, part)
        print(f"\nTime to the published recipe's last few-label error ({part}), each seed:\n")
        print(markdown(t.pivot_table(index="recipe", columns="seed", values="times_faster", dropna=False).round(1).reset_index()))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", type=int, default=list(SEEDS), metavar="SEED")
    parser.add_argument("--recipes", nargs="+", choices=list(VARIANTS), default=list(RECIPES))
    parser.add_argument("--spectra", type=int, default=96_000, help="seen in training by every recipe")
    parser.add_argument("--cores", type=int, default=60, help="of the simulated archive")
    parser.add_argument("--stage", choices=("run", "table", "all"), default="all")
    parser.add_argument("--out", type=Path, default=HERE / "out" / "recipes", help="where models go; its name is that of the tables, too")
    a = parser.parse_args()
    torch.set_num_threads(1)
    if a.stage != "table":
        run(a)
    if a.stage != "run":
        tables(a)


if __name__ == "__main__":
    main()
