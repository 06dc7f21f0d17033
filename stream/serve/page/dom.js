// Elements and words: how nodes are made, how numbers and times are written.

/** Makes an element: h("p", {class: "soft"}, "text", node). Text is always text, never HTML. */
export function h(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) set(node, name, value);
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

const SVG = "http://www.w3.org/2000/svg";

/** The same for SVG. */
export function s(tag, attributes = {}, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) set(node, name, value);
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

function set(node, name, value) {
  if (value === null || value === undefined || value === false) return;
  if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
  else node.setAttribute(name, value === true ? "" : value);
}

/** Puts children in place of what was there. */
export function fill(node, ...children) {
  node.replaceChildren(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

/** Writes a text where it has changed, so that nothing is laid out for nothing. */
export function write(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

// ---- numbers

const whole = new Intl.NumberFormat(undefined, { maximumFractionDigits: 0 });
const one = new Intl.NumberFormat(undefined, { maximumFractionDigits: 1 });
const two = new Intl.NumberFormat(undefined, { maximumFractionDigits: 2 });
const compact = new Intl.NumberFormat(undefined, { notation: "compact", maximumFractionDigits: 1 });

export const NONE = "–";

/** A quantity, with as many digits as help. */
export function number(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return NONE;
  const size = Math.abs(value);
  if (size >= 1e6) return compact.format(value);
  if (size >= 100 || Number.isInteger(value)) return whole.format(value);
  return size >= 10 ? one.format(value) : two.format(value);
}

const tenth = new Intl.NumberFormat(undefined, { minimumFractionDigits: 1, maximumFractionDigits: 1 });

/** An expected quantity: below 100 always with one decimal, so that a column of them stands in line. */
export function expected(value) {
  return value === null || value === undefined || Number.isNaN(value) || Math.abs(value) >= 100 ? number(value) : tenth.format(value);
}

export function signed(value) {
  if (value === null || value === undefined) return NONE;
  return (value > 0 ? "+" : value < 0 ? "−" : "±") + expected(Math.abs(value));
}

export function percent(share, digits = 0) {
  if (share === null || share === undefined || Number.isNaN(share)) return NONE;
  return `${(100 * share).toFixed(digits)}\u202f%`;
}

/** A change against what was before: "+12 %". */
export function against(now, before) {
  if (!before) return NONE;
  const change = now / before - 1;
  return (change > 0 ? "+" : change < 0 ? "−" : "±") + percent(Math.abs(change), Math.abs(change) < 0.1 ? 1 : 0);
}

export function milliseconds(value) {
  if (value === null || value === undefined) return NONE;
  return value >= 10000 ? `${number(value / 1000)} s` : `${number(Math.round(value))} ms`;
}

// ---- times, in the shop's own zone

let zone;
const formats = new Map();

export function useZone(name) {
  if (name === zone) return;
  zone = name;
  formats.clear();
}

function format(kind, options) {
  if (!formats.has(kind)) {
    try {
      formats.set(kind, new Intl.DateTimeFormat(undefined, { timeZone: zone, hourCycle: "h23", ...options }));
    } catch {
      formats.set(kind, new Intl.DateTimeFormat(undefined, options));
    }
  }
  return formats.get(kind);
}

export const clock = (ms) => format("clock", { hour: "2-digit", minute: "2-digit" }).format(ms);
export const seconds = (ms) => format("seconds", { hour: "2-digit", minute: "2-digit", second: "2-digit" }).format(ms);
export const day = (ms) => format("day", { weekday: "short", day: "numeric", month: "short" }).format(ms);

/** The start of a bucket. */
export function moment(ms, sizeMs) {
  return sizeMs >= 86400000 ? day(ms) : `${day(ms)}, ${clock(ms)}`;
}

export function ago(ms) {
  const s = Math.max(0, Math.round(ms / 1000));
  if (s < 90) return `${s} s`;
  if (s < 5400) return `${Math.round(s / 60)} min`;
  return s < 129600 ? `${Math.round(s / 3600)} h` : `${Math.round(s / 86400)} d`;
}

const SIZES = { "1m": 60000, "5m": 300000, "15m": 900000, "1h": 3600000, "1d": 86400000, "1w": 604800000 };
export const sizeMs = (bucket) => SIZES[bucket] ?? 3600000;
const NAMES = { "1m": "minute", "5m": "5 minutes", "15m": "15 minutes", "1h": "hour", "1d": "day", "1w": "week" };
const MANY = { "1m": "minutes", "5m": "× 5 minutes", "15m": "× 15 minutes", "1h": "hours", "1d": "days", "1w": "weeks" };
export const bucketName = (bucket) => NAMES[bucket] ?? bucket;
export const buckets = (count, bucket) => (count === 1 ? `1 ${bucketName(bucket)}` : `${count} ${MANY[bucket] ?? bucket}`);

const SHORT = { "1m": [1, "min"], "5m": [5, "min"], "15m": [15, "min"], "1h": [1, "h"], "1d": [1, "d"], "1w": [1, "wk"] };
/** A span of buckets in few letters: "30 min". */
export const span = (count, bucket) => (SHORT[bucket] ? `${count * SHORT[bucket][0]} ${SHORT[bucket][1]}` : `${count} × ${bucket}`);

export const linkTo = (item) => `#/items/${encodeURIComponent(item)}`;
