"""Do explanations say what is true? Simulated sediments with known causes, interventions in the simulator, and the real spectra.

    python experiments/explanation.py                  # everything for seeds 0 to 4; goes on where it stopped: what is there is not done again
    python experiments/explanation.py --stage table    # the tables from what is there
    python experiments/explanation.py --only 0         # one seed

Each seed has its own sediments, network, background and orders. Models are single networks (`members=1`) that start from the weights in the package.

- `truth`: 2,000 sediments whose elements vary independently (`free_sediments`) and two targets made of them: `linear` from Si, Ca and Fe, `interacting` from Ca x Fe and Ti.
- `causal`: CaCO3 of 24 simulated cores, 6 of them held out. Explained spectra are compared with what the simulator says would happen if one element had the background's amount (`intervened`).
- `real`: the 708 real spectra in ../shared/real (left out where that is absent): CaCO3 and TOC.
"""
import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from label_efficiency import DATA, HERE
from max_nb.explain import drivers, explain, one_target, sample, truth_test
from max_nb.physics import ELEMENTS, simulate_spectra
from max_nb.regress import MAXRegressor
from max_nb.simulate import REGIONS, diary, expected_counts, free_sediments, intervened, simulate_core
from max_nb.spectra import Spectra, write_atomically

CAUSES = {"linear": ("Si", "Ca", "Fe"), "interacting": ("Ca", "Fe", "Ti")}
FITS = {"truth": dict(targets=("linear", "interacting"), mix=False, scale="linear", steps=1200), "causal": dict(targets=("CaCO3", "TOC"), steps=700), "real": dict(targets=("CaCO3", "TOC"), steps=600)}


def made_targets(f: pd.DataFrame) -> pd.DataFrame:
    "The two targets of `truth`, wt%."
    return pd.DataFrame(dict(linear=2 * f.Si + 2 * f.Ca + 6 * f.Fe, interacting=1.5 * f.Ca * f.Fe + 60 * f.Ti))


def free_archive(seed: int, n: int = 2200) -> Spectra:
    "Sediments with nothing in common but the scanner; the intensity varies by 14 %."
    f = free_sediments(n, seed=1000 + seed)
    strength = np.exp(0.14 * np.random.default_rng(seed).standard_normal(n))
    return Spectra(simulate_spectra(f, seed=seed, strength=strength), pd.concat([f, made_targets(f)], axis=1))


def session_of(k: int, seed: int):
    book = diary((seed, 77))
    return book[(5 * k + seed) % len(book)]


def sea_archive(seed: int, n_cores: int = 24, per_core: int = 40) -> Spectra:
    "Cores of all regions, each in a session that `session_of` knows."
    cores = [simulate_core(REGIONS[k % len(REGIONS)], f"{REGIONS[k % len(REGIONS)].code}-{k // len(REGIONS) + 1:02d}", per_core, seed=(seed, 77, k), session=session_of(k, seed)) for k in range(n_cores)]
    return Spectra.concat([c.replaced(info=c.info.assign(number=k)) for k, c in enumerate(cores)])


def parts(name: str, seed: int) -> tuple[Spectra, Spectra]:
    "Spectra to train on and spectra to explain."
    if name == "truth":
        s = free_archive(seed)
        return s[:2000], s[2000:]
    if name == "causal":
        s = sea_archive(seed)
        return s[(s.info.number < 18).to_numpy()], s[(s.info.number >= 18).to_numpy()]
    s = Spectra.from_parquet(DATA)
    known = s.info[["CaCO3", "TOC"]].notna().any(axis=1).to_numpy()
    return s[known], s


def folder(a, name: str, seed: int) -> Path:
    return a.out / "models" / f"{name}-{seed}"


def fitted(a, name: str, seed: int) -> MAXRegressor:
    "The model of one seed: from its folder, or fitted and kept there."
    where = folder(a, name, seed)
    if (where / "regressor.json").exists() or any(where.glob("*.json")):
        return MAXRegressor.load(where)
    train, test = parts(name, seed)
    model = MAXRegressor(members=1, seed=seed, **FITS[name]).fit(train)
    model.save(where)
    scored = test if name != "real" else train
    y, p = scored.targets(list(FITS[name]["targets"])).to_numpy(), model.predict(scored)
    r2 = 1 - np.nanmean((y - p) ** 2, axis=0) / np.nanvar(y, axis=0)
    print(name, seed, "R2", dict(zip(FITS[name]["targets"], r2.round(3).tolist())), "(in sample)" if name == "real" else "", flush=True)
    return model


# causal effects in the simulator

MOVED = ("Mg", "Al", "Si", "P", "S", "Cl", "K", "Ca", "Ti", "Mn", "Fe")  # elements that have a player


def player_of_element(names) -> dict:
    "element: the player that its K lines belong to."
    return {e: next(n for n in names if n.split(" + ")[0] == f"{e} K") for e in MOVED}


def seen_by_model(model, info: pd.DataFrame, seed: int) -> np.ndarray:
    "(B,) CaCO3 that the model predicts for the expected spectra of these compositions, each in the session of its core."
    out = np.empty(len(info))
    for number, rows in info.groupby("number").indices.items():
        out[rows] = model.predict(expected_counts(info.iloc[rows].reset_index(drop=True), session_of(number, seed)))[:, 0]
    return out


def effects_of_elements(model, info: pd.DataFrame, background: pd.DataFrame, seed: int) -> pd.DataFrame:
    "What the prediction loses if one element is given the amount that it has in the background, mean over the background; a column an element."
    before = seen_by_model(model, info, seed)
    return pd.DataFrame({e: np.mean([before - seen_by_model(model, intervened(info, {e: row[e]}), seed) for _, row in background.iterrows()], axis=0) for e in MOVED})


def spearman(a, b) -> float:
    return float(pd.Series(np.ravel(a)).corr(pd.Series(np.ravel(b)), method="spearman"))


def causal(a, seed: int) -> list[dict]:
    "Shapley values of CaCO3 in held-out cores beside the simulator's causal effects."
    model, (train, test) = fitted(a, "causal", seed), parts("causal", seed)
    rows = np.random.default_rng(seed).permutation(len(test))[: a.spectra]
    s, out = test[np.sort(rows)], []
    effect = None
    for value in a.values:
        e = explain(model, s, "CaCO3", value=value, background=train, pairs=1, seed=seed, verbose=False)
        if effect is None:
            effect = effects_of_elements(model, s.info, train.info.iloc[e.background_rows], seed)
        names = list(e.players)
        mine = pd.DataFrame({el: np.asarray(e.values)[:, names.index(p)] for el, p in player_of_element(names).items()})
        large = (effect.abs().mean() > 0.02 * effect.abs().mean().sum()).to_numpy()
        out.append(dict(seed=seed, value=value, calcium_over_samples=spearman(mine.Ca, effect.Ca), over_elements=spearman(mine.abs().mean(), effect.abs().mean()),
                        pooled=spearman(mine, effect), pooled_large=spearman(mine.loc[:, large], effect.loc[:, large]), pearson=float(np.corrcoef(np.ravel(mine), np.ravel(effect))[0, 1]),
                        first=drivers(e).player[0], argon=float(drivers(e).set_index("player").share.get("Ar K + Rh L")), above=float(drivers(e).set_index("player").share.get("above 10 keV"))))
        print(out[-1], flush=True)
    return out


STAGES = {"causal": causal}


def keep(a, name: str, seed: int, rows: list[dict]) -> None:
    "One file for each part and seed, written in one step."
    write_atomically(a.out / f"{name}-{seed}.csv", lambda p: pd.DataFrame(rows).to_csv(p, index=False))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=HERE / "out" / "explanation")
    parser.add_argument("--only", type=int, nargs="*", default=range(5))
    parser.add_argument("--parts", nargs="*", default=list(FITS))
    parser.add_argument("--stage", choices=("all", "fit", "table"), default="all")
    parser.add_argument("--spectra", type=int, default=60, help="to be explained, of each seed")
    parser.add_argument("--values", nargs="*", default=["marginal", "conditional"])
    a = parser.parse_args()
    wanted = [p for p in a.parts if p != "real" or DATA.exists()]
    for seed in a.only:
        for name in wanted:
            fitted(a, name, seed)
            if a.stage == "all" and name in STAGES:
                keep(a, name, seed, STAGES[name](a, seed))


if __name__ == "__main__":
    main()
