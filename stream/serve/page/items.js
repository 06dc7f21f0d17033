// All items: as many as there are, only those in sight are asked for and drawn.
import { h, fill, write, number, expected, signed, buckets, bucketName, span, linkTo, NONE } from "./dom.js";
import { get } from "./net.js";
import { spark } from "./draw.js";

const ROW = 46, PAGE = 60, SPARK = 24;
const SORTS = { expected: "Expected", observed: "Sold", change: "Change", latest: "Last bucket", next: "Next bucket", spikes: "Spikes", name: "Name", updated: "Newest" };
const COLUMNS = [["name", "Item", ""], [null, "Lately", "spark-cell"], ["observed", "Sold", "n"], ["expected", "Expected", "n"], ["change", "Change", "n"], ["next", "Next", "n wide"], ["spikes", "Spikes", "n wide"]];

const kept = { sort: "expected", order: "desc", q: "", bucket: null, scroll: 0 };

export function items(main) {
  const state = kept;
  const search = h("input", { id: "search", type: "search", placeholder: "Find an item  ( / )", "aria-label": "Find an item", maxlength: 100, value: state.q, autocomplete: "off", spellcheck: "false" });
  const sort = h("select", { "aria-label": "Sort by" }, Object.entries(SORTS).map(([key, name]) => h("option", { value: key, selected: key === state.sort }, name)));
  const turn = h("button", { type: "button", class: "icon", "aria-label": "Turn the order round", title: "Turn the order round" }, "⇅");
  const size = h("select", { "aria-label": "Size of the buckets" });
  const count = h("span", { class: "soft", role: "status" });
  const head = h("div", { class: "row head", role: "row" }, COLUMNS.map(([key, name, kind]) => h("div", { class: `cell ${kind}`, role: "columnheader", "data-key": key ?? "" },
    key ? h("button", { type: "button", onclick: () => by(key, true) }, name, h("span", { class: "unit" })) : name)));
  const space = h("div", { class: "space", role: "presentation" });
  const body = h("div", { class: "body", role: "rowgroup" }, space);
  const table = h("div", { class: "table", role: "table", "aria-label": "Items", "aria-colcount": COLUMNS.length }, h("div", { role: "rowgroup", class: "head-group" }, head), body);
  fill(main, h("div", { class: "tools" }, h("h1", {}, "Items"), search, size, sort, turn, count), table);

  let total = 0, window_ = 0, made = 0, closed = false, seen = null, pages = new Map(), asked = new Set(), stale = new Set();
  const rows = new Map();

  function query(offset, limit) {
    const q = new URLSearchParams({ sort: state.sort, order: state.order, offset, limit, spark: SPARK });
    if (state.q) q.set("q", state.q);
    if (state.bucket) q.set("bucket", state.bucket);
    return `/v1/items?${q}`;
  }

  function by(key, toggle) {
    if (toggle && state.sort === key) state.order = state.order === "asc" ? "desc" : "asc";
    else { state.sort = key; state.order = key === "name" ? "asc" : "desc"; }
    sort.value = state.sort;
    anew();
  }

  function anew() {
    made++;
    pages = new Map();
    asked = new Set();
    stale = new Set();
    body.scrollTop = 0;
    for (const cell of head.children) {
      if (cell.dataset.key) cell.setAttribute("aria-sort", cell.dataset.key === state.sort ? (state.order === "asc" ? "ascending" : "descending") : "none");
    }
    draw();
  }

  async function load(page) {
    if (asked.has(page)) return;
    asked.add(page);
    const mine = made;
    try {
      const found = await get(query(page * PAGE, PAGE));
      if (mine !== made || closed) return;
      pages.set(page, found.items);
      stale.delete(page);
      total = found.total;
      window_ = found.window;
      const bucket = found.bucket, over = window_ ? `, ${span(window_, bucket)}` : "";
      for (const cell of head.children) {
        const unit = cell.querySelector(".unit"), words = { observed: over, expected: over, next: ` ${bucketName(bucket)}` }[cell.dataset.key];
        if (words !== undefined) write(unit, words);
      }
      write(count, `${number(total)} item${total === 1 ? "" : "s"}${window_ ? ` · last and next ${buckets(window_, bucket)}` : ""}`);
      if (pages.size > 40) for (const old of [...pages.keys()].slice(0, 20)) if (Math.abs(old - page) > 3) pages.delete(old);
      draw();
    } catch { /* the frame says that the connection is gone */ } finally {
      if (mine === made) asked.delete(page);
    }
  }

  function draw() {
    const first = Math.max(0, Math.floor(body.scrollTop / ROW) - 6);
    const last = Math.min(total, Math.ceil((body.scrollTop + body.clientHeight) / ROW) + 6);
    space.style.height = `${Math.max(total, 1) * ROW}px`;
    table.setAttribute("aria-rowcount", total + 1);
    for (const [index, row] of rows) if (index < first || index >= last) { row.node.remove(); rows.delete(index); }
    for (let page = Math.floor(first / PAGE); page <= Math.floor(Math.max(first, last - 1) / PAGE); page++) if (!pages.has(page) || stale.has(page)) load(page);
    for (let index = first; index < last; index++) {
      const item = pages.get(Math.floor(index / PAGE))?.[index % PAGE];
      let row = rows.get(index);
      if (!row) { row = line(index); rows.set(index, row); }
      tell(row, item);
    }
    // In the order in which they stand, whatever order they came in: so that Tab goes down the list.
    const inOrder = [...rows.keys()].sort((a, b) => a - b).map((index) => rows.get(index).node);
    inOrder.forEach((node, i) => { if (space.children[i] !== node) space.insertBefore(node, space.children[i] ?? null); });
    let none = body.querySelector(".empty");
    if (!total && pages.size) { if (!none) body.append(h("p", { class: "empty" }, state.q ? `No item’s name contains “${state.q}”.` : "No item yet: they come when the first bucket closes.")); }
    else none?.remove();
  }

  function line(index) {
    const link = h("a", { href: "#/items" }, "…"), little = h("div", { class: "cell spark-cell", role: "cell" });
    const cells = ["observed", "expected", "change"].map(() => h("div", { class: "cell n", role: "cell" }));
    const wide = ["next", "spikes"].map(() => h("div", { class: "cell n wide", role: "cell" }));
    const node = h("div", { class: "row", role: "row", "aria-rowindex": index + 2 }, h("div", { class: "cell item-cell", role: "rowheader" }, link), little, cells, wide);
    node.style.top = `${index * ROW}px`;
    return { node, link, little, cells, wide, shown: "" };
  }

  function tell(row, item) {
    const mark = item ? JSON.stringify(item) : "";
    if (row.shown === mark && mark) return;
    const moved = row.shown && item && row.item === item.item;
    row.shown = mark;
    row.item = item?.item;
    if (!item) return;
    row.link.href = linkTo(item.item);
    write(row.link, item.item);
    fill(row.little, spark(item.spark));
    write(row.cells[0], number(item.observed));
    write(row.cells[1], expected(item.expected));
    write(row.cells[2], signed(item.change));
    row.cells[2].dataset.tone = item.change > 0 ? "rise" : item.change < 0 ? "fall" : "";
    write(row.wide[0], expected(item.next));
    write(row.wide[1], item.spikes ? `${number(item.spikes)} open` : NONE);
    row.wide[1].dataset.tone = item.spikes ? "fall" : "none";
    row.node.classList.toggle("has-spike", item.spikes > 0);
    if (moved) { row.node.classList.remove("moved"); void row.node.offsetWidth; row.node.classList.add("moved"); }
  }

  body.addEventListener("scroll", () => { state.scroll = body.scrollTop; requestAnimationFrame(draw); }, { passive: true });
  body.addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1, PageDown: 10, PageUp: -10 }[event.key];
    const now = [...rows].find(([, row]) => row.link === document.activeElement);
    if (step === undefined || !now) return;
    event.preventDefault();
    const to = Math.max(0, Math.min(total - 1, now[0] + step));
    if (to * ROW < body.scrollTop) body.scrollTop = to * ROW;
    else if ((to + 1) * ROW > body.scrollTop + body.clientHeight) body.scrollTop = (to + 1) * ROW - body.clientHeight;
    draw();
    rows.get(to)?.link.focus({ preventScroll: true });
  });
  let typing;
  search.addEventListener("input", () => { clearTimeout(typing); typing = setTimeout(() => { state.q = search.value.trim(); anew(); }, 120); });
  search.addEventListener("keydown", (event) => { if (event.key === "ArrowDown" || event.key === "Enter") { event.preventDefault(); rows.get(0)?.link.focus(); } });
  sort.addEventListener("change", () => by(sort.value, false));
  turn.addEventListener("click", () => by(state.sort, true));
  size.addEventListener("change", () => { state.bucket = size.value; anew(); });
  const watch = new ResizeObserver(() => draw());
  watch.observe(body);
  const scroll = state.scroll;
  anew();
  if (scroll) load(Math.floor(scroll / ROW / PAGE)).then(() => { body.scrollTop = scroll; });

  return {
    refresh: anew,
    overview(now) {
      const sizes = now.buckets.join();
      if (size.dataset.sizes !== sizes && now.buckets.length) {
        size.dataset.sizes = sizes;
        fill(size, now.buckets.map((name) => h("option", { value: name, selected: name === state.bucket }, `by ${name}`)));
        size.hidden = now.buckets.length < 2;
      }
      const mark = `${now.records.demand}.${now.records.spikes}`;
      if (mark === seen) return;
      if (seen !== null) { for (const page of pages.keys()) stale.add(page); draw(); }
      seen = mark;
    },
    close() { closed = true; watch.disconnect(); clearTimeout(typing); },
  };
}
