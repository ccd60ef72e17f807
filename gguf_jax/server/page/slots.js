// A live view of the server: its slots, who waits, and how fast it is.

import { json, metrics } from "./api.js";

const EVERY = 1000; // milliseconds
const POINTS = 60;

const part = (name, className, text = "") => {
  const found = document.createElement(name);
  found.className = className;
  found.textContent = text;
  return found;
};

export class Slots {
  /** `visible()`: whether anybody looks. */
  constructor(visible) {
    this.visible = visible;
    this.rates = [];
    this.last = null; // {at, drawn}
    this.rows = [];
    setInterval(() => this.look(), EVERY);
    this.look();
  }

  async look() {
    if (!this.ready || !this.visible() || document.hidden || this.looking) return;
    this.looking = true;
    try {
      const [slots, figures] = await Promise.all([json("slots"), metrics()]);
      this.#speed(figures);
      this.#list(slots);
      document.getElementById("queue").textContent = waiting(figures);
    } catch {
      document.getElementById("queue").textContent = "Nothing known at the moment.";
    } finally {
      this.looking = false;
    }
  }

  #speed({ tokens_predicted_total: drawn }) {
    const at = performance.now();
    const { last } = this;
    this.last = { at, drawn };
    // a pause in looking is no slow time
    if (!last || at - last.at > 5 * EVERY || drawn < last.drawn) return;
    const rate = ((drawn - last.drawn) * 1000) / (at - last.at);
    this.rates = [...this.rates, rate].slice(-POINTS);
    document.getElementById("rate").textContent = rate.toFixed(1);
    const most = Math.max(...this.rates, 1);
    const x = (i) => 120 - (this.rates.length - 1 - i) * (120 / (POINTS - 1));
    const line = this.rates.map((each, i) => `${x(i).toFixed(1)},${(30 - (28 * each) / most).toFixed(1)}`).join("L");
    const svg = document.getElementById("spark");
    svg.querySelector(".edge").setAttribute("d", `M${line}`);
    svg.querySelector(".area").setAttribute("d", `M${x(0).toFixed(1)},32L${line}L120,32Z`);
    svg.setAttribute("aria-label", `Tokens a second: ${rate.toFixed(1)} now, ${most.toFixed(1)} at most`);
  }

  #list(slots) {
    const list = document.getElementById("slots");
    while (this.rows.length < slots.length) {
      const row = part("li", "slot");
      row.append(part("b", "id"), part("span", "state"), part("span", "what"), part("i", "bar"));
      list.append(row);
      this.rows.push(row);
    }
    slots.forEach((slot, i) => {
      const [id, state, what, bar] = this.rows[i].children;
      this.rows[i].dataset.state = slot.state;
      id.textContent = slot.id;
      state.textContent = { idle: "free", prompt: "reading", answer: "writing" }[slot.state];
      what.textContent = told(slot);
      bar.style.setProperty("--p", `${((100 * slot.n_held) / slot.n_ctx).toFixed(1)}%`);
      bar.title = `${slot.n_held} of ${slot.n_ctx} tokens held`;
    });
  }
}

function told(slot) {
  if (slot.state === "prompt") {
    return `${slot.n_prompt_tokens_processed + slot.n_prompt_tokens_cache} of ${slot.n_prompt_tokens}`;
  }
  if (slot.state === "answer") {
    return `${slot.n_prompt_tokens} + ${slot.n_decoded} · ${slot.tokens_per_second.toFixed(1)}/s`;
  }
  return slot.n_held ? `holds ${slot.n_held}` : "";
}

function waiting({ requests_processing: running, requests_deferred: deferred, requests_answered_total: done }) {
  return `${running} running · ${deferred} waiting · ${done} answered`;
}
