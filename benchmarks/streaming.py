"""Pre-train on an archive that is larger than the memory allowed (Linux).

Writes an archive of Parquet part by part, then pre-trains on it in two processes that may use `--allowed` MB of private memory each,
beyond what they need once everything is imported: one leaves the counts on disk (`memory_map=True`), its rival reads them into memory.
The limit is the kernel's (RLIMIT_DATA): it counts what a process asks for, but not files that it maps. Peaks are read from /proc.
Two cores, 250,000 spectra of 2,048 channels (1,953 MB), 512 MB allowed: writing took 155 MB, pre-training on disk 267 MB (175 MB once the
counts were unpacked); in memory it fails, and takes 4,985 MB where it may. A step takes 125 to 160 ms from disk and 116 ms from memory.

    python benchmarks/streaming.py    # 250,000 spectra, 2 GB; a minute or two, 3 GB of disk
    python benchmarks/streaming.py --spectra 125000 --channels 512 --allowed 180 --batch 16    # 244 MB; half a minute
"""
import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd

PART = 1000  # spectra of one core
JOBS = ("write", "on disk", "on disk, again", "in memory")


def private_mb() -> dict[str, float]:
    "Private memory of this process: what it has asked for (VmData) and what of that is in use (RssAnon)."
    status = Path("/proc/self/status").read_text()
    return {name: int(re.search(rf"{name}:\s+(\d+)", status)[1]) / 1024 for name in ("VmData", "RssAnon")}


class Peak:
    "The most private memory that was seen while the block ran, looked at every few milliseconds."

    def __enter__(self):
        self.mb, self.over = private_mb(), threading.Event()
        self.thread = threading.Thread(target=self.watch, daemon=True)
        self.thread.start()
        return self

    def watch(self):
        while not self.over.wait(0.005):
            self.mb = {name: max(self.mb[name], now) for name, now in private_mb().items()}

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()


def limit(extra_mb: float) -> None:
    "Refuse this process more than so many MB of private memory beyond what it has."
    import resource
    most = int((private_mb()["VmData"] + extra_mb) * 2**20)
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))


def cores(n: int, n_channels: int):
    "Cores of 1,000 spectra, one after the other."
    from max_nb.energy import EnergyAxis
    from max_nb.spectra import Spectra
    rng, axis = np.random.default_rng(0), EnergyAxis(n_channels=n_channels)
    base = rng.poisson(rng.gamma(0.3, 40, n_channels), (PART, n_channels)).astype(np.int32)
    for k in range(0, n, PART):
        counts = base + rng.integers(0, 4, base.shape, dtype=np.int32)
        info = pd.DataFrame(dict(core=f"C{k // PART:04d}", depth_mm=np.arange(len(counts)) * 10.0))
        yield Spectra(counts, info, axis)[: n - k]


def write(a) -> dict:
    from max_nb.spectra import write_parquet
    write_parquet(a.archive, cores(a.spectra, a.channels))
    return {"file_mb": a.archive.stat().st_size / 2**20}


def train(a, memory_map: bool) -> dict:
    "Open the archive and take some steps; the loss tells that both see the same spectra."
    from max_nb.pretrain import PretrainSettings, as_model, check_spectra, make_trainer, one_step
    from max_nb.spectra import Spectra
    began = time.perf_counter()
    spectra, settings = Spectra.from_parquet(a.archive, memory_map=memory_map), PretrainSettings(epochs=1, batch_size=a.batch)
    opened = time.perf_counter()
    check_spectra(spectra.counts, settings)
    trainer = make_trainer(as_model("tiny", spectra, 0), spectra.counts, settings, None)
    ready = time.perf_counter()
    for _ in range(a.steps):
        one_step(trainer)
    return {"open_s": opened - began, "set_up_s": ready - opened, "step_ms": 1000 * (time.perf_counter() - ready) / a.steps, "loss": trainer.losses[-1]}


def child(a) -> dict:
    "One job under the limit, its peaks and its times."
    import accelerate.optimizer, pyarrow.parquet, torch, tqdm.auto  # noqa: E401, F401: what imports cost is not what is measured
    import max_nb.pretrain  # noqa: F401
    torch.nn.Linear(64, 64)(torch.ones(64, 64)).sum().backward()  # starts torch's threads
    before = private_mb()
    limit(a.allowed)
    with Peak() as peak:
        try:
            found = write(a) if a.job == "write" else train(a, a.job != "in memory")
        except (MemoryError, RuntimeError, OSError) as e:
            found = {"failed": f"{type(e).__name__}: {str(e).splitlines()[0] if str(e) else ''}"[:120]}
    return {"job": a.job, **{f"{name}_mb": peak.mb[name] - before[name] for name in before}, **found}


def run(a, job: str) -> dict:
    "A child process for one job. Arrow takes its memory from the system: its own pool asks for a gigabyte beforehand."
    env = {**os.environ, "MAX_NB_CACHE": str(a.archive.parent / "cache"), "ARROW_DEFAULT_MEMORY_POOL": "system"}
    command = [sys.executable, __file__, "--job", job, "--archive", a.archive] + [str(x) for name in ("spectra", "channels", "allowed", "steps", "batch") for x in (f"--{name}", getattr(a, name))]
    done = subprocess.run([str(x) for x in command], env=env, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else {"job": job, "failed": f"exit status {done.returncode}"}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spectra", type=int, default=250_000)
    parser.add_argument("--channels", type=int, default=2048)
    parser.add_argument("--allowed", type=float, default=512, help="MB of private memory beyond the imports (default 512)")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int, default=64, help="spectra a step; the network needs a few MB for each")
    parser.add_argument("--jobs", nargs="+", choices=JOBS, default=JOBS, help="what to run, in this order")
    parser.add_argument("--folder", type=Path, help="for archive and cache (default: a temporary one)")
    parser.add_argument("--json", action="store_true", help="print one line of JSON a job, and no table")
    parser.add_argument("--job", choices=JOBS, help=argparse.SUPPRESS)
    parser.add_argument("--archive", type=Path, help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.job:
        return print(json.dumps(child(a)))
    with tempfile.TemporaryDirectory(dir=a.folder) as folder:
        a.archive = Path(folder) / "archive.parquet"
        if not a.json:
            print(f"{a.spectra} spectra of {a.channels} channels: {a.spectra * a.channels * 4 / 2**20:.0f} MB in memory; {a.allowed:.0f} MB allowed", flush=True)
        rows = [run(a, job) for job in a.jobs]
    print("\n".join(map(json.dumps, rows)) if a.json else pd.DataFrame(rows).round(2).to_string(index=False, na_rep=""))


if __name__ == "__main__":
    main()
