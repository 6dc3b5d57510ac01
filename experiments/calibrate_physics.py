"""Where the numbers marked "fitted" in `max_nb.physics` come from: the forward model, fitted to real spectra whose composition is left free.

    python experiments/calibrate_physics.py                      # the Avaatech: six mean spectra (some minutes on two cores)
    python experiments/calibrate_physics.py --scanner itrax      # the Itrax: one spectrum
    python experiments/calibrate_physics.py --steps 0            # how well the constants in the package do

Avaatech: the spectra of each `province` of ../shared/real/marine_sediments.parquet are averaged. Each spectrum or mean has a composition, a water film, a strength, a gain, an
offset and a noise of its own, all with wide priors; the constants of the scanner are shared. Damped Gauss-Newton on (measured - model) / sigma, where sigma is the counting error
and some percent of the counts. No laboratory value is used.
"""
import argparse
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from max_nb.energy import EnergyAxis
from max_nb.physics import COMPONENTS, SCANNERS, component_elements, drifted, expected_spectrum, mass_fractions
from max_nb.scanners import read
from max_nb.spectra import Spectra

REAL = Path(__file__).parent.parent.parent / "shared" / "real"
PARTS = {  # typical wt% of the wet sediment, and the spread of its logarithm
    "SiO2": (12, 1), "Al2O3": (4, 1), "CaCO3": (8, 1), "Fe2O3": (2, 1), "K2O": (0.8, 1), "TiO2": (0.25, 1), "MnO": (0.05, 1), "MgO": (1, 1), "P2O5": (0.08, 1), "S": (0.2, 1), "salt": (2, 1),
    "water": (66, 0.15), "organic_matter": (2, 0.7), "Cr2O3": (0.005, 0.5), "V2O5": (0.01, 0.5), "NiO": (0.005, 0.5), "CuO": (0.005, 0.5), "ZnO": (0.005, 0.5), "BaSO4": (0.05, 0.5), "SrO": (0.02, 0.3), "ZrO2": (0.01, 0.3)}
MORE_PARTS = {**PARTS, "water": (45, 0.1), "Fe2O3": (4, 1), "Rb2O": (0.01, 1), "Br": (0.005, 1), **{k: (PARTS[k][0], 1) for k in ("SrO", "ZrO2", "ZnO", "CuO", "NiO", "Cr2O3", "V2O5", "BaSO4")}}
STATE = {"film_um": (np.log(4), 1.0), "strength": (0.0, 0.5), "gain": (0.0, 2.0), "offset": (-2.0, 2.0), "noise": (np.log(0.1), 0.3)}  # logarithms; gain in 0.1 %, offset in 10 eV
SCAN = ("line_scale", "hardness", "shelf", "tail", "tail_kev", "pair_s", "threshold_kev", "threshold_width_kev", "dead_layer_um", "air_mm")


@dataclass(frozen=True)
class Case:
    parts: dict  # as PARTS
    state: dict  # as STATE
    tube: tuple  # names of constants to fit in Tube
    scan: tuple  # and in Scan
    channels: slice  # that count
    floor: float  # share of the counts that the model may miss


CASES = {
    "avaatech": Case(PARTS, STATE, ("kv",), SCAN, slice(55, 1100), 0.02),
    "itrax": Case(MORE_PARTS, {**STATE, "offset": (0.0, 2.0), "strength": (0.0, 3.0)}, ("window_um",), (*SCAN, "tungsten"), slice(100, 2040), 0.05)}


def measured(name: str, data: Path) -> tuple[np.ndarray, np.ndarray, list, EnergyAxis]:
    "Spectra (n, C), of how many each is the mean, their names, their axis."
    if name == "itrax":
        s = read(data / "itrax")
        return s.counts[:1].astype(float), np.array([1]), ["L000676"], s.axis
    s = Spectra.from_parquet(data / "marine_sediments.parquet")
    kinds = [k.to_numpy() for _, k in pd.get_dummies(s.info["province"]).astype(bool).items()]
    return np.array([s.counts[k].mean(0) for k in kinds]), np.array([k.sum() for k in kinds]), sorted(s.info["province"].unique()), s.axis


class Fit:
    def __init__(self, name: str, counts: np.ndarray, n: np.ndarray, axis: EnergyAxis):
        self.case, self.base, self.counts, self.axis = CASES[name], SCANNERS[name], counts, axis
        both = [*self.case.parts.values(), *self.case.state.values()]
        self.typical, self.weight = np.r_[[np.log(a) for a, _ in self.case.parts.values()], [a for a, _ in self.case.state.values()]], 1 / np.array([b for _, b in both])
        self.elements = np.array([component_elements().loc[k].to_numpy() if k in COMPONENTS else 100 * mass_fractions(k) for k in self.case.parts])
        self.sigma = np.sqrt(counts / n[:, None] + (self.case.floor * counts) ** 2 + 1)
        self.start = {k: getattr(self.base["tube" if k in self.case.tube else "scan"], k) for k in (*self.case.tube, *self.case.scan)}

    def model(self, free: np.ndarray, shared: dict) -> np.ndarray:
        "(n, C) counts for n rows of free parameters."
        tube, scan = (replace(self.base[of], **{k: shared[k] for k in getattr(self.case, of)}) for of in ("tube", "scan"))
        n = len(self.case.parts)
        share = np.exp(free[:, :n])
        table = pd.DataFrame(share / share.sum(1, keepdims=True) @ self.elements, columns=component_elements().columns)
        film, strength, gain, offset, noise = free[:, n:].T
        counts = np.empty((len(free), self.axis.n_channels))
        for value in np.unique(noise):
            k = noise == value
            counts[k] = expected_spectrum(table[k], tube, replace(self.base["detector"], noise_kev=float(np.exp(value))), scan, film_um=np.exp(film[k]), strength=np.exp(strength[k]), axis=self.axis)
        return drifted(counts, self.axis, self.axis.gain_kev * (1 + 1e-3 * gain), self.axis.offset_kev + 1e-2 * offset)

    def residual(self, free, shared, rows=slice(None)):
        return ((self.model(free, shared) - self.counts[rows]) / self.sigma[rows])[:, self.case.channels]

    def loss(self, free, shared):
        return (self.residual(free, shared) ** 2).sum() + (((free - self.typical) * self.weight) ** 2).sum()

    def step(self, free, shared, names, damping, h=1e-3):
        "One step of Gauss-Newton for the free parameters and the logarithms of the shared ones."
        n, width, here = *free.shape, self.residual(free, shared)
        size = n * width + len(names)
        a, b = np.zeros((size, size)), np.zeros(size)
        common = np.array([(self.residual(free, {**shared, k: shared[k] * (1 + h)}) - here) / h for k in names]).reshape(len(names), *here.shape)
        for i in range(n):
            at = slice(i * width, (i + 1) * width)
            slope = (self.residual(free[i] + h * np.eye(width), shared, slice(i, i + 1)) - here[i]) / h
            a[at, at], b[at] = slope @ slope.T + np.diag(self.weight**2), slope @ here[i] + self.weight**2 * (free[i] - self.typical)
            a[at, n * width :] = slope @ common[:, i].T
            a[n * width :, at] = a[at, n * width :].T
        a[n * width :, n * width :] = np.einsum("kic,lic->kl", common, common) + 0.01 * np.eye(len(names))
        b[n * width :] = np.einsum("kic,ic->k", common, here)
        move = -np.linalg.solve(a + damping * np.diag(np.diag(a)), b)
        moved = {k: float(shared[k] * np.exp(x)) for k, x in zip(names, move[n * width :].clip(-0.3, 0.3))}
        return free + move[: n * width].reshape(n, width).clip(-1, 1), {**shared, **moved}

    def run(self, steps):
        "The constants join in once the compositions are roughly right."
        free, shared, damping = np.repeat(self.typical[None], len(self.counts), 0), self.start, 0.1
        best = self.loss(free, shared)
        for k in range(steps + 8):
            trial = self.step(free, shared, tuple(shared) if k >= 8 else (), damping)
            loss = self.loss(*trial)
            if loss < best: (free, shared), best, damping = trial, loss, max(damping / 3, 1e-4)
            else: damping *= 5
            print(f"step {k}: chi2 a channel {best / self.residual(free, shared).size:.2f}", flush=True)
        return free, shared


def report(fit, free, shared, names):
    n, kev = len(fit.case.parts), fit.axis.centers
    print("\nconstants:", {k: float(f"{v:.4g}") for k, v in shared.items()})
    print("\ncompositions, wt% of the wet sediment, and states (gain in % of nominal, offset in eV from nominal, noise in eV)")
    mix, state = np.exp(free[:, :n]), free[:, n:]
    state = np.c_[np.exp(state[:, :2]), 100 + 0.1 * state[:, 2], 10 * state[:, 3], 1e3 * np.exp(state[:, 4])]
    print(pd.DataFrame(np.hstack([100 * mix / mix.sum(1, keepdims=True), state]), columns=[*fit.case.parts, *fit.case.state], index=names).T.round(3).to_string())
    bands = pd.cut(kev, np.arange(1.0, min(kev[-1], 13.0), 0.5))
    sums = [pd.DataFrame(c.T).groupby(bands, observed=True).sum() for c in (fit.counts, fit.model(free, shared))]
    print("\nmeasured / model by band of keV\n", (sums[0] / sums[1]).set_axis(names, axis=1).round(2).to_string())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scanner", choices=CASES, default="avaatech")
    parser.add_argument("--data", type=Path, default=REAL)
    parser.add_argument("--steps", type=int, default=25, help="with free constants; 0 keeps those of the package")
    a = parser.parse_args()
    if not a.data.exists(): raise SystemExit(f"{a.data}: no such folder; this needs the real spectra")
    counts, n, names, axis = measured(a.scanner, a.data)
    fit = Fit(a.scanner, counts, n, axis)
    report(fit, *fit.run(a.steps), names)


if __name__ == "__main__":
    main()
