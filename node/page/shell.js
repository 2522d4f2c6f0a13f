// The frame of the page: which tab is shown, after the address's fragment (#keys/orders), and the texts of the frame.
import { addStrings, chooseLanguage, language, translate } from "./strings.js";
import "./keys_texts.js";
import "./backends.js";
import "./chart.js";
import "./cluster.js";
import "./disturb.js";
import "./events.js";
import "./feed.js";
import "./glance.js";
import "./keys.js";
import "./listing.js";
import "./operations.js";
import "./probe.js";
import "./txn.js";
import { showTab } from "./tabs.js";

addStrings("en", {
  "skip": "Skip to the content",
  "tabs": "Parts of the page",
  "tab.overview": "Overview",
  "tab.keys": "Keys",
  "foot.every": "Every node takes every request.",
  "foot.ready": "Readiness",
  "foot.metrics": "Metrics",
  "foot.api": "API",
});
addStrings("pt", {
  "skip": "Ir para o conteúdo",
  "tabs": "Partes da página",
  "tab.overview": "Visão geral",
  "tab.keys": "Chaves",
  "foot.every": "Todo nó aceita todo pedido.",
  "foot.ready": "Prontidão",
  "foot.metrics": "Métricas",
  "foot.api": "API",
});

document.documentElement.lang = language === "pt" ? "pt-BR" : "en";
translate();
document.getElementById("language").lang = language === "pt" ? "en" : "pt-BR";
document.getElementById("language").addEventListener("click", () => chooseLanguage(language === "pt" ? "en" : "pt"));
showTab();
