// The page's own probe: it writes one key again and again, so that a stop of writes is measured where nobody else writes.
// It is off until somebody switches it on, or the local runner allows chaos.
import { byId } from "./bytes.js";
import { tellOutage } from "./events.js";
import { live } from "./live.js";
import { addStrings, t } from "./strings.js";

export const PROBE_KEY = "demo/probe";
const PAUSE_MS = 60;
const PATIENCE_MS = 600; // of one attempt; all attempts of one write carry the same op_id
const GAP_MS = 200; // what is longer between two acknowledged writes is a stop of writes

addStrings("en", {
  "probe.switch": "measure with writes of this page (key {key})",
  "probe.on": "{n} probe writes acknowledged, the last took {ms} ms",
  "probe.waits": "a probe write waits, for {time} now",
  "probe.refused": "the probe may not write here: {why}",
});
addStrings("pt", {
  "probe.switch": "medir com escritas desta página (chave {key})",
  "probe.on": "{n} escritas de sonda confirmadas, a última levou {ms} ms",
  "probe.waits": "uma escrita de sonda espera há {time}",
  "probe.refused": "a sonda não pode escrever aqui: {why}",
});

const probe = { on: false, done: 0, took: null, lastAck: null, waitsSince: null, refused: "" };

// How long the newest probe write took, in ms, or how long it waits already; null: there is none.
export function newestProbe() {
  if (!probe.on) return null;
  const waits = probe.waitsSince === null ? 0 : performance.now() - probe.waitsSince;
  return waits > GAP_MS ? null : probe.took;
}

export const probing = () => probe.on;

async function writeOnce() {
  const opId = `page-probe-${Date.now().toString(36)}-${crypto.getRandomValues(new Uint32Array(2)).join("-")}`;
  const began = performance.now();
  probe.waitsSince = began;
  while (probe.on) {
    const each = performance.now();
    try {
      const answer = await fetch(`/v1/kv/${encodeURIComponent(PROBE_KEY)}`, {
        method: "PUT", body: new Date().toISOString(), signal: AbortSignal.timeout(PATIENCE_MS), cache: "no-store",
        headers: { "Content-Type": "application/octet-stream", "Idempotency-Key": `"${opId}"` },
      });
      if (answer.ok) return note(began);
      if (answer.status < 500 && answer.status !== 429) {
        const form = await answer.json().catch(() => ({}));
        probe.refused = t("probe.refused", { why: form.detail ?? `HTTP ${answer.status}` });
        switchTo(false);
        return undefined;
      }
    } catch { /* no answer: the same op_id again, so it takes effect at most once */ }
    await new Promise((resume) => setTimeout(resume, Math.max(10, PAUSE_MS - (performance.now() - each))));
  }
  return undefined;
}

function note(began) {
  const now = performance.now();
  const since = probe.lastAck ?? began; // the first one may have met the stop already
  const gap = now - since;
  probe.took = now - began;
  probe.done += 1;
  // A page in the background is slowed down by the browser: its pauses are no stops of writes.
  if (gap > GAP_MS && probe.took > GAP_MS - PAUSE_MS && !document.hidden) {
    const gone = live.homeGoneAt > since - 1000; // the node that it writes through was gone itself
    tellOutage(since, now, gone ? "home" : "probe");
  }
  probe.lastAck = now;
  probe.waitsSince = null;
}

async function run() {
  while (probe.on) {
    await writeOnce();
    show();
    await new Promise((resume) => setTimeout(resume, PAUSE_MS));
  }
}

export function switchTo(on) {
  byId("probe").checked = on;
  if (on === probe.on) return;
  Object.assign(probe, { on, lastAck: null, waitsSince: null, took: null });
  if (on) {
    probe.refused = "";
    run();
  }
  show();
}

function show() {
  const waits = probe.waitsSince === null ? 0 : performance.now() - probe.waitsSince;
  let text = probe.refused;
  if (probe.on && waits > GAP_MS) text = t("probe.waits", { time: `${(waits / 1000).toFixed(1)} s` });
  else if (probe.on && probe.done) text = t("probe.on", { n: probe.done, ms: probe.took?.toFixed(1) ?? "–" });
  byId("probe-state").textContent = text;
}

byId("probe-label").textContent = t("probe.switch", { key: PROBE_KEY });
byId("probe").addEventListener("change", () => switchTo(byId("probe").checked));
setInterval(() => probe.on && show(), 250);
