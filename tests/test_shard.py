"""A model that is cut among processes (FSDP) learns what one in one piece learns, and its checkpoints serve both."""
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import max_nb.pretrain as P
from max_nb.mae import MAX
from max_nb.pretrain import pretrain
from test_pretrain import PARTS, RECIPE, free_port, model, spectra, weights

TYPES = PARTS | {"bf16": dict(batch_size=4, mixed_precision="bf16")}
STOPPED = replace(RECIPE, **PARTS["plain"])

# accelerate cuts models on GPUs only, though torch does it on processors as well: there it is told that it may.
SCRIPT = """
import os, sys
sys.path.insert(0, {tests!r})

def as_on_gpus():
    from accelerate.state import PartialState
    from accelerate.utils import DistributedType
    PartialState._prepare_backend = lambda self, *how: ("gloo", DistributedType.MULTI_GPU)
    os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"

def work(folder):
    as_on_gpus()
    import signal
    import max_nb.pretrain as P
    import test_shard as here
    from dataclasses import replace
    plain_step, held, types, norms = P.one_step, [], set(), here.norms_of(P)
    def watched(t):
        hook = t.model.encoder.blocks[0].mlp.fc1.register_forward_hook(lambda module, given, out: types.add(out.dtype))
        plain_step(t)
        hook.remove()
        if t.whole: held.append(sum(p.to_local().numel() for p in t.model.parameters()) / sum(p.numel() for p in t.model.parameters()))
    P.one_step = watched
    for name, changes in here.TYPES.items():
        given, seen = here.learned(here.rank()), [] # only the first process's weights count
        types.clear(); norms.clear()
        run = P.pretrain(here.spectra(), given, settings=replace(here.RECIPE, **changes), out=f"{{folder}}/{{name}}", progress=False, shard=True,
                         on_epoch=lambda so_far: seen.append(here.weights(so_far.model)))
        first = here.rank() == 0
        assert run.model is given and not given.training and len(seen) == 3 * first, seen
        assert not first or here.torch.equal(seen[-1], here.weights(given)) and not here.torch.equal(seen[0], seen[1])
        here.torch.save(dict(weights=here.weights(given), norms=norms[:]), f"{{folder}}/{{name}}/{{here.rank()}}.pt")
        assert types == {{here.torch.bfloat16 if name == "bf16" else here.torch.float32}}, (name, types)
    assert 0.4 < sum(held) / len(held) < 0.6 and len(held) >= 27, held
    def interrupted(t):
        plain_step(t)
        if t.step == 4 and t.accelerator.process_index == 1: signal.raise_signal(signal.SIGTERM) # one of the two is asked to stop
    P.one_step = interrupted
    try: P.pretrain(here.spectra(), here.learned(), settings=here.STOPPED, out=f"{{folder}}/stopped", progress=False, shard=True)
    except KeyboardInterrupt as e: assert "stopped after step 4 of 9" in str(e), e
    else: raise AssertionError("not stopped")
    P.one_step = plain_step
    if here.rank() == 0: here.shutil.copytree(f"{{folder}}/stopped", f"{{folder}}/handed on")
    for name in ("stopped", "taken up"):
        P.pretrain(here.spectra(), here.model(7), resume=True, settings=here.STOPPED, out=f"{{folder}}/{{name}}", progress=False, shard=True)
    try: P.pretrain(here.spectra(), here.learned(), settings=here.STOPPED, progress=False, shard=True, on_epoch=print if here.rank() else None)
    except ValueError as e: assert "on_epoch in 1 of them" in str(e), e
    else: raise AssertionError("not refused")
    # the same process goes on without cutting, as data parallelism that a processor only pretends to
    assert P.make_accelerator(here.STOPPED).distributed_type.value == "MULTI_GPU"

if __name__ == "__main__":
    from accelerate import notebook_launcher
    notebook_launcher(work, (sys.argv[1],), num_processes=2, use_port={port!r})
"""


def learned(seed=0):
    "A model that has learned the spectra's statistics, so that its gradients are of size 1."
    m = model(seed)
    m.normaliser.learn(torch.as_tensor(spectra().counts, dtype=torch.float32))
    return m


def norms_of(module):
    "A list that the gradient's norm of each step is added to from now on."
    norms, check = [], module.check_loss
    def noting(loss, norm, *rest):
        norms.append(norm)
        return check(loss, norm, *rest)
    module.check_loss = noting
    return norms


def rank():
    return int(os.environ["RANK"])


def stopped_in_one_piece(folder, monkeypatch):
    "A run in one process that is asked to stop after the fourth step."
    step = P.one_step
    def interrupted(t):
        step(t)
        if t.step == 4: signal.raise_signal(signal.SIGTERM)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(P, "one_step", interrupted)
        pretrain(spectra(), learned(), settings=STOPPED, out=folder, progress=False)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="notebook_launcher forks")
def test_a_model_cut_in_two_learns_as_one_in_one_piece(tmp_path, monkeypatch):
    monkeypatch.setattr(P, "check_loss", P.check_loss) # put back afterwards
    norms, one, sizes = norms_of(P), {}, {}
    for name, changes in TYPES.items():
        norms.clear()
        one[name] = pretrain(spectra(), learned(), settings=replace(RECIPE, **changes | dict(accumulate=1)), progress=False)
        sizes[name] = norms[:]
    stopped_in_one_piece(tmp_path / "taken up", monkeypatch)
    script = SCRIPT.format(tests=str(Path(__file__).parent), port=free_port())
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    for name in TYPES:
        history, rough = pd.read_csv(tmp_path / name / "history.csv"), name == "bf16"
        assert np.allclose(history.loss, one[name].history.loss, rtol=1e-2 if rough else 1e-4), (name, history.loss, one[name].history.loss)
        written, parts = weights(MAX.from_pretrained(tmp_path / name)), [torch.load(tmp_path / name / f"{k}.pt") for k in (0, 1)]
        assert all(torch.equal(written, part["weights"]) for part in parts), "both processes hold the whole result"
        assert all(np.allclose(part["norms"], sizes[name], rtol=2e-2 if rough else 1e-3) for part in parts), (name, parts[0]["norms"], sizes[name])
        moved, apart = (written - weights(learned())).norm(), (written - weights(one[name].model)).norm()
        assert moved > 0.01 and apart < (0.1 if rough else 0.01) * moved, (name, moved, apart)
    plain, again, taken = (weights(MAX.from_pretrained(tmp_path / name)) for name in ("plain", "stopped", "taken up"))
    assert torch.equal(plain, again), "stopped by a signal to one of them, and resumed"
    uncut = weights(one["plain"].model)
    assert torch.allclose(taken, uncut, atol=1e-3), "begun in one piece, resumed in two"
    handed = pretrain(spectra(), model(7), resume=True, settings=STOPPED, out=tmp_path / "handed on", progress=False)
    assert torch.allclose(weights(handed.model), uncut, atol=1e-3) and len(handed.history) == 3, "begun in two pieces, resumed in one"


def test_there_must_be_gpus_to_cut_a_model_among(tmp_path):
    with pytest.raises(ValueError, match=r"shard is True.*accelerate found NO \(1 process on \w+\); expected several GPUs"):
        pretrain(spectra(), model(), epochs=1, batch_size=4, progress=False, shard=True)
    assert "ACCELERATE_USE_FSDP" not in os.environ and "FSDP_CPU_RAM_EFFICIENT_LOADING" not in os.environ
    with pytest.raises(ValueError, match="shard is True and processes is 99, but there are"):
        pretrain(spectra(), model(), epochs=1, batch_size=4, progress=False, shard=True, processes=99, out=tmp_path)
    whole = model()
    pretrain(spectra(), whole, epochs=1, batch_size=4, progress=False)  # what was refused leaves nothing behind
    assert not torch.equal(weights(whole), weights(model()))


@pytest.mark.parametrize("kind", ["FSDP", "DEEPSPEED", "MEGATRON_LM"])
def test_a_model_cut_unasked_is_refused(monkeypatch, kind):
    import accelerate
    from accelerate.utils import DistributedType
    monkeypatch.setattr(accelerate.Accelerator, "distributed_type", DistributedType[kind])
    with pytest.raises(ValueError, match=f"started with {kind}.*expected plain data parallelism.*or shard=True"):
        pretrain(spectra(), model(), epochs=1, batch_size=4, progress=False)
