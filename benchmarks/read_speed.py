"""How fast `read` takes in an Avaatech archive, as ratios to a loader with `numpy.loadtxt` per file and to merely reading and splitting the bytes.

    python benchmarks/read_speed.py                  # 20,000 files in a temporary folder
    python benchmarks/read_speed.py --files 2000 --repeat 1
"""
import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

CHANNELS, PER_LINE = 2048, 8  # loadtxt needs lines of one length
HEAD = ("$Core_ID:\r\n{core}\r\n\r\n$Section_ID:\r\n{section}\r\n\r\n$X_Position:\r\n{x:.1f}\r\n\r\n$Y_Position:\r\n0.0\r\n\r\n$Run_ID:\r\nRun1\r\n\r\n$Replicate_ID:\r\nRep0\r\n\r\n"
        "$Slit_DC:\r\n10.0\r\n\r\n$Slit_CC:\r\n12.0\r\n\r\n$TotalCPS:\r\n{cps}\r\n\r\n$ACC_VOLT:\r\n10 kV\r\n\r\n$TUBE_CUR:\r\n0.15 mA\r\n\r\n$MEAS_TIM:\r\n10 13\r\n\r\n$DATE_MEA:\r\n09-18-2018 14:03:59\r\n\r\n$DATA:\r\n0 2047\r\n")


def sample_spectra(n, seed=0):
    "Counts of sediment-like spectra: lines on a continuum, about a million counts each."
    rng, channel = np.random.default_rng(seed), np.arange(CHANNELS)
    lines = [(1.740, 3), (2.697, 6), (3.314, 4), (3.692, 30), (4.013, 5), (4.510, 2), (6.404, 25), (7.058, 5)]
    shape = 0.02 * np.exp(-channel / 150) + sum(h * np.exp(-((channel * 0.02 + 0.02 - e) / 0.06) ** 2 / 2) / 200 for e, h in lines)
    return rng.poisson(1e6 * shape / shape.sum() * rng.uniform(0.5, 1.5, (n, 1)))


def write_archive(folder, n_files, per_section=100):
    "Sections of 100 spectra, 10 sections a core; 500 different spectra."
    texts = ["\r\n".join(" ".join(map(str, row[i : i + PER_LINE])) for i in range(0, CHANNELS, PER_LINE)) + "\r\n" for row in sample_spectra(min(n_files, 500))]
    for i in range(n_files):
        core, section, x = f"BENCH-{i // (10 * per_section)}", f"{i // per_section % 10 * 100:04d}", i % per_section * 10.0
        where = folder / core / "Run 1 at  10kV"
        if i % per_section == 0: where.mkdir(parents=True, exist_ok=True)
        head = HEAD.format(core=core, section=section, x=x, cps=100_000)
        (where / f"{core}_{section}  {x:6.1f}mm  10s  10kV 150uA No-Filter   0.0mm Run1 Rep0 Sett Low.spe").write_bytes((head + texts[i % len(texts)]).encode())


def files_below(folder): return sorted(str(p) for p in Path(folder).rglob("*.spe"))


def floor(folder):
    "Read the same bytes and split them."
    return sum(len(open(path, "rb").read().split()) for path in files_below(folder))


def published(folder):
    "One `numpy.loadtxt` a file, from a fixed line on."
    skip = HEAD.count("\n")
    return np.stack([np.loadtxt(path, skiprows=skip).ravel() for path in files_below(folder)])


def ours(folder, **options):
    from max_nb.scanners import read
    return read(folder, **options)


WAYS = {
    "read and split the bytes": lambda folder, cache: floor(folder),
    "numpy.loadtxt per file": lambda folder, cache: published(folder),
    "read, energies nominal, 1 thread": lambda folder, cache: ours(folder, cache=False, energy="nominal", n_jobs=1),
    "read, energies nominal": lambda folder, cache: ours(folder, cache=False, energy="nominal"),
    "read (energies fitted), 1 thread": lambda folder, cache: ours(folder, cache=False, n_jobs=1),
    "read (energies fitted)": lambda folder, cache: ours(folder, cache=False),
    "read, first time, and keep": lambda folder, cache: ours(folder, cache=cache),
    "read again, nothing changed": lambda folder, cache: ours(folder, cache=cache),
}


def one(way, folder, cache):
    "Run one way in this process; print seconds and peak memory (MB) of this process."
    import max_nb.scanners  # noqa: F401  (imports are not part of any way)
    start = time.perf_counter()
    WAYS[way](folder, cache)
    print(time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    parser.add_argument("--cache", help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.one: return one(a.one, a.folder, a.cache)
    with tempfile.TemporaryDirectory() as top:
        folder, cache = Path(top) / "archive", Path(top) / "cache"
        write_archive(folder, a.files)
        print(f"{a.files} files, {sum(os.path.getsize(p) for p in files_below(folder)) / 1e6:.0f} MB; the result holds {a.files * CHANNELS * 4 / 1e6:.0f} MB; medians of {a.repeat}")
        floor(folder)  # warm the disk's cache for all alike
        seconds = {way: [] for way in WAYS}
        memory = {}
        for _ in range(a.repeat):
            for way in WAYS:
                done = subprocess.run([sys.executable, __file__, "--one", way, "--folder", str(folder), "--cache", str(cache)], capture_output=True, text=True, check=True)
                took, memory[way] = map(float, done.stdout.split()[-2:])
                seconds[way].append(took)
            for kept in cache.glob("*"): kept.unlink()
        base, rival = (statistics.median(seconds[way]) for way in list(WAYS)[:2])
        print(f"{'':38}{'seconds':>9}{'x floor':>9}{'x faster than loadtxt':>23}{'peak MB':>9}")
        for way, all_of_them in seconds.items():
            took = statistics.median(all_of_them)
            print(f"{way:38}{took:9.2f}{took / base:9.2f}{rival / took:23.1f}{memory[way]:9.0f}")


if __name__ == "__main__":
    main()
