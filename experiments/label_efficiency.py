"""Do few labels suffice? ln-TOC R2 on real spectra against number of labels: pre-trained, from scratch, and every rival.

    python experiments/label_efficiency.py                 # all of it, resumable: what is done is not done again
    python experiments/label_efficiency.py --stage table   # the table and the figure from what is there

Splits: `random` (70/30 of the labelled spectra) and `province` (whole provinces held out). Protocols: `strict` (spectra of the test part are not
seen in any form; with `province`, none of the held-out provinces) and `adapted` (they are seen without labels, as the scans of a new core
always are; the rivals' features see them too). Five seeds: of the split, the order of labels, the weights, everything.
"""
import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from max_nb.baselines import rivals
from max_nb.evaluate import budget_split, label_budget_curve
from max_nb.mae import MAX
from max_nb.plots import plot_budget
from max_nb.pretrain import pretrain
from max_nb.regress import MAXRegressor
from max_nb.spectra import Spectra, write_atomically

HERE = Path(__file__).parent
DATA = HERE.parent.parent / "shared" / "real" / "marine_sediments.parquet"
SPLITS = {"random": None, "province": "province"}  # name -> column that is held out whole
PROTOCOLS = ("strict", "adapted")
BUDGETS = (32, 64, 128, None)
SHOWN = ("pre-trained", "scratch", "NMF+SVR", "extra trees", "forest", "ridge")  # in the figure; the table has all


def training_part(s: Spectra, target: str, split: str, seed: int) -> Spectra:
    "What the strict protocol may see, labelled or not."
    held, _ = budget_split(s, target, seed, by=SPLITS[split])
    gone = np.isin(np.arange(len(s)), held) if SPLITS[split] is None else s.info[SPLITS[split]].isin(s.info[SPLITS[split]].iloc[held]).to_numpy()
    return s[~gone]


def encoder_folder(out: Path, split: str, protocol: str, seed: int) -> Path:
    "Adapted pre-training sees all spectra, so that one run serves both splits."
    return out / "encoders" / (f"adapted-{seed}" if protocol == "adapted" else f"{split}-{seed}")


def pretrain_one(s: Spectra, a, split: str, protocol: str, seed: int) -> None:
    folder = encoder_folder(a.out, split, protocol, seed)
    if (folder / "history.csv").exists():
        return
    print(f"pre-training {folder.name}", flush=True)
    part = s if protocol == "adapted" else training_part(s, a.target, split, seed)
    pretrain(part, "tiny", seed=seed, out=folder, resume=True, progress=sys.stderr.isatty())


def arms(a, split: str, protocol: str) -> dict:
    "name -> function of the seed that makes an estimator."
    def network(pretrained, members):
        return lambda seed: MAXRegressor(MAX.from_pretrained(encoder_folder(a.out, split, protocol, seed)) if pretrained else None, targets=(a.target,), seed=seed, members=members)
    nets = {"pre-trained": network(True, 1), "scratch": network(False, 1)}
    others = {name: (lambda seed, name=name: rivals((a.target,), seed)[name]) for name in rivals((a.target,))}
    return {**nets, **others}


def fit_all(s: Spectra, a, split: str, protocol: str, seed: int) -> None:
    "Every arm and budget of one split and seed, each kept as it is done."
    for name, make in arms(a, split, protocol).items():
        if a.arms and name not in a.arms:
            continue
        if protocol == "adapted" and name == "scratch":
            continue  # sees no unlabelled spectra: the same as strict
        for budget in BUDGETS:
            path = a.out / "cells" / f"{split}-{protocol}-{seed}-{name.replace(' ', '_')}-{label_name(budget)}.csv"
            if path.exists():
                continue
            keep_cell(path, label_budget_curve({name: make}, s, a.target, budgets=[budget], seeds=[seed], by=SPLITS[split], adapt=protocol == "adapted"), split=split, labels=label_name(budget))


def label_name(budget: int | None) -> str:
    return "all" if budget is None else str(budget)


def keep_cell(path: Path, row: pd.DataFrame, **more) -> None:
    "Write what one fit gave, so that it need not be done again."
    row = row.assign(**more)
    write_atomically(path, lambda p: row.to_csv(p, index=False))
    print(f"{path.stem}: ln R2 {row.r2_ln[0]:.3f}", flush=True)


def collect(a) -> pd.DataFrame:
    cells = sorted((a.out / "cells").glob("*.csv"))
    if not cells:
        raise SystemExit(f"{a.out}: nothing there yet; run the experiment first")
    return pd.concat([pd.read_csv(p) for p in cells], ignore_index=True)


def markdown(rows: pd.DataFrame) -> str:
    "A table as Markdown, without its index; what is missing stays empty."
    lines = ["| " + " | ".join(map(str, rows.columns)) + " |", "|" + "---|" * rows.shape[1]]
    return "\n".join(lines + ["| " + " | ".join("" if v != v else str(v) for v in row) + " |" for row in rows.to_numpy(dtype=object)])


def table(cells: pd.DataFrame) -> pd.DataFrame:
    "Mean and standard deviation over seeds of ln R2, a column for each number of labels."
    grouped = cells.assign(labels=cells.labels.astype(str)).groupby(["split", "protocol", "name", "labels"]).r2_ln
    text = grouped.agg(lambda v: f"{v.mean():.2f} ± {v.std():.2f}" if len(v) > 1 else f"{v.mean():.2f}").unstack("labels")
    best = grouped.mean().unstack("labels").get("all")
    order = best.sort_values(ascending=False).index if best is not None else text.index
    return text.loc[order].sort_index(level=[0, 1], sort_remaining=False)[[c for c in ("32", "64", "128", "all") if c in text]]


def paired(cells: pd.DataFrame) -> pd.DataFrame:
    "Pre-trained minus scratch on the same split and seed: mean, standard deviation and standard error of the difference."
    wide = cells[cells.name.isin(["pre-trained", "scratch"])].assign(labels=lambda t: t.labels.astype(str)).pivot_table(index=["split", "labels", "seed"], columns=["protocol", "name"], values="r2_ln")
    out = []
    for protocol in PROTOCOLS:
        if (protocol, "pre-trained") in wide and ("strict", "scratch") in wide:
            d = (wide[(protocol, "pre-trained")] - wide[("strict", "scratch")]).dropna().groupby(["split", "labels"])
            out.append(pd.DataFrame(dict(protocol=protocol, gain=d.mean(), spread=d.std(), standard_error=d.std() / np.sqrt(d.count()), seeds=d.count())).reset_index())
    return pd.concat(out).round(3)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--target", default="TOC")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--splits", nargs="+", choices=SPLITS, default=list(SPLITS))
    parser.add_argument("--protocols", nargs="+", choices=PROTOCOLS, default=list(PROTOCOLS))
    parser.add_argument("--arms", nargs="+", help="names of the methods to fit here (default: all)")
    parser.add_argument("--stage", choices=("pretrain", "fit", "table", "all"), default="all")
    parser.add_argument("--only", type=int, nargs="+", help="seeds to run here, to share the work between processes")
    parser.add_argument("--out", type=Path, default=HERE / "out")
    a = parser.parse_args()
    if a.stage != "table":
        if not a.data.exists():
            raise SystemExit(f"{a.data}: no such file; the experiment needs the real spectra")
        s = Spectra.from_parquet(a.data)
        for split in a.splits:
            for seed in a.only or range(a.seeds):
                for protocol in a.protocols:
                    if a.stage in ("pretrain", "all"):
                        pretrain_one(s, a, split, protocol, seed)
                    if a.stage in ("fit", "all"):
                        fit_all(s, a, split, protocol, seed)
    if a.stage in ("table", "all"):
        cells = collect(a)
        write_atomically(a.out / "label_efficiency.csv", lambda p: cells.to_csv(p, index=False))
        for (split, protocol), part in cells.groupby(["split", "protocol"]):
            figure = plot_budget(part[part.name.isin(SHOWN)].assign(r2=part.r2_ln), title=f"ln {a.target}, {split} split, {protocol}")
            figure.write_html(a.out / f"{split}-{protocol}.html", include_plotlyjs="cdn")
        print(table(cells).to_string(), paired(cells).to_string(index=False), sep="\n\n")


if __name__ == "__main__":
    main()
