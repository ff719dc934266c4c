"use strict";
// Draws the charts, computes costs as analysis/cost.py does, and lays long tables out as they are scrolled.
// Without it the page still has every number, in its tables.
(function () {
  const data = JSON.parse(document.getElementById("data").textContent);
  const colors = ["#0969da", "#cf5c00", "#1a7f37", "#8250df", "#bf3989", "#57606a", "#9a6700", "#0b7285"];
  const config = { displaylogo: false, responsive: true, showTips: false };
  const byId = (id) => document.getElementById(id);
  document.documentElement.classList.add("js");

  const shown = (value) => {
    if (value === null || value === undefined || !isFinite(value)) return "-";
    return Math.abs(value) >= 1000 ? Math.round(value).toLocaleString("en-US") : String(Number(value.toPrecision(3)));
  };
  // Names come from data, and Plotly reads some markup in text.
  const plain = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

  // The chart library is most of the page's bytes and of the time to open it: it waits until a chart comes into view.
  function library() {
    if (!window.Plotly) {
      const kept = byId("library"), script = document.createElement("script");
      script.textContent = kept.textContent;
      document.head.append(script);
      kept.remove();
    }
    return window.Plotly;
  }

  const waiting = new Map();
  const seen = new IntersectionObserver((entries) => entries.filter((entry) => entry.isIntersecting).forEach((entry) => drawNow(entry.target)),
    { rootMargin: "200px" });

  function drawNow(place) {
    const draw = waiting.get(place);
    waiting.delete(place);
    seen.unobserve(place);
    if (draw) draw();
  }

  function whenSeen(place, draw) {
    waiting.set(place, draw);
    // The library stands behind this script: the browser has not read it yet.
    if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", () => seen.observe(place));
    else seen.observe(place);
  }

  window.addEventListener("beforeprint", () => { if (document.readyState !== "loading") [...waiting.keys()].forEach(drawNow); });

  const FIRST_ROWS = 100, MORE_ROWS = 200;
  const cellText = (row, column) => (row.split("</td>")[column] || "").replace(/<[^>]*>/g, "");

  // One row of HTML a line, escaped where it was made. A script finds them unparsed in <noscript>, so they cost nothing yet.
  function longTables() {
    for (const kept of document.querySelectorAll("noscript.rows")) {
      const lines = kept.textContent.trim().split("\n"), rows = lines.slice(2, -2);
      const tools = document.createElement("p"), wide = document.createElement("div");
      wide.className = "wide";
      wide.innerHTML = lines[1] + lines[lines.length - 2];
      kept.replaceWith(tools, wide);
      handle(wide, rows, tools);
    }
    for (const wide of document.querySelectorAll(".wide[data-sort]")) handle(wide, [...wide.querySelectorAll("tbody tr")].map((row) => row.outerHTML), null);
  }

  function handle(wide, all, tools) {
    const body = wide.querySelector("tbody"), heads = [...wide.querySelectorAll("th")];
    const count = document.createElement("span"), find = document.createElement("input");
    let rows = all, laid = 0;
    const more = (upTo) => {
      if (upTo > laid) body.insertAdjacentHTML("beforeend", rows.slice(laid, upTo).join(""));
      laid = Math.min(rows.length, Math.max(laid, upTo));
    };
    const again = () => {
      body.replaceChildren();
      laid = 0;
      more(tools ? FIRST_ROWS : rows.length);
      wide.scrollTop = 0;
      count.textContent = rows.length === all.length ? all.length + " rows" : rows.length + " of " + all.length + " rows";
    };
    if (tools) {
      Object.assign(find, { type: "search", placeholder: "find in this table" });
      find.setAttribute("aria-label", "find in this table");
      tools.className = "tools";
      tools.append(find, count);
      find.addEventListener("input", () => {
        const wanted = find.value.toLowerCase();
        rows = all.filter((row) => row.replace(/<[^>]*>/g, " ").toLowerCase().includes(wanted));
        again();
      });
      wide.addEventListener("scroll", () => { if (wide.scrollTop + 2 * wide.clientHeight > wide.scrollHeight) more(laid + MORE_ROWS); });
      window.addEventListener("beforeprint", () => more(rows.length));
      again();
    }
    heads.forEach((head, column) => {
      head.tabIndex = 0;
      head.title = "sort by this";
      const sort = () => {
        const turned = head.getAttribute("aria-sort") === "descending" ? 1 : -1;
        heads.forEach((entry) => entry.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", turned < 0 ? "descending" : "ascending");
        const key = (row) => {
          const text = cellText(row, column), value = parseFloat(text.replace(/,/g, ""));
          return head.className === "n" ? (isNaN(value) ? -turned * Infinity : value) : text;
        };
        const keyed = new Map(all.map((row) => [row, key(row)]));
        const order = (a, b) => (keyed.get(a) < keyed.get(b) ? -turned : keyed.get(a) > keyed.get(b) ? turned : 0);
        all = [...all].sort(order);
        rows = [...rows].sort(order);
        again();
      };
      head.addEventListener("click", sort);
      head.addEventListener("keydown", (event) => { if (event.key === "Enter") sort(); });
    });
  }

  const layout = (title, simulated, more) => Object.assign({
    title: { text: title, font: { size: 14 }, x: 0, xanchor: "left" },
    margin: { l: 70, r: 20, t: 40, b: 50 }, paper_bgcolor: "#fff", plot_bgcolor: "#fff", font: { size: 12 },
    annotations: simulated ? [{ text: "SIMULATED", xref: "paper", yref: "paper", x: 0.5, y: 0.5, showarrow: false,
      textangle: -18, opacity: 0.18, font: { size: 84, color: "#b35900" } }] : [],
  }, more);

  function figures() {
    for (const place of document.querySelectorAll("[data-figure]")) {
      const figure = data.figures[place.dataset.figure];
      if (figure.layout.height) place.style.height = figure.layout.height + "px";
      whenSeen(place, () => library().newPlot(place, figure.data, figure.layout, config));
    }
  }

  function timeline() {
    const select = byId("which");
    if (!select) return;
    data.timelines.forEach((task, place) => select.add(new Option(task.label, place)));
    const lanes = { prefill: 0, decode: 0, tool: 1, step: 2 };
    const names = ["model", "tool", "step"];
    const color = { prefill: "#54aeff", decode: "#0969da", tool: "#e3b341", step: "#1a7f37" };
    // A level line needs some room about it: without, an axis shows fractions of a degree.
    const span = (task) => {
      const seen = task.samples.temp ? task.samples.temp.map((point) => point[1]) : task.temp === null ? [] : [task.temp];
      return seen.length ? [Math.min(...seen) - 5, Math.max(...seen) + 5] : undefined;
    };
    const draw = () => {
      const task = data.timelines[select.value];
      const traces = Object.keys(lanes).map((kind) => {
        const events = task.events.filter((event) => event[0] === kind);
        return { type: "bar", orientation: "h", name: kind, yaxis: "y4", marker: { color: color[kind] }, width: 0.7,
          base: events.map((event) => event[1]), x: events.map((event) => Math.max(event[2] - event[1], task.seconds / 400)),
          y: events.map(() => names[lanes[kind]]), hovertext: events.map((event) => plain(event[3])), hoverinfo: "text" };
      });
      const stored = (key, axis, unit, tint) => traces.push({ type: "scatter", mode: "lines", yaxis: axis, name: unit, line: { color: tint },
        x: task.samples[key].map((point) => point[0]), y: task.samples[key].map((point) => point[1]) });
      const level = (value, axis, unit, tint) => traces.push({ type: "scatter", mode: "lines", yaxis: axis, name: unit,
        line: { color: tint, dash: "dash" }, x: [0, task.seconds], y: [value, value] });
      if (task.samples.power) stored("power", "y", "power (W)", "#cf222e");
      else if (task.power.length) traces.push({ type: "scatter", mode: "lines", name: "power (W), mean of each fifth", yaxis: "y",
        line: { color: "#cf222e", shape: "hv" }, x: [...task.power.map((part) => part[0]), task.seconds],
        y: [...task.power.map((part) => part[2]), task.power[task.power.length - 1][2]] });
      if (task.samples.util) stored("util", "y2", "utilization (%)", "#1a7f37");
      else if (task.util !== null) level(task.util, "y2", "utilization (%), mean", "#1a7f37");
      if (task.samples.temp) stored("temp", "y3", "temperature (°C)", "#8250df");
      else if (task.temp !== null) level(task.temp, "y3", "temperature (°C), maximum", "#8250df");
      library().react("timeline", traces, layout(plain(task.label), task.simulated, {
        barmode: "overlay", showlegend: true, legend: { orientation: "h", y: -0.12 },
        xaxis: { title: { text: "seconds since the start of the task" }, range: [0, task.seconds], anchor: "y4" },
        yaxis: { domain: [0.72, 1], title: { text: "W" }, rangemode: "tozero" }, yaxis2: { domain: [0.5, 0.68], title: { text: "%" }, range: [0, 105] },
        yaxis3: { domain: [0.3, 0.46], title: { text: "°C" }, range: span(task) },
        yaxis4: { domain: [0, 0.26], categoryorder: "array", categoryarray: ["step", "tool", "model"], type: "category" },
      }), config);
    };
    if (!data.timelines.length) return;
    whenSeen(byId("timeline"), draw);
    select.addEventListener("change", () => { drawNow(byId("timeline")); draw(); });
  }

  function local(work, t, utilization) {
    const hours = work.busy_seconds / 3600;
    const electricity = (work.joules / 3.6e6) * t.per_kwh * t.pue;
    const machine = hours * t.per_hour, idle = hours * (t.idle_watts / 1000) * t.idle_per_kwh * t.pue;
    return { electricity, machine, idle, total: electricity + machine / utilization + (idle * (1 - utilization)) / utilization };
  }

  function fromApi(work, price, cachedShare) {
    const cached = work.prompt_tokens * cachedShare;
    const cachedPrice = price.cached_prompt === undefined ? price.prompt : price.cached_prompt;
    return (work.prompt_tokens - cached) * price.prompt + cached * cachedPrice + work.completion_tokens * price.completion;
  }

  function breakEven(work, t, api) {
    const here = local(work, t, 1);
    if (api <= here.electricity) return [null, "never: electricity alone costs more"];
    if (!(here.machine + here.idle)) return [null, "always"];
    const share = (here.machine + here.idle) / (api - here.electricity + here.idle);
    return share > 1 ? [null, "never: local costs more even when always busy"] : [share, ""];
  }

  function cost() {
    const section = byId("cost-live");
    if (!section) return;
    const c = data.cost, first = c.arms[0].terms;
    const years = 3, hoursPerYear = 365.25 * 24;
    const inputs = {
      per_kwh: ["electricity, " + c.currency + " per kWh", first.per_kwh, 0, Math.max(1, 3 * first.per_kwh), 0.005],
      price: ["hardware, " + c.currency, first.per_hour * years * hoursPerYear, 0, Math.max(20000, 3 * first.per_hour * years * hoursPerYear), 10],
      years: ["years of use", years, 1, 10, 0.5],
      utilization: ["utilization, % of its hours", 100 * c.utilization, 1, 100, 1],
      pue: ["PUE", first.pue, 1, 2.5, 0.05],
      cached_share: ["cached prompt tokens at the API, %", 100 * (c.arms[0].work.cached_share || 0), 0, 100, 1],
      idle_watts: ["idle power, W", first.idle_watts, 0, Math.max(500, 2 * first.idle_watts), 1],
    };
    const touched = new Set();
    let drawn = false;
    const place = byId("sliders");
    for (const [key, [label, value, low, high, step]] of Object.entries(inputs)) {
      const row = document.createElement("label"), input = document.createElement("input"), out = document.createElement("output");
      Object.assign(input, { type: "range", id: "slider-" + key, min: low, max: high, step, value });
      out.id = "value-" + key;
      row.append(label, out, input);
      place.append(row);
      input.addEventListener("input", () => { touched.add(key); compute(); });
    }
    // Until a slider is moved its number is the one of the price list, not the step of the slider beside it.
    const read = (key) => (touched.has(key) ? Number(byId("slider-" + key).value) : inputs[key][1]);
    const apis = byId("api");
    c.apis.forEach((api, at) => apis.add(new Option(api.model + " (" + api.as_of + ")", at)));
    apis.addEventListener("change", compute);

    function terms(arm) {
      return { per_kwh: touched.has("per_kwh") ? read("per_kwh") : arm.terms.per_kwh,
        idle_per_kwh: touched.has("per_kwh") ? read("per_kwh") : arm.terms.idle_per_kwh,
        cached_share: touched.has("cached_share") ? read("cached_share") / 100 : arm.work.cached_share || 0, per_hour: read("price") / (read("years") * hoursPerYear),
        pue: read("pue"), idle_watts: touched.has("idle_watts") ? read("idle_watts") : arm.terms.idle_watts };
    }

    function compute() {
      for (const key of Object.keys(inputs)) byId("value-" + key).textContent = shown(read(key));
      const utilization = read("utilization") / 100, api = c.apis[apis.value];
      const body = byId("live-rows");
      body.replaceChildren();
      const traces = [];
      c.arms.forEach((arm, at) => {
        const t = terms(arm), work = arm.work, here = local(work, t, utilization).total;
        const there = api ? fromApi(work, api.per_token, t.cached_share) : null;
        const [share, why] = api ? breakEven(work, t, there) : [null, "no API listed"];
        const perDay = share === null || !work.busy_seconds ? null : (work.tokens / work.busy_seconds) * 86400 * share;
        const by = (whole, count) => (whole === null || !count ? null : whole / count);
        const cells = [arm.label, shown(by(here, work.attempts)), shown(by(here, work.successes)), shown(by(there, work.attempts)),
          shown(by(there, work.successes)), share === null ? why : (100 * share).toFixed(1) + " %", shown(perDay)];
        const row = document.createElement("tr");
        cells.forEach((text, column) => {
          const cell = document.createElement("td");
          cell.textContent = text;
          if (column) cell.className = "n";
          row.append(cell);
        });
        body.append(row);
        const count = work.successes || work.attempts;
        const shares = Array.from({ length: 100 }, (_, n) => (n + 1) / 100);
        const tint = colors[at % colors.length];
        traces.push({ type: "scatter", mode: "lines", name: plain(arm.label) + ", local", line: { color: tint }, x: shares,
          y: shares.map((u) => local(work, t, u).total / count) });
        if (there !== null) traces.push({ type: "scatter", mode: "lines", name: plain(arm.label) + "'s tokens from " + plain(api.model),
          line: { color: tint, dash: "dash" }, x: [0.01, 1], y: [there / count, there / count] });
      });
      if (drawn) library().react("sensitivity", traces, layout("Cost per success (" + c.currency + ") by utilization; where a line crosses its dashed line is break-even",
        data.simulated, { xaxis: { tickformat: ".0%", title: { text: "utilization" } }, yaxis: { type: "log", dtick: "D2", title: { text: c.currency } },
          legend: { orientation: "h", y: -0.2 },
          shapes: [{ type: "line", x0: utilization, x1: utilization, yref: "paper", y0: 0, y1: 1, line: { color: "#8c959f", dash: "dot" } }] }), config);
    }
    compute();
    whenSeen(byId("sensitivity"), () => { drawn = true; compute(); });
  }

  longTables();
  figures();
  cost();
  timeline();
  performance.mark("ready");
  document.body.dataset.ready = "yes";
})();
