"""How fast spectra are explained, beside `shap.KernelExplainer` at equal error.

The tiny network (weights of the package, one member, a head for CaCO3), line groups as players, the marginal game against a background of a hundred spectra. What is asked for are the values against *all* of them, so that the error of every way
contains what it leaves out: `explain` plays against the representatives that it chooses (support points); KernelExplainer may have the whole background, or fewer rows of it: drawn at random (`shap.sample`), support points or cluster means (`shap.kmeans`), with few or many samples. Errors are measured, not
claimed: root mean square difference from a long run, over all values of a few spectra, as a share of the target's spread. Seconds are those of a processor.

    python benchmarks/explain_speed.py                   # 20 minutes of a processor
    python benchmarks/explain_speed.py --background 4 --ours 4 --pairs 1 2 4 --sizes    # against four spectra and no others: orders alone make an error
"""
import argparse
import json
import time

import numpy as np

from max_nb.explain import explain, line_players, player_of, predictor, representatives
from max_nb.regress import MAXRegressor
from max_nb.simulate import simulate_archive


def timed(job):
    "What it returns, seconds on the clock, seconds of processors."
    clock, cpu = time.perf_counter(), time.process_time()
    made = job()
    return made, time.perf_counter() - clock, time.process_time() - cpu


def kernel_values(predict, owner, rows, weights, counts, nsamples, seed=0):
    "Values (B, M) by KernelExplainer, with the players' membership as its features."
    import shap
    n = owner.max() + 1

    def one(x):
        def game(z):  # (N, M) of 0 and 1, 1 = the spectrum's own channels; the mean over the background, as a game of one background row
            return np.average([predict(np.where(z[:, owner] > 0.5, x, row))[:, 0] for row in rows], axis=0, weights=weights)
        return shap.KernelExplainer(game, np.zeros((1, n))).shap_values(np.ones((1, n)), nsamples=nsamples, l1_reg=False, silent=True)[0]
    np.random.seed(seed)
    return np.stack([one(x) for x in counts])


def smaller_backgrounds(background, predicted, sizes, seed=0):
    "Name: (rows, weights) of backgrounds for KernelExplainer: all rows, and fewer in three ways."
    import shap
    found = {f"all {len(background)} rows": (background, None)}
    for k in sizes:
        found[f"{k} rows at random"] = shap.sample(background, k, random_state=seed), None
        found[f"{k} support points"] = background[representatives(background, predicted, k, seed)], None
        means = shap.kmeans(background, k)
        found[f"{k} cluster means"] = means.data, means.weights
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--spectra", type=int, default=1000, help="for the time of all")
    parser.add_argument("--few", type=int, default=12, help="spectra whose errors are measured")
    parser.add_argument("--background", type=int, default=100)
    parser.add_argument("--ours", type=int, nargs="*", default=[4, 8, 16, 32], help="representatives that explain plays against")
    parser.add_argument("--pairs", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--sizes", type=int, nargs="*", default=[10, 30], help="of KernelExplainer's smaller backgrounds")
    parser.add_argument("--samples", type=int, nargs="*", default=[64, 128, 256])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    a = parser.parse_args()
    archive = simulate_archive(12, max(40, -(-a.spectra // 6)), seed=11 + a.seed, progress=False)
    cut = (archive.info.core.isin(archive.cores[:6])).to_numpy()
    train, test = archive[cut], archive[~cut][: a.spectra]
    model = MAXRegressor(targets=("CaCO3",), members=1, tune="frozen").fit(train[::2])
    owner, predict = player_of(line_players(), train.axis.n_channels), predictor(model.predict)
    common = dict(value="marginal", background=train, n_background=a.background, verbose=False)
    places = np.linspace(0, len(test) - 1, a.few).round().astype(int)
    few = test[places]
    truth = explain(model, few, pairs=max(2, 200 // a.background), seed=99, **common)
    spread, common["background"] = truth.settings["spread"][0], truth.background  # the same for all ways, and from now on
    def error(values): return float(np.sqrt(((np.asarray(values) - truth.values) ** 2).mean()) / spread)
    print(f"{len(owner)} channels, {owner.max() + 1} players, {a.background} background spectra, spread {spread:.1f} wt%; long run's own error {np.sqrt((truth.error_std ** 2).mean()) / spread:.2%}", flush=True)
    table = []
    def note(way, samples, values, clock, cpu, spectra):
        table.append(dict(way=way, samples=samples, error=error(values), clock=clock / spectra, cpu=cpu / spectra))
        print(table[-1], flush=True)
    for n in a.ours:
        for pairs in a.pairs:
            e, clock, cpu = timed(lambda: explain(model, few, pairs=pairs, seed=5, **{**common, "n_background": n}))
            note(f"explain, {n} representatives", pairs, e.values, clock, cpu, a.few)
    for way, (rows, weights) in smaller_backgrounds(truth.background, predict(truth.background)[:, 0], a.sizes).items():
        for n in a.samples:
            v, clock, cpu = timed(lambda: kernel_values(predict, owner, rows, weights, few.counts.astype(float), n))
            note(f"KernelExplainer, {way}", n, v, clock, cpu, a.few)
    for mine in [t for t in table if t["way"].startswith("explain")]:
        print(f"error {mine['error']:.2%} of the spread: {mine['way']}, {mine['samples']} pairs, {mine['cpu']:.3f} s of a processor a spectrum", flush=True)
        for way in dict.fromkeys(t["way"] for t in table if t["way"].startswith("Kernel")):
            theirs = sorted((t["error"], t["cpu"]) for t in table if t["way"] == way)
            x, y = np.log(theirs).T
            if mine["error"] < np.exp(x[0]):
                print(f"   {way}: not reached, {np.exp(x[0]):.2%} at best, after {max(t[1] for t in theirs):.1f} s: more than x {max(t[1] for t in theirs) / mine['cpu']:.1f}")
            else:
                equal = float(np.exp(np.interp(np.log(mine["error"]), x, y)))
                print(f"   {way}: {equal:.2f} s: x {equal / mine['cpu']:.1f}{' (its cheapest run; fewer samples would do)' if mine['error'] > np.exp(x[-1]) else ''}")
    fewest = min(8, a.background)
    e, clock, cpu = timed(lambda: explain(model, test, pairs=1, seed=1, **{**common, "n_background": fewest}))
    print(f"{len(test)} spectra, {fewest} representatives, 1 pair: {clock:.0f} s on the clock, {cpu:.0f} s of processors; for 1,000: {cpu * 1000 / len(test):.0f} s of processors", flush=True)
    if a.json:
        print(json.dumps(table))


if __name__ == "__main__":
    main()
