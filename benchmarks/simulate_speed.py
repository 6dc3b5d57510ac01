"""How fast archives are simulated, and in how much memory (memory on Linux only).

Makes cores with one thread and with all processors, and beside them the same sediments one spectrum at a time, in the same run; writes
10,000 and 100,000 spectra part by part to Parquet, each in a process of its own whose private memory is watched; and times a single
spectrum, as a slider asks for it.

    python benchmarks/simulate_speed.py                    # two to four minutes, half a GB of disk
    python benchmarks/simulate_speed.py --sizes 10000      # without the large archive
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

PER_CORE = 200


def timed(job):
    "Seconds on the clock and seconds of processors."
    clock, cpu = time.perf_counter(), time.process_time()
    job()
    return time.perf_counter() - clock, time.process_time() - cpu


def archive(n_cores, n_jobs, processes=False):
    "Cores made and let go, by threads or (as `simulate_cores` does by itself from 50,000 spectra on) by processes."
    from max_nb import simulate
    simulate.PROCESSES_FROM = 1 if processes else float("inf")
    for _ in simulate.simulate_cores(n_cores, PER_CORE, seed=0, n_jobs=n_jobs, progress=False):
        pass


def one_at_a_time(info, session):
    "The naive way: a loop over spectra."
    from max_nb.physics import ELEMENTS, expected_spectrum
    rng = np.random.default_rng(0)
    for i in range(len(info)):
        row, s = info.iloc[i : i + 1], session
        state = {name: float(row[name].iloc[0]) for name in ("film_um", "gap_mm", "strength", "gain_kev", "offset_kev")}
        rng.poisson(expected_spectrum(row[list(ELEMENTS)], s.tube, s.detector, s.scan, axis=s.axis, **state))


def speeds(a):
    "Spectra a second, each way twice in turn; the better run counts."
    from max_nb.simulate import REGIONS, diary, simulate_core
    session = diary(0)[0]
    info = simulate_core(REGIONS[0], "one", 100, session=session).info
    cores, rows = a.cores, {}
    jobs = {"simulate_cores, 1 thread": (lambda: archive(cores, 1), cores * PER_CORE), f"simulate_cores, {os.cpu_count()} threads": (lambda: archive(cores, -1), cores * PER_CORE),
            f"simulate_cores, {os.cpu_count()} processes": (lambda: archive(cores, -1, processes=True), cores * PER_CORE), "a loop over spectra": (lambda: one_at_a_time(info, session), len(info))}
    for processes in (False, True): archive(32, -1, processes)  # set-up: one scanner for each session of the diary
    for _ in range(a.rounds):
        for name, (job, n) in jobs.items():
            clock, cpu = timed(job)
            best = rows.setdefault(name, [0.0, 0.0])
            rows[name] = [max(best[0], n / clock), max(best[1], n / cpu)]
    table = pd.DataFrame(rows, index=["spectra a second", "spectra a second of processor"]).T
    return table.assign(**{"x the loop": table["spectra a second"] / table.loc["a loop over spectra", "spectra a second"]})


def one_spectrum():
    "Milliseconds from a composition to a spectrum, once the scanner is set up: median and 95th percentile of 100."
    from max_nb.physics import expected_spectrum
    mud = pd.DataFrame([dict(CaCO3=10.0, opal=6.0, shale=30.0, water=52.0, salt=2.0)])
    expected_spectrum(mud)
    took = [timed(lambda i=i: expected_spectrum(mud.assign(CaCO3=10.0 + 0.1 * i, shale=30.0 - 0.1 * i)))[0] for i in range(100)]
    return 1000 * np.quantile(took, [0.5, 0.95])


def write(a):
    "One archive, in this process; its peak of private memory beyond the imports."
    import joblib, pyarrow.parquet, threadpoolctl, tqdm.auto  # noqa: E401, F401: what imports cost is not what is measured
    from max_nb.simulate import simulate_cores
    from max_nb.spectra import write_parquet
    from streaming import Peak, private_mb
    before = private_mb()["RssAnon"]
    with Peak() as peak:
        seconds, _ = timed(lambda: write_parquet(a.write, simulate_cores(a.size // PER_CORE, PER_CORE, seed=0, progress=False)))
    return {"spectra": a.size, "peak_mb": peak.mb["RssAnon"] - before, "spectra a second": a.size / seconds, "file_mb": Path(a.write).stat().st_size / 2**20}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cores", type=int, default=24, help="cores of 200 spectra in each timed run")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--sizes", type=int, nargs="*", default=[10_000, 100_000], help="spectra of the archives to write")
    parser.add_argument("--write", help=argparse.SUPPRESS)
    parser.add_argument("--size", type=int, help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.write:
        return print(json.dumps(write(a)))
    print(speeds(a).round(1).to_string(), "\none spectrum: median {:.1f} ms, 95th percentile {:.1f} ms\n".format(*one_spectrum()), sep="\n", flush=True)
    rows = []
    for size in a.sizes:
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, __file__, "--write", f"{folder}/archive.parquet", "--size", str(size)]
            rows.append(json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env={**os.environ, "ARROW_DEFAULT_MEMORY_POOL": "system"}).stdout.splitlines()[-1]))
    if rows:
        print(pd.DataFrame(rows).round(1).to_string(index=False))


if __name__ == "__main__":
    main()
