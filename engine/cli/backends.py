"""The commands `compile` and `doctor`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mcdiff_batch.engine.text import printable

if TYPE_CHECKING:
    from mcdiff_batch.engine.backends.plan_cache import PlanSet

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
    from mcdiff_batch.engine.backends.plan_cache import cache_root, plans
    from mcdiff_batch.engine.model.contract import SHIPPED, load_bundle

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


@click.command()
@click.option("--bundle", type=FOLDER, help="Default: the shipped bundle.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for machines.")
def doctor(bundle: Path | None, as_json: bool) -> int:
    """Say what this machine has and would compute with, and try it on made-up cases.

    Exit code 7 where no plan can be trusted.
    """
    from mcdiff_batch.engine.backends.doctor import examined
    from mcdiff_batch.engine.backends.plan_cache import cache_root
    from mcdiff_batch.engine.errors import Exit
    from mcdiff_batch.engine.model.contract import SHIPPED, load_bundle

    found = examined(load_bundle(bundle or SHIPPED), cache_root())
    click.echo(json.dumps(found) if as_json else printable(examination(found)))
    return Exit.NO_DEVICE if found["faults"] else Exit.DONE


def examination(found: dict[str, Any]) -> str:
    """What `doctor` found, a line each."""
    machine, cache = found["machine"], found["plan_cache"]
    here = (f"{name} {x}" for name, x in found["packages"].items() if x)
    rows = {
        "cpu": f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB",
        "python": machine["python"],
        "versions": ", ".join(f"{k} {v}" for k, v in machine["versions"].items()),
        "optional": ", ".join(here) or "none",
        "driver": found["driver"] or "none",
        **{f"cuda:{gpu['index']}": _gpu(gpu) for gpu in found["gpus"]},
        "plan cache": f"{cache['plans']} compiled, in {cache['folder']}",
        "bundle": f"{found['bundle']['name']}, contract {found['bundle']['sha256'][:12]}",
        "run takes": f"{', '.join(found['run_would_take'])} ({found['because']})",
        **{f"tried {name}": _tried(row) for name, row in found["plans"].items()},
        "verdict": "; ".join(found["faults"]) or "sound",
    }
    return "\n".join(f"{name}: {text}" for name, text in rows.items())


def _gpu(gpu: dict[str, Any]) -> str:
    facts = {
        "": gpu["name"],
        "capability ": gpu["capability"],
        "MiB ": gpu["memory_mib"],
        "MiB free ": gpu["free_mib"],
        "MHz ": gpu["clock_mhz"],
        "ECC ": gpu["ecc"],
        "throttled ": gpu["throttled"],
    }
    return ", ".join(f"{k}{v}" for k, v in facts.items() if v is not None)


def _tried(row: dict[str, Any]) -> str:
    if "psnr_db" not in row:
        return "CANNOT BE USED"
    slots = "same bits in every slot" if row["slots_equal"] and row["order_free"] else "NOT SOUND"
    return f"{slots}, {row['psnr_db']:.0f} dB from float32, {row['seconds']:.1f} s"
