"""Keeps a process, and every process that it starts, to itself.

Libraries must tell nobody what is computed here, and no code may come from the folder that the
user happens to stand in (P11).
"""

import os
import sys

SILENCE = {  # read by the libraries when they are imported
    "ORT_DISABLE_TELEMETRY": "1",  # ONNX Runtime: a device id in HOME, and a host of telemetry
    "RAY_USAGE_STATS_ENABLED": "0",
    "HF_HUB_DISABLE_TELEMETRY": "1",  # diffusers, in `bench`
    "HF_HUB_OFFLINE": "1",
    "DO_NOT_TRACK": "1",
}


def isolate() -> None:
    """Sets the environment for the libraries of this process and for its children.

    `import mcdiff_batch.engine` calls this, so it comes before any library.  What the user set
    instead is overruled.
    """
    os.environ.update(SILENCE)
    os.environ["PYTHONSAFEPATH"] = "1"  # children leave out their working directory
    _drop_working_directory()


def _drop_working_directory() -> None:
    """Takes out of the import path what means "the folder that I stand in" and nobody named.

    `python -c` and `python -m` put it first, and so do empty entries of PYTHONPATH.
    """
    try:
        here = os.getcwd()  # noqa: PTH109 - pathlib is slow to import
    except OSError:  # it was deleted
        return
    if sys.argv[:1] in (["-c"], ["-m"]) and sys.path[:1] in ([""], [here]):
        del sys.path[0]
    entries = os.environ.get("PYTHONPATH", "").split(os.pathsep)  # one, and empty: there are none
    named = [entry for entry in entries if entry]
    if len(named) < len(entries) > 1:
        os.environ["PYTHONPATH"] = os.pathsep.join(named)
        if here in sys.path and here not in map(os.path.abspath, named):
            sys.path.remove(here)
