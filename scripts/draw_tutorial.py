"""Run docs/tutorial.md and draw its figure, docs/tutorial.png.

python -m scripts.draw_tutorial
"""

from __future__ import annotations

import contextlib
import doctest
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

TUTORIAL: Final = Path(__file__).parent.parent / "docs" / "tutorial.md"


def run_tutorial(folder: Path) -> tuple[int, dict[str, Any]]:
    """Run the examples in a folder; return how many failed, and the variables that they set."""
    text = TUTORIAL.read_text()
    examples = doctest.DocTestParser().get_doctest(text, {}, TUTORIAL.stem, str(TUTORIAL), 0)
    with contextlib.chdir(folder):
        failed = doctest.DocTestRunner().run(examples, clear_globs=False).failed
    return failed, examples.globs


def draw(accuracy: dict[tuple[str, str], float], path: Path) -> None:
    """Draw the accuracy of each encoder as bars."""
    import matplotlib.pyplot as plt
    import numpy as np

    encoders = list(dict.fromkeys(name for name, _ in accuracy))
    parts = list(dict.fromkeys(part for _, part in accuracy))
    figure, axes = plt.subplots(figsize=(6, 3), layout="constrained")
    for i, (name, colour) in enumerate(zip(encoders, ("0.7", "tab:blue"), strict=True)):
        values = [accuracy[name, part] for part in parts]
        bars = axes.bar(np.arange(len(parts)) + 0.4 * i, values, 0.38, label=name, color=colour)
        axes.bar_label(bars, fmt="%.2f")
    labels = [f"{part} of labels" if "%" in part else f"{part}, 5 classes" for part in parts]
    axes.set_xticks(np.arange(len(parts)) + 0.2, labels)
    axes.set(ylim=(0, 1.1), ylabel="accuracy")
    axes.legend(frameon=False, loc="upper left")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        failed, variables = run_tutorial(Path(folder))
    if failed:
        sys.exit(f"{failed} examples of {TUTORIAL} failed")
    print(variables["accuracy"])
    draw(variables["accuracy"], TUTORIAL.with_suffix(".png"))


if __name__ == "__main__":
    main()
