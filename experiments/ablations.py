"""Which parts of the pre-training recipe earn their place? One change at a time, judged on sediments that nobody has seen.

    python experiments/ablations.py                          # all of it, resumable: what is done is not done again
    python experiments/ablations.py --data real --only 0 2   # some data and seeds: several processes share the work
    python experiments/ablations.py --stage table            # the tables from what is there

Every variant is the default with one thing changed, trained on the same spectra for the same number of spectra seen (`--spectra`), at the tiny
size. `published` is the rival: all channels, each spectrum standardised by itself, learning rate 1e-4, batches of 256, no augmentation.

Two sets of data. `real`: seed k holds out a province whole (the k-th that has labels of both targets), and a quarter of the samples of the
others. `simulated`: 30 cores of five regions (archive k); one region is held out whole, and one core of each other region. What is held out is
seen by nobody in any form, the other spectra without labels.

Judged by: (1) few labels: ridge regression of ln y on the frozen, pooled tokens, 32 labels of TOC and 10 of CaCO3 (32 in simulated data), 20
draws, RMSE on the `unseen` province or region and on held-out samples or cores that are `near`; (2) reconstruction R2 about the per-channel
mean on hidden informative patches of what is unseen, in units of standardised square roots of counts, the same for all variants; beside it the
ceiling that counting noise leaves. A fixed random mask of single patches asks all variants the same questions.
"""
import argparse
import json
import time
import warnings
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn

from common import DATA, HERE, markdown
from max_nb.energy import EnergyAxis
from max_nb.mae import MAX, REFERENCE_TOTAL, Encoder, MAEOutput, Normaliser, as_tensor, check_mask, masked_mse, patchify, preset_config, take, visible_first
from max_nb.pretrain import PretrainSettings, as_model, informative_patches, on_axis, pretrain, published_config, reconstruction_r2, steps_per_epoch
from max_nb.regress import ridge_head
from max_nb.simulate import random_regions, simulate_archive
from max_nb.spectra import Spectra, write_atomically

SEEDS = (0, 1, 2, 3, 4)
FEW = {"real": {"TOC": 32, "CaCO3": 10}, "simulated": {"TOC": 32, "CaCO3": 32}}
DRAWS = 20
OTHER_GAIN = 0.0212  # keV a channel: a detector set up differently, for the variant with positions in keV


# ---- the variants that are not entries of a configuration

class RegisterEncoder(Encoder):
    "Four more tokens that stand for nothing (Darcet et al. 2024), dropped at the end."
    def __init__(self, config, n: int = 4):
        super().__init__(config)
        self.register_token = nn.Parameter(0.02 * torch.randn(1, n, config.embed_dim))

    def forward(self, patches, visible=None):
        if visible is None:
            visible = torch.ones(patches.shape[:2], dtype=torch.bool)
        order, valid = visible_first(visible)
        assert valid.all()
        index = order[:, : valid.shape[1]]
        x = self.patch_embed(take(patches, index)) + self.positions[1:][index]
        cls, more = ((t + self.positions[0]).expand(len(x), -1, -1) for t in (self.cls_token, self.register_token))
        x, n = torch.cat([cls, more, x], 1), more.shape[1]
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        return torch.cat([x[:, :1], x[:, 1 + n :]], 1), order, valid


class VisibleOnly(MAX):
    "The total that a spectrum is scaled by comes from its visible patches; for normalisation `sqrt-channel`."
    def scale(self, counts, mask):
        "(B, 1): what counts are divided by to stand at the reference total."
        visible = (~mask).repeat_interleave(self.config.patch_size, 1)
        share = self.normaliser.mean.square()
        return (counts * visible).sum(1, keepdim=True) / (share * visible).sum(1, keepdim=True)

    def forward(self, counts, mask=None, mask_ratio=None, seed=None, loss_only=False):
        counts = as_tensor(counts, self.config, self.device, window=loss_only)
        mask = self.draw_mask(len(counts), mask_ratio, seed) if mask is None else check_mask(mask, len(counts), self.config.n_patches)
        window = counts[:, : self.config.n_window]
        x = patchify(((window / self.scale(window, mask)).sqrt() - self.normaliser.mean) / self.normaliser.std, self.config.patch_size)
        if loss_only:
            return MAEOutput(self.hidden_loss(x, mask), None, mask)
        guess = self.decoder(*self.encoder(x, ~mask))
        return MAEOutput(masked_mse(guess, x, mask), self.whole(guess, counts), mask)

    @torch.no_grad()
    def reconstruct(self, counts, mask):
        counts, n = as_tensor(counts, self.config, self.device), self.config.n_window
        guess = self(counts, mask).reconstruction[:, :n]
        filled = (guess * self.normaliser.std + self.normaliser.mean).clamp_min(0).square() * self.scale(counts[:, :n], mask)
        return torch.cat([torch.where(mask.repeat_interleave(self.config.patch_size, 1), filled, counts[:, :n]), counts[:, n:]], 1)


class PoissonLoss(MAX):
    "Deviance of Poisson counts (at the reference total) instead of squared error; for normalisation `sqrt-channel`."
    def hidden_loss(self, x, mask):
        guess, wanted, hidden = self.hidden_guesses(x, mask)
        assert hidden.all()
        truth = take(x, wanted)
        mean, std = (patchify(v, self.config.patch_size)[wanted] for v in (self.normaliser.mean, self.normaliser.std))
        mu, n = ((z * std + mean).clamp_min(0.1).square() for z in (guess, truth))
        return 2 * (mu - n + torch.xlogy(n, n / mu)).mean() / 100


class NoiseWeighted(MAX):
    "Squared error in units of counting noise: variance-stabilised targets without the channels' own spread; for `sqrt-channel`."
    def hidden_loss(self, x, mask):
        guess, wanted, hidden = self.hidden_guesses(x, mask)
        assert hidden.all()
        truth = take(x, wanted)
        weight = self.normaliser.std.square() / self.normaliser.std.square().mean()
        return ((guess - truth).square() * patchify(weight, self.config.patch_size)[wanted]).mean()


def kev_positions(n_patches: int, dim: int, config) -> torch.Tensor:
    "Sines and cosines of the patch's central energy in units of the published patch, 0.32 keV."
    centre = (config.offset_kev + config.gain_kev * config.patch_size * (np.arange(n_patches) + 0.5)) / 0.32
    angle = centre[:, None] / 10000 ** (np.arange(dim // 2) / (dim / 2))
    return torch.from_numpy(np.concatenate([np.zeros((1, dim)), np.concatenate([np.sin(angle), np.cos(angle)], 1)])).float()


def with_kev(model: MAX) -> MAX:
    for part, dim in ((model.encoder, model.config.embed_dim), (model.decoder, model.config.decoder_embed_dim)):
        part.positions = kev_positions(model.config.n_patches, dim, model.config)
    return model


def with_registers(model: MAX) -> MAX:
    encoder = RegisterEncoder(model.config)
    encoder.load_state_dict(model.encoder.state_dict(), strict=False)
    model.encoder = encoder
    return model


def as_class(cls):
    "The same weights in a model with another loss or normalisation."
    def change(model: MAX) -> MAX:
        other = cls(model.config)
        other.load_state_dict(model.state_dict())
        return other
    return change


class Average:
    "A running mean of the weights over epochs (EMA), as `on_epoch`."
    def __init__(self, keep: float):
        self.keep, self.mean = keep, None

    def __call__(self, run):
        now = {k: v.clone() for k, v in run.model.state_dict().items()}
        self.mean = now if self.mean is None else {k: self.keep * self.mean[k] + (1 - self.keep) * v for k, v in now.items()}


@dataclass
class Variant:
    config: dict = field(default_factory=dict)    # entries of MAXConfig
    settings: dict = field(default_factory=dict)  # entries of PretrainSettings
    change: object = None                         # MAX -> MAX, before training
    average: float = 0.0                          # EMA over epochs


ALL_KEV = dict(max_kev=float(EnergyAxis().edges[-1]))
VARIANTS = {
    "default": Variant(),
    "published": Variant(),  # the rival; see `recipe`
    "window: all channels": Variant(ALL_KEV),
    "normalisation: instance": Variant(dict(normalisation="instance")),
    "normalisation: log": Variant(dict(normalisation="log")),
    "normalisation: channel": Variant(dict(normalisation="channel")),
    "normalisation: total-channel": Variant(dict(normalisation="total-channel")),
    "normalisation: sqrt-intensity": Variant(dict(normalisation="sqrt-intensity")),
    "normalisation: log-channel": Variant(dict(normalisation="log-channel")),
    "normalisation: sqrt-instance": Variant(dict(normalisation="sqrt-instance")),
    "normalisation: visible patches only": Variant(change=as_class(VisibleOnly)),
    "loss: Poisson deviance": Variant(change=as_class(PoissonLoss)),
    "loss: units of counting noise": Variant(change=as_class(NoiseWeighted)),
    "hide: bands of four": Variant(settings=dict(hide="bands")),
    "hide: elements": Variant(settings=dict(hide="elements")),
    "hide: 30 %": Variant(settings=dict(mask_ratio=0.3)),
    "hide: 75 %": Variant(settings=dict(mask_ratio=0.75)),
    "hide: 90 %": Variant(settings=dict(mask_ratio=0.9)),
    "hide: 20 to 80 %": Variant(settings=dict(vary=0.3)),
    "hide: 5 to 95 %": Variant(settings=dict(vary=0.45)),
    "augmentation: none": Variant(settings=dict(augment=False)),
    "augmentation: mix, recount, drift .25 channels": Variant(settings=dict(wander=0.25)),
    "augmentation: mix, recount, drift 1 channel": Variant(settings=dict(wander=1.0)),
    "positions: keV": Variant(change=with_kev),
    "patch: 8 channels": Variant(dict(patch_size=8)),
    "patch: 32 channels": Variant(dict(patch_size=32)),
    "weights: EMA": Variant(average=0.9),
    "registers: 4": Variant(change=with_registers),
    "first guess: 16 components": Variant(dict(components=16)),
}


def recipe(name: str, train: Spectra, seed: int, spectra_seen: int) -> tuple[PretrainSettings, dict]:
    "Settings, and entries of MAXConfig, of a variant."
    v = VARIANTS[name]
    if name == "published":
        settings = PretrainSettings.published(seed=seed)
        config = published_config(train.axis)
    else:
        settings, config = replace(PretrainSettings(epochs=1, seed=seed), **v.settings), v.config
    steps = -(-spectra_seen // settings.batch_size)
    return replace(settings, epochs=max(1, round(steps / steps_per_epoch(len(train), settings.batch_size)))), config


def train_model(name: str, train: Spectra, seed: int, spectra_seen: int) -> MAX:
    v, (settings, config) = VARIANTS[name], recipe(name, train, seed, spectra_seen)
    torch.manual_seed(seed)
    model = as_model("tiny", train, seed, config)
    if v.change:
        model = v.change(model)
    average = Average(v.average) if v.average else None
    model = pretrain(train, model, settings=settings, progress=False, on_epoch=average).model
    if average:
        model.load_state_dict(average.mean)
    return model.eval()


# ---- data

def load(data: str, seed: int) -> dict[str, Spectra]:
    "`train`, `near` (held-out samples or cores of what is known) and `unseen`."
    rng = np.random.default_rng(seed)
    if data == "real":
        s = Spectra.from_parquet(DATA)
        group, labelled = s.info["province"].to_numpy(), s.info[["TOC", "CaCO3"]].notna()
        both = [p for p in sorted(set(group)) if labelled[group == p].sum().min() > 0]
        unseen = group == both[seed % len(both)]
        near = ~unseen & (rng.random(len(s)) < 0.25)
    else:
        s = simulate_archive(30, 24, seed=seed, regions=random_regions(5, 1000 + seed), progress=False)
        region, core = s.info["region"].to_numpy(), s.info["core"].to_numpy()
        names = sorted(set(region))
        unseen = region == names[seed % len(names)]
        near = np.isin(core, [rng.choice(sorted(set(core[region == r]))) for r in names]) & ~unseen
    return dict(train=s[~unseen & ~near], near=s[near], unseen=s[unseen])


# ---- judges

@torch.no_grad()
def tokens(model: MAX, s: Spectra) -> np.ndarray:
    return np.concatenate([model.encode(s.counts[i : i + 128])[:, 1:].mean(1).double().numpy() for i in range(0, len(s), 128)])


def few_label_errors(data: str, parts: dict, features: dict, seed: int) -> dict:
    "RMSE of ln y by target and part, mean over the draws."
    result = {}
    for target, n in FEW[data].items():
        y = {k: s.info[target].to_numpy(float) for k, s in parts.items()}
        floor = np.nanmin(np.where(y["train"] > 0, y["train"], np.nan)) / 2
        known = np.flatnonzero(np.isfinite(y["train"]))
        for draw in range(DRAWS):
            rows = np.random.default_rng((seed, draw)).choice(known, min(n, len(known)), replace=False)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                weight, bias = ridge_head(features["train"][rows], np.log(np.maximum(y["train"][rows], floor)), np.ones(len(rows)))
            for part in ("near", "unseen"):
                there = np.isfinite(y[part])
                truth, low, high = np.log(np.maximum(y[part][there], floor)), *np.quantile(np.log(np.maximum(y["train"][known], floor)), (0, 1))
                guess = (features[part][there] @ weight + bias).clip(low - 1, high + 1)
                result.setdefault(f"{target}, {part}", []).append(float(np.sqrt(np.mean((guess - truth) ** 2))))
    return {k: float(np.mean(v)) for k, v in result.items()}


@torch.no_grad()
def ceiling(model: MAX, s: Spectra, known: Spectra) -> float:
    "The R2 that a guess of the true expected counts would have: counting noise is 1/4 in square roots of counts."
    n, c = model.config.n_window, model.config
    counts, reference = (as_tensor(x.counts, c)[:, :n] for x in (s, known))
    judge = Normaliser("sqrt-channel", n)
    judge.learn(reference)
    noise = 0.25 * REFERENCE_TOTAL / counts.sum(1, keepdim=True) / judge.std**2
    scored = informative_patches(as_tensor(known.counts, c), c).repeat_interleave(c.patch_size)
    return float(1 - noise[:, scored].sum() / (judge(counts) - judge(reference).mean(0))[:, scored].square().sum())


def other_gain(model: MAX, name: str, parts: dict) -> tuple[MAX, dict]:
    "The same weights on spectra of a detector with other channels, not brought to the model's axis; its channel statistics are those of such spectra."
    axis = EnergyAxis(OTHER_GAIN, parts["train"].axis.offset_kev, parts["train"].axis.n_channels)
    moved = {k: s.rebin(axis) for k, s in parts.items()}
    there = MAX(preset_config("tiny", **on_axis(axis)))
    there.normaliser.learn(as_tensor(moved["train"].counts, there.config)[:, : there.config.n_window])
    for part in ("encoder", "decoder"):
        getattr(there, part).load_state_dict(getattr(model, part).state_dict())
    return (with_kev(there) if name == "positions: keV" else there).eval(), moved


def judge(model: MAX, name: str, data: str, parts: dict, seed: int) -> dict:
    features = {k: tokens(model, s) for k, s in parts.items()}
    result = few_label_errors(data, parts, features, seed)
    result["R2, unseen"] = reconstruction_r2(model, parts["unseen"].counts, parts["train"].counts, seed=0, units="sqrt-channel")
    result["R2, near"] = reconstruction_r2(model, parts["near"].counts, parts["train"].counts, seed=0, units="sqrt-channel")
    result["R2 of counts, unseen"] = reconstruction_r2(model, parts["unseen"].counts, parts["train"].counts, seed=0, units="instance")
    result["ceiling, unseen"] = ceiling(model, parts["unseen"], parts["train"])
    if name in ("default", "positions: keV"):
        there, moved = other_gain(model, name, parts)
        far = {k: tokens(model if k == "train" else there, parts[k] if k == "train" else s) for k, s in moved.items()}
        result |= {f"other gain: {k}": v for k, v in few_label_errors(data, parts, far, seed).items()}
        result["other gain: R2, unseen"] = reconstruction_r2(there, moved["unseen"].counts, moved["train"].counts, seed=0, units="sqrt-channel")
    return result


# ---- cells and tables

def cell_path(a, data: str, name: str, seed: int) -> Path:
    return a.out / f"{data}-{a.spectra}" / f"{name.replace(' ', '_').replace(':', '').replace(',', '')}-{seed}.json"


def run(a) -> None:
    for data in a.data:
        for seed in a.only:
            parts = None
            for name in a.variants:
                path = cell_path(a, data, name, seed)
                if path.exists():
                    continue
                parts = parts or load(data, seed)
                began = time.process_time()
                model = train_model(name, parts["train"], seed, a.spectra)
                seconds = time.process_time() - began
                row = dict(data=data, variant=name, seed=seed, seconds=round(seconds, 1), **judge(model, name, data, parts, seed))
                path.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(path, lambda p: p.write_text(json.dumps(row)))
                print(data, seed, name, f"{seconds:.0f} s", {k: round(v, 3) for k, v in row.items() if isinstance(v, float)}, flush=True)


def collect(a) -> pd.DataFrame:
    rows = [json.loads(p.read_text()) for data in a.data for p in sorted((a.out / f"{data}-{a.spectra}").glob("*.json"))]
    table = pd.DataFrame(rows)
    table["variant"] = pd.Categorical(table["variant"], list(VARIANTS), ordered=True)
    return table.sort_values(["data", "variant", "seed"]).reset_index(drop=True)


def changes(table: pd.DataFrame, data: str) -> pd.DataFrame:
    "Per variant: change of few-label RMSE against the default (percent, mean and standard error over seeds of the mean over targets), and R2."
    rows = table[table["data"] == data].set_index(["variant", "seed"])
    targets = [c for c in rows if c.split(", ")[-1] in ("near", "unseen") and c.startswith(("TOC", "CaCO3"))]
    out = {}
    for name in [v for v in VARIANTS if v in rows.index.get_level_values(0)]:
        mine = rows.loc[name]
        base = rows.loc["default"].loc[mine.index]
        ratio = np.log(mine[targets].astype(float) / base[targets].astype(float))
        row = {}
        for part in ("near", "unseen"):
            by_seed = 100 * np.expm1(ratio[[c for c in targets if c.endswith(part)]].mean(axis=1))
            row[f"few-label RMSE, {part}, %"] = f"{by_seed.mean():+.1f} ± {by_seed.sem():.1f}" if name != "default" else "0"
        for c in ("R2, near", "R2, unseen", "R2 of counts, unseen"):
            row[c] = f"{mine[c].mean():.3f} ± {mine[c].sem():.3f}"
        row["gain in R2, unseen"] = f"{(mine['R2, unseen'] - base['R2, unseen']).mean():+.3f} ± {(mine['R2, unseen'] - base['R2, unseen']).sem():.3f}" if name != "default" else "0"
        row["seconds"], row["seeds"] = f"{mine['seconds'].median():.0f}", len(mine)
        out[name] = row
    return pd.DataFrame(out).T


def tables(a) -> None:
    table = collect(a)
    write_atomically(HERE / "ablations.csv", lambda p: table.to_csv(p, index=False, float_format="%.4f"))
    for data in a.data:
        if (table["data"] == data).any():
            own = table[(table["data"] == data) & (table["variant"] == "default")].select_dtypes("number").drop(columns=["seed", "seconds"]).mean().dropna()
            print(f"\n## {data}, {a.spectra} spectra seen\n\nDefault: " + ", ".join(f"{k} {v:.3f}" for k, v in own.items()) + "\n")
            print(markdown(changes(table, data).reset_index(names="")))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", choices=list(FEW), default=list(FEW))
    parser.add_argument("--only", nargs="+", type=int, default=list(SEEDS), metavar="SEED")
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--spectra", type=int, default=25_600, help="seen in training by every variant")
    parser.add_argument("--stage", choices=("run", "table", "all"), default="all")
    parser.add_argument("--out", type=Path, default=HERE / "out" / "ablations")
    a = parser.parse_args()
    torch.set_num_threads(1)
    if a.stage != "table":
        run(a)
    if a.stage != "run":
        tables(a)


if __name__ == "__main__":
    main()
