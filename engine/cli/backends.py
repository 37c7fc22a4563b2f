"""The commands `compile` and `doctor`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mcdiff_batch.engine.text import make_printable, name_device

from . import options

if TYPE_CHECKING:
    from mcdiff_batch.engine.backends.plan_cache import PlanSet


@click.command(name="compile")
@options.bundle
@click.option(
    "--target",
    default="sm_86",
    show_default=True,
    help="Kind of GPU, such as sm_86 for an RTX A6000; or current, the first GPU of this machine.",
)
@options.count("--batch-size", 8, "Cases per step, fixed in the plan.")
@options.as_json
def compile_(bundle: Path | None, target: str, batch_size: int, as_json: bool) -> None:
    """Compile a bundle's float16 graphs with TensorRT.

    Prints what each graph costs on the GPU.  With tensorrt-rtx this needs no GPU.  Plans are stored
    in the user's cache, where `run` finds them.
    """
    from mcdiff_batch.engine.backends.plan_cache import cache_root, plans
    from mcdiff_batch.engine.model.contract import SHIPPED, load_bundle

    say = lambda text: click.echo(text, err=True)
    made = plans(load_bundle(bundle or SHIPPED), target, batch_size, cache_root(), say)
    click.echo(json.dumps(made.build) if as_json else compile_text(made))


def compile_text(made: "PlanSet") -> str:
    """The report of `compile`, 80 columns wide."""
    build = made.build
    head = f"{build['bundle']} for {build['target']}, batch {build['batch']}, {build['tensorrt']}"
    lines = [
        head,
        f"{'':<12}{'kernels':>8}{'tuners':>10}{'norms':>10}{'attention':>11}{'moves':>7}"
        f"{'GFLOP':>8}{'MB':>7}{'plan MB':>9}",
    ]
    for name, row in build["plans"].items():
        fused = [_ratio(row, x) for x in ("tuner_blocks", "group_norms", "attentions")]
        lines.append(
            f"{name:<12}{row['kernels']:>8}{fused[0]:>10}{fused[1]:>10}{fused[2]:>11}"
            f"{row['moves']:>7}{row['flops'] / 1e9:>8.1f}{row['bytes'] / 1e6:>7.0f}"
            f"{row['plan_bytes'] / 1e6:>9.1f}"
        )
    lines += [
        "tuners: blocks that became two kernels; norms, attention: GroupNorms, attentions",
        "that became one; moves: kernels that only cast or copy; MB: memory traffic a run",
        f"{'found in' if made.from_cache else 'kept in'} {made.folder}",
    ]
    return "\n".join(lines)


def _ratio(row: dict[str, Any], what: str) -> str:
    return f"{row[f'{what}_fused']}/{row[what]}" if row[what] else "-"


@click.command()
@options.bundle
@options.as_json
def doctor(bundle: Path | None, as_json: bool) -> int:
    """Show what this machine has and what a run would use.

    Every plan that can run here computes a few made-up cases.  The exit code is 7 if a plan cannot
    be trusted.
    """
    from mcdiff_batch.engine.backends.doctor import examine
    from mcdiff_batch.engine.backends.plan_cache import cache_root
    from mcdiff_batch.engine.errors import Exit
    from mcdiff_batch.engine.model.contract import SHIPPED, load_bundle

    document = examine(load_bundle(bundle or SHIPPED), cache_root())
    click.echo(json.dumps(document) if as_json else make_printable(doctor_text(document)))
    return Exit.NO_DEVICE if document["faults"] else Exit.DONE


def doctor_text(document: dict[str, Any]) -> str:
    """The report of `doctor`, one fact a line."""
    machine, cache = document["machine"], document["plan_cache"]
    devices = map(name_device, document["run_would_take"])
    packages = (f"{name} {x}" for name, x in document["packages"].items() if x)
    rows = {
        "cpu": f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB",
        "python": machine["python"],
        "versions": ", ".join(f"{k} {v}" for k, v in machine["versions"].items()),
        "packages": ", ".join(packages) or "none",
        "driver": document["driver"] or "none",
        **{name_device(f"cuda:{gpu['index']}"): _gpu(gpu) for gpu in document["gpus"]},
        "plan cache": f"{cache['plans']} compiled, in {cache['folder']}",
        "bundle": f"{document['bundle']['name']}, contract {document['bundle']['sha256'][:12]}",
        "a run uses": f"{', '.join(devices)} ({document['because']})",
        **{f"test of {_plain(name)}": _result(row) for name, row in document["plans"].items()},
        "verdict": "; ".join(document["faults"]) or "sound",
    }
    return "\n".join(f"{name}: {text}" for name, text in rows.items())


def _plain(plan: str) -> str:
    """ "onnxruntime, cpu:0" as "onnxruntime on the CPU"."""
    backend, _, device = plan.partition(", ")
    name = name_device(device)
    return f"{backend} on {'the CPU' if name == 'CPU' else name}"


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


def _result(row: dict[str, Any]) -> str:
    if "psnr_db" not in row:
        return "CANNOT BE USED"
    slots = "same bits in every slot" if row["slots_equal"] and row["order_free"] else "NOT SOUND"
    psnr = "float32" if row["psnr_db"] is None else f"{row['psnr_db']:.0f} dB from float32"
    return f"{slots}, {psnr}, {row['seconds']:.1f} s"
