// Bytes and the ways they are shown and edited: what a form control cannot hold byte for byte is edited as base64.
import { Problem, element } from "./asking.js";

export const byId = (id) => document.getElementById(id);

export const encoder = new TextEncoder();

export function textOf(bytes) {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    return null;
  }
}

export function base64Of(bytes) {
  let text = "";
  for (let at = 0; at < bytes.length; at += 8192) text += String.fromCharCode(...bytes.subarray(at, at + 8192));
  return btoa(text);
}

export function bytesOfBase64(text) {
  try {
    return Uint8Array.from(atob(text.trim()), (ch) => ch.charCodeAt(0));
  } catch {
    return null;
  }
}

// A JSON key or value is a string, or {"base64": …}.
export function bytesOfJson(form) {
  return typeof form === "string" ? encoder.encode(form) : bytesOfBase64(form.base64);
}

export function percent(bytes) {
  let path = "";
  for (const byte of bytes) {
    const ch = String.fromCharCode(byte);
    path += /[A-Za-z0-9_~-]/.test(ch) ? ch : "%" + byte.toString(16).toUpperCase().padStart(2, "0");
  }
  return path;
}

// Characters that show nothing or change how others are shown: controls, ends of lines, direction, invisible ones.
const HIDDEN = /[\p{Cc}\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff]/u;
const IN_A_LINE = /[^\n\t]/u;

// Return text as nodes that show every character: a hidden one as its escape, marked so that no plain text looks alike.
export function visible(text) {
  const made = document.createDocumentFragment();
  let plain = "";
  const flush = () => {
    if (plain) made.append(plain);
    plain = "";
  };
  for (const ch of text) {
    if (!HIDDEN.test(ch)) {
      plain += ch;
      continue;
    }
    flush();
    const short = { "\n": "\\n", "\r": "\\r", "\t": "\\t" }[ch];
    made.append(element("span", short ?? `\\u{${ch.codePointAt(0).toString(16)}}`, "escape"));
  }
  flush();
  return made;
}

// Return bytes as nodes: text with its hidden characters visible, else base64 that says so.
export function visibleBytes(bytes) {
  const text = textOf(bytes);
  if (text !== null) return visible(text);
  const made = document.createDocumentFragment();
  made.append(element("span", "base64", "escape"), ` ${base64Of(bytes)}`);
  return made;
}

// A field whose content is text or base64. What was put in comes out as it was, unless somebody changed it.
export class BytesField {
  // `refused` is told why the way of writing them cannot change.
  constructor(input, formOf, what, refused) {
    this.input = input;
    this.formOf = formOf;
    this.what = what;
    this.refused = refused;
    this.loaded = null;
    formOf.addEventListener("change", () => this.rewrite());
    this.form = formOf.value;
  }

  // Say whether the control holds this text byte for byte, and shows all of it.
  holds(text) {
    const probe = this.input.cloneNode();
    probe.value = text;
    const lines = this.input.tagName === "TEXTAREA";
    return probe.value === text && ![...text].some((ch) => HIDDEN.test(ch) && (!lines || IN_A_LINE.test(ch)));
  }

  // Keep the bytes when the way of writing them changes, if they can be written so.
  rewrite() {
    const bytes = this.form === "base64" ? bytesOfBase64(this.input.value) : this.bytes;
    const text = bytes && (this.formOf.value === "base64" ? base64Of(bytes) : textOf(bytes));
    if (text === null || (this.formOf.value === "text" && !this.holds(text))) {
      this.formOf.value = this.form;
      this.refused(`the ${this.what} cannot be written as text here without changing it`);
      return;
    }
    this.form = this.formOf.value;
    this.show(bytes, text);
  }

  show(bytes, text) {
    this.input.value = text;
    this.loaded = { bytes, shown: this.input.value, form: this.form };
  }

  get edited() {
    const { loaded } = this;
    return loaded === null ? this.input.value !== "" : this.input.value !== loaded.shown || this.form !== loaded.form;
  }

  get bytes() {
    if (this.loaded !== null && !this.edited) return this.loaded.bytes;
    if (this.form === "text") return encoder.encode(this.input.value);
    const bytes = bytesOfBase64(this.input.value);
    if (bytes === null) throw new Problem({ title: `The ${this.what} is not base64`, advice: "fix it; nothing was changed" });
    return bytes;
  }

  set bytes(bytes) {
    const text = textOf(bytes);
    const plain = text !== null && this.holds(text);
    this.form = this.formOf.value = plain ? "text" : "base64";
    this.show(bytes, plain ? text : base64Of(bytes));
  }

  clear() {
    this.form = this.formOf.value = "text";
    this.input.value = "";
    this.loaded = null;
  }
}
