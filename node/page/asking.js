// Requests to this node, and how their problems are shown. A write that brought no answer is never called failed.
import { textOf } from "./bytes.js";
import { t } from "./strings.js";

const REQUEST_TIMEOUT_MS = 12000;

export class Problem extends Error {
  constructor(form, status = 0) {
    super(form.detail || form.title || t("ask.wrong"));
    this.form = form;
    this.status = status;
    this.unknown = form.outcome === "unknown";
  }
}

// Send one request; return the response, or throw a Problem. `mutation`: silence means unknown.
export async function ask(method, path, { headers = {}, body, mutation = false, timeoutMs = REQUEST_TIMEOUT_MS, also = [] } = {}) {
  let response;
  let bytes;
  try {
    const signal = AbortSignal.timeout(timeoutMs);
    response = await fetch(path, { method, headers, body, signal, redirect: "error", cache: "no-store" });
    bytes = new Uint8Array(await response.arrayBuffer());
  } catch (error) {
    const silent = error.name === "TimeoutError" ? t("ask.within", { seconds: timeoutMs / 1000 }) : t("ask.dead");
    throw new Problem({
      title: t(mutation ? "ask.unknown" : "ask.none"),
      detail: silent,
      outcome: mutation ? "unknown" : "not_applied",
      advice: t(mutation ? "ask.maybe" : "ask.again"),
    });
  }
  const answer = { status: response.status, headers: response.headers, bytes };
  if (response.ok || also.includes(response.status)) return answer;
  throw problemOf(answer, mutation);
}

export function problemOf(answer, mutation) {
  const fromNode = answer.headers.has("Acordo-Node");
  let form = null;
  if ((answer.headers.get("Content-Type") || "").includes("json")) {
    try {
      form = JSON.parse(textOf(answer.bytes));
    } catch { /* not what the API promises: treated as unknown below */ }
  }
  if (!fromNode || form === null || typeof form !== "object") {
    const refused = answer.status >= 400 && answer.status < 500 && answer.status !== 404;
    form = {
      title: t("ask.status", { status: answer.status }),
      detail: t(fromNode ? "ask.broken" : "ask.proxy"),
      outcome: mutation && !refused ? "unknown" : "not_applied",
      advice: t(mutation && !refused ? "ask.maybe" : "ask.again"),
    };
  }
  return new Problem(form, answer.status);
}

export function jsonOf(answer) {
  try {
    return JSON.parse(textOf(answer.bytes));
  } catch {
    throw new Problem({ title: t("ask.damaged"), detail: t("ask.nojson"), advice: t("ask.again") });
  }
}

export function newOpId() {
  const bytes = crypto.getRandomValues(new Uint8Array(12));
  return "page-" + Date.now().toString(16) + "-" + Array.from(bytes, (b) => b.toString(16).padStart(2, "0")).join("");
}

// -------------------------------------------------------------------------------------------- showing problems

export function element(name, text, className) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

// Show a problem in a box: what happened, what it means for the data, what to do, and buttons for that.
export function showProblem(box, problem, actions = []) {
  if (!(problem instanceof Problem)) throw problem;
  const { form } = problem;
  box.replaceChildren();
  box.classList.toggle("unknown", problem.unknown);
  box.append(element("p", form.title || t("ask.problem"), "title"));
  if (form.detail && form.detail !== form.title) box.append(element("p", form.detail));
  if (form.allowed) box.append(element("p", t("ask.allowed", { allowed: form.allowed })));
  const facts = [form.advice, problem.status && `HTTP ${problem.status}`, form.code].filter(Boolean).join(" · ");
  if (facts) box.append(element("p", facts, "quiet"));
  if (actions.length) {
    const row = element("div", undefined, "row");
    for (const [label, act] of actions) {
      const button = element("button", label, "plain");
      button.type = "button";
      button.addEventListener("click", act);
      row.append(button);
    }
    box.append(row);
  }
  box.hidden = false;
}

export function hide(box) {
  box.hidden = true;
  box.replaceChildren();
}
