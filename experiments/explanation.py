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
from max_nb.physics import simulate_spectra
from max_nb.regress import MAXRegressor
from max_nb.simulate import REGIONS, diary, free_sediments, simulate_core
from max_nb.spectra import Spectra

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


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=HERE / "out" / "explanation")
    parser.add_argument("--only", type=int, nargs="*", default=range(5))
    parser.add_argument("--parts", nargs="*", default=list(FITS))
    parser.add_argument("--stage", choices=("all", "fit", "table"), default="all")
    a = parser.parse_args()
    wanted = [p for p in a.parts if p != "real" or DATA.exists()]
    for seed in a.only:
        for name in wanted:
            fitted(a, name, seed)


if __name__ == "__main__":
    main()
