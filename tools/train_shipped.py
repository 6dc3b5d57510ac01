"""Train the weights that come with the package, on simulated archives alone, and write them with their card into max_nb/pretrained/.

    python tools/train_shipped.py max-tiny-sim                  # goes on where it stopped; 7 to 10 minutes on a core that it has for itself
    python tools/train_shipped.py max-small-sim                 # the same for the larger one: under an hour
    python tools/train_shipped.py max-tiny-sim --stage card     # metrics, card and weights again, from a training that is done

The archive (180 cores from as many seas, as Parquet), checkpoints and history are kept in `--work`. Start afresh (another folder) when
the simulator has changed: an archive that is there is not made again, and the card names the version with which it was made.
Metrics are the share of the variance about the per-channel mean that the guess explains on hidden informative patches: of simulated
seas that were held out, against the mean of the training archive, and of real spectra, where they are at hand, against their own mean.
"""
import argparse
import json
import subprocess
import sys
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

import pandas as pd
import torch

from max_nb import __version__
from max_nb.mae import CARD, MAX, SHIPPED, file_sums
from max_nb.pretrain import pretrain, reconstruction_r2, steps_per_epoch
from max_nb.simulate import REGIONS, random_regions, simulate_archive, simulate_cores
from max_nb.spectra import Spectra, write_atomically, write_parquet

REAL = ROOT.parent / "shared" / "real" / "marine_sediments.parquet"
SIMULATOR = "the simulator's free constants were fitted to averages of real ones"
LICENCE = "Apache-2.0"
CITATION = "max_nb developers (2026): max_nb, masked autoencoders for XRF core scans. Method: Lee et al. (2024), arXiv 2410.12330"
HELD_OUT = dict(seas=40, spectra=25)  # of the simulated archive that is judged on; its seed is the recipe's plus one


@dataclass(frozen=True)
class Recipe:
    "What makes a set of weights."
    preset: str
    cores: int = 180      # of the simulated archive, each from another sea
    per_core: int = 60    # spectra in a core
    steps: int = 5000     # rounded up to whole epochs
    batch_size: int = 64
    learning_rate: float = 1e-3
    seed: int = 0         # of seas, spectra, weights, mixtures and masks
    half: bool = False    # weights kept in 16 bits


RECIPES = {"max-tiny-sim": Recipe("tiny"), "max-small-sim": Recipe("small", steps=3000, learning_rate=5e-4, half=True)}


def version() -> str:
    "Of the code: the package's and, in a checkout, the commit's."
    said = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    return f"{__version__} ({said})" if said else __version__


def seas(n: int, seed: int) -> tuple:
    return (*REGIONS, *random_regions(n, seed))[:n]


def archive(r: Recipe, work: Path) -> Spectra:
    "The simulated archive, made core by core unless it is there; counts stay on disk."
    path = work / "archive.parquet"
    if not path.exists():
        write_parquet(path, simulate_cores(r.cores, r.per_core, r.seed, regions=seas(r.cores, r.seed), progress=sys.stderr.isatty()), dtype="int32")
        write_atomically(work / "version.txt", lambda p: p.write_text(version()))
    return Spectra.from_parquet(path, memory_map=True)


def train(r: Recipe, work: Path) -> None:
    spectra = archive(r, work)
    epochs = -(-r.steps // steps_per_epoch(len(spectra), r.batch_size))
    pretrain(spectra, r.preset, epochs=epochs, batch_size=r.batch_size, learning_rate=r.learning_rate, seed=r.seed, out=work, resume=True, progress=sys.stderr.isatty())


def metrics(model: MAX, r: Recipe, work: Path) -> dict:
    "Reconstruction R2 on hidden informative patches."
    held = simulate_archive(HELD_OUT["seas"], HELD_OUT["spectra"], r.seed + 1, regions=random_regions(HELD_OUT["seas"], r.seed + 1), progress=False)
    known = archive(r, work)[slice(None, None, 5)].counts
    found = {"r2_simulated_held_out": reconstruction_r2(model, held, known)}
    if REAL.exists():
        real = Spectra.from_parquet(REAL)
        found["r2_real"] = reconstruction_r2(model, real, real)
    return {k: round(v, 4) for k, v in found.items()}


def changed(r: Recipe, usual: Recipe) -> list[str]:
    "The options that a recipe other than the usual one was asked for with."
    return [f"--{k.replace('_', '-')} {v}" for k, v in asdict(r).items() if v != getattr(usual, k)]


def card(name: str, r: Recipe, model: MAX, work: Path) -> dict:
    "All that is to be known of the weights, apart from the sums of the files."
    spectra = len(Spectra.from_parquet(work / "archive.parquet", memory_map=True))
    steps = int(pd.read_csv(work / "history.csv")["step"].iloc[-1])
    return dict(
        name=name, parameters=sum(p.numel() for p in model.parameters()), trained_on=f"{spectra} simulated spectra of {r.cores} cores from as many seas, no real ones; {SIMULATOR}",
        recipe=dict(**asdict(r) | dict(steps=steps), objective="masked autoencoder: half of the patches hidden, mixtures of up to three spectra counted anew"), seed=r.seed,
        code_version=(work / "version.txt").read_text(), torch_version=torch.__version__, command=" ".join(["python tools/train_shipped.py", name, *changed(r, RECIPES[name])]), metrics=metrics(model, r, work), licence=LICENCE, citation=CITATION)


def ship(name: str, r: Recipe, work: Path, target: Path) -> dict:
    "Write weights, configuration and card into the package; the metrics are those of what is written."
    MAX.from_pretrained(work).save_pretrained(target, r.half)
    (target / "model.safetensors").chmod(0o644)
    said = card(name, r, MAX.from_pretrained(target), work) | dict(sha256=file_sums(target))
    write_atomically(target / CARD, lambda p: p.write_text(json.dumps(said, indent=1) + "\n"))
    return said


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=RECIPES)
    parser.add_argument("--stage", choices=("train", "card", "all"), default="all")
    parser.add_argument("--work", type=Path, help="folder for the archive and checkpoints (default: out/shipped/NAME)")
    parser.add_argument("--target", type=Path, help="folder for the weights and their card (default: in the package)")
    for field in fields(Recipe):
        if field.name not in ("preset", "half"):
            parser.add_argument(f"--{field.name.replace('_', '-')}", type=type(field.default), help="other than the recipe says, to try things")
    a = parser.parse_args()
    changes = {f.name: getattr(a, f.name) for f in fields(Recipe) if getattr(a, f.name, None) is not None}
    recipe, work = replace(RECIPES[a.name], **changes), a.work or ROOT / "out" / "shipped" / a.name
    if a.stage != "card":
        train(recipe, work)
    if a.stage != "train":
        print(json.dumps(ship(a.name, recipe, work, a.target or SHIPPED / a.name), indent=1))


if __name__ == "__main__":
    main()
