// One item: what sold, what is expected, what was expected before, and who says so.
import { h, fill, write, number, expected, percent, moment, sizeMs, bucketName, buckets, ago, NONE } from "./dom.js";
import { get, Problem } from "./net.js";
import { Fan } from "./draw.js";
import { spikeRows } from "./app.js";

const HISTORY = 72;
const HUES = ["e0", "e1", "e2", "e3", "e4", "e5", "e6", "e7"];
const chosen = { bucket: null, near: true, far: false };

export function item(main, name, { say }) {
  const choice = h("div", { class: "choice", role: "group", "aria-label": "Size of the buckets" });
  const figures = h("dl", { class: "figures" }), chart = h("div", { class: "chart tall" });
  const near = h("input", { type: "checkbox", id: "near", checked: chosen.near }), far = h("input", { type: "checkbox", id: "far", checked: chosen.far });
  const nearText = h("span", {}), farText = h("span", {});
  const weights = h("div", { class: "weights" }), sums = h("div", {}), spikes = h("ul", { class: "spikes" }), rows = h("tbody", {}), foot = h("p", { class: "soft" });
  const content = h("div", { hidden: true },
    figures,
    h("section", { class: "panel", "aria-labelledby": "h-chart" },
      h("div", { class: "panel-head" }, h("h2", { id: "h-chart" }, "Units"), choice),
      chart,
      h("div", { class: "legend" },
        h("span", {}, h("i", { class: "key actual-key" }), "sold"), h("span", {}, h("i", { class: "key fan-key" }), "forecast: 50, 80, 90, 98 %"),
        h("label", {}, near, h("i", { class: "key near-key" }), nearText), h("label", {}, far, h("i", { class: "key far-key" }), farText)),
      h("details", {}, h("summary", {}, "As a table"), h("div", { class: "scroll", tabindex: "0" }, h("table", {}, h("thead", {}, h("tr", {}, ["Bucket", "Sold", "Forecast", "80 % interval", "Expected the bucket before"].map((text) => h("th", { scope: "col" }, text)))), rows)))),
    h("div", { class: "columns" },
      h("section", { class: "panel", "aria-labelledby": "h-sums" }, h("h2", { id: "h-sums" }, "To cover a lead time"), sums),
      h("section", { class: "panel", "aria-labelledby": "h-weights" }, h("h2", { id: "h-weights" }, "Who is listened to"), weights),
      h("section", { class: "panel", "aria-labelledby": "h-spikes" }, h("h2", { id: "h-spikes" }, "Spikes"), spikes)),
    foot);
  const missing = h("div", { class: "empty", hidden: true });
  fill(main, h("nav", { class: "crumbs", "aria-label": "Way back" }, h("a", { href: "#/items" }, "Items")), h("h1", { class: "item-name" }, name), missing, content);
  const fan = new Fan(chart);
  let found = null, closed = false, busy = false, again = false, atMs = 0;

  async function refresh() {
    if (busy) { again = true; return; }
    busy = true;
    do {
      again = false;
      try {
        found = await get(`/v1/items/${encodeURIComponent(name)}/demand?history=${HISTORY}`);
        if (!closed) show();
      } catch (error) {
        if (error instanceof Problem && error.status === 404 && !closed) unknown(error.body);
      }
    } while (again && !closed);
    busy = false;
  }

  function unknown(problem) {
    content.hidden = true;
    missing.hidden = false;
    const near = problem.did_you_mean;
    fill(missing, h("p", {}, "Nothing was published of this item lately. It will show up here when it is."), near && h("p", {}, "Did you mean ", h("a", { href: `#/items/${encodeURIComponent(near)}` }, near), "?"));
  }

  function show() {
    const sizes = Object.keys(found.buckets);
    if (!sizes.length) return unknown({});
    missing.hidden = true;
    content.hidden = false;
    const size = sizes.includes(chosen.bucket) ? chosen.bucket : sizes[0];
    if (choice.dataset.sizes !== sizes.join()) {
      choice.dataset.sizes = sizes.join();
      fill(choice, sizes.map((each) => h("button", { type: "button", "data-size": each, onclick: () => { chosen.bucket = each; show(); } }, each)));
    }
    for (const button of choice.children) button.setAttribute("aria-pressed", String(button.dataset.size === size));
    draw(size, found.buckets[size]);
  }

  function draw(size, { record, history }) {
    const length = sizeMs(size), q = record.quantiles, farSteps = history.far_steps;
    // Forecasts stand where they were issued, at the end of a bucket: the near one is of the bucket that begins there.
    const shifted = (points, steps) => history.start_ms.map((at, i) => ({ at: at + steps * length, low: points[i][0], mid: points[i][1], high: points[i][2] }));
    const before = [];
    if (near.checked) before.push({ name: "expected the bucket before", kind: "near", points: shifted(history.near, 1) });
    if (far.checked) before.push({ name: `expected ${farSteps} before`, kind: "far", points: shifted(history.far, farSteps) });
    for (const b of before) b.points = b.points.filter((p) => p.at < record.issued_at_ms);
    const start = record.mean.map((_, i) => record.issued_at_ms + i * length);
    fan.show({
      sizeMs: length, issuedAt: record.issued_at_ms, before,
      observed: history.start_ms.map((at, i) => ({ at, value: history.observed[i] })),
      fan: { start, mean: record.mean, quantiles: q },
      label: `${name} by ${bucketName(size)}: ${history.observed.length} closed buckets, last ${record.observed} sold; next ${number(record.mean[0])} expected, 80 % between ${number(q["0.1"]?.[0])} and ${number(q["0.9"]?.[0])}. Arrow keys go through the buckets.`,
    });
    write(nearText, "what was expected the bucket before");
    write(farText, `what was expected ${buckets(farSteps, size)} before`);
    const hits = near.checked || history.near.length ? shifted(history.near, 1) : [];
    const observed = new Map(history.start_ms.map((at, i) => [at, history.observed[i]]));
    const judged = hits.filter((p) => p.mid !== null && observed.has(p.at));
    const inside = judged.filter((p) => observed.get(p.at) >= p.low && observed.get(p.at) <= p.high).length;
    const price = found.price && (found.price.price ?? found.price.current ?? null);
    const figure = (title, value, note) => h("div", {}, h("dt", {}, title), h("dd", { class: "value" }, value), h("dd", { class: "note" }, note));
    fill(figures,
      figure(`Last ${bucketName(size)}`, number(record.observed), `${number(record.views)} views, ${number(record.carts)} carts`),
      figure(`Next ${bucketName(size)}`, expected(record.mean[0]), `80 %: ${number(q["0.1"]?.[0])} to ${number(q["0.9"]?.[0])}`),
      figure(`Next ${buckets(record.mean.length, size)}`, expected(record.mean.reduce((a, b) => a + b, 0)), "units expected"),
      figure("Chance of no sale", percent(record.p_zero?.[0]), `in the next ${bucketName(size)}`),
      figure("Inside the 80 % band", judged.length ? percent(inside / judged.length) : NONE, judged.length ? `of the last ${buckets(judged.length, size)}` : "no past forecast yet"),
      price !== null && price !== undefined && figure("Price", number(price), ""),
      record.censored > 0 && figure("Without stock", percent(record.censored), `of the last ${bucketName(size)}`));
    leadTimes(size, record.totals ?? {});
    experts(record.experts ?? {}, size);
    fill(spikes, found.spikes.length ? spikeRows(found.spikes, false) : h("li", { class: "soft plain" }, "None lately."));
    fill(rows, fan.rows().reverse().map((row) => h("tr", {}, h("th", { scope: "row" }, moment(row.at, length)), h("td", {}, row.observed === undefined ? "" : number(row.observed)), h("td", {}, row.forecast ? number(row.forecast.mid) : ""), h("td", {}, row.forecast ? `${number(row.forecast.low)} to ${number(row.forecast.high)}` : ""), h("td", {}, row.near ? number(row.near.mid) : ""))));
    atMs = record.issued_at_ms;
    write(foot, `Issued ${moment(record.issued_at_ms, length)} by ${record.model_version}.`);
  }

  function leadTimes(size, totals) {
    const steps = Object.keys(totals).sort((a, b) => a - b);
    if (!steps.length) return fill(sums, h("p", { class: "soft" }, "No lead times are configured for this size."));
    const levels = ["0.5", "0.75", "0.9", "0.95", "0.99"].filter((level) => level in totals[steps[0]]);
    fill(sums, h("div", { class: "scroll" }, h("table", {}, h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Enough with"), levels.map((level) => h("th", { scope: "col", class: "n" }, percent(level))))),
      h("tbody", {}, steps.map((step) => h("tr", {}, h("th", { scope: "row" }, `next ${buckets(Number(step), size)}`), levels.map((level) => h("td", { class: "n" }, number(totals[step][level])))))))));
  }

  const led = (shares) => Object.entries(shares).sort((a, b) => b[1] - a[1]).slice(0, 2).filter(([, share]) => share >= 0.1).map(([n, share]) => `${n.replaceAll("_", " ")} ${percent(share)}`).join(", ");

  function experts(groups, size) {
    if (!Object.keys(groups).length) return fill(weights, h("p", { class: "soft" }, "Nobody has been weighed yet: that begins when the first forecasts have been scored."));
    const names = [...new Set(Object.values(groups).flatMap((group) => Object.keys(group)))].sort();
    fill(weights, Object.entries(groups).map(([group, shares]) => h("div", { class: "weight" },
      h("span", {}, `Up to ${buckets(Number(group), size)} ahead: `, h("span", { class: "soft" }, led(shares))),
      h("div", { class: "stack", role: "img", "aria-label": names.map((n) => `${n} ${percent(shares[n] ?? 0)}`).join(", ") },
        names.map((n, i) => { const part = h("span", { class: `part ${HUES[i % HUES.length]}`, title: `${n} ${percent(shares[n] ?? 0)}` }); part.style.flexGrow = shares[n] ?? 0; return part; })))),
      h("div", { class: "legend" }, names.map((n, i) => h("span", {}, h("i", { class: `key ${HUES[i % HUES.length]}` }), n.replaceAll("_", " ")))));
  }

  for (const box of [near, far]) box.addEventListener("change", () => { chosen.near = near.checked; chosen.far = far.checked; if (found) show(); });
  refresh();
  return {
    topics: ["demand", "spikes", "prices"], filter: { item: name }, refresh,
    record(topic, data) { if (topic === "spikes" && data.state === "open") say(`Spike of ${name}`); refresh(); },
    overview(now) { if (atMs) foot.title = `${ago(now.at_ms - atMs)} before the newest event`; },
    close() { closed = true; fan.close(); },
  };
}
