"""Where the numbers marked "fitted" in `max_nb.physics.Scan` come from: the forward model, fitted to mean spectra of six kinds of real sediment.

    python experiments/calibrate_physics.py               # some minutes on two cores; prints constants, compositions and ratios real / model
    python experiments/calibrate_physics.py --steps 0     # how well the constants in the package do

The spectra of each `province` of ../shared/real/marine_sediments.parquet are averaged. Each mean has a composition, a water film, a strength, a gain, an offset and a noise of its
own, all with wide priors; the constants of the scanner are shared. Damped Gauss-Newton on (measured - model) / sigma, sigma = counting error and 2 % of the counts.
No laboratory value is used.
"""
import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from max_nb.energy import Detector, EnergyAxis, Tube
from max_nb.physics import COMPONENTS, Scan, component_elements, drifted, expected_spectrum, mass_fractions
from max_nb.spectra import Spectra

DATA = Path(__file__).parent.parent.parent / "shared" / "real" / "marine_sediments.parquet"
CHANNELS = slice(55, 1100)  # 1.1 to 22 keV
PARTS = {  # typical wt% of the wet sediment, and the spread of its logarithm
    "SiO2": (12, 1), "Al2O3": (4, 1), "CaCO3": (8, 1), "Fe2O3": (2, 1), "K2O": (0.8, 1), "TiO2": (0.25, 1), "MnO": (0.05, 1), "MgO": (1, 1), "P2O5": (0.08, 1), "S": (0.2, 1), "salt": (2, 1),
    "water": (66, 0.15), "organic_matter": (2, 0.7), "Cr2O3": (0.005, 0.5), "V2O5": (0.01, 0.5), "NiO": (0.005, 0.5), "CuO": (0.005, 0.5), "ZnO": (0.005, 0.5), "BaSO4": (0.05, 0.5), "SrO": (0.02, 0.3), "ZrO2": (0.01, 0.3)}
STATE = {"film_um": (np.log(4), 1.0), "strength": (0.0, 0.5), "gain": (0.0, 2.0), "offset": (-2.0, 2.0), "noise": (np.log(0.1), 0.3)}  # logarithms; gain in 0.1 %, offset in 10 eV
SHARED = ("kv", "line_scale", "hardness", "shelf", "tail", "tail_kev", "pair_s", "threshold_kev", "threshold_width_kev", "dead_layer_um", "air_mm")

CENTRE = np.r_[[np.log(a) for a, _ in PARTS.values()], [a for a, _ in STATE.values()]]
WEIGHT = 1 / np.r_[[b for _, b in PARTS.values()], [b for _, b in STATE.values()]]
ELEMENTS = np.array([component_elements().loc[name].to_numpy() if name in COMPONENTS else 100 * mass_fractions(name) for name in PARTS])


def scanner(shared: dict) -> tuple[Tube, Scan]:
    return Tube(kv=shared["kv"]), replace(Scan(), **{k: v for k, v in shared.items() if k != "kv"})


def model(free: np.ndarray, shared: dict) -> np.ndarray:
    "(n, C) counts for n rows of free parameters."
    tube, scan = scanner(shared)
    share = np.exp(free[:, : len(PARTS)])
    table = pd.DataFrame(share / share.sum(1, keepdims=True) @ ELEMENTS, columns=component_elements().columns)
    film, strength, gain, offset, noise = free[:, len(PARTS) :].T
    counts = np.empty((len(free), EnergyAxis().n_channels))
    for value in np.unique(noise):
        k = noise == value
        counts[k] = expected_spectrum(table[k], tube, replace(Detector(), noise_kev=float(np.exp(value))), scan, film_um=np.exp(film[k]), strength=np.exp(strength[k]))
    return drifted(counts, EnergyAxis(), 0.02 * (1 + 1e-3 * gain), 0.02 + 1e-2 * offset)


class Fit:
    def __init__(self, measured: np.ndarray, n: np.ndarray):
        self.measured, self.sigma = measured, np.sqrt(measured / n[:, None] + (0.02 * measured) ** 2 + 1)

    def residual(self, free, shared, rows=slice(None)):
        return ((model(free, shared) - self.measured[rows]) / self.sigma[rows])[:, CHANNELS]

    def loss(self, free, shared):
        return (self.residual(free, shared) ** 2).sum() + (((free - CENTRE) * WEIGHT) ** 2).sum()

    def step(self, free, shared, names, damping, h=1e-3):
        "One step of Gauss-Newton for the free parameters and the logarithms of the shared ones."
        n, width, here = *free.shape, self.residual(free, shared)
        size = n * width + len(names)
        a, b = np.zeros((size, size)), np.zeros(size)
        common = np.array([(self.residual(free, {**shared, k: shared[k] * (1 + h)}) - here) / h for k in names]).reshape(len(names), *here.shape)
        for i in range(n):
            at = slice(i * width, (i + 1) * width)
            slope = (self.residual(free[i] + h * np.eye(width), shared, slice(i, i + 1)) - here[i]) / h
            a[at, at], b[at] = slope @ slope.T + np.diag(WEIGHT**2), slope @ here[i] + WEIGHT**2 * (free[i] - CENTRE)
            a[at, n * width :] = slope @ common[:, i].T
            a[n * width :, at] = a[at, n * width :].T
        a[n * width :, n * width :] = np.einsum("kic,lic->kl", common, common) + 0.01 * np.eye(len(names))
        b[n * width :] = np.einsum("kic,ic->k", common, here)
        move = -np.linalg.solve(a + damping * np.diag(np.diag(a)), b)
        moved = {k: float(shared[k] * np.exp(x)) for k, x in zip(names, move[n * width :].clip(-0.3, 0.3))}
        return free + move[: n * width].reshape(n, width).clip(-1, 1), {**shared, **moved}

    def run(self, shared, steps):
        "The constants join in once the compositions are roughly right."
        free, damping = np.repeat(CENTRE[None], len(self.measured), 0), 0.1
        best = self.loss(free, shared)
        for k in range(steps + 8):
            trial = self.step(free, shared, SHARED if k >= 8 else (), damping)
            loss = self.loss(*trial)
            if loss < best: (free, shared), best, damping = trial, loss, max(damping / 3, 1e-4)
            else: damping *= 5
            print(f"step {k}: chi2 a channel {best / self.residual(free, shared).size:.2f}", flush=True)
        return free, shared


def report(fit, free, shared, names):
    counts, kev = model(free, shared), EnergyAxis().centers
    print("\nconstants:", {k: float(f"{v:.4g}") for k, v in shared.items()})
    mix = np.exp(free[:, : len(PARTS)])
    print("\ncompositions, wt% of the wet sediment, and states (gain in eV, offset in eV, noise in eV)")
    state = np.exp(free[:, len(PARTS) : len(PARTS) + 2]), 20 * (1 + 1e-3 * free[:, [-3]]), 20 + 10 * free[:, [-2]], 1e3 * np.exp(free[:, [-1]])
    print(pd.DataFrame(np.hstack([100 * mix / mix.sum(1, keepdims=True), *state]), columns=[*PARTS, *STATE], index=names).T.round(2).to_string())
    bands = pd.cut(kev, np.arange(1.0, 13.1, 0.5))
    ratio = pd.DataFrame(fit.measured.T).groupby(bands, observed=True).sum() / pd.DataFrame(counts.T).groupby(bands, observed=True).sum()
    print("\nmeasured / model by band of keV\n", ratio.set_axis(names, axis=1).round(2).to_string())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--steps", type=int, default=25, help="with free constants; 0 keeps those of the package")
    a = parser.parse_args()
    if not a.data.exists(): raise SystemExit(f"{a.data}: no such file; this needs the real spectra")
    s = Spectra.from_parquet(a.data)
    kinds = [k.to_numpy() for _, k in pd.get_dummies(s.info["province"]).astype(bool).items()]
    fit = Fit(np.array([s.counts[k].mean(0) for k in kinds]), np.array([k.sum() for k in kinds]))
    start = {"kv": Tube().kv, **{k: getattr(Scan(), k) for k in SHARED[1:]}}
    free, shared = fit.run(start, a.steps)
    report(fit, free, shared, sorted(s.info["province"].unique()))


if __name__ == "__main__":
    main()
