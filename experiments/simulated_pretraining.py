"""Does pre-training on simulated spectra alone help on real ones? R2 and RMSE of TOC and CaCO3 against number of labels.

    python experiments/simulated_pretraining.py                            # all of it, resumable: what is done is not done again
    python experiments/simulated_pretraining.py --stage table              # tables and figures from what is there
    python experiments/simulated_pretraining.py --only 0 2                 # some seeds: several processes share the work (see README)

Arms, all fine-tuned with the same settings on the same labels: `scratch`; `simulated`, the encoder pre-trained on a simulated archive and on
nothing else; `real`, on the real spectra that are not tested on; `simulated, then real`, in turn, the second time with the channel statistics
and the steps of `real`. `--arms` also knows `simulated, rescaled`: as `simulated`, but the mean and spread of each channel, by which the
network scales its input, are those of the real training spectra; `shipped`: the weights that come with the package (trained on simulated
spectra alone, the same for every seed), and `shipped, rescaled`.
Strict protocol: spectra of the test parts of both targets are seen by nobody in any form. Five seeds: of the split, the order of labels, the
weights, the mixtures and the simulated archive.
"""
import argparse
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd

from common import DATA, HERE, keep_cell, kept_cells, label_name
from max_nb.evaluate import budget_split, label_budget_curve
from max_nb.mae import MAX, as_tensor, load_pretrained
from max_nb.plots import plot_budget
from max_nb.pretrain import pretrain, steps_per_epoch
from max_nb.regress import MAXRegressor
from max_nb.simulate import REGIONS, random_regions, simulate_archive
from max_nb.spectra import Spectra, write_atomically

BUDGETS = {"TOC": (32, 64, 128, None), "CaCO3": (8, 16, 32, None)}
ARMS = ("scratch", "simulated", "real", "simulated, then real")
MORE_ARMS = ("simulated, rescaled", "shipped", "shipped, rescaled")
METRICS = {"r2_ln": "R2 of ln y", "r2": "R2", "rmse": "RMSE, wt%"}
BATCH = 64


def seen(s: Spectra, seed: int) -> Spectra:
    "The real spectra that are in the test part of neither target."
    held = np.concatenate([budget_split(s, target, seed)[0] for target in BUDGETS])
    return s[~np.isin(np.arange(len(s)), held)]


def run(spectra: Spectra, a, name: str, seed: int, model=None) -> None:
    "Pre-train for so many steps into a folder, unless that was done."
    folder = encoder_folder(a, name, seed)
    if (folder / "history.csv").exists():
        return
    print(f"pre-training {folder.name}", flush=True)
    epochs = -(-a.steps // steps_per_epoch(len(spectra), BATCH))
    pretrain(spectra, model or "tiny", epochs=epochs, batch_size=BATCH, seed=seed, out=folder, resume=True, progress=sys.stderr.isatty())


def encoder_folder(a, name: str, seed: int) -> Path:
    return a.out / "encoders" / f"{name.replace(', ', '-').replace(' ', '_')}-{seed}"


def rescaled(model: MAX, spectra: Spectra) -> MAX:
    "The same weights with the channel statistics of these spectra."
    model.normaliser.learn(as_tensor(spectra.counts, model.config)[:, : model.config.n_window])
    return model


def simulated_encoder(a, seed: int) -> MAX:
    return MAX.from_pretrained(encoder_folder(a, "simulated", seed))


def pretrain_all(s: Spectra, a, seed: int) -> None:
    wanted = set(a.arms)
    if wanted & {"simulated", "simulated, then real", "simulated, rescaled"}:
        if not (encoder_folder(a, "simulated", seed) / "history.csv").exists():
            regions = (*REGIONS, *random_regions(max(a.cores - len(REGIONS), 1), seed))  # no two cores from the same sea
            run(simulate_archive(a.cores, a.per_core, seed=seed, regions=regions[: a.cores], progress=False), a, "simulated", seed)
    if "real" in wanted:
        run(seen(s, seed), a, "real", seed)
    if "simulated, then real" in wanted:
        part = seen(s, seed)
        run(part, a, "simulated, then real", seed, rescaled(simulated_encoder(a, seed), part))


def encoder(s: Spectra, a, arm: str, seed: int) -> MAX | None:
    if arm == "scratch":
        return None
    if arm.startswith("shipped"):
        return load_pretrained("max-tiny-sim") if arm == "shipped" else rescaled(load_pretrained("max-tiny-sim"), seen(s, seed))
    if arm == "simulated, rescaled":
        return rescaled(simulated_encoder(a, seed), seen(s, seed))
    return MAX.from_pretrained(encoder_folder(a, arm, seed))


def fit_all(s: Spectra, a, seed: int) -> None:
    "Every arm, target and budget of one seed, each kept as it is done."
    for arm in a.arms:
        for target in a.targets:
            for budget in BUDGETS[target]:
                if a.labels and label_name(budget) not in a.labels:
                    continue
                path = a.out / "cells" / f"{target}-{seed}-{arm.replace(', ', '-').replace(' ', '_')}-{label_name(budget)}.csv"
                if not path.exists():
                    make = lambda k: MAXRegressor(encoder(s, a, arm, k), targets=(target,), seed=k, members=1, steps=a.fit_steps)
                    began = time.monotonic()
                    row = label_budget_curve({arm: make}, s, target, budgets=[budget], seeds=[seed])
                    keep_cell(path, row, target=target, labels=label_name(budget), seconds=round(time.monotonic() - began, 1))
                    print(f"{path.stem}: ln R2 {row.r2_ln[0]:.3f}", flush=True)


def order(cells: pd.DataFrame) -> list[str]:
    return [arm for arm in (*ARMS, *MORE_ARMS) if arm in set(cells["name"])]


def table(cells: pd.DataFrame, target: str, metric: str) -> pd.DataFrame:
    "Mean and standard deviation over seeds, a column for each number of labels."
    grouped = cells[cells["target"] == target].groupby(["name", "labels"])[metric]
    text = grouped.agg(lambda v: f"{v.mean():.2f} ± {v.std():.2f}" if len(v) > 1 else f"{v.mean():.2f}").unstack("labels")
    return text.loc[order(cells)][[c for c in map(label_name, BUDGETS[target]) if c in text]]


def gains(cells: pd.DataFrame, metric: str, over: str) -> pd.DataFrame:
    "Each arm minus `over` on the same split and labels: mean, standard error, seeds in which it is the better one."
    wide = cells.pivot_table(index=["target", "labels", "budget", "seed"], columns="name", values=metric)
    sign = -1 if metric == "rmse" else 1
    rows = []
    for arm in order(cells):
        if arm != over and over in wide:
            for (target, labels), d in (wide[arm] - wide[over]).dropna().groupby(["target", "labels"]):
                rows.append(dict(target=target, labels=labels, budget=d.index.get_level_values("budget")[0], arm=arm, over=over, metric=metric, gain=d.mean(),
                                 standard_error=d.std() / np.sqrt(len(d)), better_in=int((sign * d > 0).sum()), seeds=len(d)))
    columns = ["target", "labels", "budget", "arm", "over", "metric", "gain", "standard_error", "better_in", "seeds"]
    return pd.DataFrame(rows, columns=columns).sort_values(["target", "arm", "budget"], ascending=[False, True, True], ignore_index=True).drop(columns="budget").round(3)


def report(a) -> None:
    cells = pd.concat([pd.read_csv(p) for p in kept_cells(a)], ignore_index=True)
    cells["labels"] = cells["labels"].astype(str)
    differences = pd.concat([gains(cells, metric, over) for metric in ("r2_ln", "rmse") for over in ("scratch", "real")], ignore_index=True)
    write_atomically(a.out / "simulated_pretraining.csv", lambda p: cells.to_csv(p, index=False))
    write_atomically(a.out / "simulated_pretraining_gains.csv", lambda p: differences.to_csv(p, index=False))
    for target in cells["target"].unique():
        rows = cells[cells["target"] == target].assign(r2=lambda t: t["r2_ln"], place=lambda t: t["name"].map(order(cells).index)).sort_values("place", kind="stable")
        plot_budget(rows, title=f"ln {target}: what the encoder was pre-trained on").write_html(a.out / f"simulated_pretraining-{target}.html", include_plotlyjs="cdn")
        for metric, title in METRICS.items():
            print(f"\n{target}, {title}, mean ± sd over seeds", table(cells, target, metric).to_string(), sep="\n")
    print("\npaired differences, ± standard error", differences.to_string(index=False), sep="\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--targets", nargs="+", choices=BUDGETS, default=list(BUDGETS))
    parser.add_argument("--arms", nargs="+", choices=(*ARMS, *MORE_ARMS), default=list(ARMS))
    parser.add_argument("--labels", nargs="+", help="numbers of labels to fit with here, or all (default: every one)")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", type=int, nargs="+", help="seeds to run here, to share the work between processes; no table then")
    parser.add_argument("--stage", choices=("pretrain", "fit", "table", "all"), default="all")
    parser.add_argument("--steps", type=int, default=1500, help="of each pre-training, rounded up to whole epochs")
    parser.add_argument("--fit-steps", type=int, help="of each fine-tuning (default: 300 to 822 by number of labels)")
    parser.add_argument("--cores", type=int, default=60, help="of the simulated archive")
    parser.add_argument("--per-core", type=int, default=100, help="simulated spectra in a core")
    parser.add_argument("--out", type=Path, default=HERE / "out" / "simulated_pretraining")
    a = parser.parse_args()
    if a.stage != "table":
        if not a.data.exists():
            raise SystemExit(f"{a.data}: no such file; the experiment needs the real spectra")
        s = Spectra.from_parquet(a.data)
        for seed in a.only or range(a.seeds):
            if a.stage in ("pretrain", "all"):
                pretrain_all(s, a, seed)
            if a.stage in ("fit", "all"):
                fit_all(s, a, seed)
    if a.stage == "table" or (a.stage == "all" and not a.only):
        report(a)


if __name__ == "__main__":
    main()
