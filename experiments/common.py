"""What the experiments share: where the real spectra are, cells that are kept as they are done, tables as Markdown, figures as SVG."""
from pathlib import Path

import pandas as pd

from max_nb.spectra import write_atomically

HERE = Path(__file__).parent
DATA = HERE.parent.parent / "shared" / "real" / "marine_sediments.parquet"


def label_name(budget: int | None) -> str:
    return "all" if budget is None else str(budget)


def keep_cell(path: Path, row: pd.DataFrame, **more) -> None:
    "Write what one fit gave, so that it need not be done again."
    row = row.assign(**more)
    write_atomically(path, lambda p: row.to_csv(p, index=False))


def kept_cells(a) -> list[Path]:
    "The files of all fits that are done; says so where there are none."
    cells = sorted((a.out / "cells").glob("*.csv"))
    if not cells:
        raise SystemExit(f"{a.out}: nothing there yet; run the experiment first")
    return cells


def markdown(rows: pd.DataFrame) -> str:
    "A table as Markdown, without its index; what is missing stays empty."
    lines = ["| " + " | ".join(map(str, rows.columns)) + " |", "|" + "---|" * rows.shape[1]]
    return "\n".join(lines + ["| " + " | ".join("" if v != v else str(v) for v in row) + " |" for row in rows.to_numpy(dtype=object)])


def svg_pyplot():
    "matplotlib.pyplot, set to draw the same SVG from the same numbers."
    import matplotlib
    matplotlib.use("svg")
    import matplotlib.pyplot as plt
    plt.rcParams.update({"svg.hashsalt": "max_nb", "font.size": 9})
    return plt


def save_svg(fig, path: Path) -> None:
    "Written in one step, without a date; the figure is closed."
    import matplotlib.pyplot as plt
    write_atomically(path, lambda p: fig.savefig(p, format="svg", metadata={"Date": None}))
    plt.close(fig)
