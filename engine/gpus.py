"""The GPUs of this machine, as NVIDIA's management library tells of them."""

import pynvml

from .errors import DeviceError


def capability(index: int = 0) -> str:
    """Compute capability of a GPU, "sm_86".  Raises DeviceError where there is none."""
    try:
        pynvml.nvmlInit()
        try:
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError as error:
        raise DeviceError(
            f"cuda:{index}: no such GPU is found ({error}); name one to compile for, such as "
            "--target sm_86, or run on the machine that has it"
        ) from error
    return f"sm_{major}{minor}"
