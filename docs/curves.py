"""The picture of recipes/README.md: PSNR on Set5 against steps, of the tables in recipes/curves.

python docs/curves.py
"""

from pathlib import Path

import matplotlib.pyplot as plt

from nlsr.train.records import read_curve

CURVES = Path(__file__).parents[1] / "recipes" / "curves"
PANELS = {
    "x4": {"lcoan-light-x4-none": 0, "lcoan-light-x4-balanced": 0, "lcoan-light-x4-first": 0, "lcoan-light-x4": 7400},
    "x3, on from the first part of x4": {"lcoan-light-x3": 0},
    "x2, on from the first part of x4": {"lcoan-light-x2": 0},
}
"""The curves of each panel, and the step each begins at."""
LABELS = {
    "lcoan-light-x4": "on from there, balanced: the default",
    "lcoan-light-x4-first": "with attention, the first part",
    "lcoan-light-x4-balanced": "with balanced attention",
    "lcoan-light-x4-none": "without, with two blocks more",
}


def main() -> None:
    figure, panels = plt.subplots(1, len(PANELS), figsize=(12, 3.6), layout="constrained", width_ratios=[2, 1, 1])
    for axes, (title, curves) in zip(panels, PANELS.items(), strict=True):
        for name, first in curves.items():
            rows = read_curve(CURVES / f"{name}.csv")
            steps = [first + int(row["step"]) for row in rows]
            axes.plot(steps, [float(row["psnr"]) for row in rows], marker=".", label=LABELS.get(name))
        axes.set_title(title)
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
    panels[0].set_ylim(bottom=31.8)
    panels[0].set_ylabel("Set5, dB")
    panels[0].legend()
    figure.savefig(CURVES / "curves.png", dpi=100)


if __name__ == "__main__":
    main()
