// The page: a conversation, or a text that the model goes on with.

import { events, hasKey, health, json, Refusal, setKey } from "./api.js";
import { Settings } from "./settings.js";
import { Slots } from "./slots.js";
import { copied, Flow, Popup, scores, scoresOf } from "./tokens.js";

const $ = (id) => document.getElementById(id);
const make = (name, className, text) => {
  const found = document.createElement(name);
  if (className) found.className = className;
  if (text !== undefined) found.textContent = text;
  return found;
};

const EXAMPLES = [
  "It was a cold evening in November, and the old house",
  "The captain had not spoken for three days. On the fourth he",
  "Of all the rooms in the museum, there was one that nobody",
];
const HINT = "Enter sends · Shift+Enter begins a line · Esc stops";

const settings = new Settings();
const popup = new Popup($("popup"));
const wide = matchMedia("(min-width: 60rem)"); // as in page.css: the panel stands beside the conversation
const slots = new Slots(() => $("panel").classList.contains("open") || wide.matches);

let props = null;
let mode = "text";
/** Of both modes the turns: {role, text, root} with, of the model's, {flow, thoughts, count, finish, began, ended}. */
const turns = { chat: [], text: [] };
let running = null; // the AbortController of the answer that is coming

// ---- what is said at the foot ----

function say(message, bad = false) {
  $("line").textContent = message;
  $("line").classList.toggle("bad", bad);
}

const hint = () => say(matchMedia("(pointer: coarse)").matches ? "" : HINT);

function failed(error) {
  if (error.name === "AbortError") return hint();
  if (error instanceof Refusal && error.status === 401) {
    askKey();
    if (!hasKey()) return; // which is no mistake
  }
  say(error instanceof Refusal ? error.message : `The page failed: ${error.message}`, true);
}

function askKey() {
  if (!$("key").open) $("key").showModal();
}

// ---- the transcript ----

const atEnd = () => $("scroller").scrollHeight - $("scroller").scrollTop - $("scroller").clientHeight < 40;
const toEnd = () => ($("scroller").scrollTop = $("scroller").scrollHeight);

function show() {
  const list = turns[mode];
  $("transcript").className = mode;
  $("transcript").replaceChildren(...list.map((turn) => turn.root), ...(mode === "text" ? [foot()] : []));
  $("start").hidden = list.length > 0 || !props;
  buttons();
}

/** A text has one foot, at its end; an answer of a chat has its own. */
let textFoot = null;
const foot = () => (textFoot ??= make("footer"));

function add(role, text) {
  const root = make(mode === "text" ? "span" : "article", role);
  const turn = { role, text, root, count: 0 };
  if (mode === "chat") root.append(make("h2", "unseen", role === "user" ? "You" : "Model"));
  if (role === "user") root.append(mode === "text" ? text : make("div", "said", text));
  else {
    const body = make(mode === "text" ? "span" : "div", "answer");
    body.tabIndex = 0;
    body.setAttribute("aria-label", "Answer. Left and right go through its tokens.");
    root.append(body);
    turn.flow = new Flow(body, mode === "text");
    if (mode === "chat") root.append((turn.foot = make("footer")));
  }
  turns[mode].push(turn);
  if (mode === "text") $("transcript").insertBefore(root, foot());
  else $("transcript").append(root);
  $("start").hidden = true;
  return turn;
}

/** Where a model's thoughts go that the server tells apart from its answer: shut, above it. */
function think(turn) {
  if (!turn.thoughts) {
    const root = make("details", "thoughts");
    const body = make("div", "answer");
    body.tabIndex = 0;
    turn.told = make("summary");
    root.append(turn.told, body);
    turn.flow.root.before(root);
    turn.thoughts = new Flow(body);
  }
  return turn.thoughts;
}

function remove(turn) {
  turns[mode].splice(turns[mode].indexOf(turn), 1);
  turn.root.remove();
}

function button(text, action) {
  const found = make("button", "", text);
  found.type = "button";
  found.addEventListener("click", () => action(found));
  return found;
}

/** Under an answer: what it took, and what can be done with it. */
function finish(turn) {
  const seconds = (turn.ended - turn.began) / 1000;
  const speed = turn.count > 1 && seconds > 0 ? ` · ${((turn.count - 1) / seconds).toFixed(1)}/s` : "";
  const why = { length: " · cut at its length", stopped: " · stopped" }[turn.finish] ?? "";
  const told = make("span", "quiet", `${turn.count} tokens${speed}${why}`);
  const copy = button("Copy", (self) => copied(self, mode === "text" ? whole() : turn.text));
  const again = button("Again", () => regenerate(turn));
  again.title = "Another answer in place of this one";
  for (const old of document.querySelectorAll("#transcript footer .again")) old.remove();
  again.classList.add("again");
  const more = mode === "text" ? [button("Go on", () => answer())] : [];
  (turn.foot ?? foot()).replaceChildren(told, copy, again, ...more);
}

const whole = () => turns.text.map((turn) => turn.text).join("");

// ---- asking ----

function request() {
  const fields = settings.request();
  const wanted = settings.get("scores");
  if (mode === "text") return ["v1/completions", { ...fields, prompt: whole(), ...(wanted ? { logprobs: 5 } : {}) }];
  const system = settings.get("system").trim();
  const messages = turns.chat.map(({ role, text }) => ({ role, content: text }));
  if (system) messages.unshift({ role: "system", content: system });
  return ["v1/chat/completions", { ...fields, messages, ...(wanted ? { logprobs: true, top_logprobs: 8 } : {}) }];
}

async function answer() {
  if (running || !props) return;
  const asked = mode;
  const [path, body] = request();
  if (mode === "text" && !body.prompt) return;
  popup.hide();
  hint();
  const turn = add("assistant", "");
  const target = turn.foot ?? foot();
  target.replaceChildren(); // what stands below a text that grows would jump from line to line
  turn.root.setAttribute("aria-busy", "true");
  running = new AbortController();
  buttons();
  toEnd();
  const came = []; // drawn once a frame, however many tokens come
  let frame = 0;
  const draw = () => {
    frame = 0;
    const follow = atEnd();
    for (const [text, thought, tokens] of came.splice(0)) {
      turn.count += tokens.length || 1;
      if (thought) think(turn).append(thought, text ? [] : tokens);
      if (text || !thought) turn.flow.append(text, tokens);
    }
    turn.text = turn.flow.text;
    if (turn.thoughts) turn.told.textContent = `${turn.text ? "Thought" : "Thinking"} · ${turn.thoughts.count} tokens`;
    if (follow) toEnd();
  };
  try {
    for await (const event of events(path, body, running.signal)) {
      const [choice] = event.choices ?? [];
      if (!choice) continue;
      const text = choice.text ?? choice.delta?.content ?? "";
      const thought = choice.delta?.reasoning_content ?? "";
      const tokens = scores(choice);
      if (text || thought || tokens.length) {
        turn.ended = performance.now();
        turn.began ??= turn.ended;
        came.push([text, thought, tokens]);
        frame ||= requestAnimationFrame(draw);
      }
      turn.finish = choice.finish_reason ?? turn.finish;
    }
  } catch (error) {
    turn.finish = "stopped";
    failed(error);
  }
  cancelAnimationFrame(frame);
  slots.look();
  const follow = atEnd();
  draw();
  turn.flow.end();
  turn.root.removeAttribute("aria-busy");
  running = null;
  if (asked === mode) {
    if (turn.count) finish(turn);
    else {
      remove(turn);
      target.replaceChildren();
      giveBack();
    }
    if (follow) toEnd();
  }
  buttons();
}

/** What got no answer can be changed and sent again. */
function giveBack() {
  const last = turns[mode].at(-1);
  if (last?.role === "user" && !$("input").value) {
    remove(last);
    $("input").value = last.text;
    grow();
  }
  const before = turns[mode].at(-1);
  if (before?.role === "assistant") finish(before);
  $("start").hidden = turns[mode].length > 0;
}

function regenerate(turn) {
  if (running) return;
  while (turns[mode].includes(turn)) remove(turns[mode].at(-1));
  answer();
}

function send() {
  if (running || !props) return;
  const text = $("input").value;
  if (!text.trim() && !(mode === "text" && turns.text.length)) return;
  if (text) add("user", text);
  $("input").value = "";
  grow();
  answer();
}

function begin() {
  running?.abort();
  popup.hide();
  turns[mode] = [];
  textFoot?.replaceChildren();
  hint();
  show();
  $("input").focus();
}

function buttons() {
  const text = $("input").value.trim();
  $("send").textContent = mode === "chat" ? "Send" : turns.text.length ? "Go on" : "Begin";
  $("send").disabled = !props || !(text || (mode === "text" && turns.text.length));
  $("send").hidden = Boolean(running);
  $("stop").hidden = !running;
  for (const radio of $("modes").querySelectorAll("input")) {
    radio.disabled = Boolean(running) || (radio.value === "chat" && !props?.chat_template);
    radio.checked = radio.value === mode;
  }
}

// ---- the composer ----

function grow() {
  const input = $("input");
  input.style.height = "auto";
  input.style.height = `${Math.min(input.scrollHeight, innerHeight / 3)}px`;
  buttons();
}

$("input").addEventListener("input", grow);
$("input").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    send();
  }
});
$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  send();
});
$("stop").addEventListener("click", () => running?.abort());
$("new").addEventListener("click", begin);
$("modes").addEventListener("change", (event) => choose(event.target.value));

function choose(wanted) {
  mode = wanted;
  document.documentElement.dataset.mode = mode;
  const chat = mode === "chat";
  $("input").placeholder = chat ? "Ask something" : "Begin a text, or write on in it";
  $("start").querySelector("h2").textContent = chat ? "Ask something" : "Begin a text";
  $("start").querySelector("p").textContent = chat
    ? "The model answers in this page. Nothing of it leaves the server."
    : "The model goes on where it ends. Point at a word to see what else it could have been.";
  $("examples").hidden = chat;
  show();
}

$("examples").replaceChildren(
  ...EXAMPLES.map((text) =>
    button(text, () => {
      $("input").value = text;
      send();
    }),
  ),
);

// ---- tokens' probabilities: with a mouse, a finger, and keys ----

const tokenAt = (event) => (event.target instanceof Element && scoresOf.has(event.target) ? event.target : null);

$("transcript").addEventListener("pointerover", (event) => {
  if (event.pointerType === "mouse") popup.show(tokenAt(event));
});
$("transcript").addEventListener("pointerleave", (event) => {
  if (event.pointerType === "mouse") popup.hide();
});
document.addEventListener("click", (event) => {
  const token = tokenAt(event);
  if (token) popup.show(token);
  else popup.hide();
});
$("scroller").addEventListener("scroll", () => popup.hide(), { passive: true });
$("transcript").addEventListener("focusout", () => popup.hide());
$("transcript").addEventListener("keydown", (event) => {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!step || !event.target.classList.contains("answer")) return;
  event.preventDefault();
  const all = [...event.target.querySelectorAll(".token")];
  const now = all.indexOf(popup.owner);
  const next = all[now < 0 ? (step > 0 ? 0 : all.length - 1) : Math.max(0, Math.min(all.length - 1, now + step))];
  next?.scrollIntoView({ block: "nearest" });
  // what scrolling hides is shown afterwards
  if (next) requestAnimationFrame(() => popup.show(next));
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  if (!$("popup").hidden) popup.hide();
  else if (running) running.abort();
  else panel(false);
});

// ---- the panel ----

function panel(open) {
  $("panel").classList.toggle("open", open);
  $("opener").setAttribute("aria-expanded", String(open));
  if (open) slots.look();
}
$("opener").addEventListener("click", () => {
  const open = !$("panel").classList.contains("open");
  panel(open);
  if (open) $("closer").focus();
});
$("closer").addEventListener("click", () => {
  panel(false);
  $("opener").focus();
});

settings.show($("settings"));
$("settings").addEventListener("submit", (event) => event.preventDefault());
$("reset").addEventListener("click", () => {
  settings.reset();
  settings.show($("settings"));
});

function look() {
  document.documentElement.dataset.theme = settings.get("theme") ?? "auto";
  document.documentElement.dataset.colour = String(Boolean(settings.get("colour")));
}
for (const radio of $("themes").querySelectorAll("input")) {
  radio.checked = radio.value === (settings.get("theme") ?? "auto");
  radio.addEventListener("change", () => {
    settings.set("theme", radio.value);
    look();
  });
}
$("colour").checked = Boolean(settings.get("colour"));
$("colour").addEventListener("change", () => {
  settings.set("colour", $("colour").checked);
  look();
});
look();

// ---- the server ----

$("key").addEventListener("cancel", (event) => event.preventDefault());
$("key").querySelector("form").addEventListener("submit", (event) => {
  event.preventDefault();
  setKey($("key-input").value);
  $("key").close();
  hint();
  connect();
});

const rounded = (n) => (n >= 1e9 ? `${(n / 1e9).toPrecision(3)} B` : `${(n / 1e6).toPrecision(3)} M`);
const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

async function connect() {
  const text = $("loading").querySelector("p");
  const bar = $("loading").querySelector("progress");
  for (;;) {
    const { status, progress, error } = await health();
    if (status === "ok") break;
    $("loading").hidden = false;
    bar.hidden = status !== "loading model";
    bar.value = progress;
    text.textContent =
      status === "loading model"
        ? `The model is being loaded: ${Math.round(100 * progress)} %`
        : (error ?? "The server does not answer.");
    await pause(status === "loading model" ? 200 : 2000);
  }
  $("loading").hidden = true;
  try {
    props = await json("props");
  } catch (error) {
    failed(error);
    return;
  }
  settings.adopt(props.default_generation_settings.params);
  settings.show($("settings"));
  const facts = [props.architecture, rounded(props.n_params), props.model_ftype, `context ${props.n_ctx}`];
  $("model").replaceChildren(make("b", "", props.model_alias), make("span", "", ` ${facts.join(" · ")}`));
  $("model").title = `${props.model_path}, ${facts.join(", ")}; ${props.build_info} on ${props.backend}`;
  document.title = `${props.model_alias} · gguf_jax`;
  slots.ready = true;
  slots.look();
  choose(props.chat_template ? "chat" : "text");
  hint();
  $("input").focus();
}

choose("text");
hint();
connect();
