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

const STEPS = [60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400, 172800, 432000, 864000];

function utc(seconds) {
  const text = new Date(seconds * 1000).toISOString();
  return seconds % 86400 ? text.slice(11, 16) : text.slice(5, 10); // at midnight, the day
}

function moments(plot, _, from, to) {
  const most = Math.max(2, plot.width / 90);
  const step = STEPS.find((each) => (to - from) / each <= most) ?? 2592000;
  const found = [];
  for (let at = Math.ceil(from / step) * step; at <= to; at += step) found.push(at);
  return found;
}

// Values of which most are alike do not fill the axis.
function heights(chart) {
  return (_, low, high) => {
    if (chart.most) return [0, chart.most];
    if (low == null) return [0, 1];
    const room = low === high ? Math.max(Math.abs(low) / 10, 1) : (high - low) / 10;
    return [low >= 0 ? Math.max(0, low - room) : low - room, high + room];
  };
}

// Of the same dashes as its line.
function sample(at) {
  const dashes = DASHES[at % DASHES.length];
  const stops = [];
  let from = 0;
  dashes.forEach((length, part) => {
    stops.push(`${part % 2 ? "transparent" : colour(at)} ${from}px ${from + length}px`);
    from += length;
  });
  return stops.length ? `repeating-linear-gradient(90deg, ${stops.join(", ")})` : colour(at);
}

function draw(figure, chart) {
  const width = Math.max(240, figure.clientWidth - 2);
  const numbers = (value) => (value == null ? "-" : Math.abs(value) >= 1000 ? value.toFixed(0) : String(+value.toPrecision(4)));
  const series = chart.series.map((each, at) => ({
    label: each.label, stroke: () => colour(at), width: 2, dash: DASHES[at % DASHES.length],
    points: { show: chart.x.length < 60, size: 5 }, spanGaps: !chart.time, value: (_, value) => numbers(value),
  }));
  const x = chart.time
    ? axis({ values: (_, ticks) => ticks.map(utc), splits: moments })
    : axis({ values: (_, ticks) => ticks.map((tick) => (Number.isInteger(tick) ? tick : "")) });
  const first = { label: chart.time ? "time (UTC)" : chart.of,
                  value: (_, value) => (value == null ? "-" : chart.time ? new Date(value * 1000).toISOString().slice(0, 16).replace("T", " ") : value) };
  const holder = figure.querySelector(".plot");
  figure.plot?.destroy();
  figure.plot = new uPlot({
    width, height: Math.min(260, Math.max(180, width / 2)), series: [first, ...series],
    scales: { x: { time: false, ...(chart.time && { range: (_, from, to) => [from, Math.max(to, from + 60)] }) },
              y: { range: heights(chart) } },
    legend: { markers: { width: 0, fill: (_, at) => sample(at - 1) } }, axes: [x, axis({ size: 64, values: (_, ticks) => ticks.map(numbers) })],
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
