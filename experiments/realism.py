"""How real do simulated spectra look? Statistics by channel, peaks, totals, subspace, and a classifier that is told to tell them apart.

    python experiments/realism.py                          # judges simulate_archive(24, 60, seed=0)
    python experiments/realism.py --archive file.parquet   # judges another archive (at most --most spectra of it)
    python experiments/realism.py --part quick             # without the classifier and the mixtures: seconds

The real side: `archive_mean_std.csv`, mean and deviation of 44,000 spectra, as they are; and `marine_sediments.parquet`, 708 spectra that are
known to rank 13 only, with totals and counting noise drawn anew (see its README). So its totals are no measure of nature's, and before spectra
are compared one by one, both sides are denoised to rank 13 in the same way, and for the classifier counted anew with equal totals.
Labels are not looked at.
"""
import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.optimize import minimize, nnls
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from max_nb.energy import Detector, emission_lines, escape_kev
from max_nb.simulate import simulate_archive
from max_nb.spectra import Spectra, write_atomically

HERE = Path(__file__).parent
REAL = HERE.parent.parent / "shared" / "real"
WINDOW = (0.7, 11.0)  # keV: what is judged
TOTAL = 1.05e6  # counts of a recounted spectrum: the mean of the real archive
RANK = 13  # of the real spectra
PEAKS = {"Al": 1.49, "Si": 1.74, "S": 2.31, "Cl+Rh": 2.66, "K": 3.31, "Ca": 3.69, "Ca Kb": 4.01, "Ti": 4.51, "Mn": 5.90, "Fe": 6.40, "Fe Kb": 7.06}  # where a top is looked for, keV
LINES = {  # name -> element and lines whose ratios are kept fixed; the Rh lines are scattered ones of the tube
    "Mg": ("Mg", "Ka"), "Al": ("Al", "Ka Kb"), "Si": ("Si", "Ka Kb"), "P": ("P", "Ka Kb"), "S": ("S", "Ka Kb"), "Cl": ("Cl", "Ka Kb"), "Ar": ("Ar", "Ka"), "K": ("K", "Ka Kb"), "Ca": ("Ca", "Ka"),
    "Ca Kb": ("Ca", "Kb"), "Ti": ("Ti", "Ka Kb"), "Cr": ("Cr", "Ka Kb"), "Mn": ("Mn", "Ka Kb"), "Fe": ("Fe", "Ka"), "Fe Kb": ("Fe", "Kb"), "Rh La": ("Rh", "La"), "Rh Lb1": ("Rh", "Lb1"), "Rh Lb2": ("Rh", "Lb2")}
ESCAPES = {"Ca escape": "Ca", "Fe escape": "Fe"}
KNOTS = (1.1, 1.6, 2.2, 3.1, 4.3, 5.2, 6.1, 7.4, 8.2, 9.0)  # keV: the continuum is straight between
FAMILIES = {  # name -> ranges of energy, keV
    "Al, Si": [(1.3, 2.0)], "P, S": [(2.0, 2.46)], "Cl, Rh": [(2.46, 3.14)], "K, Ca": [(3.14, 4.3)], "Ti": [(4.3, 5.1)], "Mn, Fe": [(5.7, 7.3)],
    "continuum": [(5.1, 5.7), (7.56, 9.6)], "its end": [(9.6, 10.36)], "pile-up only": [(10.36, 13.2)], "threshold": [(0.7, 1.3)]}


def inside(axis, low: float = WINDOW[0], high: float = WINDOW[1]) -> slice:
    "Channels between two energies."
    return slice(*np.searchsorted(axis.centers, [low - 1e-6, high - 1e-6]))


def likeness(counts: np.ndarray, measured: pd.DataFrame) -> dict:
    "Correlation of log mean and log standard deviation by channel with the real archive's, and the typical ratio of the means."
    seen = measured["energy_kev"].between(*WINDOW).to_numpy()
    log = lambda v: np.log10(np.asarray(v, float)[seen] + 0.1)
    mean, std = (log(counts.mean(0)), log(measured["mean_counts"])), (log(counts.std(0)), log(measured["std_counts"]))
    return {"correlation of log mean": np.corrcoef(*mean)[0, 1], "correlation of log sd": np.corrcoef(*std)[0, 1],
            "typical ratio of means": 10 ** np.sqrt(np.square(mean[0] - mean[1]).mean()), "typical ratio of sds": 10 ** np.sqrt(np.square(std[0] - std[1]).mean())}


def peak_position(spectrum: np.ndarray, axis, kev: float) -> float:
    "keV: parabola through the logarithms of the highest channel near a line and its neighbours; NaN where there is no top."
    near = axis.channel_of(kev) + np.arange(-4, 6)
    k = near[spectrum[near].argmax()]
    a, b, c = np.log(np.maximum(spectrum[k - 1 : k + 2], 1e-3))
    return axis.centers[k] + 0.5 * axis.gain_kev * (a - c) / (a - 2 * b + c) if k not in (near[0], near[-1]) else np.nan


def line_table() -> pd.DataFrame:
    "name, energy_kev, intensity of all lines of a fit, escapes included."
    lines = emission_lines(tuple(dict.fromkeys(e for e, _ in LINES.values())), max_kev=8)
    rows = [(n, r.energy_kev, r.intensity) for n, (e, which) in LINES.items() for r in lines.itertuples() if r.element == e and r.line in which.split()]
    rows += [(n, float(escape_kev(lines.query("element == @e and line == 'Ka'")["energy_kev"].iloc[0])), 1.0) for n, e in ESCAPES.items()]
    table = pd.DataFrame(rows, columns=["name", "energy_kev", "intensity"])
    return table.assign(intensity=table["intensity"] / table.groupby("name")["intensity"].transform("sum"))


def fit_lines(spectrum: np.ndarray, axis) -> dict:
    """Areas of lines in a mean spectrum, and the resolution: every line is a sum of a sharp and a broad Gaussian (a mean over many days and
    detectors is never one Gaussian), in proportions and with two noises common to all lines; the continuum is straight between knots."""
    k, table = inside(axis, 1.15, 8.9), line_table()
    x, y = axis.centers[k], spectrum[k].astype(float)
    weight = 1 / np.sqrt(y + (0.02 * y) ** 2 + 1)
    hats = [np.interp(x, KNOTS, np.eye(len(KNOTS))[i]) for i in range(len(KNOTS))]

    def design(p):
        sharp, more, share, gain, offset = np.abs(p[0]), np.abs(p[1]), 1 / (1 + np.exp(-p[2])), 1 + p[3] / 1000, p[4] / 1000
        def gaussian(e, noise):
            sigma = Detector(noise_kev=noise / 1000).fwhm_kev(e) / np.sqrt(8 * np.log(2))
            return axis.gain_kev / (sigma * np.sqrt(2 * np.pi)) * np.exp(-0.5 * ((x - e * gain - offset) / sigma) ** 2)
        one = [share * gaussian(e, sharp) + (1 - share) * gaussian(e, sharp + more) for e in table["energy_kev"]]
        lines = pd.DataFrame(np.array(one) * table["intensity"].to_numpy()[:, None]).groupby(table["name"].to_numpy(), sort=False).sum()
        return lines.index, np.r_[lines.to_numpy(), hats].T

    def loss(p): return nnls(design(p)[1] * weight[:, None], y * weight)[1]
    start = np.array([95.0, 70.0, 0.0, 0.0, 20.0])
    p = minimize(loss, start, method="Nelder-Mead", options=dict(maxfev=400, initial_simplex=start + np.r_[[np.zeros(5)], np.diag([20, 40, 1, 1, 5])])).x
    names, matrix = design(p)
    found = nnls(matrix * weight[:, None], y * weight)[0]
    areas = dict(zip(names, found))
    return dict(areas=areas, noise_ev=abs(p[0]), broad_noise_ev=abs(p[0]) + abs(p[1]), sharp_share=1 / (1 + np.exp(-p[2])), gain_permille=p[3], offset_ev=p[4])


def peak_table(real: np.ndarray, simulated: np.ndarray, axis) -> pd.DataFrame:
    "Peaks of two mean spectra: positions, and areas relative to Ca and to Fe as simulated / real."
    r, s = (fit_lines(v, axis)["areas"] for v in (real, simulated))
    table = pd.DataFrame(dict(real=r, simulated=s))
    ratio = table["simulated"] / table["real"].clip(lower=1e-3 * table["real"].max())
    table.loc["Cl+Rh"] = table.loc[["Cl", "Rh La", "Rh Lb1", "Rh Lb2"]].sum()
    ratio["Cl+Rh"] = table.loc["Cl+Rh", "simulated"] / table.loc["Cl+Rh", "real"]
    kev = {n: (peak_position(real, axis, e), peak_position(simulated, axis, e)) for n, e in PEAKS.items()}
    table = table.assign(to_Ca=ratio / ratio["Ca"], to_Fe=ratio / ratio["Fe"])
    return pd.DataFrame(kev, index=["real_kev", "simulated_kev"]).T.assign(shift_ev=lambda t: 1e3 * (t["simulated_kev"] - t["real_kev"])).join(table, how="outer")


def resolution_table(spectra: dict, axis) -> pd.DataFrame:
    "Electronic noise (sharp and broad share), gain and offset of mean spectra."
    return pd.DataFrame({n: {k: v for k, v in fit_lines(s, axis).items() if k != "areas"} for n, s in spectra.items()}).T


def intensity(mean: np.ndarray, std: np.ndarray, axis) -> dict:
    "Level and spread of intensity: the sum of the means, and the continuum at 7.6 to 9 keV, which composition moves least."
    k = inside(axis, 7.6, 9.0)
    return {"total": mean.sum(), "continuum, counts a channel": mean[k].mean(), "sd of continuum, %": 100 * std[k].mean() / mean[k].mean()}


def totals(counts: np.ndarray) -> dict:
    t = counts.sum(1)
    return {"sd of total, %": 100 * t.std() / t.mean(), **{f"total, {q} % quantile": np.percentile(t, q) for q in (5, 25, 50, 75, 95)}}


def denoise(counts: np.ndarray, rank: int = RANK) -> np.ndarray:
    "Leading components of counts / sqrt(mean count), on which counting noise is nearly the same in all channels (Keenan & Kotula 2004); back in counts, none below 0."
    weight = np.sqrt(counts.mean(0) + 1)
    u, d, v = np.linalg.svd(counts / weight, full_matrices=False)
    return ((u[:, :rank] * d[:rank]) @ v[:rank] * weight).clip(0)


def shapes(counts: np.ndarray) -> np.ndarray:
    "The same spectra with equal totals."
    return counts * (TOTAL / counts.sum(1, keepdims=True))


def subspace(real: np.ndarray, simulated: np.ndarray, ranks=(5, 8, 10, 13, 16, 20, 30, 40)) -> pd.DataFrame:
    "Share of the squares of denoised real spectra within the span of the leading simulated components: root counts or counts / sqrt(mean), about 0 or about the mean."
    weight = np.sqrt(real.mean(0) + 1)
    rows = []
    for scale, f in (("root counts", np.sqrt), ("counts / sqrt(mean)", lambda a: a / weight)):
        for about in ("zero", "mean"):
            r, s = f(denoise(real)), f(simulated)
            own = np.linalg.svd(r - r.mean(0) * (about == "mean"), full_matrices=False)
            r = (own[0][:, :RANK] * own[1][:RANK]) @ own[2][:RANK]
            v = np.linalg.svd(s - s.mean(0) * (about == "mean"), full_matrices=False)[2]
            rows.append({"scale": scale, "about": about} | {k: 1 - np.square(r - r @ v[:k].T @ v[:k]).sum() / np.square(r).sum() for k in ranks})
    return pd.DataFrame(rows).set_index(["scale", "about"])


def equal_noise(counts: np.ndarray, rng) -> np.ndarray:
    "Rank 13, equal totals, counted anew: what has been done to the real spectra, done to any."
    return rng.poisson(shapes(denoise(shapes(counts)))).astype(float)


def band_edges(width_kev: float = 0.1, low: float = WINDOW[0], high: float = 13.2) -> np.ndarray:
    return np.arange(low, high + 1e-6, width_kev)


def bands(counts: np.ndarray, axis, edges: np.ndarray) -> np.ndarray:
    "(B, K) counts between edges, keV."
    cut = np.searchsorted(axis.centers, edges - 1e-6)
    return np.add.reduceat(counts[:, : cut[-1]], cut[:-1], axis=1)


def judges(seed: int = 0) -> dict:
    return {"logistic": make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000)), "extra trees": ExtraTreesClassifier(150, min_samples_leaf=3, n_jobs=1, random_state=seed)}


def auc(model, x: np.ndarray, y: np.ndarray, groups: np.ndarray | None = None, folds: int = 5) -> float:
    "Out-of-fold AUC, real against simulated; with groups (provinces and cores), none is in two folds. Each fold is scored alone: scores of different fits are not on one scale."
    folds = folds if groups is None else min(folds, *(len(np.unique(groups[y == k])) for k in (0, 1)))
    if folds < 2:
        return np.nan
    split = StratifiedKFold(folds, shuffle=True, random_state=0) if groups is None else StratifiedGroupKFold(folds, shuffle=True, random_state=0)
    scores = []
    for train, test in split.split(x, y, groups):
        if 0 < y[test].sum() < len(test):
            scores.append(roc_auc_score(y[test], model.fit(x[train], y[train]).predict_proba(x[test])[:, 1]))
    return float(np.mean(scores))


def classify(x: np.ndarray, y: np.ndarray, groups: np.ndarray, edges: np.ndarray, seed: int = 0) -> pd.DataFrame:
    "AUC of both judges on all bands, random and by whole provinces and cores, and of extra trees on each family of bands."
    features = np.log(x + 1)
    rows = [dict(bands="all", judge=name, random=auc(model, features, y), grouped=auc(model, features, y, groups)) for name, model in judges(seed).items()]
    middle = (edges[1:] + edges[:-1]) / 2
    for family, ranges in FAMILIES.items():
        k = np.any([(middle > low) & (middle < high) for low, high in ranges], axis=0)
        trees = judges(seed)["extra trees"]
        rows.append(dict(bands=family, judge="extra trees", random=auc(trees, features[:, k], y), grouped=auc(trees, features[:, k], y, groups)))
    return pd.DataFrame(rows)


def control(x: np.ndarray, cores: np.ndarray, seed: int = 0) -> pd.DataFrame:
    "The same judge, told to tell half of the simulated cores from the other half: what an AUC is when there is nothing to find. By random folds that is far from 0.5, as every core is known again by its day."
    names = np.random.default_rng(seed).permutation(np.unique(cores))
    y = np.isin(cores, names[::2]).astype(int)
    if not 0 < y.sum() < len(y):
        return pd.DataFrame()
    tell = lambda groups: auc(judges(seed)["extra trees"], np.log(x + 1), y, groups)
    return pd.DataFrame([dict(bands="all", judge="control: simulated cores, half against half", random=tell(None), grouped=tell(cores))])


def blur(counts: np.ndarray, axis, fwhm_kev: float = 0.25) -> np.ndarray:
    "Spectra as a poor detector would see them: differences of resolution all but vanish, those of areas and of the continuum stay."
    k = np.arange(-40, 41) * axis.gain_kev / (fwhm_kev / np.sqrt(8 * np.log(2)))
    kernel = np.exp(-0.5 * k**2)
    return np.apply_along_axis(np.convolve, 1, counts, kernel / kernel.sum(), mode="same")


def mixtures(real: np.ndarray, simulated: np.ndarray) -> np.ndarray:
    "Best non-negative mixture of simulated spectra for each real one, weighted by the noise of the mean spectrum."
    weight = 1 / np.sqrt(real.mean(0) + 20)
    design = (simulated * weight).T
    return np.array([nnls(design, r * weight)[0] @ simulated for r in real])


def misfit(real: np.ndarray, fitted: np.ndarray, axis, edges: np.ndarray) -> pd.DataFrame:
    "By band: real against fitted in percent, and mean and root mean square of the difference in units of a channel's counting noise."
    z = (real - fitted) / np.sqrt(real + 1)
    width = bands(np.ones_like(real[:1]), axis, edges)[0]
    r, f, mean, square = (bands(v, axis, edges).mean(0) for v in (real, fitted, z, z**2))
    return pd.DataFrame(dict(kev=edges[:-1], to_kev=edges[1:], real=r, fitted=f, percent=100 * (r / np.maximum(f, 1e-9) - 1), sigma=mean / width, rms_sigma=np.sqrt(square / width))).round(3)


def first_look(real: Spectra, simulated: Spectra, measured: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    "Summary (quantity, value, target, real), peaks against the archive, resolution, subspace. Seconds."
    axis, k = real.axis, inside(real.axis)
    means = {"archive": measured["mean_counts"].to_numpy(), "marine": real.counts.mean(0), "simulated": simulated.counts.mean(0)}
    table = peak_table(means["archive"], means["simulated"], axis)
    marine = peak_table(means["marine"], means["simulated"], axis)[["real_kev", "real", "to_Ca", "to_Fe"]].add_prefix("marine_")
    table = table.join(marine)
    groups = {p: real.counts[province(real) == p].mean(0) for p in np.unique(province(real))} | {c: simulated.counts[core(simulated) == c].mean(0) for c in np.unique(core(simulated))[:6]}
    detectors = resolution_table(means | groups, axis)
    space = subspace(shapes(real.counts[:, k]), denoise(shapes(simulated.counts[:, k]), 40))
    rows = [(n, v, {"correlation of log mean": ">= .98", "correlation of log sd": ">= .95"}.get(n, ""), np.nan) for n, v in likeness(simulated.counts, measured).items()]
    rows += [("largest shift of a peak, eV", table["shift_ev"].abs().max(), "<= 20", np.nan)]
    off = np.exp(np.abs(np.log(table.loc[list(PEAKS), ["to_Ca", "to_Fe"]].clip(lower=1e-3))))
    rows += [(f"worst ratio of peaks {c} ({off[c].idxmax()})", off[c].max(), "<= 1.5", np.nan) for c in off]
    there = intensity(measured["mean_counts"].to_numpy(), measured["std_counts"].to_numpy(), axis)
    rows += [(n, v, "", there[n]) for n, v in intensity(simulated.counts.mean(0), simulated.counts.std(0), axis).items()]
    rows += [(n, v, "", np.nan) for n, v in totals(simulated.counts).items()]
    rows += [(f"real subspace in {RANK} simulated components: {scale}, about {about}", v, ">= .95", np.nan) for (scale, about), v in space[RANK].items()]
    return pd.DataFrame(rows, columns=["quantity", "value", "target", "real"]), table, detectors, space


def long_look(real: Spectra, simulated: Spectra, seed: int = 0, fitted: int = 120, parents: int = 360) -> tuple[pd.DataFrame, pd.DataFrame]:
    "AUCs, and what gives the simulated ones away, band by band. About a minute."
    rng, axis, edges = np.random.default_rng(seed), real.axis, band_edges()
    k = slice(0, inside(axis, high=13.4).stop)
    n = min(len(real), len(simulated))
    some = [np.sort(rng.permutation(len(s))[:n]) for s in (real, simulated)]
    x = np.concatenate([bands(equal_noise(s.counts[rows, k].astype(float), rng), axis, edges) for s, rows in zip((real, simulated), some)])
    y, groups = np.repeat([0, 1], n), np.r_[province(real)[some[0]], core(simulated)[some[1]]]
    aucs = classify(x, y, groups, edges, seed)
    aucs = pd.concat([aucs, control(x[y == 1], groups[y == 1], seed)], ignore_index=True)
    importance = judges(seed)["extra trees"].fit(np.log(x + 1), y).feature_importances_
    single = [roc_auc_score(y, v) for v in x.T]
    r = denoise(shapes(real.counts[:, k].astype(float)))[rng.permutation(len(real))[:fitted]]
    s = denoise(shapes(simulated.counts[:, k].astype(float)), 40)[rng.permutation(len(simulated))[:parents]]
    found = misfit(r, mixtures(r, s), axis, edges)
    soft = [blur(v, axis) for v in (r, s)]
    found["percent_blurred"] = misfit(soft[0], mixtures(*soft), axis, edges)["percent"]
    return aucs, found.assign(mean_sim_over_real=x[y == 1].mean(0) / x[y == 0].mean(0), auc_alone=single, importance=importance)


def province(s: Spectra) -> np.ndarray:
    return s.info["province"].to_numpy().astype(str)


def core(s: Spectra) -> np.ndarray:
    return s.info["core"].to_numpy().astype(str) if "core" in s.info else np.full(len(s), "core")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--archive", type=Path, help="Parquet file of simulated spectra (default: a fresh archive)")
    parser.add_argument("--most", type=int, default=2000, help="spectra of the archive to judge, drawn at random")
    parser.add_argument("--part", choices=("quick", "all"), default="all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=HERE / "out" / "realism")
    a = parser.parse_args()
    if not (REAL / "marine_sediments.parquet").exists():
        raise SystemExit(f"{REAL}: not there; nothing to compare with")
    real, measured = Spectra.from_parquet(REAL / "marine_sediments.parquet"), pd.read_csv(REAL / "archive_mean_std.csv")
    simulated = Spectra.from_parquet(a.archive) if a.archive else simulate_archive(24, 60, seed=a.seed)
    simulated = simulated[np.sort(np.random.default_rng(a.seed).permutation(len(simulated))[: a.most])]
    if simulated.axis != real.axis:
        raise SystemExit(f"{a.archive}: axis {simulated.axis}; expected {real.axis}")
    summary, peaks, detectors, space = first_look(real, simulated, measured)
    write = lambda name, t, **how: write_atomically(a.out / f"{name}.csv", lambda p: t.to_csv(p, **how))
    print(summary.round(3).to_string(index=False, na_rep=""), peaks.round(2).to_string(na_rep=""), detectors.round(2).to_string(), space.round(3).to_string(), sep="\n\n", flush=True)
    if a.part == "all":
        aucs, found = long_look(real, simulated, a.seed)
        summary = pd.concat([summary, pd.DataFrame([dict(quantity=f"AUC, {r.judge}, {r.bands}, {how}", value=getattr(r, how)) for r in aucs.itertuples() for how in ("random", "grouped")])])
        write("bands", found, index=False)
        print("", aucs.round(3).to_string(index=False), found.sort_values("importance", ascending=False).head(25).round(3).to_string(index=False), found.round(2).to_string(index=False), sep="\n\n")
    write("summary", summary, index=False)
    write("peaks", peaks)
    write("detectors", detectors)


if __name__ == "__main__":
    main()
