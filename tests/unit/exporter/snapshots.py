"""Hand-made readings, and the small providers that hand them to the collectors. All numbers differ, so that no two can be
swapped unnoticed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from joulebench.energy.window import WindowEnergy
from joulebench.gpu.device_use import GpuUse, InstanceUse, OwnerName
from joulebench.gpu.reading import GpuIdentity, GpuState, MigInstance, MigReading, OwnerUse, ProcessSummary, StateReading
from joulebench.host.monitor import ZoneState
from joulebench.host.rapl import POWERCAP, RaplZone
from joulebench.ollama.inventory import LoadedModel, OllamaInventory
from joulebench.ollama.poller import OllamaPoll
from joulebench.units import Bytes, Celsius, Hertz, Joules, Ratio, Seconds, Watts

NOW = 1_790_000_000.25


@dataclass
class ManualClock:
    """Time that moves only when told to."""

    wall: float = NOW
    running: float = 1000.0

    def unix(self) -> Seconds:
        return Seconds(self.wall)

    def monotonic(self) -> Seconds:
        return Seconds(self.running)


FULL = GpuState(
    identity=GpuIdentity(0, "GPU-aaaa", "NVIDIA Example 80GB", "hopper", "580.82.07", "simulated"),
    up=True,
    energy_method="counter",
    energy=Joules(123456789.012),
    energy_at=Seconds(1_790_000_000.125),
    energy_uncertainty=Seconds(0.0101),
    energy_step=Seconds(0.1002),
    energy_resets=1,
    energy_crosscheck=Ratio(1.013),
    power=Watts(312.5),
    state=StateReading(
        utilization=Ratio(0.87),
        memory_used=Bytes(41_234_567_168),
        memory_total=Bytes(85_899_345_920),
        memory_reserved=Bytes(654_311_424),
        temperature=Celsius(64),
        temperature_margin=Celsius(19),
        power_limit=Watts(700),
        clock={"graphics": Hertz(1.755e9), "sm": Hertz(1.754e9), "memory": Hertz(2.619e9)},
        clock_max={"graphics": Hertz(1.98e9), "sm": Hertz(1.981e9), "memory": Hertz(2.62e9)},
        throttle_active={"sw_power_cap": True, "hw_thermal": False},
        link_bytes={
            ("pcie", "tx"): Bytes(5_000_000),
            ("pcie", "rx"): Bytes(7_000_000),
            ("nvlink", "tx"): Bytes(2048),
            ("nvlink", "rx"): Bytes(1024),
        },
        instances=(
            MigReading(MigInstance("MIG-a", "GPU-aaaa", 1, 0, "3g.40gb", 60), Bytes(1 << 30), Bytes(40 << 30), Ratio(0.375)),
            MigReading(MigInstance("MIG-b", "GPU-aaaa", 2, 1, "1c.2g.20gb", None), None, None, None),
        ),
    ),
    throttle={"sw_power_cap": Seconds(12.25), "hw_thermal": Seconds(0.0)},
    read_errors={"fast": 0, "slow": 2},
    glitches={"energy": 3, "utilization": 0},
    polls=5003,
    overruns=4,
)

SPARSE = GpuState(
    identity=GpuIdentity(1, "GPU-bbbb", 'Odd "name" \\ card', "", "470.1", "simulated"),
    up=True,
    energy_method="none",
    energy=None,
    energy_at=None,
    energy_uncertainty=None,
    energy_step=None,
    energy_resets=0,
    energy_crosscheck=None,
    power=None,
    state=StateReading(utilization=Ratio(0.0)),
    throttle={},
    read_errors={},
    glitches={},
    polls=5001,
    overruns=0,
)

LOST = replace(FULL, up=False, identity=replace(FULL.identity, index=2, uuid="GPU-cccc"), read_errors={"fast": 77})

SHARED = ProcessSummary(
    foreign=2,
    unnamed=1,
    foreign_sm=Ratio(0.35),
    foreign_use=Seconds(1_789_999_998.5),
    foreign_use_start=Seconds(1_789_999_990.25),
    owners={
        ("", ("127.0.0.1:11434", "ollama.service", "", "", "")): OwnerUse(Seconds(1_789_999_000.5), None),
        ("", ("", "", "", "", "4711")): OwnerUse(Seconds(1_789_998_000.25), Seconds(1_789_999_970.75)),
    },
    owners_dropped=5,
)

MODELS = OllamaInventory(
    version="0.17.4",
    available=tuple(f"model-{index}" for index in range(7)),
    loaded=(
        LoadedModel(
            "llama3.1:8b",
            family="llama",
            parameter_size="8.0B",
            quantization="Q4_K_M",
            size=Bytes(6_000_000_000),
            size_vram=Bytes(4_500_000_000),
            context_length=8192,
            expires_at=Seconds(1_790_000_300.5),
            kv_cache=Bytes(1_073_741_824),
        ),
        LoadedModel("cpu:latest", size=Bytes(0), size_vram=Bytes(0)),
    ),
)


@dataclass
class Gpus:
    """What a monitor gives out: the same states at every scrape, and how often it was asked."""

    states: Sequence[GpuState]
    clock_steps: int = 0
    expected_gpus: int = 3
    snapshots: int = 0

    def snapshot(self) -> Sequence[GpuState]:
        self.snapshots += 1
        return self.states


@dataclass
class Windows:
    """A window source with one answer, and what it was asked. ``slowed``: throttled seconds of each GPU by reason.

    ``between_cuts``: energies by UUID; ``edges``: the times they were asked for, with their uncertainty and the further changes.
    """

    answers: Sequence[tuple[GpuIdentity, WindowEnergy]] = ()
    slowed: Mapping[str, Seconds | None] = field(default_factory=dict)
    uses: Mapping[tuple[str, OwnerName | None], GpuUse] = field(default_factory=dict)
    asked: list[tuple[float, float]] = field(default_factory=list)
    between_cuts: Mapping[str, Sequence[WindowEnergy]] = field(default_factory=dict)
    edges: list[tuple[Sequence[float], float, Sequence[float]]] = field(default_factory=list)

    has_unnamed_gpus: bool = False

    def is_settled(self, end_unix: float) -> bool:
        return True

    def device_use(self, owner: OwnerName | None, start_unix: float, end_unix: float) -> Sequence[GpuUse | None]:
        return [self.uses.get((identity.uuid, owner)) for identity, _ in self.answers]

    def instance_use(self, owner: OwnerName | None, start_unix: float, end_unix: float) -> Sequence[Sequence[InstanceUse]]:
        return [() for _ in self.answers]

    def refresh_use(self, until_unix: float) -> None: ...

    def window(self, start_unix: float, end_unix: float) -> Sequence[tuple[GpuIdentity, WindowEnergy]]:
        self.asked.append((start_unix, end_unix))
        return self.answers

    def parts(
        self, edges_unix: Sequence[float], uncertainty: float, changes_unix: Sequence[float] = ()
    ) -> Sequence[tuple[GpuIdentity, Sequence[WindowEnergy]]]:
        self.edges.append((edges_unix, uncertainty, changes_unix))
        return [(identity, self.between_cuts.get(identity.uuid, ())) for identity, _ in self.answers]

    def throttled(self, start_unix: float, end_unix: float) -> Sequence[tuple[GpuIdentity, Mapping[str, Seconds | None]]]:
        assert self.asked[-1] == (start_unix, end_unix)
        return [(identity, self.slowed) for identity, _ in self.answers]


class Zones:
    """RAPL zones of a host: one that can be read, and one that is for root only."""

    def snapshot(self) -> Sequence[ZoneState]:
        package = RaplZone("package", "0", POWERCAP / "intel-rapl:0", 262_143_328_850)
        memory = RaplZone("dram", "0", POWERCAP / "intel-rapl:0:0", 65_712_999_613)
        return [
            ZoneState(package, True, Joules(380165.450113), 1, None),
            ZoneState(memory, False, None, 12, "for root only"),
        ]


@dataclass
class OllamaPolls:
    last: OllamaPoll | None

    def latest(self) -> OllamaPoll | None:
        return self.last
