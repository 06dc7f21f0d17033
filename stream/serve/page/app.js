// The frame: which view is shown, the one stream that feeds it, and how it stands with the connection.
import { h, fill, write, useZone, clock, ago, linkTo } from "./dom.js";
import { Stream } from "./net.js";

const VIEWS = {
  overview: () => import("./overview.js"),
  items: () => import("./items.js"),
  item: () => import("./item.js"),
  sessions: () => import("./sessions.js"),
  session: () => import("./sessions.js"),
  health: () => import("./health.js"),
};
const TITLES = { overview: "Overview", items: "Items", sessions: "Sessions", health: "Health" };

const main = document.getElementById("main");
let view = null, stream = null, turn = 0, connection = "starting", overview = null, spoken = 0;

function place() {
  const [, section = "", id] = location.hash.split("?")[0].split("/");
  const name = section || "overview";
  try {
    if (id && name === "items") return { name: "item", section: name, id: decodeURIComponent(id) };
    if (id && name === "sessions") return { name: "session", section: name, id: decodeURIComponent(id) };
  } catch { /* a % that means nothing */ }
  return VIEWS[name] && TITLES[name] ? { name, section: name, id: null } : { name: "overview", section: "overview", id: null };
}

async function go(moveFocus) {
  const mine = ++turn, { name, section, id } = place();
  for (const link of document.querySelectorAll("#nav a")) {
    if (link.dataset.view === section) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  const code = await VIEWS[name]();
  if (mine !== turn) return;
  view?.close?.();
  stream?.close();
  document.title = `${id ?? TITLES[section]} · nowcart`;
  main.className = `view-${name}`;
  fill(main);
  view = (code[name] ?? code.default)(main, id, { say });
  if (overview) view.overview?.(overview);
  const query = new URLSearchParams({ topics: ["overview", ...(view.topics ?? [])].join(","), ...(view.filter ?? {}) });
  stream = new Stream(`/v1/stream?${query}`, heard, (state) => {
    const before = connection;
    connection = state;
    if (state === "live" && before === "lost") view?.refresh?.();
    standing();
  });
  if (moveFocus) main.focus({ preventScroll: true });
  window.scrollTo(0, 0);
}

function heard(name, data) {
  if (name === "overview") {
    useZone(data.zone);
    overview = data;
    view?.overview?.(data);
    standing();
    return;
  }
  if (name === "spikes" && data.state === "open" && data.severity === "critical") say(`Critical spike of ${data.item}: ${data.observed} sold, ${data.expected} expected`);
  if (name === "gap") view?.refresh?.();
  else view?.record?.(name, data);
}

/** Told to screen readers: seldom, or they would speak without end. */
function say(text, now = false) {
  if (!now && Date.now() - spoken < 10000) return;
  spoken = Date.now();
  document.getElementById("says").textContent = text;
}

let shown = "";

function standing() {
  const pill = document.getElementById("status"), banner = document.getElementById("banner");
  let state = "live", text = "live", long = "";
  if (connection === "refused") [state, text, long] = ["bad", "refused", "The server does not answer this page's question: reload it."];
  else if (connection !== "live") [state, text, long] = [connection === "starting" ? "starting" : "bad", connection === "starting" ? "connecting" : "reconnecting", connection === "starting" ? "" : "The server does not answer. What you see is what was last known; the page goes on by itself."];
  else if (overview && overview.age_seconds > 0) [state, text, long] = ["late", `${ago(overview.age_seconds * 1000)} old`, `Kafka does not answer. What you see stands as of ${clock(Date.now() - overview.age_seconds * 1000)}; the page goes on by itself.`];
  else if (overview && !overview.ready) [state, text, long] = ["starting", "reading the past", ""];
  pill.dataset.state = state;
  write(document.getElementById("status-text"), text);
  banner.hidden = !long;
  write(banner, long);
  if (state !== shown && shown && (long || state === "live")) say(long || "Live again.", true);
  shown = state;
}

document.getElementById("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  try { localStorage.setItem("nowcart-theme", root.dataset.theme); } catch { /* then until it is reloaded */ }
});

addEventListener("hashchange", () => go(true));
// "/" finds an item, wherever one is.
addEventListener("keydown", (event) => {
  if (event.key !== "/" || event.ctrlKey || event.metaKey || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
  event.preventDefault();
  const search = document.getElementById("search");
  if (search) search.focus();
  else location.hash = "#/items";
});
go(false);

/** A list of spikes; used by several views. */
export function spikeRows(records, withItem = true) {
  return records.map((spike) => h("li", { class: `spike ${spike.severity} ${spike.state}` },
    h("span", { class: `badge ${spike.state === "open" ? spike.severity : "over"}` }, spike.state === "open" ? spike.severity : "over"),
    withItem && h("a", { class: "name", href: linkTo(spike.item) }, spike.item),
    h("span", { class: "numbers" }, `${spike.observed} sold, ${spike.expected} expected`),
    h("span", { class: "soft" }, `${clock(spike.bucket_start_ms)} · ${spike.bucket}`)));
}
