// All of it at a glance.
import { h, fill, write, number, signed, against, milliseconds, clock, ago, moment, sizeMs, buckets, linkTo, NONE } from "./dom.js";
import { get } from "./net.js";
import { Fan, spark } from "./draw.js";
import { spikeRows } from "./app.js";

function card(title, id) {
  const value = h("dd", { class: "value" }, NONE), note = h("dd", { class: "note" });
  return { node: h("div", { class: "card", id }, h("dt", {}, title), value, note), value, note, title };
}

export function overview(main) {
  const cards = {
    next: card("Expected next hour", "card-next"),
    events: card("Events a second", "card-events"),
    latency: card("Event to prediction", "card-latency"),
    sessions: card("Live sessions", "card-sessions"),
    spikes: card("Open spikes", "card-spikes"),
    items: card("Items", "card-items"),
  };
  const chart = h("div", { class: "chart" }), spikes = h("ul", { class: "spikes" }), alerts = h("ul", { class: "spikes" });
  const alertBox = h("section", { class: "panel", "aria-labelledby": "h-alerts", hidden: true }, h("h2", { id: "h-alerts" }, "Alerts"), alerts);
  const up = h("ul", { class: "movers" }), down = h("ul", { class: "movers" });
  const choice = h("div", { class: "choice", role: "group", "aria-label": "Size of the buckets" }), window_ = h("p", { class: "soft small" });
  fill(main,
    h("h1", { class: "hidden" }, "Overview"),
    h("dl", { class: "cards" }, Object.values(cards).map((c) => c.node)),
    h("section", { class: "panel", "aria-labelledby": "h-total" }, h("div", { class: "panel-head" }, h("h2", { id: "h-total" }, "All items, units"), choice), chart,
      h("div", { class: "legend" }, h("span", {}, h("i", { class: "key actual-key" }), "sold"), h("span", {}, h("i", { class: "key fan-key" }), "expected"))),
    h("div", { class: "columns" },
      h("section", { class: "panel", "aria-labelledby": "h-spikes" }, h("h2", { id: "h-spikes" }, "Spikes"), spikes), alertBox,
      h("section", { class: "panel", "aria-labelledby": "h-movers" }, h("h2", { id: "h-movers" }, "Where demand moves"), window_,
        h("div", { class: "pair" }, h("div", {}, h("h3", {}, "Expected to rise"), up), h("div", {}, h("h3", {}, "Expected to fall"), down)))));
  const fan = new Fan(chart);
  let bucket = null, seen = null, busy = false, again = false, sizes = "", closed = false;

  function choose(size) {
    bucket = size;
    for (const button of choice.children) button.setAttribute("aria-pressed", String(button.dataset.size === size));
    refresh();
  }

  async function refresh() {
    if (busy) { again = true; return; }
    busy = true;
    try {
      do {
        again = false;
        await ask();
      } while (again && !closed);
    } catch { /* the frame says that the connection is gone */ }
    busy = false;
  }

  async function ask() {
    const size = bucket ? `bucket=${bucket}&` : "";
    const [total, rising, falling, open, told] = await Promise.all([
      get(`/v1/totals?${size}history=72`), get(`/v1/items?${size}sort=change&limit=6&spark=24`), get(`/v1/items?${size}sort=change&order=asc&limit=6&spark=24`),
      get("/v1/spikes?state=open&limit=8"), get("/v1/alerts?limit=6"),
    ]);
    if (closed) return;
    const start = total.expected.map((_, i) => total.issued_at_ms + i * total.size_ms);
    fan.show({
      sizeMs: total.size_ms, issuedAt: total.issued_at_ms, before: [],
      observed: total.start_ms.map((at, i) => ({ at, value: total.observed[i] })),
      fan: total.expected.length ? { start, mean: total.expected, quantiles: {} } : null,
      label: `Units of all items by ${total.bucket}: the last ${total.observed.length} and the next ${total.expected.length}; last ${number(total.observed.at(-1))}, expected next ${number(total.expected[0])}`,
    });
    write(window_, rising.window ? `The next ${buckets(rising.window, rising.bucket)} against the last.` : "No forecast yet.");
    const mover = (row) => h("li", {}, h("a", { class: "name", href: linkTo(row.item) }, row.item), spark(row.spark), h("span", { class: `numbers ${row.change >= 0 ? "rise" : "fall"}` }, signed(row.change)));
    const movers = (rows) => (rows.length ? rows.map(mover) : h("li", { class: "soft plain" }, "None."));
    fill(up, movers(rising.items.filter((row) => row.change > 0)));
    fill(down, movers(falling.items.filter((row) => row.change < 0)));
    if (open.records.length) fill(spikes, spikeRows(open.records));
    else {
      const past = await get("/v1/spikes?state=all&limit=6");
      fill(spikes, h("li", { class: "soft plain" }, past.records.length ? "None open. The last ones:" : "None so far. An item stands here when it sells far more than was expected."), spikeRows(past.records));
    }
    alertBox.hidden = !told.records.length;
    fill(alerts, told.records.map((a) => h("li", { class: `spike ${a.severity}` }, h("span", { class: `badge ${a.severity ?? "warning"}` }, a.severity ?? "alert"), h("span", { class: "name" }, a.summary ?? a.alert), h("span", { class: "soft" }, a.updated_ms ? clock(a.updated_ms) : ""))));
  }

  return {
    topics: ["spikes", "alerts"],
    refresh,
    record: () => refresh(),
    overview(now) {
      const engine = now.engine, next = now.next_hour;
      write(cards.events.value, number(engine?.events_per_second ?? now.records_per_second));
      write(cards.events.node.firstChild, engine ? "Events a second" : "Records a second");
      write(cards.events.note, engine?.lag_events != null ? `${number(engine.lag_events)} waiting` : engine ? "" : "of nowcart’s own");
      write(cards.latency.value, milliseconds(engine?.latency_p50_ms));
      write(cards.latency.note, engine ? `1 % above ${milliseconds(engine.latency_p99_ms)}` : "engine’s metrics not configured");
      write(cards.sessions.value, number(now.live_sessions));
      write(cards.sessions.note, `${number(now.likely_sessions)} likely to buy`);
      write(cards.spikes.value, number(now.spikes_open));
      write(cards.spikes.note, now.spikes_critical ? `${now.spikes_critical} critical` : "none critical");
      cards.spikes.node.dataset.tone = now.spikes_critical ? "critical" : now.spikes_open ? "warning" : "";
      write(cards.items.value, number(now.items));
      write(cards.items.note, now.alerts_open ? `${now.alerts_open} alerts` : now.buckets.length ? `by ${now.buckets.join(", ")}` : "");
      if (next) {
        const length = next.end_ms - next.start_ms, words = length === 3600000 ? "hour" : ago(length);
        const begins = now.at_ms - next.start_ms < length / 4;  // else it says which time is meant: it may be nearly over
        write(cards.next.node.firstChild, begins && length < 86400000 ? `Expected, next ${words}` : `Expected, ${length >= 86400000 ? moment(next.start_ms, 86400000) : `${clock(next.start_ms)} to ${clock(next.end_ms)}`}`);
        write(cards.next.value, number(next.expected));
        write(cards.next.note, next.last_week !== null ? `${against(next.expected, next.last_week)} on last week’s ${number(next.last_week)}`
          : next.yesterday !== null ? `${against(next.expected, next.yesterday)} on yesterday’s ${number(next.yesterday)}`
          : next.hour_before !== null ? `${against(next.expected, next.hour_before)} on the ${words} before (${number(next.hour_before)})` : "units; nothing to compare with yet");
      }
      if (now.buckets.join() !== sizes && now.buckets.length) {
        sizes = now.buckets.join();
        fill(choice, now.buckets.map((size) => h("button", { type: "button", "data-size": size, onclick: () => choose(size) }, size)));
        choose(now.buckets.includes(bucket) ? bucket : now.buckets[0]);
      }
      const mark = `${now.records.demand}.${now.records.spikes}.${now.records.alerts}`;
      if (mark !== seen) { seen = mark; refresh(); }
    },
    close() { closed = true; fan.close(); },
  };
}

export { sizeMs };
