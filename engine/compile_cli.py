"""The command `compile`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from .plans import PlanSet

FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


@click.command(name="compile")
@click.option("--bundle", type=FOLDER, help="Default: the shipped bundle.")
@click.option("--target", default="sm_86", show_default=True, help="sm_86, an RTX A6000; current.")
@click.option("--batch-size", type=click.IntRange(min=1), default=8, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for machines.")
def compile_(bundle: Path | None, target: str, batch_size: int, as_json: bool) -> None:
    """Compile a bundle's float16 graphs with TensorRT, and say what became of them.

    With tensorrt-rtx no GPU is needed.  Plans are kept in the user's cache and found again.
    """
    from .contract import SHIPPED, load_bundle
    from .plans import cache_root, plans

    say = lambda text: click.echo(text, err=True)
    made = plans(load_bundle(bundle or SHIPPED), target, batch_size, cache_root(), say)
    click.echo(json.dumps(made.build) if as_json else as_text(made))


def as_text(made: "PlanSet") -> str:
    """The build report, 80 columns."""
    build = made.build
    head = f"{build['bundle']} for {build['target']}, batch {build['batch']}, {build['tensorrt']}"
    lines = [
        head,
        f"{'':<12}{'kernels':>8}{'tuners':>10}{'norms':>10}{'attention':>11}{'moves':>7}"
        f"{'GFLOP':>8}{'MB':>7}{'plan MB':>9}",
    ]
    for name, row in build["plans"].items():
        fused = [_share(row, x) for x in ("tuner_blocks", "group_norms", "attentions")]
        lines.append(
            f"{name:<12}{row['kernels']:>8}{fused[0]:>10}{fused[1]:>10}{fused[2]:>11}"
            f"{row['moves']:>7}{row['flops'] / 1e9:>8.1f}{row['bytes'] / 1e6:>7.0f}"
            f"{row['plan_bytes'] / 1e6:>9.1f}"
        )
    lines += [
        "tuners: blocks that are two kernels; norms: GroupNorms, attention: attentions",
        "that are one; moves: kernels that only cast or copy; MB: read and written a run",
        f"{'found in' if made.found else 'kept in'} {made.folder}",
    ]
    return "\n".join(lines)


def _share(row: dict[str, Any], what: str) -> str:
    return f"{row[f'{what}_fused']}/{row[what]}" if row[what] else "-"
