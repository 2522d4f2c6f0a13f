// A conflict: the value that somebody wanted to write beside the one that is there now.
import { element } from "./asking.js";
import { diffOf } from "./diffs.js";
import { t } from "./strings.js";

// Return both values as an element, and a button that calls `overwrite`. `theirs.bytes` null: the key is absent.
export function compared(mine, theirs, overwrite) {
  const box = element("div", undefined, "conflict");
  const title = theirs.bytes === null ? t("conflict.absent") : t("conflict.there", { revision: theirs.revision });
  const legend = element("p", undefined, "quiet");
  legend.append(element("span", "−", "mark-of"), ` ${title} · `, element("span", "+", "mark-of"), ` ${t("conflict.mine")}`);
  box.append(legend, diffOf(theirs.bytes, mine));
  const button = element("button", t("conflict.over"), "danger");
  button.type = "button";
  button.addEventListener("click", overwrite);
  box.append(button);
  return box;
}
