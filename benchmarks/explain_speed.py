"""How fast spectra are explained, beside `shap.KernelExplainer` at equal error.

The tiny network (weights of the package, one member, a head for CaCO3), line groups as players, the marginal game against a few background spectra that are the same for all. The error of each way is measured,
not claimed: root mean square difference from a long run, over all values of a few spectra, as a share of the target's spread. KernelExplainer is run with growing numbers of samples; the one whose error equals ours
is found between them on logarithmic scales.

    python benchmarks/explain_speed.py                   # 1,000 spectra: some minutes
    python benchmarks/explain_speed.py --spectra 200     # fewer, scaled up to 1,000 in the table
"""
import argparse
import json
import time

import numpy as np

from max_nb.explain import explain, line_players, player_of, predictor
from max_nb.regress import MAXRegressor
from max_nb.simulate import simulate_archive


def timed(job):
    "What it returns, seconds on the clock, seconds of processors."
    clock, cpu = time.perf_counter(), time.process_time()
    made = job()
    return made, time.perf_counter() - clock, time.process_time() - cpu


def kernel_values(predict, owner, background, counts, nsamples, seed=0):
    "Values (B, M) by KernelExplainer, with the players' membership as its features."
    import shap
    n = owner.max() + 1

    def one(x):
        def game(z):  # (N, M) of 0 and 1, 1 = the spectrum's own channels; the mean over the background, as a game of one background row
            return np.mean([predict(np.where(z[:, owner] > 0.5, x, row))[:, 0] for row in background], axis=0)
        return shap.KernelExplainer(game, np.zeros((1, n))).shap_values(np.ones((1, n)), nsamples=nsamples, l1_reg=False, silent=True)[0]
    np.random.seed(seed)
    return np.stack([one(x) for x in counts])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--spectra", type=int, default=1000)
    parser.add_argument("--few", type=int, default=4, help="spectra whose errors are measured")
    parser.add_argument("--background", type=int, default=4)
    parser.add_argument("--pairs", type=int, nargs="*", default=[1, 2, 4])
    parser.add_argument("--samples", type=int, nargs="*", default=[64, 128, 256, 512, 1024, 2048])
    parser.add_argument("--json", action="store_true")
    a = parser.parse_args()
    archive = simulate_archive(12, max(40, -(-a.spectra // 6) if a.spectra > 240 else 40), seed=11, progress=False)
    cut = (archive.info.core.isin(archive.cores[:6])).to_numpy()
    train, test = archive[cut], archive[~cut]
    model = MAXRegressor(targets=("CaCO3",), members=1, tune="frozen").fit(train[::2])
    owner, predict = player_of(line_players(), train.axis.n_channels), predictor(model.predict)
    common = dict(value="marginal", background=train, n_background=a.background, verbose=False)
    few = test[:: max(1, len(test) // a.few)][: a.few]
    truth = explain(model, few, pairs=60, seed=99, **common)
    spread, common["background"] = truth.settings["spread"][0], truth.background  # the same for all ways, and from now on
    def error(values): return float(np.sqrt(((np.asarray(values) - truth.values) ** 2).mean()) / spread)
    print(f"{len(owner)} channels, {owner.max() + 1} players, {a.background} background spectra, spread {spread:.1f} wt%; long run's own error {np.sqrt((truth.error_std ** 2).mean()) / spread:.2%}", flush=True)
    ours = []
    for pairs in a.pairs:
        e, clock, cpu = timed(lambda: explain(model, few, pairs=pairs, seed=5, **common))
        ours.append(dict(way="explain", samples=pairs, error=error(e.values), clock=clock / a.few, cpu=cpu / a.few))
        print(ours[-1], flush=True)
    theirs = []
    for n in a.samples:
        v, clock, cpu = timed(lambda: kernel_values(predict, owner, truth.background, few.counts.astype(float), n))
        theirs.append(dict(way="KernelExplainer", samples=n, error=error(v), clock=clock / a.few, cpu=cpu / a.few))
        print(theirs[-1], flush=True)
    for mine in ours:
        x, y = np.log([t["error"] for t in theirs])[::-1], np.log([t["cpu"] for t in theirs])[::-1]
        equal = float(np.exp(np.interp(np.log(mine["error"]), x, y)))
        outside = "" if min(x) <= np.log(mine["error"]) <= max(x) else " (beyond the range tried: a bound)"
        print(f"error {mine['error']:.2%} of the spread: explain {mine['cpu']:.3f} s of a processor a spectrum, KernelExplainer {equal:.3f} s: x {equal / mine['cpu']:.1f}{outside}", flush=True)
    s = test[: a.spectra]
    e, clock, cpu = timed(lambda: explain(model, s, pairs=2, seed=1, **common))
    rms = np.sqrt((e.error_std ** 2).mean()) / spread
    print(f"{len(s)} spectra, 2 pairs of {a.background} games: {clock:.0f} s on the clock, {cpu:.0f} s of processors; Monte Carlo error rms {rms:.2%}, {np.mean(e.error_std <= 0.01 * spread):.0%} of the values below 1 % of the spread; for 1,000: {cpu * 1000 / len(s):.0f} s of processors", flush=True)
    e, clock, cpu = timed(lambda: explain(model, s[:: max(1, len(s) // 40)], error=0.01, seed=1, **common))
    print(f"every value below 1 % of the spread: {len(e.values)} spectra in {cpu:.0f} s of processors, up to {e.settings['repeats']} pairs, reached {e.settings['reached']:.0%}; for 1,000: {cpu * 1000 / len(e.values):.0f} s", flush=True)
    if a.json:
        print(json.dumps(ours + theirs))


if __name__ == "__main__":
    main()
