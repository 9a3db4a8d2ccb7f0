// Lines by uPlot: values under the pointer in the legend, phases shaded, each chart as CSV.
"use strict";
{
  const data = JSON.parse(document.getElementById("data").textContent);
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  const LINES = 6;
  const WHOLE = [1, 2, 5].flatMap((n) => [0, 1, 2, 3, 4, 5, 6].map((e) => n * 10 ** e)).sort((a, b) => a - b);

  // A few significant digits: 0.4123, 12.35, 12.35k, 2.1e-5.
  function short(value, digits = 4) {
    if (value === 0 || value == null || !isFinite(value)) return String(value ?? "–");
    const size = Math.abs(value);
    if (size < 1e-3 || size >= 1e12) return value.toExponential(1);
    const [scale, suffix] = [[1e9, "G"], [1e6, "M"], [1e4, "k"], [0, ""]].find(([least]) => size >= least);
    return Number((value / (suffix === "k" ? 1e3 : scale || 1)).toPrecision(digits)) + suffix;
  }

  // The place of the value nearest to `from`: lines of one chart have values at other steps.
  function nearest(values, from) {
    for (let off = 0; off < values.length; off++) {
      if (values[from - off] != null) return from - off;
      if (values[from + off] != null) return from + off;
    }
    return from;
  }

  function shade(bands) {
    return (u) => {
      const { ctx, bbox } = u;
      for (const band of bands) {
        const left = Math.max(u.valToPos(band.from, "x", true), bbox.left);
        const right = Math.min(u.valToPos(band.to, "x", true), bbox.left + bbox.width);
        ctx.fillStyle = colour(`phase${band.shade}`);
        if (right > left) ctx.fillRect(left, bbox.top, right - left, bbox.height);
      }
    };
  }

  function options(chart, width, joined) {
    const last = joined[0].length - 1;
    const axis = {
      stroke: colour("soft"), grid: { stroke: colour("grid"), width: 1 }, ticks: { show: false },
      font: "12px system-ui, sans-serif", labelFont: "12px system-ui, sans-serif",
      values: (u, splits) => splits.map((v) => short(v)),
    };
    const lines = chart.series.map((series) => ({
      label: series.name,
      stroke: colour(`line${series.line % LINES}`), width: 1.8, dash: series.line < LINES ? undefined : [6, 4],
      points: { show: series.x.length < 40, size: 5, fill: colour(`line${series.line % LINES}`) },
      value: (u, value, line, at) => {
        const of = u.data[line];
        return String(of[nearest(of, at ?? last)] ?? "–");
      },
    }));
    return {
      width, height: 230, padding: [10, 12, 0, 0],
      cursor: { dataIdx: (u, line, at) => (line ? nearest(u.data[line], at) : at), drag: { x: true, y: false } },
      scales: { x: { time: false } },
      axes: [
        { ...axis, label: chart.x, labelSize: 18, size: 30, space: 60, incrs: ["epoch", "step"].includes(chart.x) ? WHOLE : undefined },
        { ...axis, size: 52, space: 36 },
      ],
      series: [{ label: chart.x, value: (u, v) => String(v ?? u.data[0][last]) }, ...lines],
      legend: { live: true, markers: { width: 3 } },
      hooks: {
        drawClear: [shade(chart.bands)],
        ready: [(u) => u.setLegend({ idx: last }, false)],
        setLegend: [(u) => u.legend.idx == null && u.setLegend({ idx: last }, false)],
      },
    };
  }

  function csv(chart) {
    const rows = [[chart.x, ...chart.series.map((s) => s.name)]];
    const joined = uPlot.join(chart.series.map((s) => [s.x, s.y]));
    joined[0].forEach((x, i) => rows.push([x, ...joined.slice(1).map((ys) => ys[i] ?? "")]));
    const quoted = (cell) => (/[",\n]/.test(cell) ? `"${String(cell).replaceAll('"', '""')}"` : cell);
    return rows.map((row) => row.map(quoted).join(",")).join("\n") + "\n";
  }

  function saveButton(chart) {
    const button = document.createElement("button");
    button.textContent = "CSV";
    button.title = `Save the numbers of this chart`;
    button.onclick = () => {
      const link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob([csv(chart)], { type: "text/csv" }));
      link.download = `${chart.title.toLowerCase().replaceAll(" ", "-")}.csv`;
      link.click();
      URL.revokeObjectURL(link.href);
    };
    return button;
  }

  function bandKeys(bands) {
    const keys = document.createElement("p");
    keys.className = "legend";
    for (const band of bands.filter((b, i) => bands.findIndex((o) => o.label === b.label) === i)) {
      const key = document.createElement("span");
      key.className = "key";
      const box = document.createElement("i");
      box.className = `box phase${band.shade}`;
      key.append(box, band.label);
      keys.append(key);
    }
    return keys;
  }

  const drawn = [];
  for (const box of document.querySelectorAll("[data-chart]")) {
    const chart = data.charts[box.dataset.chart];
    const joined = uPlot.join(chart.series.map((s) => [s.x, s.y]));
    box.parentElement.querySelector("figcaption").append(saveButton(chart));
    if (chart.bands.length) box.after(bandKeys(chart.bands));
    const draw = () => {
      box.replaceChildren();
      return new uPlot(options(chart, box.clientWidth, joined), joined, box);
    };
    drawn.push({ box, draw, plot: draw() });
  }
  addEventListener("resize", () =>
    drawn.forEach(({ box, plot }) => plot.setSize({ width: box.clientWidth, height: 230 })));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () =>
    drawn.forEach((each) => { each.plot.destroy(); each.plot = each.draw(); }));
}
