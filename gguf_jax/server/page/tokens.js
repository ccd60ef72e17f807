// An answer as it comes: a span for each token, with what the model held of it, and blocks of code recognised.
//
// Text of models is hostile: it becomes text nodes, never markup. Of Markdown only fenced blocks of code are read.

const OPENS = /^ {0,3}```[\w+#.-]*[ \t]*$/;
const CLOSES = /^ {0,3}```[ \t]*$/;

/** Scores of a choice of either kind of completion -> [{text, p, top: [{text, p}]}]. */
export function scores(choice) {
  const found = choice.logprobs;
  if (found?.content) {
    const one = (entry) => ({ text: spelled(entry), p: Math.exp(entry.logprob) });
    return found.content.map((entry) => ({ ...one(entry), top: (entry.top_logprobs ?? []).map(one) }));
  }
  return (found?.tokens ?? []).map((text, i) => ({
    text,
    p: Math.exp(found.token_logprobs[i]),
    top: Object.entries(found.top_logprobs?.[i] ?? {}).map(([text, value]) => ({ text, p: Math.exp(value) })),
  }));
}

/** A token's text; of one that is no whole text its bytes. */
function spelled({ token, bytes }) {
  if (!token.includes("\ufffd") || !bytes) return token;
  return bytes.map((byte) => `<${byte.toString(16).padStart(2, "0")}>`).join("");
}

const element = (name, className, text) => {
  const found = document.createElement(name);
  if (className) found.className = className;
  if (text !== undefined) found.textContent = text;
  return found;
};

/** What the model held of a span's tokens. */
export const scoresOf = new WeakMap();

function span(text, tokens) {
  const found = element("span", tokens.length ? "token" : "", text);
  if (tokens.length) {
    const p = tokens.reduce((product, token) => product * token.p, 1);
    // by how many digits: a token of one in a thousand is as unlikely as colours go
    found.style.setProperty("--likely", `${Math.max(0, 100 + (100 * Math.log10(p)) / 3).toFixed(1)}%`);
    scoresOf.set(found, tokens);
  }
  return found;
}

/** The text of one answer, growing in `root`; `plain`: with no blocks in it, so that it can stand in a line. */
export class Flow {
  constructor(root, plain = false) {
    this.root = root;
    this.plain = plain;
    this.text = "";
    this.count = 0; // tokens
    this.waiting = []; // tokens whose text has not come: halves of a character, or what may become a stop text
    this.block = null; // the last one: {code, root, pieces}
    this.line = ""; // the last one, as far as it has come
  }

  /** Text that an event brings, and the scores of the tokens that it is of. */
  append(text, tokens) {
    this.waiting.push(...tokens);
    this.count += tokens.length || (text ? 1 : 0);
    if (!text) return;
    const whole = this.waiting.length > 1 && this.waiting.map((token) => token.text).join("") === text;
    const pieces = whole ? this.waiting.map((token) => [token.text, [token]]) : [[text, this.waiting]];
    this.waiting = [];
    for (const [piece, scored] of pieces) this.#put(piece, scored);
  }

  /** It is over: a last fence needs no line end. */
  end() {
    if (!this.plain && (this.block?.code ? CLOSES : OPENS).test(this.line)) this.#rebuild(true);
  }

  #put(text, tokens) {
    this.text += text;
    if (this.plain) {
      this.root.append(span(text, tokens));
      return;
    }
    this.block ??= this.#open(false);
    this.block.pieces.push([text, tokens]);
    this.block.body.append(span(text, tokens));
    const lines = (this.line + text).split("\n");
    this.line = lines.pop();
    if (lines.some((line) => (this.block.code ? CLOSES : OPENS).test(line))) this.#rebuild(false);
  }

  #open(code, language) {
    const root = element(code ? "figure" : "div", code ? "code" : "prose");
    const body = element(code ? "code" : "div");
    if (code) {
      const head = element("figcaption", "", language || "code");
      const copy = element("button", "copy", "Copy");
      copy.type = "button";
      copy.addEventListener("click", () => copied(copy, body.textContent));
      head.append(copy);
      const pre = element("pre");
      pre.append(body);
      root.append(head, pre);
    } else {
      root.append(body);
    }
    this.root.append(root);
    return { code, root, body, pieces: [] };
  }

  /** The last block anew, as it holds a fence: before the fence stays, behind it something else begins. */
  #rebuild(ended) {
    const { pieces } = this.block;
    let { code } = this.block;
    const language = this.block.language;
    this.block.root.remove();
    const text = pieces.map(([piece]) => piece).join("");
    // ranges of the text: [from, to, code, language], fences left out
    const ranges = [];
    let from = 0;
    let at = 0;
    let named = language;
    while (at < text.length) {
      const end = text.indexOf("\n", at);
      const line = text.slice(at, end < 0 ? undefined : end);
      if ((end >= 0 || ended) && (code ? CLOSES : OPENS).test(line)) {
        ranges.push([from, at, code, named]);
        named = code ? undefined : line.trim().slice(3);
        code = !code;
        from = end < 0 ? text.length : end + 1;
      }
      if (end < 0) break;
      at = end + 1;
    }
    ranges.push([from, text.length, code, named]);
    ranges.forEach(([from, to, code, language], i) => {
      if (from === to && !code && (i < ranges.length - 1 || i === 0)) return;
      this.block = this.#open(code, language);
      this.block.language = language;
      let start = 0;
      for (const [piece, tokens] of pieces) {
        const part = piece.slice(Math.max(0, from - start), Math.max(0, to - start));
        if (part) {
          this.block.pieces.push([part, tokens]);
          this.block.body.append(span(part, tokens));
        }
        start += piece.length;
      }
    });
  }
}

/** Copies a text, and says so on the button. */
export async function copied(button, text) {
  const said = button.textContent;
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    button.textContent = "Refused"; // by the browser: the page is not at a safe address, or not in front
  }
  setTimeout(() => (button.textContent = said), 1200);
}

const shown = (text) => text.replaceAll(" ", "␣").replaceAll("\n", "↵").replaceAll("\t", "⇥") || "∅";
const percent = (p) => (p >= 0.9995 ? "100" : p < 0.001 ? "<0.1" : (100 * p).toFixed(1)) + " %";

/** The popup: a token and what else the model would have said. */
export class Popup {
  constructor(root) {
    this.root = root;
    this.owner = null;
  }

  show(owner) {
    const tokens = scoresOf.get(owner);
    if (!tokens) return this.hide();
    if (owner === this.owner) return;
    this.hide();
    this.owner = owner;
    owner.classList.add("current");
    owner.setAttribute("aria-describedby", this.root.id);
    this.root.replaceChildren(...tokens.map(Popup.#described));
    this.root.hidden = false;
    // below the token, where there is room, and inside the window
    const [first] = owner.getClientRects();
    const { offsetWidth: width, offsetHeight: height } = this.root;
    const room = document.documentElement;
    const left = Math.max(8, Math.min(first.left, room.clientWidth - width - 8));
    const below = first.bottom + 6;
    const top = below + height + 8 < room.clientHeight ? below : Math.max(8, first.top - height - 6);
    this.root.style.left = `${left}px`;
    this.root.style.top = `${top}px`;
  }

  hide() {
    this.root.hidden = true;
    this.owner?.classList.remove("current");
    this.owner?.removeAttribute("aria-describedby");
    this.owner = null;
  }

  static #described(token) {
    const group = element("div", "scores");
    const head = element("p", "chosen");
    head.append(element("code", "", shown(token.text)), element("b", "", percent(token.p)));
    group.append(head);
    const rows = [...token.top].sort((one, other) => other.p - one.p);
    if (!rows.some((row) => row.text === token.text)) rows.push(token);
    if (!token.top.length) return group;
    const list = element("ol");
    for (const row of rows) {
      const item = element("li", row.text === token.text ? "own" : "");
      const bar = element("i");
      bar.style.setProperty("--p", `${(100 * row.p).toFixed(1)}%`);
      item.append(element("code", "", shown(row.text)), bar, element("span", "", percent(row.p)));
      list.append(item);
    }
    group.append(list);
    return group;
  }
}
