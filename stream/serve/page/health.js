// Whether it can be trusted: what was promised and kept, how far behind it is, which models speak.
import { h, fill, number, percent, milliseconds, ago, bucketName, NONE } from "./dom.js";
import { get } from "./net.js";
import { bar, calibration } from "./draw.js";

export function health(main) {
  const figures = h("dl", { class: "figures" }), kept = h("div", { class: "calibrations" }), errors = h("div", {}), models = h("div", { class: "scroll" }), process = h("div", { class: "scroll" });
  const none = h("p", { class: "soft" }, "The engine’s own metrics are not asked for: name them in [serve] engine_metrics.");
  fill(main, h("h1", {}, "Health"), figures, none,
    h("div", { class: "columns" },
      h("section", { class: "panel", "aria-labelledby": "h-kept" }, h("h2", { id: "h-kept" }, "Coverage, promised and kept"), h("p", { class: "soft" }, "A quantile of 90 % should hold nine times in ten. On the diagonal the promise is kept."), kept),
      h("section", { class: "panel", "aria-labelledby": "h-errors" }, h("h2", { id: "h-errors" }, "Error by expert"), h("p", { class: "soft" }, "Absolute error over demand (WAPE), lately. Less is better."), errors)),
    h("div", { class: "columns" },
      h("section", { class: "panel", "aria-labelledby": "h-models" }, h("h2", { id: "h-models" }, "Models"), models),
      h("section", { class: "panel", "aria-labelledby": "h-process" }, h("h2", { id: "h-process" }, "This server"), process)));
  let closed = false, timer = null, shown = "";

  function rows(pairs) { return h("table", {}, h("tbody", {}, pairs.map(([name, value]) => h("tr", {}, h("th", { scope: "row" }, name), h("td", { class: "n" }, value))))); }

  async function refresh() {
    clearTimeout(timer);
    try {
      const now = await get("/v1/health");
      if (!closed) show(now);
    } catch { /* the frame says that the connection is gone */ }
    if (!closed) timer = setTimeout(refresh, 2000);
  }

  function show(now) {
    const engine = now.engine, figure = (title, value, note = "", tone = "") => h("div", { "data-tone": tone }, h("dt", {}, title), h("dd", { class: "value" }, value), h("dd", { class: "note" }, note));
    none.hidden = Boolean(engine);
    fill(figures,
      figure("State", { ok: "well", starting: "starting", stale: "stale" }[now.status] ?? now.status, now.detail, now.status === "ok" ? "good" : "warning"),
      engine && figure("Engine", engine.processes === engine.asked ? "answers" : `${engine.processes} of ${engine.asked}`, `${engine.processes} process${engine.processes === 1 ? "" : "es"}`, engine.processes === engine.asked ? "good" : "warning"),
      figure("Waiting events", number(engine?.lag_events), "not yet committed"),
      figure("Behind the clock", engine?.watermark_lag_seconds == null ? NONE : ago(engine.watermark_lag_seconds * 1000), "the oldest watermark"),
      figure("Event to prediction", milliseconds(engine?.latency_p50_ms), `1 % above ${milliseconds(engine?.latency_p99_ms)}`),
      figure("Dead letters", number(engine?.dead_letters), "since the engine began"));
    const mark = JSON.stringify([engine?.coverage, engine?.wape, engine?.models]);
    if (mark !== shown && engine) {
      shown = mark;
      fill(kept, Object.entries(engine.coverage).map(([bucket, levels]) => h("figure", {}, h("figcaption", {}, `by ${bucketName(bucket)}`), calibration(levels, bucketName(bucket)),
        h("details", {}, h("summary", {}, "As a table"), h("table", {}, h("thead", {}, h("tr", {}, ["promised", "kept"].map((text) => h("th", { scope: "col", class: "n" }, text)))), h("tbody", {}, Object.entries(levels).sort((a, b) => a[0] - b[0]).map(([level, share]) => h("tr", {}, h("th", { scope: "row", class: "n" }, percent(Number(level))), h("td", { class: "n" }, percent(share, 1))))))))),
        !Object.keys(engine.coverage).length && h("p", { class: "soft" }, "Nothing to judge yet: forecasts are scored when their time has come."));
      fill(errors, Object.entries(engine.wape).map(([bucket, experts]) => {
        const worst = Math.max(...Object.values(experts), 1e-9);
        return h("div", {}, h("h3", {}, `by ${bucketName(bucket)}`), h("table", { class: "errors" }, h("tbody", {}, Object.entries(experts).sort((a, b) => a[1] - b[1]).map(([name, value]) => h("tr", { class: name === "council" ? "strong" : "" }, h("th", { scope: "row" }, name.replaceAll("_", " ")), h("td", { class: "bar-cell" }, bar(value / worst, name === "council" ? "main" : "")), h("td", { class: "n" }, number(value)))))));
      }), !Object.keys(engine.wape).length && h("p", { class: "soft" }, "Nothing to judge yet."));
      fill(models, h("table", {}, h("thead", {}, h("tr", {}, ["Model", "Version", "Device"].map((text) => h("th", { scope: "col" }, text)))), h("tbody", {}, engine.models.map((m) => h("tr", {}, h("th", { scope: "row" }, m.model), h("td", {}, m.version), h("td", {}, m.device))))));
    }
    fill(process, rows([["Kafka", now.kafka_reachable ? "answers" : `silent for ${ago(now.age_seconds * 1000)}`], ["Up", ago(now.up_seconds * 1000)], ["Readers of streams", number(now.readers)], ["Items, sessions", `${number(now.items)}, ${number(now.sessions)}`], ["Unreadable records", number(now.unreadable)],
      ...Object.entries(now.records).filter(([, count]) => count).map(([topic, count]) => [`Records of ${topic}`, number(count)])]));
  }

  refresh();
  return { refresh, close() { closed = true; clearTimeout(timer); } };
}
