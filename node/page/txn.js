// A transaction, put together from guards and operations: it takes effect as a whole or not at all.
import { Problem, ask, element, hide, jsonOf, newOpId, problemOf, showProblem } from "./asking.js";
import { byId, bytesOfJson, bytesTyped, jsonForm, visibleBytes } from "./bytes.js";
import { t } from "./strings.js";

const PARTS_MAX = 128;
const GUARDS = ["absent", "exists", "revision", "value", "version"];
const WRITES = ["put", "delete"];

let running = false;

// ----------------------------------------------------------------------------------------------------- rows

function field(label, size, { hint = "", value = "" } = {}) {
  const input = element("input");
  Object.assign(input, { type: "text", size, value, placeholder: hint, autocomplete: "off", spellcheck: false });
  input.setAttribute("aria-label", label);
  input.addEventListener("input", preview);
  return input;
}

function choice(label, names, kind) {
  const select = element("select");
  select.setAttribute("aria-label", label);
  for (const name of names) {
    const option = element("option", t(`txn.${kind}.${name}`));
    option.value = name;
    select.append(option);
  }
  return select;
}

function addRow(list, parts) {
  if (byId(list).childElementCount >= PARTS_MAX) return null;
  const row = element("li", undefined, "row wrap");
  const remove = element("button", "×", "plain small");
  remove.type = "button";
  remove.setAttribute("aria-label", t("txn.remove"));
  remove.addEventListener("click", () => {
    row.remove();
    preview();
  });
  row.append(...parts, remove);
  byId(list).append(row);
  parts[0].focus();
  preview();
  return row;
}

function addGuard() {
  const key = field(t("txn.key"), 18, { hint: t("txn.key") });
  const kind = choice(t("txn.condition"), GUARDS, "guard");
  const argument = field(t("txn.argument"), 14);
  const row = addRow("guards", [key, kind, argument]);
  const show = () => {
    argument.hidden = ["absent", "exists"].includes(kind.value);
    preview();
  };
  kind.addEventListener("change", show);
  show();
  if (row !== null) row.form = () => guardForm(key.value, kind.value, argument.value);
}

function addWrite(list) {
  const kind = choice(t("txn.operation"), WRITES, "write");
  const key = field(t("txn.key"), 18, { hint: t("txn.key") });
  const value = field(t("txn.value"), 18, { hint: t("txn.value") });
  const ttl = field(t("txn.ttl"), 7, { hint: t("txn.ttl") });
  const row = addRow(list, [kind, key, value, ttl]);
  const show = () => {
    value.hidden = ttl.hidden = kind.value === "delete";
    preview();
  };
  kind.addEventListener("change", show);
  show();
  if (row !== null) row.form = () => writeForm(kind.value, key.value, value.value, ttl.value.trim());
}

function addRead() {
  const key = field(t("txn.key"), 18, { hint: t("txn.key") });
  const row = addRow("reads", [key]);
  if (row !== null) row.form = () => bytesForm(key.value, true);
}

// ------------------------------------------------------------------------------------------------- its JSON

function bytesForm(text, isKey) {
  const bytes = bytesTyped(text);
  if (bytes === null) throw new Problem({ title: t("list.base64"), advice: t("bytes.fix") });
  if (isKey && !bytes.length) throw new Problem({ title: t("key.empty"), allowed: t("key.empty.allowed") });
  return jsonForm(bytes);
}

function numberIn(text) {
  const found = Number(text.trim() || NaN);
  if (!Number.isSafeInteger(found) || found < 0) throw new Problem({ title: t("txn.number"), advice: t("bytes.fix") });
  return found;
}

function guardForm(key, kind, argument) {
  const guard = { key: bytesForm(key, true) };
  if (kind === "absent" || kind === "exists") return { ...guard, [kind]: true };
  if (kind === "value") return { ...guard, value: bytesForm(argument, false) };
  if (kind === "revision") return { ...guard, revision: numberIn(argument) };
  return { ...guard, compare: "version", is: "=", to: numberIn(argument) };
}

function writeForm(kind, key, value, ttl) {
  if (kind === "delete") return { delete: bytesForm(key, true) };
  const lasting = ttl === "" ? {} : { ttl: Number(ttl.replace(",", ".")) };
  if (ttl !== "" && !(lasting.ttl > 0)) throw new Problem({ title: t("txn.badttl"), advice: t("bytes.fix") });
  return { put: bytesForm(key, true), value: bytesForm(value, false), ...lasting };
}

function forms(list) {
  return [...byId(list).children].map((row) => row.form());
}

function body() {
  const otherwise = forms("otherwise");
  return {
    guards: forms("guards"),
    writes: forms("writes"),
    ...(otherwise.length || byId("has-otherwise").checked ? { otherwise } : {}),
    reads: forms("reads"),
  };
}

function preview() {
  let text;
  try {
    text = JSON.stringify(body(), null, 2);
  } catch (problem) {
    if (!(problem instanceof Problem)) return; // a row that is just being made
    text = problem.form.title;
  }
  byId("txn-json").textContent = text;
}

// -------------------------------------------------------------------------------------------------- running

// Run one action at a time. All attempts of one transaction carry the same op_id.
async function act(work, actionsFor) {
  if (running) return;
  running = true;
  byId("txn-run").disabled = true;
  hide(byId("txn-problem"));
  byId("txn-done").replaceChildren();
  try {
    await work();
  } catch (problem) {
    showProblem(byId("txn-problem"), problem, actionsFor(problem));
  } finally {
    running = false;
    byId("txn-run").disabled = false;
  }
}

async function send(made) {
  const headers = { "Content-Type": "application/json", "Idempotency-Key": `"${made.opId}"` };
  const answer = await ask("POST", "/v1/txn", { headers, body: made.body, mutation: true });
  if (!answer.headers.has("Acordo-Node")) throw problemOf(answer, true);
  showDone(jsonOf(answer), made.opId);
}

async function lookUp(made) {
  const found = jsonOf(await ask("GET", `/v1/operations/${encodeURIComponent(made.opId)}`));
  if (found.outcome === "applied") showDone({ reads: [], ...found }, made.opId);
  else if (found.outcome === "refused" || found.outcome === "expired") {
    byId("txn-done").append(element("p", t("key.found.not", { outcome: found.outcome }), "state"));
  } else {
    throw new Problem({ title: t("key.found.unknown"), detail: found.detail, outcome: "unknown", advice: t("key.found.again") });
  }
}

function actionsAfter(problem, made) {
  if (made === null || !(problem.unknown || problem.status === 503)) return [];
  const next = (found) => {
    if (problem.unknown && ![409, 422].includes(found.status)) found.unknown = true;
    return actionsAfter(found, made);
  };
  const again = [t("do.again"), () => act(() => send(made), next)];
  return problem.unknown ? [[t("do.lookup"), () => act(() => lookUp(made), next)], again] : [again];
}

function showDone(done, opId) {
  const told = t(`txn.done.${done.branch}`, { revision: done.revision }) + (done.again ? t("key.done.again") : "");
  const box = byId("txn-done");
  box.append(element("p", told, "state good"));
  const link = element("a", t("txn.operation.of"));
  link.href = `#operations/${encodeURIComponent(opId)}`;
  box.append(link);
  if (!done.reads.length) return;
  box.append(element("p", t("txn.before"), "quiet"));
  const list = element("ul", undefined, "reads");
  for (const each of done.reads) {
    const row = element("li");
    row.append(visibleBytes(bytesOfJson(each.key)), " = ");
    row.append(each.value === null || each.value === undefined
      ? element("span", t("txn.absent"), "quiet") : visibleBytes(bytesOfJson(each.value)));
    list.append(row);
  }
  box.append(list);
}

// A transaction that deletes asks first.
function confirmed(form) {
  const deleted = [...form.writes, ...(form.otherwise ?? [])].filter((each) => "delete" in each).length;
  if (!deleted) return true;
  const dialog = byId("ask-txn");
  byId("ask-txn-what").textContent = t("txn.ask", { deleted });
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  });
}

async function run() {
  let made = null;
  await act(
    async () => {
      const form = body();
      if (!(await confirmed(form))) return;
      made = { body: JSON.stringify(form), opId: newOpId() };
      await send(made);
    },
    (problem) => actionsAfter(problem, made),
  );
}

byId("add-guard").addEventListener("click", addGuard);
byId("add-write").addEventListener("click", () => addWrite("writes"));
byId("add-otherwise").addEventListener("click", () => addWrite("otherwise"));
byId("add-read").addEventListener("click", addRead);
byId("has-otherwise").addEventListener("change", preview);
byId("txn-form").addEventListener("submit", (event) => {
  event.preventDefault();
  run();
});
byId("ask-txn-yes").addEventListener("click", () => byId("ask-txn").close("yes"));
byId("ask-txn-no").addEventListener("click", () => byId("ask-txn").close(""));
preview();
