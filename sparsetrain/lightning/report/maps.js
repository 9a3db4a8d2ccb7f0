// Layers down, steps across, a colour for each value; the value under the pointer in words.
"use strict";
{
  const data = JSON.parse(document.getElementById("data").textContent);
  // Viridis in five stops: as bright on a light page as on a dark one, and for the colour-blind.
  const STOPS = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]];
  const ROW = 14; // pixels

  function colourOf(part) {
    const at = Math.min(Math.max(part, 0), 1) * (STOPS.length - 1);
    const low = Math.min(Math.floor(at), STOPS.length - 2);
    return STOPS[low].map((c, i) => Math.round(c + (STOPS[low + 1][i] - c) * (at - low)));
  }

  function paint(map) {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [map.steps.length, map.rows.length];
    const ctx = canvas.getContext("2d");
    map.values.forEach((row, y) => row.forEach((value, x) => {
      if (value == null) return;
      ctx.fillStyle = `rgb(${colourOf((value - map.low) / (map.high - map.low))})`;
      ctx.fillRect(x, y, 1, 1);
    }));
    return canvas;
  }

  function element(name, className, ...content) {
    const made = document.createElement(name);
    made.className = className;
    made.append(...content);
    return made;
  }

  for (const box of document.querySelectorAll("[data-map]")) {
    const map = data.maps[box.dataset.map];
    const canvas = paint(map);
    canvas.style.height = `${ROW * map.rows.length}px`;
    const names = element("div", "rows", ...map.rows.map((row) => element("span", "", row)));
    const steps = element("div", "steps", element("span", "", `step ${map.steps[0]}`),
      element("span", "", `${map.steps.at(-1)}`));
    const said = element("output", "said");
    const ramp = element("i", "ramp");
    ramp.style.background = `linear-gradient(90deg, ${STOPS.map((c) => `rgb(${c})`)})`;
    const scale = element("p", "legend", element("span", "key", String(map.low), ramp, String(map.high)), said);
    const show = (event) => {
      const { left, top, width, height } = canvas.getBoundingClientRect();
      const x = Math.floor((event.clientX - left) / width * map.steps.length);
      const y = Math.floor((event.clientY - top) / height * map.rows.length);
      const value = map.values[y]?.[x];
      said.textContent = value === undefined ? "" : `${map.rows[y]}, step ${map.steps[x]}: ${value ?? "–"}`;
    };
    canvas.onpointermove = canvas.onpointerdown = show;
    canvas.onpointerleave = () => { said.textContent = ""; };
    box.append(element("div", "grid", names, element("div", "field", canvas, steps)), scale);
  }
}
