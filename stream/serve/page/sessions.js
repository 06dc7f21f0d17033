// Who is in the shop: the likeliest to buy, or those that moved last; and one of them as it goes.
import { h, fill, write, number, percent, seconds, ago } from "./dom.js";
import { get, Problem } from "./net.js";
import { bar, way } from "./draw.js";

const chosen = { sort: "p_purchase" };

export function sessions(main) {
  const list = h("tbody", {}), live = h("span", { class: "soft" });
  const choice = h("div", { class: "choice", role: "group", "aria-label": "Which sessions" },
    [["p_purchase", "likeliest to buy"], ["recent", "moving now"]].map(([key, text]) => h("button", { type: "button", "data-key": key, onclick: () => { chosen.sort = key; mark(); refresh(); } }, text)));
  fill(main, h("div", { class: "tools" }, h("h1", {}, "Sessions"), choice, live),
    h("section", { class: "panel flush" }, h("table", { class: "sessions", "aria-label": "Sessions" }, h("thead", {}, h("tr", {}, [["Session", ""], ["Will buy", "n"], ["", "bar-cell"], ["Trend", "way-cell"], ["Cart", "n wide"], ["Events", "n wide"], ["Moved", "n"]].map(([text, kind]) => h("th", { scope: "col", class: kind }, text)))), list)));
  let busy = false, again = false, closed = false, newest = 0, seen = null;
  const rows = new Map();

  function mark() { for (const button of choice.children) button.setAttribute("aria-pressed", String(button.dataset.key === chosen.sort)); }

  async function refresh() {
    if (busy) { again = true; return; }
    busy = true;
    try {
      do { again = false; show(await get(`/v1/sessions?sort=${chosen.sort}&limit=40`)); } while (again && !closed);
    } catch { /* the frame says that the connection is gone */ }
    busy = false;
  }

  function show(found) {
    if (closed) return;
    write(live, `${number(found.live)} live`);
    const wanted = found.sessions.map((session) => {
      const { record } = session;
      const row = rows.get(record.session) ?? line(record.session);
      rows.set(record.session, row);
      tell(row, session);
      return row.node;
    });
    const keep = new Set(wanted);
    for (const [name, row] of rows) if (!keep.has(row.node)) { row.node.remove(); rows.delete(name); }
    wanted.forEach((node, i) => { if (list.children[i] !== node) list.insertBefore(node, list.children[i] ?? null); });
    if (!wanted.length) fill(list, h("tr", {}, h("td", { class: "empty", colspan: 7 }, "Nobody is in the shop.")));
  }

  function line(name) {
    const link = h("a", { href: `#/sessions/${encodeURIComponent(name)}` }, name), who = h("span", { class: "soft who" });
    const p = h("td", { class: "n strong" }), share = h("td", { class: "bar-cell" }), moved = h("td", { class: "way-cell" }), cart = h("td", { class: "n wide" }), events = h("td", { class: "n wide" }), at = h("td", { class: "n soft" });
    return { node: h("tr", {}, h("th", { scope: "row" }, link, who), p, share, moved, cart, events, at), who, p, share, moved, cart, events, at, shown: "" };
  }

  function tell(row, { record, way_ms, way_p_purchase }) {
    write(row.at, ago(Math.max(0, newest - record.issued_at_ms)));
    const mark = `${record.issued_at_ms}.${record.p_purchase}.${record.ended}`;
    if (mark === row.shown) return;
    row.shown = mark;
    write(row.who, [record.user ?? "", record.purchased ? "has bought" : "", record.ended ? "ended" : "", record.bot ? "bot" : ""].filter(Boolean).join(" · "));
    write(row.p, record.purchased ? "✓" : percent(record.p_purchase));
    fill(row.share, bar(record.p_purchase, record.purchased ? "done" : ""));
    fill(row.moved, way(way_ms, way_p_purchase));
    write(row.cart, percent(record.p_cart));
    write(row.events, number(record.events));
  }

  mark();
  refresh();
  return {
    refresh,
    overview(now) { newest = now.at_ms; if (now.records.intent !== seen) { seen = now.records.intent; refresh(); } },
    close() { closed = true; },
  };
}

export function session(main, name) {
  const state = h("p", { class: "soft" }), figures = h("dl", { class: "figures" }), chart = h("div", { class: "chart way-holder" }), moves = h("tbody", {});
  const missing = h("p", { class: "empty", hidden: true }, "No such session is live, or it ended a while ago.");
  fill(main, h("nav", { class: "crumbs", "aria-label": "Way back" }, h("a", { href: "#/sessions" }, "Sessions")), h("h1", { class: "item-name" }, name), missing, state, figures,
    h("section", { class: "panel", "aria-labelledby": "h-way" }, h("h2", { id: "h-way" }, "Probability of a purchase"), chart,
      h("details", {}, h("summary", {}, "As a table"), h("div", { class: "scroll", tabindex: "0" }, h("table", {}, h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Time"), h("th", { scope: "col", class: "n" }, "Will buy"))), moves)))));
  let closed = false;

  async function refresh() {
    try {
      const { record, way_ms, way_p_purchase } = await get(`/v1/sessions/${encodeURIComponent(name)}/intent`);
      if (closed) return;
      missing.hidden = true;
      const figure = (title, value, note = "") => h("div", {}, h("dt", {}, title), h("dd", { class: "value" }, value), h("dd", { class: "note" }, note));
      fill(figures, figure("Will buy", record.purchased ? "bought" : percent(record.p_purchase, 1), "before the session ends"), figure("Fills the cart", percent(record.p_cart, 1)), figure("Events", number(record.events)), figure("User", record.user ?? "not known"));
      write(state, [record.ended ? "Ended" : "Live", `last moved ${seconds(record.issued_at_ms)}`, record.bot ? "taken for a bot" : "", `by ${record.model_version}`].filter(Boolean).join(" · "));
      fill(chart, h("div", { class: "way-side", "aria-hidden": "true" }, ["100 %", "50 %", "0 %"].map((text) => h("span", {}, text))), way(way_ms, way_p_purchase, 640, 180, true),
        h("div", { class: "way-foot", "aria-hidden": "true" }, h("span", {}, seconds(way_ms[0])), h("span", {}, seconds(way_ms[way_ms.length - 1]))));
      fill(moves, way_ms.map((at, i) => h("tr", {}, h("th", { scope: "row" }, seconds(at)), h("td", { class: "n" }, percent(way_p_purchase[i], 1)))).reverse());
    } catch (error) {
      if (error instanceof Problem && error.status === 404 && !closed) missing.hidden = false;
    }
  }

  refresh();
  return { topics: ["intent"], filter: { session: name }, refresh, record: refresh, close() { closed = true; } };
}
