// Asking: JSON with the key of this tab, and one stream of events that comes back by itself where it was.

let key = null;
try { key = sessionStorage.getItem("nowcart-key"); } catch { /* storage is turned off */ }

let asking = null;

/** Asks for a key, once at a time. */
function askForKey(why) {
  asking ??= new Promise((resolve) => {
    const dialog = document.getElementById("ask");
    const input = document.getElementById("ask-key");
    document.getElementById("ask-why").textContent = why;
    input.value = "";
    dialog.addEventListener("cancel", (event) => event.preventDefault());
    dialog.addEventListener("close", () => {
      key = input.value.trim();
      try { sessionStorage.setItem("nowcart-key", key); } catch { /* then for this page alone */ }
      asking = null;
      resolve();
    }, { once: true });
    dialog.showModal();
  });
  return asking;
}

function headers(more = {}) {
  return key ? { Authorization: `Bearer ${key}`, ...more } : more;
}

export class Problem extends Error {
  constructor(status, body) {
    super(body.detail ?? `status ${status}`);
    this.status = status;
    this.body = body;
  }
}

/** GET, as JSON. */
export async function get(path, signal) {
  for (;;) {
    const answer = await fetch(path, { headers: headers(), signal, cache: "no-cache" });
    if (answer.ok) return answer.json();
    if (answer.status === 401) {
      await askForKey(key ? "That key is not known here. Enter another one." : "This server answers to those it knows: enter an API key or a token.");
      continue;
    }
    let body = {};
    try { body = await answer.json(); } catch { /* a proxy's own words */ }
    throw new Problem(answer.status, body);
  }
}

const LEAST_WAIT = 500, MOST_WAIT = 10000, SILENCE = 40000;

/**
 * A stream of events: read with fetch, since EventSource can send no key. It comes back after the last id that was read, waiting longer
 * each time that fails.
 */
export class Stream {
  constructor(path, heard, state) {
    this.path = path;
    this.heard = heard;
    this.state = state;
    this.last = "";
    this.wait = LEAST_WAIT;
    this.over = false;
    this.run();
  }

  close() {
    this.over = true;
    this.abort?.abort();
  }

  async run() {
    while (!this.over) {
      try {
        await this.read();
      } catch (error) {
        if (this.over) return;
        if (error instanceof Problem && error.status === 422) return this.state("refused");
      }
      if (this.over) return;
      this.state("lost");
      await new Promise((resolve) => setTimeout(resolve, this.wait * (0.75 + Math.random() / 2)));
      this.wait = Math.min(this.wait * 2, MOST_WAIT);
    }
  }

  async read() {
    this.abort = new AbortController();
    const answer = await fetch(this.path, { headers: headers(this.last ? { "Last-Event-ID": this.last } : {}), signal: this.abort.signal, cache: "no-store" });
    if (answer.status === 401) {
      await askForKey("This server answers to those it knows: enter an API key or a token.");
      return;
    }
    if (!answer.ok) throw new Problem(answer.status, {});
    this.state("live");
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "", silent;
    const listen = () => {
      clearTimeout(silent);
      silent = setTimeout(() => this.abort.abort(), SILENCE);  // heartbeats come every 15 s
    };
    try {
      for (;;) {
        listen();
        const { value, done } = await reader.read();
        if (done) return;
        this.wait = LEAST_WAIT;
        rest += value;
        const events = rest.split("\n\n");
        rest = events.pop();
        for (const event of events) this.take(event);
      }
    } finally {
      clearTimeout(silent);
    }
  }

  take(text) {
    let name = "message", data = "";
    for (const line of text.split("\n")) {
      if (line.startsWith("id: ")) this.last = line.slice(4);
      else if (line.startsWith("event: ")) name = line.slice(7);
      else if (line.startsWith("data: ")) data += line.slice(6);
      else if (line.startsWith("retry: ")) this.wait = Number(line.slice(7)) || LEAST_WAIT;
    }
    if (data) this.heard(name, JSON.parse(data));
  }
}
