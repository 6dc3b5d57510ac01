"""Which background spectra stand for an archive."""
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

pytest.importorskip("shap")
from max_nb import explain as ex

RNG = np.random.default_rng(0)
SHARES = RNG.dirichlet([2, 2, 2], 200)
COUNTS = RNG.poisson(np.repeat(SHARES, 100, 1) * 60).astype(float)
PREDICTED = SHARES @ [50, 5, 1.0]


def energy_distance(x, rows):
    "Up to a constant: twice the mean distance of the rows from all, less their mean distance from each other."
    apart = np.linalg.norm(x[:, None] - x, axis=2)
    return 2 * apart[rows].mean() - apart[np.ix_(rows, rows)].mean()


def together(counts, predicted):
    return np.hstack([ex.of_unit_spread(np.sqrt(counts)), ex.of_unit_spread(predicted[:, None])])


@settings(deadline=None, max_examples=20)
@given(n=st.integers(1, 12), seed=st.integers(0, 99))
def test_no_exchange_of_one_row_is_better(n, seed):
    x = together(COUNTS[:40], PREDICTED[:40])
    rows = ex.representatives(COUNTS[:40], PREDICTED[:40], n, seed)
    assert len(set(rows)) == n and (np.diff(rows) > 0).all()
    found = energy_distance(x, rows)
    for i in range(n):
        for other in set(range(40)) - set(rows):
            assert energy_distance(x, np.where(np.arange(n) == i, other, rows)) > found - 1e-9


def test_one_representative_is_the_row_nearest_to_all():
    x = together(COUNTS, PREDICTED)
    apart = np.linalg.norm(x[:, None] - x, axis=2).mean(1)
    assert ex.representatives(COUNTS, PREDICTED, 1).tolist() == [apart.argmin()]


def test_closer_to_the_archive_than_chance():
    def misfit(rows): return np.abs(np.c_[SHARES[rows].mean(0) - SHARES.mean(0)]).max()
    ours = [misfit(ex.representatives(COUNTS, PREDICTED, 8, seed)) for seed in range(10)]
    chance = [misfit(np.random.default_rng(seed).choice(200, 8, replace=False)) for seed in range(10)]
    assert np.mean(ours) < 0.4 * np.mean(chance)


def test_seed_decides_and_all_rows_are_all():
    a, b = (ex.representatives(COUNTS, PREDICTED, 8, seed=3) for _ in range(2))
    assert (a == b).all() and any((ex.representatives(COUNTS, PREDICTED, 8, seed) != a).any() for seed in range(5))
    for n in (200, 999): assert ex.representatives(COUNTS, PREDICTED, n).tolist() == list(range(200))


def test_several_targets_and_large_archives(monkeypatch):
    assert len(ex.representatives(COUNTS, np.c_[PREDICTED, SHARES[:, 1]], 8)) == 8
    monkeypatch.setattr(ex, "POOL", 50)
    rows = ex.representatives(COUNTS, PREDICTED, 8)
    assert len(set(rows)) == 8 and abs(PREDICTED[rows].mean() - PREDICTED.mean()) < 0.3 * PREDICTED.std()


def test_spectra_that_are_all_alike():
    rows = ex.representatives(np.ones((30, 10)), np.zeros(30), 5)
    assert len(set(rows)) == 5
    with pytest.raises(ValueError, match="n_background is 0"): ex.representatives(COUNTS, PREDICTED, 0)
