// What the page asks of its server, and nobody else. Addresses are relative, so that it works below a path as well.

const KEY = "gguf_jax.key";

/** An answer that is an error, in the server's own line. */
export class Refusal extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export const hasKey = () => sessionStorage.getItem(KEY) !== null;
export const setKey = (key) => sessionStorage.setItem(KEY, key);

/** fetch, with the key; throws Refusal for what is no success. */
async function ask(path, options = {}) {
  const key = sessionStorage.getItem(KEY);
  const headers = { ...options.headers, ...(key ? { Authorization: `Bearer ${key}` } : {}) };
  let answer;
  try {
    answer = await fetch(path, { ...options, headers, cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal(0, "The server does not answer.");
  }
  if (answer.ok) return answer;
  let message = `The server answers ${answer.status}.`;
  try {
    message = (await answer.json()).error.message ?? message;
  } catch {
    // no body of the server's: something stands between
  }
  throw new Refusal(answer.status, String(message));
}

/** {status, progress, error}, also while the model is being loaded. */
export async function health() {
  try {
    return await (await fetch("health", { cache: "no-store" })).json();
  } catch {
    return { status: "gone", progress: 0 };
  }
}

export const json = async (path) => (await ask(path)).json();

/** Prometheus' text -> {name: number}, names without the prefix. */
export async function metrics() {
  const text = await (await ask("metrics")).text();
  const lines = text.split("\n").filter((line) => line && !line.startsWith("#"));
  return Object.fromEntries(
    lines.map((line) => [line.slice(line.indexOf(":") + 1, line.lastIndexOf(" ")), Number(line.split(" ").pop())]),
  );
}

/** Server-sent events of a completion, as objects. */
export async function* events(path, body, signal) {
  const answer = await ask(path, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ ...body, stream: true }),
    signal,
  });
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      if (!part.startsWith("data: ")) continue;
      const data = part.slice(6);
      if (data === "[DONE]") return;
      const event = JSON.parse(data);
      if (event.error) throw new Refusal(event.error.code ?? 500, String(event.error.message));
      yield event;
    }
  }
}
