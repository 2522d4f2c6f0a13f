// The history of a key: its kept versions, newest first, and what each of them changed.
import { Problem, ask, element, hide, jsonOf, showProblem } from "./asking.js";
import { byId, bytesOfJson, percent } from "./bytes.js";
import { diffOf } from "./diffs.js";
import { number, t } from "./strings.js";

const SHOWN = 10;

const box = byId("history");
const state = { key: null, restore: null, asked: 0 };

// Show the history of a key, now if it is open, or as soon as somebody opens it.
export function historyOf(bytes, restore) {
  Object.assign(state, { key: bytes, restore });
  box.hidden = false;
  if (box.open) load(null);
}

export function forgetHistory() {
  state.key = null;
  state.asked += 1;
  box.hidden = true;
  byId("versions").replaceChildren();
}

async function load(before) {
  const { key } = state;
  if (key === null) return;
  const asked = ++state.asked;
  hide(byId("history-problem"));
  const query = `limit=${SHOWN}${before === null ? "" : `&before=${before}`}`;
  try {
    const page = jsonOf(await ask("GET", `/v1/history/${percent(key)}?${query}`));
    if (asked !== state.asked) return;
    show(page, before === null);
  } catch (problem) {
    if (!(problem instanceof Problem) || asked !== state.asked) return;
    showProblem(byId("history-problem"), problem, [[t("do.again"), () => load(before)]]);
  }
}

function show(page, first) {
  const list = byId("versions");
  if (first) list.replaceChildren();
  else list.lastElementChild?.remove(); // the button for more
  const values = page.items.map((item) => (item.value === null || item.value === undefined ? null : bytesOfJson(item.value)));
  page.items.forEach((item, at) => {
    // Without the version before it there is nothing to compare with: it was pruned, or is on the next page.
    const before = at + 1 < values.length ? values[at + 1] : page.before === undefined ? null : undefined;
    list.append(versionOf(item, values[at], before, item.value === undefined));
  });
  if (!page.items.length) list.append(element("li", t("history.none"), "quiet"));
  if (page.before !== undefined) list.append(moreButton(page.before));
}

function moreButton(before) {
  const row = element("li");
  const button = element("button", t("do.more"), "plain");
  button.type = "button";
  button.addEventListener("click", () => load(before));
  row.append(button);
  return row;
}

function versionOf(item, value, before, gone) {
  const row = element("li");
  const shown = element("details");
  const title = element("summary");
  title.append(element("strong", number(item.revision)), " ", ...told(item, value, gone));
  shown.append(title);
  shown.addEventListener("toggle", () => {
    if (!shown.open || shown.childElementCount > 1) return;
    if (before === undefined) shown.append(element("p", t("history.before"), "quiet"));
    shown.append(diffOf(before ?? null, value));
    if (value === null) return;
    const button = element("button", t("history.restore"), "plain");
    button.type = "button";
    button.addEventListener("click", () => state.restore(value));
    shown.append(button);
  });
  row.append(shown);
  return row;
}

function told(item, value, gone) {
  if (gone) return [element("span", t("history.gone"), "quiet")];
  if (value === null) return [element("span", t("history.deleted"), "badge dead")];
  const parts = [element("span", t("history.put", { bytes: number(value.length), version: item.version || "–" }), "quiet")];
  if (item.expires_ms) parts.push(" ", element("span", t("list.expires"), "badge"));
  return parts;
}

box.addEventListener("toggle", () => {
  if (box.open) load(null);
});
