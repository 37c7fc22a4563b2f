"""The part of the schema of `report.json` on the time of devices and on the machine."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Throughput:
    seconds: float
    cases_per_hour: list[float]  # of equal parts of the working time
    resumed_at: list[float]  # s of working time


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceTimes:
    device: str
    cases: int
    lanes: dict[str, dict[str, float]]  # seconds by lane and stage; lanes run in parallel
    ms_per_case: dict[str, float]
    waiting_percent: float | None  # of the model's time
    wall_seconds: float
    accounted_percent: float | None  # of the wall time


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceShares:
    device: str
    shares: dict[str, list[float]]  # by cause; share of each column's time, 0..1


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    device: str
    cause: str
    at: float  # s of working time
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    seconds: float
    devices: list[DeviceShares]
    longest_waits: list[Wait]


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """A quantity over the working time."""

    mean: float
    max: float
    first: float
    last: float
    curve: list[float]  # means of equal parts of the working time


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """A series is None where the driver does not provide it."""

    index: int
    name: str
    slowed_percent: dict[str, float]  # of the samples, by reason
    used_wh: float | None
    utilisation_percent: Series | None
    memory_mib: Series | None
    power_w: Series | None
    energy_j: Series | None
    temperature_c: Series | None
    clock_mhz: Series | None
    memory_clock_mhz: Series | None
    ecc_errors: Series | None


@dataclass(frozen=True, slots=True, kw_only=True)
class HostUsage:
    """What a worker on a host of a cluster used in the last run; GPU figures only if it has one."""

    device: str
    mean: dict[str, float]  # by cpu_percent, resident_mib, utilisation_percent, ...
    peak: dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    samples: int
    seconds: float
    notes: list[str]
    xids: list[int]  # driver errors
    cpu_percent: Series | None  # 100: one core
    resident_mib: Series | None
    gpus: list[Gpu]
    hosts: list[HostUsage] = field(default_factory=list)  # of a cluster; without their names
