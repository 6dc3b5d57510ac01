"""How many spectra a second a training step takes in, beside other ways to train the same model.

All of them run in one process and take turns, one step each, in a new order every round. A ratio is the median of the rounds' ratios, with its standard error, so that a machine that is slow for a minute is slow for all.
Each step finds the caches full of another model's numbers; training alone may be faster.

- `max_nb`: our step (`one_step`): draw the batch, hide, forward, backward, clip, AdamW. The spectra themselves, and fresh mixtures of them
- (a) a plain PyTorch MAE of the same shape, as one would write it: `nn.TransformerEncoder`, a `DataLoader`, AdamW
- (b) `chemomae` from PyPI at equal width and depth of the encoder (its decoder is two linear layers on one short vector, not a transformer):
  over the same energies, and over all channels, since it has no energy window. Left out where it is not installed
- (c) our model over all channels instead of those below 10.24 keV

    python benchmarks/pretrain_speed.py                      # some minutes
    python benchmarks/pretrain_speed.py --threads 1 --rounds 20

chemomae, without the other packages that it names (they are here already):

    pip install --no-deps --target /some/folder chemomae && PYTHONPATH=/some/folder python benchmarks/pretrain_speed.py
"""
import argparse
import os
import statistics
import time

import numpy as np
import torch
from torch import nn

from max_nb.mae import MAX, random_mask, sincos_positions
from max_nb.pretrain import PretrainSettings, make_trainer, one_step
from max_nb.energy import EnergyAxis


class PlainMAE(nn.Module):
    "A masked autoencoder out of torch's own transformer layers: (B, C) normalised spectra -> loss on the hidden patches."
    def __init__(self, c):
        super().__init__()
        def layers(dim, heads, depth):
            layer = nn.TransformerEncoderLayer(dim, heads, int(c.mlp_ratio * dim), dropout=0.0, activation="gelu", batch_first=True, norm_first=True)
            return nn.TransformerEncoder(layer, depth, norm=nn.LayerNorm(dim), enable_nested_tensor=False)
        self.c, self.keep = c, int(c.n_patches * (1 - c.mask_ratio))
        self.embed, self.cls = nn.Linear(c.patch_size, c.embed_dim), nn.Parameter(torch.zeros(1, 1, c.embed_dim))
        self.encoder, self.to_decoder = layers(c.embed_dim, c.num_heads, c.depth), nn.Linear(c.embed_dim, c.decoder_embed_dim)
        self.mask_token, self.decoder = nn.Parameter(torch.zeros(1, 1, c.decoder_embed_dim)), layers(c.decoder_embed_dim, c.decoder_num_heads, c.decoder_depth)
        self.pred = nn.Linear(c.decoder_embed_dim, c.patch_size)
        self.register_buffer("pos", sincos_positions(c.n_patches, c.embed_dim)[None])
        self.register_buffer("decoder_pos", sincos_positions(c.n_patches, c.decoder_embed_dim)[None])

    def forward(self, x):
        x = x.unflatten(1, (-1, self.c.patch_size))
        shuffle = torch.rand(x.shape[:2]).argsort(1)
        back, kept = shuffle.argsort(1), shuffle[:, : self.keep]
        tokens = self.embed(x) + self.pos[:, 1:]
        seen = tokens.gather(1, kept[..., None].expand(-1, -1, tokens.shape[-1]))
        seen = self.to_decoder(self.encoder(torch.cat([self.cls.expand(len(x), -1, -1), seen], 1)))
        hidden = self.mask_token.expand(len(x), x.shape[1] - self.keep, -1)
        full = torch.cat([seen[:, 1:], hidden], 1).gather(1, back[..., None].expand(-1, -1, seen.shape[-1]))
        guess = self.pred(self.decoder(torch.cat([seen[:, :1], full], 1) + self.decoder_pos)[:, 1:])
        error, mask = (guess - x).square().mean(-1), back >= self.keep
        return (error * mask).sum() / mask.sum()


def endless(x, batch):
    "Batches of a shuffled DataLoader, again and again."
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x), batch_size=batch, shuffle=True, drop_last=True)
    while True:
        yield from (rows for (rows,) in loader)


def stepper(model, loss_of, x, batch):
    "One training step of a model that is written in the usual way."
    optimizer, batches = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.05), endless(x, batch)
    def step():
        loss = loss_of(next(batches))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss.item()
    return step


def ours(config, counts, batch, augment):
    "Our training step."
    model = MAX(config)
    if model.normaliser.over == "channel":
        model.normaliser.learn(torch.as_tensor(counts[:, : config.n_window], dtype=torch.float32))
    trainer = make_trainer(model, counts, PretrainSettings(epochs=10**6, batch_size=batch, augment=augment), None)
    return lambda: one_step(trainer)


def chemo(c, x, batch):
    "chemomae's model and loss, at the encoder's width and depth."
    from chemomae.models import ChemoMAE, masked_mse
    model = ChemoMAE(seq_len=x.shape[1], n_patches=x.shape[1] // c.patch_size, d_model=c.embed_dim, nhead=c.num_heads, num_layers=c.depth,
                     decoder_num_layers=c.decoder_depth, n_mask=x.shape[1] // c.patch_size - int(x.shape[1] // c.patch_size * (1 - c.mask_ratio)))
    def loss(rows):
        guess, _, visible = model(rows)
        return masked_mse(guess, rows, ~visible)
    return stepper(model.train(), loss, x, batch)


def spectra(n, axis):
    "(n, C) counts that fall off as a 10 kV spectrum does; what they say does not matter here."
    rng = np.random.default_rng(0)
    shape = rng.dirichlet(np.ones(5), n) @ (rng.gamma(0.5, 1, (5, axis.n_channels)) * np.exp(-axis.centers / 3))
    return rng.poisson(3e5 * shape / shape.sum(1, keepdims=True))


def flops_of(step):
    "Floating-point operations of matrix products and attention in a step."
    from torch.utils.flop_counter import FlopCounterMode
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


def peak():
    "FLOP/s of a large matrix product, the best of some."
    a = torch.randn(1024, 1024)
    times = []
    for _ in range(8):
        began = time.perf_counter()
        a @ a
        times.append(time.perf_counter() - began)
    return 2 * 1024**3 / min(times)


def times_faster(rival, ours):
    "Median of the rounds' ratios, with its standard error (1.25 of a mean's, as for normal, independent rounds)."
    ratios = np.divide(rival, ours)
    return f"{np.median(ratios):.3f} +- {1.25 * ratios.std() / len(ratios) ** 0.5:.3f}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    torch.manual_seed(0)
    from max_nb.mae import preset_config
    axis = EnergyAxis()
    config, wide = preset_config(a.preset), preset_config(a.preset, max_kev=float(axis.edges[-1]))
    counts = spectra(32 * a.batch, axis)  # no batch is smaller than the others
    seen = MAX(config).normaliser
    seen.learn(torch.as_tensor(counts[:, : config.n_window], dtype=torch.float32))
    with torch.no_grad():
        x = seen(torch.as_tensor(counts[:, : config.n_window], dtype=torch.float32))
        everything = torch.as_tensor(counts, dtype=torch.float32)
        everything = (everything - everything.mean(1, keepdim=True)) / everything.std(1, keepdim=True)
    plain = PlainMAE(config).train()
    jobs = {"max_nb": ours(config, counts, a.batch, False), "max_nb, mixing and recounting": ours(config, counts, a.batch, True),
            "(a) plain PyTorch": stepper(plain, plain, x, a.batch), "(c) max_nb, all channels": ours(wide, counts, a.batch, False)}
    try:
        jobs |= {"(b) chemomae, same energies": chemo(config, x, a.batch), "(b) chemomae, all channels": chemo(config, everything, a.batch)}
    except ImportError as e:
        print(f"chemomae is left out: {e}")
    flops = {name: flops_of(step) for name, step in jobs.items()}
    wall, busy = {name: [] for name in jobs}, {name: [] for name in jobs}
    order = np.random.default_rng(0)
    for _ in range(a.rounds):
        for name in order.permutation(list(jobs)):
            began, cpu = time.perf_counter(), time.process_time()
            jobs[name]()
            wall[name].append(time.perf_counter() - began)
            busy[name].append(time.process_time() - cpu)
    top = peak()
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    print(f"{a.preset}, batch {a.batch}, {config.n_patches} of {wide.n_patches} patches, {a.threads} threads, torch {torch.__version__}; load {load:.1f} on {os.cpu_count()} processors; matrix peak {top / 1e9:.0f} GFLOP/s")
    print("| | spectra a second | of a busy processor | max_nb is faster by (clock) | (processor time) | GFLOP a step | GFLOP/s | share of peak |\n|---|---|---|---|---|---|---|---|")
    for name in jobs:
        middle, cpu = statistics.median(wall[name]), statistics.median(busy[name])
        by_clock, by_cpu = (times_faster(table[name], table["max_nb"]) for table in (wall, busy))
        print(f"| {name} | {a.batch / middle:,.0f} | {a.batch / cpu:,.0f} | {by_clock} | {by_cpu} | {flops[name] / 1e9:.2f} | {flops[name] / middle / 1e9:.1f} | {flops[name] / middle / top:.0%} |")


if __name__ == "__main__":
    main()
