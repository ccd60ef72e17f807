// How the page samples and looks: what was changed is kept in this browser, the rest is the server's.

const KEPT = "gguf_jax.settings";

/** name, label, kind, bounds; `chat`: only where there are messages. The server's names, where it has one. */
export const FIELDS = [
  { name: "system", label: "System prompt", kind: "text", chat: true, wide: true, fallback: "" },
  { name: "max_tokens", label: "Longest answer", kind: "number", min: 1, step: 1, fallback: 256, title: "In tokens" },
  { name: "temperature", label: "Temperature", kind: "number", min: 0, max: 5, step: 0.05, title: "0 takes the best" },
  { name: "top_k", label: "Top-k", kind: "number", min: 0, step: 1, title: "Keeps the k best tokens; 0 keeps all" },
  { name: "top_p", label: "Top-p", kind: "number", min: 0, max: 1, step: 0.01, title: "Keeps this share; 1 keeps all" },
  { name: "min_p", label: "Min-p", kind: "number", min: 0, max: 1, step: 0.01, title: "Least share of the best's" },
  { name: "repeat_penalty", label: "Repeat penalty", kind: "number", min: 0.01, step: 0.05, title: "1 is none" },
  { name: "presence_penalty", label: "Presence penalty", kind: "number", step: 0.1, title: "0 is none" },
  { name: "frequency_penalty", label: "Frequency penalty", kind: "number", step: 0.1, title: "0 is none" },
  { name: "seed", label: "Seed", kind: "number", min: 0, step: 1, fallback: "", hint: "a new one", empty: true },
  { name: "stop", label: "Stop at", kind: "text", wide: true, fallback: "", hint: "one text a line" },
  { name: "scores", label: "Ask for probabilities", kind: "switch", wide: true, fallback: true },
];

function read() {
  try {
    const kept = JSON.parse(localStorage.getItem(KEPT));
    return kept && typeof kept === "object" ? kept : {};
  } catch {
    return {};
  }
}

/** The settings: `get(name)`, `set(name, value)`, and a form that shows them. */
export class Settings {
  constructor() {
    this.changed = read();
    this.defaults = Object.fromEntries(FIELDS.map(({ name, fallback }) => [name, fallback]));
  }

  get = (name) => this.changed[name] ?? this.defaults[name];

  set(name, value) {
    if (value === this.defaults[name]) delete this.changed[name];
    else this.changed[name] = value;
    this.#keep();
  }

  #keep() {
    try {
      localStorage.setItem(KEPT, JSON.stringify(this.changed));
    } catch {
      // a browser that keeps nothing: they hold until the page is left
    }
  }

  /** Takes the server's defaults for what nobody has changed. */
  adopt(params) {
    for (const { name } of FIELDS) if (name in params && name !== "seed") this.defaults[name] = params[name];
  }

  reset() {
    for (const { name } of FIELDS) delete this.changed[name];
    this.#keep();
  }

  /** Fields of a request. */
  request() {
    const found = {};
    for (const { name, kind, chat } of FIELDS) {
      const value = this.get(name);
      if (kind === "number" && value !== "" && value !== undefined) found[name] = value;
      else if (kind === "text" && !chat) {
        const lines = value.split("\n").filter(Boolean).map((line) => line.replaceAll("\\n", "\n"));
        if (lines.length) found[name] = lines;
      }
    }
    return found;
  }

  /** Fills a form with the fields. */
  show(form) {
    form.replaceChildren(
      ...FIELDS.map((field) => {
        const label = document.createElement("label");
        label.classList.toggle("wide", Boolean(field.wide));
        label.classList.toggle("switch", field.kind === "switch");
        label.classList.toggle("chat-only", Boolean(field.chat));
        label.title = field.title ?? "";
        const name = document.createElement("span");
        name.textContent = field.label;
        const input = document.createElement(field.kind === "text" ? "textarea" : "input");
        input.name = field.name;
        if (field.kind === "text") input.rows = 2;
        else input.type = field.kind === "switch" ? "checkbox" : "number";
        for (const bound of ["min", "max"]) if (bound in field) input[bound] = field[bound];
        if (field.kind === "number") input.step = "any";
        input.placeholder = field.hint ?? "";
        if (field.kind === "switch") input.checked = this.get(field.name);
        else input.value = tidy(this.get(field.name));
        input.addEventListener("input", () => this.#take(field, input));
        label.append(...(field.kind === "switch" ? [input, name] : [name, input]));
        return label;
      }),
    );
  }

  #take(field, input) {
    if (field.kind === "switch") return this.set(field.name, input.checked);
    if (field.kind === "text") return this.set(field.name, input.value);
    const value = input.value === "" ? (field.empty ? "" : this.defaults[field.name]) : Number(input.value);
    const whole = field.step !== 1 || value === "" || Number.isSafeInteger(value);
    const good = input.validity.valid && whole;
    input.setAttribute("aria-invalid", String(!good));
    if (good) this.set(field.name, value);
  }
}

/** Of a float32's many digits those that mean something. */
const tidy = (value) => (typeof value === "number" ? String(Number(value.toPrecision(6))) : (value ?? ""));
