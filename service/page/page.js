// The page: images come in by drop, paste or choice, each gets a card, and a few at a time are sent.
// Names and labels come from strangers: they are set as text, never as HTML.

import { askForKey } from "./key.js";
import { ask, Failure } from "./service.js";

const AT_ONCE = 4; // more would only fill the service's queue, and keep other clients waiting
const DEFAULT_TOP_K = 5;
const SPOKEN = 10; // a screen reader names the labels of so many images

const NOT_A_FILE = "That was not a file. Save the image first, then drop it.";

const element = (id) => document.getElementById(id);
const results = element("results");
const topK = element("top-k");

/** @type {Map<Element, Card>} */
const cards = new Map();
let queue = [];
let sending = 0;

/** One image, its state and what the page shows of it. */
class Card {
  constructor(file) {
    this.file = file;
    this.cancellation = new AbortController();
    this.asked = 0;
    this.state = "waiting";
    this.isSpoken = false;
    this.root = element("card").content.firstElementChild.cloneNode(true);
    this.find("h3").textContent = this.find("h3").title = file.name;
    this.find(".again").addEventListener("click", () => enqueue([this]));
    this.showThumbnail();
  }

  find(selector) {
    return this.root.querySelector(selector);
  }

  showThumbnail() {
    const image = this.find("img");
    this.url = URL.createObjectURL(this.file);
    image.onload = () => this.revoke();
    image.onerror = () => {
      this.find(".thumbnail").classList.add("blank");
      this.revoke();
    };
    image.src = this.url;
  }

  revoke() {
    URL.revokeObjectURL(this.url);
  }

  remove() {
    this.cancellation.abort();
    this.revoke();
    this.root.remove();
  }

  /** Show a sentence in place of the bars. */
  say(state, sentence, { canRetry = false } = {}) {
    this.state = state;
    this.root.classList.toggle("failed", state === "failed");
    this.find(".state").textContent = sentence;
    this.find(".again").hidden = !canRetry;
    if (state === "failed") {
      this.find(".bars").replaceChildren();
      this.find(".time").textContent = "";
    }
  }

  showAnswer() {
    const shown = this.predictions.slice(0, chosenTopK());
    this.say("done", "");
    this.find(".time").textContent = duration(this.elapsed_ms);
    this.find(".bars").replaceChildren(...shown.map(bar));
  }

  async classify() {
    this.asked = chosenTopK();
    this.find(".again").hidden = true;
    if (!this.predictions) this.say("waiting", "Classifying…");
    try {
      const body = await this.file.arrayBuffer().catch(() => {
        throw new Failure("This file can't be read. If it is a folder, drop the images in it.", false);
      });
      const options = { method: "POST", body, headers: { "Content-Type": "application/octet-stream" } };
      const { answer, elapsed_ms } = await ask(`classify?top_k=${this.asked}`, options, {
        askForKey,
        signal: this.cancellation.signal,
        onPause: (seconds) => this.say("waiting", `The service is busy. Trying again in ${Math.ceil(seconds)} s…`),
      });
      this.predictions = answer.predictions;
      this.elapsed_ms = elapsed_ms;
      this.showAnswer();
    } catch (error) {
      if (!(error instanceof Failure)) throw error;
      this.predictions = undefined;
      this.say("failed", error.message, { canRetry: error.isTransient });
    }
  }

  /** Whether more labels were chosen than this card has asked for. */
  get lacksLabels() {
    return this.state === "done" && this.asked < chosenTopK() && this.predictions.length === this.asked;
  }
}

function bar({ label, score }) {
  const row = element("bar").content.firstElementChild.cloneNode(true);
  row.querySelector(".label").textContent = label;
  row.querySelector(".score").textContent = percent(score);
  row.querySelector(".score").title = score;
  row.querySelector(".fill").style.width = `${100 * score}%`;
  return row;
}

function percent(score) {
  if (score < 1 && score >= 0.9995) return "> 99.9%";
  if (score > 0 && score < 0.0005) return "< 0.1%";
  return `${(100 * score).toFixed(1)}%`;
}

function duration(ms) {
  return ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`;
}

function chosenTopK() {
  return topK.validity.valid && topK.value ? Number(topK.value) : DEFAULT_TOP_K;
}

function add(files) {
  const added = [...files].map((file) => new Card(file));
  for (const card of added) cards.set(card.root, card);
  // The newest first: on a phone, the answer to a photo appears without scrolling.
  results.prepend(...added.map((card) => card.root));
  element("clear").hidden = cards.size === 0;
  enqueue(added);
}

function enqueue(added) {
  for (const card of added) {
    card.isSpoken = false;
    if (!card.predictions) card.say("waiting", "Waiting…");
  }
  queue.push(...added);
  sendNext();
}

function sendNext() {
  while (sending < AT_ONCE && queue.length > 0) {
    const card = queue.shift();
    sending += 1;
    card.classify().finally(() => {
      sending -= 1;
      if (card.lacksLabels && cards.has(card.root)) queue.push(card);
      sendNext();
    });
  }
  showProgress();
}

function showProgress() {
  const all = [...cards.values()];
  const failed = all.filter((card) => card.state === "failed").length;
  const done = all.length - failed - all.filter((card) => card.state === "waiting").length;
  const isBusy = sending > 0 || queue.length > 0;
  const counts = [`${done} of ${all.length} classified`, ...(failed ? [`${failed} failed`] : [])].join(", ");
  element("progress").textContent = all.length ? `${counts}${isBusy ? "…" : "."}` : "";
  results.setAttribute("aria-busy", isBusy);
  if (isBusy || !all.length) return;
  const fresh = all.filter((card) => !card.isSpoken);
  if (!fresh.length) return;
  element("announcement").textContent = [`${counts}.`, ...fresh.slice(0, SPOKEN).map(spoken)].join(" ");
  for (const card of fresh) card.isSpoken = true;
}

function spoken(card) {
  if (card.state === "failed") return `${card.file.name}: ${card.find(".state").textContent}`;
  const [{ label, score }] = card.predictions;
  return `${card.file.name}: ${label}, ${percent(score)}.`;
}

function clear() {
  queue = [];
  for (const card of cards.values()) card.remove();
  cards.clear();
  element("clear").hidden = true;
  element("announcement").textContent = "All images are removed.";
  showProgress();
  element("files").focus();
}

async function showModel() {
  try {
    const { answer } = await ask("model", {}, { askForKey });
    const { name, version, device, precision } = answer.engine;
    element("model-name").textContent = answer.name;
    element("model-digest").textContent = answer.digest.slice(0, "sha256:".length + 12);
    element("model-digest").title = answer.digest;
    element("model-precision").textContent = precision;
    element("model-engine").textContent = `${name} ${version}, ${device}`;
    element("model-labels").textContent = answer.labels.length.toLocaleString("en");
    topK.max = answer.labels.length;
    topK.value = Math.min(topK.value, answer.labels.length);
    element("model").hidden = false;
    document.title = `${answer.name} · Classify images`;
  } catch (error) {
    if (!(error instanceof Failure)) throw error;
    element("no-model").textContent = `${error.message} Then reload this page.`;
    element("no-model").hidden = false;
  }
}

for (const picker of [element("files"), element("camera")]) {
  picker.addEventListener("change", () => {
    add(picker.files);
    picker.value = ""; // the same file may be chosen again
  });
}
topK.addEventListener("change", () => {
  const wanted = topK.value === "" ? DEFAULT_TOP_K : Math.trunc(topK.value);
  topK.value = Math.min(Math.max(wanted, 1), topK.max || Infinity);
  for (const card of cards.values()) if (card.state === "done") card.showAnswer();
  enqueue([...cards.values()].filter((card) => card.lacksLabels && !queue.includes(card)));
});
element("clear").addEventListener("click", clear);
document.addEventListener("paste", (event) => {
  if (!event.clipboardData.files.length) return;
  event.preventDefault();
  add(event.clipboardData.files);
});
// On the whole document: a browser would leave the page for an image that misses a smaller target.
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("dragging");
});
document.addEventListener("dragleave", (event) => {
  if (event.relatedTarget === null) document.body.classList.remove("dragging");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dragging");
  if (event.dataTransfer.files.length) add(event.dataTransfer.files);
  else element("progress").textContent = element("announcement").textContent = NOT_A_FILE;
});
showModel();
