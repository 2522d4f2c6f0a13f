// Bytes as hexadecimal digits, JSON with its lines broken, and what differs between two texts. Pure.
const HEX_IN_LINE = 16;
const DEPTH_MAX = 100;
const DIFF_LINES_MAX = 1000;

export function hexOf(bytes) {
  const lines = [];
  for (let at = 0; at < bytes.length; at += HEX_IN_LINE) {
    const line = bytes.subarray(at, at + HEX_IN_LINE);
    lines.push(Array.from(line, (byte) => byte.toString(16).padStart(2, "0")).join(" "));
  }
  return lines.join("\n");
}

export function bytesOfHex(text) {
  const digits = text.replace(/\s+/g, "");
  if (digits.length % 2 || /[^0-9a-f]/i.test(digits)) return null;
  return Uint8Array.from(digits.match(/../g) ?? [], (pair) => parseInt(pair, 16));
}

// Break JSON into lines. Only space between its tokens changes: numbers and strings stay as they are written. Null: no JSON.
export function prettyJson(text) {
  try {
    JSON.parse(text);
  } catch {
    return null;
  }
  let made = "";
  let depth = 0;
  const line = () => "\n" + "  ".repeat(depth);
  for (let at = 0; at < text.length; at++) {
    const ch = text[at];
    if (ch === '"') {
      const from = at++;
      while (text[at] !== '"') at += text[at] === "\\" ? 2 : 1;
      made += text.slice(from, at + 1);
    } else if (ch === "{" || ch === "[") {
      const rest = /\S/.exec(text.slice(at + 1, at + 1 + 4096));
      if (rest !== null && "}]".includes(rest[0])) {
        made += ch + rest[0];
        at += 1 + rest.index;
      } else {
        depth += 1;
        if (depth > DEPTH_MAX) return null;
        made += ch + line();
      }
    } else if (ch === "}" || ch === "]") {
      depth -= 1;
      made += line() + ch;
    } else if (ch === ",") made += ch + line();
    else if (ch === ":") made += ": ";
    else if (!/\s/.test(ch)) made += ch;
  }
  return made;
}

// What changes lines `before` into `after`: [mark, line] with mark " ", "-" or "+". Null: they are too many to compare.
export function diff(before, after) {
  const [a, b] = [before.split("\n"), after.split("\n")];
  if (a.length > DIFF_LINES_MAX || b.length > DIFF_LINES_MAX) return null;
  let first = 0;
  while (first < a.length && first < b.length && a[first] === b[first]) first++;
  let [endA, endB] = [a.length, b.length];
  while (endA > first && endB > first && a[endA - 1] === b[endB - 1]) [endA, endB] = [endA - 1, endB - 1];
  const [n, m] = [endA - first, endB - first];
  // longest[i][j]: the most lines that both have in common, in order, from i and j on
  const longest = Array.from({ length: n + 1 }, () => new Uint16Array(m + 1));
  for (let i = n - 1; i >= 0; i--) {
    for (let j = m - 1; j >= 0; j--) {
      const same = a[first + i] === b[first + j];
      longest[i][j] = same ? longest[i + 1][j + 1] + 1 : Math.max(longest[i + 1][j], longest[i][j + 1]);
    }
  }
  const made = a.slice(0, first).map((each) => [" ", each]);
  let [i, j] = [0, 0];
  while (i < n || j < m) {
    if (i < n && j < m && a[first + i] === b[first + j]) {
      made.push([" ", a[first + i]]);
      [i, j] = [i + 1, j + 1];
    } else if (i < n && (j >= m || longest[i + 1][j] >= longest[i][j + 1])) made.push(["-", a[first + i++]]);
    else made.push(["+", b[first + j++]]);
  }
  return [...made, ...a.slice(endA).map((each) => [" ", each])];
}
