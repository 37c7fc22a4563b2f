"""The command `phantom`: writes a synthetic archive to try the program on."""

from pathlib import Path

import click

from mcdiff_batch.engine.signals import end_with


@click.command()
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    help="Archive to write, for example demo.zarr; must not exist.",
)
@click.option(
    "--dicom",
    "folder",
    type=click.Path(path_type=Path),
    help="Folder of DICOM images to write instead, for example studies; must not exist.",
)
@click.option(
    "--cases", type=click.IntRange(min=1), default=8, show_default=True, help="Number of cases."
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Other seeds give other cases.",
)
@click.option(
    "--first",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Index of the first case.",
)
@click.option(
    "--workers",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Number of processes; 0: one per CPU.",
)
def phantom(
    output: Path | None, folder: Path | None, cases: int, seed: int, first: int, workers: int
) -> None:
    """Write synthetic scans of scoliotic spines.

    The archive (--output) also has masks and true angles.  Or write DICOM images (--dicom), a study
    for each case, to try `import --dicom`.
    """
    if (output is None) == (folder is None):
        raise click.UsageError("Expected one of --output ARCHIVE and --dicom FOLDER.")
    if folder is not None:
        from mcdiff_batch.engine.cli.dicom import check_extra

        check_extra()
        from .studies import write_studies

        end_with(folder)
        write_studies(folder, cases=cases, seed=seed, first=first, workers=workers)
    if output is not None:
        from .archive import write_phantoms

        end_with(output)
        write_phantoms(output, cases=cases, seed=seed, first=first, workers=workers)
    click.echo(f"wrote {cases} phantoms (seed {seed}, from case {first}) to {output or folder}")
