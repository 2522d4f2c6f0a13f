// Two values beside each other, shown by what differs between them.
import { element } from "./asking.js";
import { textOf, visible } from "./bytes.js";
import { diff, hexOf, prettyJson } from "./forms.js";
import { t } from "./strings.js";

const SHOWN_BYTES = 64 * 1024;
const CONTEXT_LINES = 3;

// Return what changes bytes into others, as an element. Null stands for an absent key.
export function diffOf(before, after) {
  const box = element("div", undefined, "diff");
  if (before === null || after === null) {
    const [only, mark] = before === null ? [after, "+"] : [before, "-"];
    if (only !== null && only.length <= SHOWN_BYTES) for (const line of linesOf(only, null)[0].split("\n")) box.append(lineOf(mark, line));
    return box;
  }
  if (before.length > SHOWN_BYTES || after.length > SHOWN_BYTES) {
    box.append(element("p", t("diff.large"), "quiet"));
    return box;
  }
  const lines = diff(...linesOf(before, after));
  if (lines === null) box.append(element("p", t("diff.large"), "quiet"));
  else if (lines.every(([mark]) => mark === " ")) box.append(element("p", t(sameBytes(before, after) ? "diff.same" : "diff.space"), "quiet"));
  else for (const line of nearChanges(lines)) box.append(line === null ? element("p", "⋯", "quiet") : lineOf(...line));
  return box;
}

function sameBytes(a, b) {
  return a.length === b.length && a.every((byte, at) => byte === b[at]);
}

// As JSON broken into lines if both are, as text if both are, else as hexadecimal digits.
function linesOf(a, b) {
  const texts = [textOf(a), b === null ? "" : textOf(b)];
  if (texts.includes(null)) return [hexOf(a), b === null ? "" : hexOf(b)];
  const pretty = [prettyJson(texts[0]), b === null ? "" : prettyJson(texts[1])];
  return pretty.includes(null) ? texts : pretty;
}

// The changed lines with some around them; null stands for those left out.
function nearChanges(lines) {
  const near = lines.map((_, at) => lines.slice(Math.max(0, at - CONTEXT_LINES), at + CONTEXT_LINES + 1).some(([mark]) => mark !== " "));
  return lines.map((line, at) => (near[at] ? line : null)).filter((line, at) => line !== null || at === 0 || near[at - 1]);
}

function lineOf(mark, text) {
  const line = element("div", undefined, mark === "+" ? "added" : mark === "-" ? "removed" : "kept");
  line.append(element("span", mark === " " ? "\u00a0" : mark, "mark-of"), visible(text));
  return line;
}
