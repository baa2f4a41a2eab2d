// Curves: each figure.chart names where its numbers are; they are drawn again when its topic changes.
"use strict";

const DASHES = [[], [8, 4], [2, 3], [12, 4, 2, 4], [5, 2], [1, 2]];

function colour(at) {
  return getComputedStyle(document.documentElement).getPropertyValue("--line-" + (at % 6)).trim();
}

function ink(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function axis(extra) {
  return { stroke: () => ink("--ink"), grid: { stroke: () => ink("--faint"), width: 1 },
           ticks: { stroke: () => ink("--faint"), width: 1 }, ...extra };
}

function utc(seconds) {
  return new Date(seconds * 1000).toISOString().slice(11, 16);
}

function draw(figure, chart) {
  const width = Math.max(240, figure.clientWidth - 2);
  const numbers = (value) => (value == null ? "-" : Math.abs(value) >= 1000 ? value.toFixed(0) : String(+value.toPrecision(4)));
  const series = chart.series.map((each, at) => ({
    label: each.label, stroke: () => colour(at), width: 2, dash: DASHES[at % DASHES.length],
    points: { show: chart.x.length < 60, size: 5 }, spanGaps: !chart.time, value: (_, value) => numbers(value),
  }));
  const x = chart.time
    ? axis({ values: (_, ticks) => ticks.map(utc), space: 60 })
    : axis({ values: (_, ticks) => ticks.map((tick) => (Number.isInteger(tick) ? tick : "")) });
  const first = { label: chart.time ? "time (UTC)" : chart.of,
                  value: (_, value) => (value == null ? "-" : chart.time ? new Date(value * 1000).toISOString().slice(0, 16).replace("T", " ") : value) };
  const holder = figure.querySelector(".plot");
  figure.plot?.destroy();
  figure.plot = new uPlot({
    width, height: Math.min(260, Math.max(180, width / 2)), series: [first, ...series],
    scales: { x: { time: false } }, axes: [x, axis({ size: 64, values: (_, ticks) => ticks.map(numbers) })],
    cursor: { drag: { x: false, y: false } },
  }, [chart.x, ...chart.series.map((each) => each.values)], holder);
}

async function load(place) {
  let answer;
  try {
    answer = await fetch(place.dataset.src);
  } catch {
    return; // the page says that it is not connected
  }
  if (!answer.ok) return;
  const charts = (await answer.json()).charts;
  place.charts = charts;
  place.querySelector(".none")?.toggleAttribute("hidden", charts.length > 0);
  const there = [...place.querySelectorAll("figure.chart")];
  charts.forEach((chart, at) => {
    let figure = there[at];
    if (!figure) {
      figure = document.createElement("figure");
      figure.className = "chart";
      const holder = document.createElement("div");
      holder.className = "plot";
      holder.setAttribute("role", "img");
      figure.append(document.createElement("figcaption"), holder);
      place.append(figure);
    }
    figure.querySelector("figcaption").textContent = chart.title;
    figure.querySelector(".plot").setAttribute("aria-label", chart.words);
    const same = figure.plot && figure.names === JSON.stringify(chart.series.map((each) => each.label));
    if (same) figure.plot.setData([chart.x, ...chart.series.map((each) => each.values)]);
    else draw(figure, chart);
    figure.names = JSON.stringify(chart.series.map((each) => each.label));
  });
  there.slice(charts.length).forEach((figure) => { figure.plot?.destroy(); figure.remove(); });
}

function again(place) {
  place.querySelectorAll("figure.chart").forEach((figure, at) => {
    if (place.charts?.[at]) draw(figure, place.charts[at]);
  });
}

for (const place of document.querySelectorAll(".charts[data-src]")) {
  load(place);
  if (place.dataset.every) setInterval(() => load(place), 1000 * place.dataset.every);
  let due = 0;
  for (const topic of (place.dataset.on ?? "").split(",").filter(Boolean)) {
    document.body.addEventListener("changed-" + topic, () => {
      clearTimeout(due);
      due = setTimeout(() => load(place), 300);
    });
  }
  let size = 0;
  new ResizeObserver(() => {
    if (size && Math.abs(size - place.clientWidth) > 20) again(place);
    size = place.clientWidth;
  }).observe(place);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => again(place));
}
