"""The hardware dashboard: does the hardware limit the result? Heat, power, clocks and memory as the driver reports them."""

from __future__ import annotations

from scripts.dashboards.gpu_panels import (
    DASHED,
    GPU_LEGEND,
    HEAT_STEPS,
    LIMITS,
    THROTTLED_SHARE,
    VRAM_SHARE,
    hardware_tiles,
    power,
    source_tile,
    temperature,
    throttled_share,
    throttling_timeline,
    utilization,
)
from scripts.dashboards.layout import Layout, dashboard, marks, variables
from scripts.dashboards.panels import (
    ABSENCE,
    GPU_KEYS,
    NO_READING,
    NOT_AVAILABLE,
    Json,
    Query,
    bargauge,
    or_absence,
    or_absence_by_gpu,
    override,
    stat,
    states,
    steps,
    table,
    timeseries,
)
from scripts.dashboards.promql import THERMAL, rate, ratio, recorded, select, used_energy

from joulebench import metrics as m

UID = "llm-gpu"
SM = 'clock="sm"'
OWNERS = "gpu:joulebench_gpu_process_owner_info:with_pod"
SHOWN_CLOCKS = 'clock!="graphics"'
MARGIN_STEPS = steps((None, "red"), (5, "orange"), (10, "green"))
SOURCE_NAMES: Json = {
    "type": "value",
    "options": {
        **{name: {"color": "green", "index": place} for place, name in enumerate(m.GPU_SOURCES)},
        "simulated": {"color": "orange", "index": len(m.GPU_SOURCES) - 1, "text": "SIMULATED"},
    },
}


def build() -> Json:
    layout = Layout()
    layout.row("Now")
    layout.all([source_tile(), gpus_up(), *hardware_tiles(), temperature_margin()], 3, 4)
    layout.add(gpu_table(), 24, 7)
    layout.add(gpu_owners(), 24, 6)
    layout.row("Heat")
    layout.all([temperature(), throttled_share(), throttling_timeline(), throttled_by_reason()], 12, 8)
    layout.row("Power and energy")
    layout.all([power(), counter_against_power()], 12, 8)
    layout.add(host_power(), 24, 7)
    layout.row("Load and clocks")
    layout.all([utilization(), clocks()], 12, 8)
    layout.add(speed_and_clock(), 24, 8)
    return dashboard(
        UID,
        "Joulebench: GPU & thermals",
        "Does the hardware limit the result: heat, power limit, clocks, memory?",
        layout,
        variables=variables(),
        annotations=marks(task_starts=False),
    )


def gpus_up() -> Json:
    return stat(
        "GPUs answering",
        "Chosen GPUs that answer the driver, and those that are lost.",
        [
            Query(or_absence(f"sum({select(m.GPU_UP)})"), "answering", "instant"),
            Query(f"count({select(m.GPU_UP)} == 0) or 0 * count({select(m.GPU_UP)})", "lost", "instant"),
        ],
        "none",
        mappings=ABSENCE,
        overrides=[override("lost", thresholds=steps((None, "text"), (1, "red")))],
    )


def temperature_margin() -> Json:
    return stat(
        "Temperature margin",
        "Degrees left before a card slows itself down, lowest of the chosen GPUs.",
        [Query(or_absence(f"min({select(m.GPU_TEMPERATURE_MARGIN)})"), "margin")],
        "celsius",
        thresholds=MARGIN_STEPS,
        mappings=ABSENCE,
        decimals=0,
    )


def gpu_table() -> Json:
    def of(expr: str) -> str:
        return or_absence_by_gpu(f"max by ({GPU_KEYS}) ({expr})")

    info = f"max by ({', '.join(('instance', *m.GPU_INFO.labels))}) ({select(m.GPU_INFO)})"
    values = {
        "Up": f"max by ({GPU_KEYS}) ({select(m.GPU_UP)})",
        "Utilization": of(select(m.GPU_UTILIZATION)),
        "VRAM": of(recorded(VRAM_SHARE)),
        "Temperature": of(select(m.GPU_TEMPERATURE)),
        "Margin": of(select(m.GPU_TEMPERATURE_MARGIN)),
        "Power": of(select(m.GPU_POWER)),
        "Limit": of(select(m.GPU_POWER_LIMIT)),
        "SM clock": of(select(m.GPU_CLOCK, SM)),
        "Throttled": of(recorded(THROTTLED_SHARE, THERMAL)),
        "Energy": or_absence_by_gpu(used_energy(GPU_KEYS)),
    }
    fields = {name: f"Value #{chr(ord('B') + place)}" for place, name in enumerate(values)}
    columns = {"name": "GPU", "gpu": "Index", "instance": "Exporter", "source": "Source"}
    columns |= {fields[name]: name for name in values}
    columns |= {"energy_method": "Energy by"}
    only = "/d/llm-gpu?var-gpu=${__data.fields.Index}&var-instance=${__data.fields.Exporter}"
    link = {"title": "Only this GPU", "url": f"{only}&${{datasource:queryparam}}&${{__url_time_range}}", "targetBlank": False}
    bar = {"type": "gauge", "mode": "basic", "valueDisplayMode": "text"}
    absent = states({NOT_AVAILABLE: ("n/a", "text")})
    shares = dict.fromkeys(("Utilization", "VRAM"), "blue")
    widths = {"Index": 65, "Up": 60, "SM clock": 100, "Energy by": 85, "Energy": 90}
    widths |= {"Temperature": 110} | dict.fromkeys(("Margin", "Power", "Limit", "Throttled"), 95)
    units = {"Temperature": "celsius", "Margin": "celsius", "Power": "watt", "Limit": "watt", "SM clock": "hertz"}
    return table(
        "GPUs",
        "One row per GPU; a click on its name narrows all panels to it. Energy is that of this time range, idle time included."
        " n/a: the card does not have this reading. No data: the card is lost or the reading is not collected.",
        [Query(info, "__auto", "table"), *(Query(expr, "__auto", "table") for expr in values.values())],
        columns,
        drop=("job", "Value #A", "architecture", "driver_version", "uuid"),
        overrides=[
            override("GPU", links=[link], custom__minWidth=150),
            override("Exporter", custom__width=135),
            override("Source", mappings=[SOURCE_NAMES], custom__cellOptions={"type": "color-text"}, custom__width=90),
            override("Up", mappings=states({0: ("lost", "red"), 1: ("up", "green")}), custom__cellOptions={"type": "color-text"}),
            *(
                override(
                    name,
                    unit="percentunit",
                    decimals=0,
                    min=0,
                    max=1,
                    mappings=absent,
                    color={"mode": "fixed", "fixedColor": colour},
                    custom__cellOptions=bar,
                    custom__width=130,
                )
                for name, colour in shares.items()
            ),
            *(override(name, custom__width=width) for name, width in widths.items()),
            *(override(name, unit=unit, decimals=2 if unit == "hertz" else 0, mappings=absent) for name, unit in units.items()),
            override(
                "Throttled",
                unit="percentunit",
                decimals=0,
                mappings=absent,
                thresholds=HEAT_STEPS,
                custom__cellOptions={"type": "color-text"},
            ),
            override("Energy", unit="joule", mappings=absent),
        ],
        no_value="No data",
        empty=NO_READING,
    )


def gpu_owners() -> Json:
    keys = ", ".join(("instance", *m.GPU_PROCESS_OWNER_INFO.labels))
    users = f"max by ({keys}, owner_namespace, owner_pod) ({recorded(OWNERS)})"
    since = f"1000 * max by ({keys}) ({select(m.GPU_PROCESS_OWNER_START)}) and on ({keys}) {select(m.GPU_PROCESS_OWNER_INFO)}"
    columns = {"gpu": "Index", "uuid": "GPU", "instance": "Exporter", "server": "Server", "owner_pod": "Pod"}
    columns |= {"owner_namespace": "Namespace", "slurm_job": "Slurm job", "unit": "Unit", "container_id": "Container"}
    columns |= {"mig": "MIG instance", "Value #B": "Since"}
    return table(
        "Who uses which GPU",
        "One row per GPU and owner of a process that has memory there now: the addresses that it serves, its pod, Slurm job,"
        " systemd unit or container. Pods have names where kube-state-metrics is scraped. A row without any owner is a process"
        " that the exporter may not look at: it needs root or CAP_SYS_PTRACE, and in a container pid: host.",
        [Query(users, "__auto", "table"), Query(since, "__auto", "table")],
        columns,
        drop=("Value #A", "pod_uid"),
        overrides=[
            override("Index", custom__width=65),
            override("Slurm job", custom__width=95),
            override("Since", unit="dateTimeFromNow", custom__width=130),
        ],
        no_value="-",
        empty="No process uses a chosen GPU, or the exporter runs with --processes.period 0",
    )


def throttled_by_reason() -> Json:
    counter = select(m.GPU_THROTTLE_SECONDS)
    difference = f"last_over_time({counter}[$__range]) - min_over_time({counter}[$__range])"
    return bargauge(
        "Throttled time by reason",
        "Seconds of this time range in which each reason lowered the clocks, by the driver's time counters, all chosen GPUs"
        " together. Reasons may overlap.",
        [Query(f"sum by (reason) ({difference})", "{{reason}}", "instant")],
        "s",
        decimals=1,
        empty=NO_READING,
    )


def counter_against_power() -> Json:
    return timeseries(
        "Energy counter against power",
        "Power by the energy counter beside the power sensor. Where the curves stay apart, one of them is wrong.",
        [Query(rate(m.GPU_ENERGY), f"{GPU_LEGEND} counter"), Query(select(m.GPU_POWER), f"{GPU_LEGEND} sensor")],
        "watt",
        empty=NO_READING,
    )


def host_power() -> Json:
    return timeseries(
        "CPU and memory power",
        "Power of the CPU packages (package), their memory (dram) and the platform (psys, which contains the packages) of each"
        " host, by the counters of RAPL. It is of everything on the host, not of one task.",
        [Query(f"sum by (instance, zone) ({rate(m.HOST_ENERGY)})", "{{instance}} {{zone}}")],
        "watt",
        empty="No RAPL counters: the host has none, or the exporter may not read them (docs/METERS.md)",
    )


def clocks() -> Json:
    return timeseries(
        "Clocks",
        "Current clocks of the multiprocessors and the memory, and the highest that the card can run.",
        [
            Query(select(m.GPU_CLOCK, SHOWN_CLOCKS), f"{GPU_LEGEND} {{{{clock}}}}"),
            Query(select(m.GPU_CLOCK_MAX, SHOWN_CLOCKS), f"{GPU_LEGEND} {{{{clock}}}} highest"),
        ],
        "hertz",
        overrides=LIMITS,
        empty=NO_READING,
    )


def speed_and_clock() -> Json:
    decoded, seconds = select(m.TASK_DECODE_TOKENS), select(m.TASK_DECODE, suffix="_sum")
    return timeseries(
        "Decode speed against clock",
        "Completion tokens by decode time of the running tasks, and the SM clock as a share of its highest (right axis). Where"
        " both fall together, the card was slowed down.",
        [
            Query(ratio(f"sum by (run_id) ({decoded})", f"sum by (run_id) ({seconds})"), "{{run_id}}"),
            Query(ratio(select(m.GPU_CLOCK, SM), select(m.GPU_CLOCK_MAX, SM)), f"{GPU_LEGEND} SM clock"),
        ],
        "suffix:tok/s",
        overrides=[
            override("/SM clock$/", by="byRegexp", unit="percentunit", max=1, custom__axisPlacement="right", **DASHED),
        ],
        empty=NO_READING,
    )
