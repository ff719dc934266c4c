"""The hardware dashboard: is it the card that limits the result? By the card's own account: heat, power, clocks, memory."""

from __future__ import annotations

from scripts.dashboards.absence import ABSENCE, GPU_KEYS, NO_READING, NOT_AVAILABLE, or_absence, or_absence_by_gpu
from scripts.dashboards.fields import Json, Query, override, states, steps
from scripts.dashboards.frame import marks, variables
from scripts.dashboards.layout import Layout, dashboard
from scripts.dashboards.live_gpu import DASHED, gpu_panels
from scripts.dashboards.live_inventory import SOURCE_NAMES
from scripts.dashboards.live_queries import GPU_LEGEND
from scripts.dashboards.live_tiles import HEAT_STEPS, hardware_tiles, source_tile
from scripts.dashboards.panels import bargauge, stat, table, timeseries
from scripts.dashboards.promql import ratio, recorded, select

from joulebench import metrics as m

UID = "llm-gpu"
HEAT = f'reason=~"{"|".join(m.THERMAL_REASONS)}"'
SM = 'clock="sm"'
MARGIN_STEPS = steps((None, "red"), (5, "orange"), (10, "green"))


def build() -> Json:
    layout = Layout()
    layout.row("Now")
    layout.all([source_tile(), gpus_up(), *hardware_tiles(), smallest_margin()], 3, 4)
    layout.add(gpu_table(), 24, 7)
    known = {panel["title"]: panel for panel in gpu_panels()}
    layout.row("Heat")
    layout.all([temperature(), margin(), known["Throttled share of time"], known["Throttling by reason"]], 12, 8)
    layout.row("Power and energy")
    layout.all([known["Power and limit"], known["Energy counter against power"]], 12, 8)
    layout.all([energy_by_gpu(), throttled_by_reason()], 12, 7)
    layout.row("Load, memory and clocks")
    layout.all([utilization(), memory(), known["Clocks"], speed_and_clock()], 12, 8)
    return dashboard(
        UID,
        "Joulebench: GPU & thermals",
        "Does the hardware limit the result: heat, power limit, clocks, memory?",
        layout,
        variables=variables(),
        annotations=marks(),
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


def smallest_margin() -> Json:
    return stat(
        "Smallest margin",
        "Degrees that the hottest chosen GPU, by its own limit, has left before it slows itself down.",
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
        "VRAM": of(recorded("gpu:joulebench_gpu_memory_used:ratio")),
        "Temperature": of(select(m.GPU_TEMPERATURE)),
        "Margin": of(select(m.GPU_TEMPERATURE_MARGIN)),
        "Power": of(select(m.GPU_POWER)),
        "Limit": of(select(m.GPU_POWER_LIMIT)),
        "SM clock": of(select(m.GPU_CLOCK, SM)),
        "Throttled": of(recorded("gpu_reason:joulebench_gpu_throttle_seconds:rate1m", HEAT)),
        "Energy": of(f"increase({select(m.GPU_ENERGY)}[$__range])"),
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
        "One row a GPU; a click on its name narrows all panels to it. n/a: the card does not have this reading. No data: the"
        " card is lost or the reading is not collected.",
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


def temperature() -> Json:
    slowdown = f"max by (instance, gpu) ({select(m.GPU_TEMPERATURE)} + {select(m.GPU_TEMPERATURE_MARGIN)})"
    return timeseries(
        "Temperature and slowdown",
        "Core temperature, and the temperature at which the card slows itself down, where it tells its margin.",
        [Query(select(m.GPU_TEMPERATURE), GPU_LEGEND), Query(slowdown, f"{GPU_LEGEND} slows down")],
        "celsius",
        overrides=[override("/slows down/", by="byRegexp", **DASHED)],
        empty=NO_READING,
    )


def margin() -> Json:
    return timeseries(
        "Temperature margin",
        "Degrees left before the card slows itself down. The line is the threshold of the alert.",
        [Query(select(m.GPU_TEMPERATURE_MARGIN), GPU_LEGEND)],
        "celsius",
        minimum=None,
        thresholds=steps((None, "red"), (5, "transparent")),
        empty=NO_READING,
    )


def energy_by_gpu() -> Json:
    return bargauge(
        "Energy by GPU",
        "Joules of each GPU's counter over this time range, idle time included.",
        [Query(f"max by (instance, gpu) (increase({select(m.GPU_ENERGY)}[$__range]))", GPU_LEGEND, "instant")],
        "joule",
        decimals=1,
        empty=NO_READING,
    )


def throttled_by_reason() -> Json:
    return bargauge(
        "Throttled time by reason",
        "Seconds of this time range in which each reason held clocks down, by the driver's time counters, all chosen GPUs"
        " together. Reasons may hold at the same time.",
        [Query(f"sum by (reason) (increase({select(m.GPU_THROTTLE_SECONDS)}[$__range]))", "{{reason}}", "instant")],
        "s",
        decimals=1,
        empty=NO_READING,
    )


def utilization() -> Json:
    return timeseries(
        "Utilization",
        "Share of the driver's sample period with a kernel running. High does not mean that the card is used well.",
        [Query(select(m.GPU_UTILIZATION), GPU_LEGEND)],
        "percentunit",
        maximum=1,
        empty=NO_READING,
    )


def memory() -> Json:
    return timeseries(
        "VRAM by model",
        "Device memory in use and in total, with what Ollama says its loaded models take of it. The rest is the driver's, the"
        " context's and other programs'.",
        [
            Query(select(m.GPU_MEMORY_USED), f"{GPU_LEGEND} used"),
            Query(select(m.GPU_MEMORY_TOTAL), f"{GPU_LEGEND} total"),
            Query(f"max by (instance, model) ({select(m.OLLAMA_MODEL_VRAM)})", "{{instance}} {{model}}"),
        ],
        "bytes",
        overrides=[override("/total$/", by="byRegexp", **DASHED)],
        empty=NO_READING,
    )


def speed_and_clock() -> Json:
    decoded, seconds = select(m.TASK_DECODE_TOKENS), select(m.TASK_DECODE, suffix="_sum")
    return timeseries(
        "Decode speed against clock",
        "Tokens per second while generating, average of the live tasks, over the SM clock as a share of its highest (right axis)."
        " Where both fall together, the card was slowed down.",
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
