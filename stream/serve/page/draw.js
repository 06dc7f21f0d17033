// Charts: small, in SVG, without a library. Each is an image with a description; what it shows can be read as a table beside it.
import { s, h, fill, number, clock, day, moment, NONE } from "./dom.js";

/** Units of the last buckets as a little line. */
export function spark(values, width = 120, height = 28, kind = "") {
  if (!values || values.length < 2) return s("svg", { width, height, class: "spark", "aria-hidden": "true" });
  const top = Math.max(...values, 1e-9), step = width / (values.length - 1);
  const points = values.map((value, i) => `${(i * step).toFixed(1)},${(height - 2 - (height - 5) * (value / top)).toFixed(1)}`);
  return s("svg", { viewBox: `0 0 ${width} ${height}`, class: `spark ${kind}`, preserveAspectRatio: "none", "aria-hidden": "true" },
    s("polygon", { points: `0,${height} ${points.join(" ")} ${width},${height}`, class: "spark-area" }),
    s("polyline", { points: points.join(" "), class: "spark-line", "vector-effect": "non-scaling-stroke" }));
}

/** A share from 0 to 1 as a bar. */
export function bar(share, kind = "") {
  return s("svg", { viewBox: "0 0 100 8", class: `bar ${kind}`, preserveAspectRatio: "none", "aria-hidden": "true" },
    s("rect", { width: 100, height: 8, rx: 0, class: "bar-back" }),
    s("rect", { width: Math.max(0.5, Math.min(100, 100 * share)), height: 8, class: "bar-full" }));
}

function niceTop(value) {
  const power = 10 ** Math.floor(Math.log10(value || 1));
  return [1, 1.5, 2, 3, 4, 5, 6, 8, 10].map((n) => n * power).find((n) => n >= value) ?? 10 * power;
}

const MINUTE = 60000, HOUR = 60 * MINUTE, DAY = 24 * HOUR;
const STEPS = [5 * MINUTE, 10 * MINUTE, 15 * MINUTE, 30 * MINUTE, HOUR, 2 * HOUR, 3 * HOUR, 6 * HOUR, 12 * HOUR, DAY, 2 * DAY, 7 * DAY, 14 * DAY, 28 * DAY];

function timeTicks(from, to, most) {
  const step = STEPS.find((size) => (to - from) / size <= most) ?? 56 * DAY;
  const ticks = [];
  for (let at = Math.ceil(from / step) * step; at <= to; at += step) ticks.push({ at, text: step >= DAY ? day(at) : clock(at) });
  return ticks;
}

const BANDS = [["0.01", "0.99"], ["0.05", "0.95"], ["0.1", "0.9"], ["0.25", "0.75"]];

/**
 * Actuals, the fan of forecasts, and what was forecast before.
 * data: {sizeMs, observed: [{at, value}], issuedAt, fan: {quantiles, mean, start: [ms]} | null,
 *        before: [{name, kind, points: [{at, low, mid, high}]}], label}
 */
export class Fan {
  constructor(node) {
    this.node = node;
    this.data = null;
    this.at = null;
    this.svg = s("svg", { class: "fan", role: "img", tabindex: "0" });
    this.tip = h("div", { class: "tip", hidden: true });
    node.classList.add("fan-holder");
    node.append(this.svg, this.tip);
    this.svg.addEventListener("pointermove", (event) => this.point(event.offsetX));
    this.svg.addEventListener("pointerleave", () => this.choose(null));
    this.svg.addEventListener("blur", () => this.choose(null));
    this.svg.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1, Home: -1e9, End: 1e9 }[event.key];
      if (step === undefined || !this.places?.length) return;
      event.preventDefault();
      const last = this.places.length - 1, now = this.at ?? (step > 0 ? -1 : last + 1);
      this.choose(Math.max(0, Math.min(last, now + step)));
    });
    this.watch = new ResizeObserver(() => this.draw());
    this.watch.observe(node);
  }

  close() { this.watch.disconnect(); }

  show(data) {
    this.data = data;
    this.draw();
  }

  draw() {
    const data = this.data;
    const width = Math.floor(this.node.clientWidth), height = Math.floor(this.node.clientHeight);
    if (!data || width < 80) return;
    const left = 46, right = 12, top = 10, bottom = 26;
    const half = data.sizeMs / 2;
    const fan = data.fan;
    const quantiles = fan ? fan.quantiles : {};
    const middle = fan ? quantiles["0.5"] ?? fan.mean : [];
    const times = [...data.observed.map((p) => p.at), ...(fan ? fan.start : [])];
    if (!times.length) { fill(this.svg); return; }
    const from = Math.min(...times), to = Math.max(...times) + data.sizeMs;
    // What sold and the middle half of the forecast are always in the picture, and the outer bands as far as they leave room to see it.
    const inner = Math.max(1, ...data.observed.map((p) => p.value), ...middle, ...(quantiles["0.75"] ?? []), ...data.before.flatMap((b) => b.points.map((p) => p.mid ?? 0)));
    const outer = Math.max(0, ...(quantiles["0.9"] ?? []), ...(fan ? fan.mean : [])), most = Math.max(outer, ...(quantiles["0.99"] ?? []));
    const peak = Math.max(inner, Math.min(outer, 1.6 * inner));
    const tall = niceTop(peak * 1.06);
    const x = (ms) => left + ((width - left - right) * (ms - from)) / (to - from);
    const y = (value) => top + (height - top - bottom) * (1 - Math.min(value, tall * 1.02) / tall);
    const line = (points) => points.map(([a, b]) => `${x(a).toFixed(1)},${y(b).toFixed(1)}`).join(" ");
    const parts = [];
    for (let i = 0; i <= 4; i++) {
      const value = (tall * i) / 4;
      parts.push(s("line", { x1: left, x2: width - right, y1: y(value), y2: y(value), class: "grid" }),
        s("text", { x: left - 8, y: y(value) + 4, class: "axis end" }, number(value)));
    }
    for (const tick of timeTicks(from, to, Math.max(2, width / 110))) {
      parts.push(s("text", { x: x(tick.at), y: height - 7, class: x(tick.at) > width - right - 30 ? "axis end" : "axis mid" }, tick.text), s("line", { x1: x(tick.at), x2: x(tick.at), y1: height - bottom, y2: height - bottom + 4, class: "tick" }));
    }
    const marks = [];
    if (fan) {
      const start = fan.start.map((at) => at + half);
      // The fan opens at the last actual, so that the eye finds its way.
      const last = data.observed[data.observed.length - 1];
      const hook = last ? [[last.at + half, last.value]] : [];
      for (const [low, above] of BANDS) {
        if (!quantiles[low] || !quantiles[above]) continue;
        const over = [...hook, ...start.map((at, i) => [at, quantiles[above][i]])];
        const under = [...hook, ...start.map((at, i) => [at, quantiles[low][i]])].reverse();
        marks.push(s("polygon", { points: line([...over, ...under]), class: "band" }));
      }
      marks.push(s("polyline", { points: line([...hook, ...start.map((at, i) => [at, middle[i]])]), class: "middle" }));
    }
    for (const before of data.before) {
      const points = before.points.filter((p) => p.mid !== null && p.at >= from);
      if (points.length < 2) continue;
      const over = points.map((p) => [p.at + half, p.high]), under = points.map((p) => [p.at + half, p.low]).reverse();
      marks.push(s("polygon", { points: line([...over, ...under]), class: `before-band ${before.kind}` }),
        s("polyline", { points: line(points.map((p) => [p.at + half, p.mid])), class: `before ${before.kind}` }));
    }
    marks.push(s("polyline", { points: line(data.observed.map((p) => [p.at + half, p.value])), class: "actual" }));
    if (data.observed.length <= 80) {
      for (const p of data.observed) marks.push(s("circle", { cx: x(p.at + half), cy: y(p.value), r: 2.2, class: "actual-dot" }));
    }
    if (data.issuedAt > from && data.issuedAt < to) {
      marks.push(s("line", { x1: x(data.issuedAt), x2: x(data.issuedAt), y1: top, y2: height - bottom, class: "now" }),
        s("text", { x: x(data.issuedAt) + 6, y: top + 11, class: "axis" }, "forecast"));
    }
    if (most > tall * 1.02) marks.push(s("text", { x: width - right - 4, y: top + 11, class: "axis end" }, `↑ up to ${number(most)}`));
    this.cross = s("line", { y1: top, y2: height - bottom, class: "cross", visibility: "hidden" });
    this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.svg.setAttribute("aria-label", data.label);
    fill(this.svg, parts, marks, this.cross);
    this.x = x;
    this.places = this.rows();
    if (this.at !== null) this.choose(Math.min(this.at, this.places.length - 1));
  }

  /** What stands at each bucket, as the table beside the chart has it too. */
  rows() {
    const data = this.data, rows = new Map();
    const row = (at) => rows.get(at) ?? rows.set(at, { at }).get(at);
    for (const p of data.observed) row(p.at).observed = p.value;
    for (const before of data.before) for (const p of before.points) if (p.mid !== null && rows.has(p.at)) row(p.at)[before.kind] = p;
    if (data.fan) {
      const q = data.fan.quantiles;
      data.fan.start.forEach((at, i) => { row(at).forecast = { mid: (q["0.5"] ?? data.fan.mean)[i], low: q["0.1"]?.[i], high: q["0.9"]?.[i], mean: data.fan.mean[i] }; });
    }
    return [...rows.values()].sort((a, b) => a.at - b.at);
  }

  point(offset) {
    if (!this.places?.length) return;
    let best = 0;
    this.places.forEach((place, i) => {
      if (Math.abs(this.x(place.at + this.data.sizeMs / 2) - offset) < Math.abs(this.x(this.places[best].at + this.data.sizeMs / 2) - offset)) best = i;
    });
    this.choose(best);
  }

  choose(at) {
    this.at = at;
    this.tip.hidden = at === null;
    this.cross?.setAttribute("visibility", at === null ? "hidden" : "visible");
    if (at === null) return;
    const place = this.places[at], where = this.x(place.at + this.data.sizeMs / 2);
    this.cross.setAttribute("x1", where);
    this.cross.setAttribute("x2", where);
    const range = (f) => (f.low === undefined || f.low === null ? number(f.mid) : `${number(f.mid)} (${number(f.low)} to ${number(f.high)})`);
    fill(this.tip, h("strong", {}, moment(place.at, this.data.sizeMs)),
      place.observed !== undefined && h("div", {}, h("i", { class: "key actual-key" }), `sold ${number(place.observed)}`),
      place.forecast && h("div", {}, h("i", { class: "key fan-key" }), `forecast ${range(place.forecast)}`),
      this.data.before.map((before) => place[before.kind] && h("div", {}, h("i", { class: `key ${before.kind}-key` }), `${before.name}: ${range(place[before.kind])}`)));
    const width = this.tip.offsetWidth, room = this.node.clientWidth;
    this.tip.style.left = `${Math.max(4, Math.min(room - width - 4, where > room / 2 ? where - width - 12 : where + 12))}px`;
  }
}

/** A session's probability as it moved: a line of steps from 0 to 1. */
export function way(times, values, width = 160, height = 34, full = false) {
  const svg = s("svg", { viewBox: `0 0 ${width} ${height}`, class: full ? "way way-full" : "way", preserveAspectRatio: "none", role: full ? "img" : undefined, "aria-hidden": full ? undefined : "true", "aria-label": full ? `Probability of a purchase over ${times.length} changes, now ${Math.round(100 * values[values.length - 1])} %` : undefined });
  const from = times[0], to = Math.max(times[times.length - 1], from + 1);
  const x = (ms) => ((width - 4) * (ms - from)) / (to - from) + 2, y = (p) => 2 + (height - 4) * (1 - p);
  const points = [];
  values.forEach((p, i) => {
    if (i) points.push(`${x(times[i]).toFixed(1)},${y(values[i - 1]).toFixed(1)}`);
    points.push(`${x(times[i]).toFixed(1)},${y(p).toFixed(1)}`);
  });
  if (values.length === 1) points.push(`${width - 2},${y(values[0]).toFixed(1)}`);
  svg.append(...(full ? [0, 0.5, 1] : [0.5]).map((p) => s("line", { x1: 0, x2: width, y1: y(p), y2: y(p), class: "grid", "vector-effect": "non-scaling-stroke" })),
    s("polyline", { points: points.join(" "), class: "way-line", "vector-effect": "non-scaling-stroke" }));
  return svg;
}

/** Promised against kept: on the diagonal where a promise is kept. */
export function calibration(levels, name) {
  const size = 220, pad = 34;
  const x = (p) => pad + (size - pad - 18) * p, y = (p) => size - pad - (size - pad - 18) * p;
  const points = Object.entries(levels).map(([level, kept]) => [Number(level), kept]).sort((a, b) => a[0] - b[0]);
  return s("svg", { viewBox: `0 0 ${size} ${size}`, class: "calibration", role: "img", "aria-label": `Coverage of ${name} forecasts: ${points.map(([p, k]) => `promised ${Math.round(100 * p)} %, kept ${Math.round(100 * k)} %`).join("; ")}` },
    [0, 0.5, 1].map((p) => [s("line", { x1: x(0), x2: x(1), y1: y(p), y2: y(p), class: "grid" }), s("line", { x1: x(p), x2: x(p), y1: y(0), y2: y(1), class: "grid" }),
      s("text", { x: x(p), y: size - 16, class: "axis mid" }, `${100 * p} %`), s("text", { x: pad - 5, y: y(p) + 4, class: "axis end" }, `${100 * p}`)]).flat(),
    s("line", { x1: x(0), y1: y(0), x2: x(1), y2: y(1), class: "diagonal" }),
    s("polyline", { points: points.map(([p, k]) => `${x(p)},${y(k)}`).join(" "), class: "middle" }),
    points.map(([p, k]) => s("circle", { cx: x(p), cy: y(k), r: 3.4, class: "kept" })),
    s("text", { x: x(0.5), y: size - 3, class: "axis mid" }, "promised"), s("text", { x: 10, y: y(0.5), class: "axis mid", transform: `rotate(-90 10 ${y(0.5)})` }, "kept"));
}

export { NONE };
