"""Do explanations say what is true? Simulated sediments with known causes, interventions in the simulator, and the real spectra.

    python experiments/explanation.py                  # everything for seeds 0 to 4; goes on where it stopped: what is there is not done again
    python experiments/explanation.py --stage table    # the tables from what is there
    python experiments/explanation.py --only 0         # one seed

Each seed has its own sediments, network, background and orders. Models are single networks (`members=1`) that start from the weights in the package.

- `truth`: 2,000 sediments whose elements vary independently (`free_sediments`) and two targets made of them: `linear` from Si, Ca and Fe, `interacting` from Ca x Fe and Ti. Three models: the network; `lines`, a lean rival; and `lines, no matrix`, the same
  with targets made of the expected intensities of lines instead of amounts: what the matrix absorbs is then no part of the question.
- `price`: 20,000 such sediments in scans of a twentieth of the time, the same two targets; networks that pay for each group of lines that they read (`MAXRegressor(price=...)`), with the matrix and without, each beside one that reads everything.
- `echoes`: how well everything but the causes' own lines knows these targets.
- `causal`: CaCO3 of 24 simulated cores, 6 of them held out. Explained spectra are compared with what the simulator says would happen if one element had the background's amount (`intervened`).
- `real`: the 708 real spectra in ../shared/real (left out where that is absent): CaCO3 and TOC.
"""
import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.linear_model import Lasso, LassoCV, RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

from common import DATA, HERE
from max_nb.energy import line_groups
from max_nb.explain import (agreement, comb_index, deletion_curve, deletion_gain, drivers, explain, infidelity, line_players, one_target, peak_positions, player_of, player_sums,
                            saliency, shapley_values, shifted_profiles, smoothed, truth_test, with_random_labels, with_random_weights)
from max_nb.mae import MAX, as_tensor, load_pretrained
from max_nb.plots import directions
from max_nb.physics import expected_spectrum, simulate_spectra
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


def player_of_element(names, elements=MOVED) -> dict:
    "element: the player that its K lines belong to."
    return {e: next(n for n in names if n.split(" + ")[0] == f"{e} K") for e in elements}


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


# known causes

def line_areas(counts, elements, mean: np.ndarray) -> np.ndarray:
    "(B, E): counts in the eight strongest channels of each element's K lines; mean (C,) says which these are."
    groups = line_groups()
    own = [groups[name][groups[name] < 400] for name in player_of_element(groups, elements).values()]
    return np.stack([np.asarray(counts)[:, ch[np.argsort(-mean[ch])[:8]]].sum(1) for ch in own], 1)


class Lines:
    "A lean rival: lasso on the areas of the nine strongest elements' lines and on their products, as sparse as two standard errors allow."
    ELEMENTS = ("Al", "Si", "S", "Cl", "K", "Ca", "Ti", "Mn", "Fe")

    def __init__(self, target: str):
        self.targets = target

    def areas(self, counts) -> np.ndarray:
        return line_areas(counts, self.ELEMENTS, self.mean)

    def fit(self, counts, y):
        self.mean = np.asarray(counts, float).mean(0)
        self.features = make_pipeline(StandardScaler(), PolynomialFeatures(2, include_bias=False), StandardScaler()).fit(self.areas(counts))
        z = self.features.transform(self.areas(counts))
        cv = LassoCV(cv=5, alphas=40, max_iter=5000).fit(z, y)
        mean, se = cv.mse_path_.mean(1), cv.mse_path_.std(1) / np.sqrt(5)
        self.lasso = Lasso(alpha=cv.alphas_[np.argmax(mean <= mean.min() + 2 * se[mean.argmin()])], max_iter=5000).fit(z, y)
        return self

    def predict(self, counts) -> np.ndarray:
        return self.lasso.predict(self.features.transform(self.areas(counts)))


def designs(train: Spectra, test: Spectra, causes, n: int) -> dict:
    "name: (spectra to explain, background). `archive`: any sediments against all. `contrast`: rich in every cause against poor in every cause, so that each cause has something to explain."
    f, b = test.info, train.info
    rich = np.all([f[c] > b[c].median() for c in causes], axis=0)
    poor = np.all([b[c] < b[c].quantile(0.4) for c in causes], axis=0)
    return {"archive": (test[:n], train), "contrast": (test[np.flatnonzero(rich)[:n]], train[poor])}


def without_matrix(amounts: pd.DataFrame) -> pd.DataFrame:
    "The amounts that lines alone would suggest: expected counts of each cause's lines, scaled to its mean amount. A formula of these needs no correction for what else is in the sediment."
    expected, causes = expected_spectrum(amounts), sorted(set(sum(CAUSES.values(), ())))
    areas = line_areas(expected, causes, expected.mean(0))
    return amounts.assign(**{e: amounts[e].mean() * area / area.mean() for e, area in zip(causes, areas.T)})


def formula_values(target: str, info: pd.DataFrame, background: pd.DataFrame) -> np.ndarray:
    "(B, 3): Shapley values of the formula itself, in the amounts of its causes, mean over the background."
    causes, other = list(CAUSES[target]), {"Si": 0.0, "Ca": 0.0, "Fe": 0.0, "Ti": 0.0}
    def value(amounts):
        return made_targets(pd.DataFrame({**{e: np.full(len(amounts), v) for e, v in other.items()}, **dict(zip(causes, amounts.T))}))[target].to_numpy()[:, None]
    def one(row):
        return shapley_values(lambda coalitions, amounts: value(np.where(coalitions, amounts, row)), info[causes].to_numpy(), 3, exact=True)[0][..., 0]
    return np.mean([one(row) for row in background[causes].to_numpy()], axis=0)


def truth(a, seed: int) -> list[dict]:
    "Are the causes on top, and the rest near zero?"
    out, network = [], fitted(a, "truth", seed)
    amounts = free_sediments(2200, seed=1000 + seed)
    counts = simulate_spectra(amounts, seed=seed)
    data = {"network": parts("truth", seed)}
    for name, f in {"lines": amounts, "lines, no matrix": without_matrix(amounts)}.items():
        steady = Spectra(counts, pd.concat([f, made_targets(f)], axis=1))
        data[name] = steady[:2000], steady[2000:]
    for target in CAUSES:
        for name, (train, test) in data.items():
            model = network if name == "network" else Lines(target).fit(train.counts, train.info[target].to_numpy())
            out += verdicts(a, name, model, target, train, test, seed)
    return out


def verdicts(a, name: str, model, target: str, train: Spectra, test: Spectra, seed: int) -> list[dict]:
    "The truth test of one model and target, in both designs."
    causes, out = CAUSES[target], []
    p = model.predict(test)
    p = p[:, list(model.targets_).index(target)] if p.ndim == 2 else p
    r2 = 1 - np.mean((p - test.info[target]) ** 2) / np.var(test.info[target])
    for design, (s, background) in designs(train, test, causes, a.spectra).items():
        e = explain(model, s, target, value="marginal", background=background, pairs=1, seed=seed, verbose=False)
        players = [f"{c} K" for c in causes]
        share, top = drivers(e).set_index("player").share, np.abs(np.asarray(e.values)).argmax(1)
        true = formula_values(target, s.info, background.info.iloc[e.background_rows])
        found = np.asarray(e.values)[:, [list(e.players).index(q) for q in players]]
        out.append(dict(seed=seed, model=name, target=target, design=design, n=len(s), r2=r2, **truth_test(e, players), first_is_cause=np.isin(np.array(list(e.players))[top], players).mean(),
                        argon=share["Ar K + Rh L"], above=share["above 10 keV"], scatter=share.filter(like="scatter").sum(), spearman=spearman(true, found)))
        print(out[-1], flush=True)
    return out


# networks that pay for what they read

DOSE, PRICE, MANY = 0.05, 0.2, 20_000  # of a scan's time; of a group of lines; sediments


def short_scans(seed: int, matrix: bool) -> tuple[Spectra, Spectra]:
    "Many sediments, scanned for a twentieth of the time at a steady intensity."
    f = free_sediments(MANY + 300, seed=1000 + seed)
    made = f if matrix else without_matrix(f)
    s = Spectra(simulate_spectra(f, seed=seed, strength=DOSE), pd.concat([made, made_targets(made)], axis=1))
    return s[:MANY], s[MANY:]


def keeps_intensity(train: Spectra) -> MAX:
    "The weights in the package behind a normalisation that leaves spectra their strength: no line has to make up for what the sum of all did to another."
    shipped = load_pretrained("max-tiny-sim")
    mae = MAX(replace(shipped.config, normalisation="sqrt-intensity"))
    mae.encoder.load_state_dict(shipped.encoder.state_dict())
    mae.learn_statistics(lambda: [as_tensor(train.counts[:4000], mae.config)])
    return mae


def price(a, seed: int) -> list[dict]:
    "The truth test of networks that pay for each group of lines they read, and beside each of one that does not."
    out = []
    for matrix, label in ((False, ", no matrix"), (True, "")):
        train, test = short_scans(seed, matrix)
        mae, settings = keeps_intensity(train), dict(members=1, seed=seed, mix=False, scale="linear", steps=2000, tune="full", early_stopping=False)
        for target in CAUSES:
            model = MAXRegressor(mae, targets=(target,), price=PRICE, **settings).fit(train)
            print(label, target, "reads", model.members_[0].gates.read(), flush=True)
            rows = verdicts(a, "network that pays" + label, model, target, train, test, seed)
            out += [r | dict(reads="; ".join(model.members_[0].gates.read())) for r in rows]
            model = MAXRegressor(mae, targets=(target,), **settings).fit(train)
            out += verdicts(a, "network, short scans" + label, model, target, train, test, seed)
    return out


def echoes(a, seed: int) -> list[dict]:
    "How well do all players but the causes' own (their lines and escape peaks) know the target? Ridge regression on sums of counts and their products, full and short scans, no matrix."
    f, out, players = free_sediments(6000, seed=1000 + seed), [], line_players()
    made = made_targets(without_matrix(f))
    for dose in (1.0, DOSE):
        x = simulate_spectra(f, seed=seed, strength=dose)
        sums = pd.DataFrame({name: np.sqrt(x[:, channels].sum(1)) for name, channels in players.items()})
        for target, causes in CAUSES.items():
            own = [n for n in sums if any(f"{c} K" in n or f"{c} escape" in n for c in causes)]
            model = make_pipeline(StandardScaler(), PolynomialFeatures(2), StandardScaler(), RidgeCV(np.logspace(-3, 5, 17)))
            score = {name: model.fit(sums.loc[:4999, columns], made[target][:5000]).score(sums.loc[5000:, columns], made[target][5000:]) for name, columns in (("own", own), ("others", [n for n in sums if n not in own]))}
            out.append(dict(seed=seed, target=target, dose=dose, **score))
            print(out[-1], flush=True)
    return out


# the real spectra, and the tests that could refute

def real(a, seed: int) -> list[dict]:
    "Shares and directions of the players for CaCO3 and TOC under two games."
    model, (known, s) = fitted(a, "real", seed), parts("real", seed)
    chosen, out = s[np.sort(np.random.default_rng(seed).permutation(len(s))[: a.spectra])], []
    for value in a.values:
        some = chosen if value == "marginal" else chosen[: a.spectra // 3]
        e = explain(model, some, value=value, background=s, n_background=8 if value == "marginal" else 4, pairs=1, seed=seed, verbose=False)
        for target in ("CaCO3", "TOC"):
            one = one_target(e, target)
            way = pd.Series(directions(np.asarray(one.values), np.asarray(one.data)), list(one.players))
            out += [dict(seed=seed, target=target, value=value, player=r.player, mean_abs=r.mean_abs, share=r.share, mc_error=r.mc_error, direction=way[r.player]) for r in drivers(one).itertuples()]
    tests = refutations(model, known, chosen[: a.spectra // 3], s, seed)
    keep(a, "refutation", seed, tests)
    return out


def refutations(model, known: Spectra, some: Spectra, background: Spectra, seed: int) -> list[dict]:
    "Deletion, insertion, infidelity, comb index, peaks, randomised weights and labels, for each target."
    out, settings = [], dict(value="marginal", n_background=4, pairs=1, verbose=False, seed=seed)
    whole = explain(model, some, background=background, **settings)
    shuffled = [explain(with_random_weights(model, seed=100 * seed + k, like=background[::4]), some, background=whole.background, **settings) for k in range(5)]
    unlabelled = explain(with_random_labels(model, known, known.targets(["CaCO3", "TOC"]).to_numpy(), seed), some, background=whole.background, **settings)
    even = MAXRegressor(members=1, seed=seed, grids=4, **FITS["real"]).fit(known)
    same = explain(even, some, background=whole.background, **settings)
    windows, windows_even = (shifted_profiles(TwoAsOne(m), some[:10], "both", background, seed=seed) for m in (model, even))
    wide = shifted_profiles(TwoAsOne(model), some[:10], "both", background, width=16, shifts=range(0, 16), n_background=1, pairs=2, seed=seed)
    below = slice(0, 496)
    for target in ("CaCO3", "TOC"):
        e, slope = one_target(whole, target), saliency(model, some, target)
        sizes = {"saliency": player_sums(np.abs(slope), e.players)}
        single = OneOf(model, target)
        cut, put = (deletion_curve(single, some, e, rivals=sizes, random_orders=2, insert=i, seed=seed) for i in (False, True))
        gradient = slope / np.sqrt(np.maximum(some.counts, 1)) * (some.counts - e.background.mean(0))
        left = infidelity(single, some, e, draws=12, seed=seed, rivals={"saliency": player_sums(gradient, e.players)})
        height = {name: c.groupby("order").change.mean() for name, c in (("deletion", cut), ("insertion", put))}
        row = dict(seed=seed, target=target, **{f"{n}_{o}": h[o] / h["random"] for n, h in height.items() for o in ("explanation", "saliency", "reverse")}, **{f"infidelity_{k.replace(' ', '_')}": v for k, v in left.items()})
        row |= dict(weights_cosine=np.mean([agreement(e, one_target(o, target)).cosine for o in shuffled]), weights_abs_cosine=np.mean([abs(agreement(e, one_target(o, target)).cosine) for o in shuffled]),
                    labels_cosine=agreement(e, one_target(unlabelled, target)).cosine, labels_size=agreement(e, one_target(unlabelled, target))["size"])
        sal = np.abs(saliency(model, background[::6], target)).mean(0)
        row |= dict(comb_saliency=comb_index(sal[below]), comb_saliency_smoothed=comb_index(smoothed(sal)[below]), comb_shapley=comb_index(windows.mean(0)[below]), comb_shapley_four_grids=comb_index(windows_even.mean(0)[below]), comb_shapley_patches=comb_index(wide.mean(0)[below]),
                    four_grids_cosine=agreement(e, one_target(same, target)).cosine, **dict(zip(("peak_kev", "peak_sd_kev"), (lambda k: (k.mean(), k.std()))(peak_positions(wide, background.axis, 3.3, 4.1)))))
        out.append(row)
        print(row, flush=True)
    return out


class OneOf:
    "One target of a model of several."
    def __init__(self, model, target):
        self.model, self.targets, self.column = model, target, list(model.targets_).index(target)

    def predict(self, counts):
        return self.model.predict(counts)[:, self.column]


class TwoAsOne:
    "The sum of both targets, each in units of its spread over what is asked first: one game shows where both look."
    def __init__(self, model):
        self.model, self.targets, self.spread = model, "both", None

    def predict(self, counts):
        p = self.model.predict(counts)
        self.spread = p.std(0) if self.spread is None else self.spread
        return (p / self.spread).sum(1)


STAGES = {"truth": truth, "price": price, "echoes": echoes, "causal": causal, "real": real}


def keep(a, name: str, seed: int, rows: list[dict]) -> None:
    "One file for each part and seed, written in one step."
    write_atomically(a.out / f"{name}-{seed}.csv", lambda p: pd.DataFrame(rows).to_csv(p, index=False))


# the tables

def collected(a) -> pd.DataFrame:
    "All rows of all parts and seeds that are there."
    files = sorted(p for p in a.out.glob("*-*.csv"))
    return pd.concat([pd.read_csv(p).assign(part=p.stem.rsplit("-", 1)[0]) for p in files], ignore_index=True)


def report(a) -> None:
    "explanation.csv beside this script, and means with standard deviations over seeds."
    rows = collected(a)
    number = rows.select_dtypes("number").columns
    rows[number] = rows[number].round(5)
    write_atomically(HERE / "explanation.csv", lambda p: rows.to_csv(p, index=False))
    keys = {"truth": ["model", "target", "design"], "price": ["model", "target", "design"], "echoes": ["target", "dose"], "causal": ["value"], "refutation": ["target"], "real": ["target", "value", "player"]}
    for part, by in keys.items():
        some = rows[rows.part == part].dropna(axis=1, how="all")
        if len(some):
            means = some.groupby(by)[[c for c in some.select_dtypes("number") if c != "seed"]].agg(["mean", "std"]).round(3)
            print(f"\n{part}: seeds {sorted(some.seed.unique().tolist())}")
            print((means.sort_values(("share", "mean"), ascending=False).groupby(by[:2]).head(6).sort_index(level=by[:2], sort_remaining=False) if part == "real" else means.T).to_string())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=HERE / "out" / "explanation")
    parser.add_argument("--only", type=int, nargs="*", default=range(5))
    parser.add_argument("--parts", nargs="*", default=list(STAGES))
    parser.add_argument("--stage", choices=("all", "fit", "table"), default="all")
    parser.add_argument("--spectra", type=int, default=60, help="to be explained, of each seed")
    parser.add_argument("--values", nargs="*", default=["marginal", "conditional"])
    a = parser.parse_args()
    if a.stage == "table":
        return report(a)
    wanted = [p for p in a.parts if p != "real" or DATA.exists()]
    for seed in a.only:
        for name in wanted:
            if name in FITS:
                fitted(a, name, seed)
            if a.stage == "all" and not (a.out / f"{name}-{seed}.csv").exists():
                keep(a, name, seed, STAGES[name](a, seed))
    if a.stage == "all":
        report(a)


if __name__ == "__main__":
    main()
