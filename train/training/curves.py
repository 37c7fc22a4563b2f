"""Learning curves as a picture."""

from pathlib import Path
from typing import Any


def draw_curves(stages: dict[str, Any], path: Path) -> None:
    """Writes a PNG with one panel per stage: loss and held-out metrics against the step."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4 * len(stages), 3), layout="constrained")
    for axes, (name, record) in zip(figure.subplots(1, len(stages)), stages.items(), strict=True):
        steps = [line["step"] for line in record["history"]]
        for key in record["history"][0]:
            if key != "step":
                axes.plot(steps, [line[key] for line in record["history"]], label=key)
        axes.set(title=f"{name}, {record['seconds'] / 60:.0f} min", xlabel="step")
        axes.set_yscale("log" if name != "extractor" else "linear")
        axes.legend()
    FigureCanvasAgg(figure).print_png(str(path))
