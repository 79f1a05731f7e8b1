// The page's state is its address (?c=collection&q=words&like=id) and, for a picture of the visitor's own, which no
// address can hold, an entry in `pictures` that the history refers to.

import * as api from "./api.js";
import { button, card, element, keyForm } from "./view.js";

const RESULTS = 30;
const MAX_RESULTS = 960;
const SAMPLE_POOL = 480; // items fetched at once and shuffled, so that neighbours in the catalog do not sit together
const SAMPLE_STEP = 48;
const EXAMPLES = {
  gallery: ["an animal that lives in the sea", "something to make music with", "things for a birthday party"],
};

const $ = (selector) => document.querySelector(selector);
const state = { collection: "", words: "", like: null, picture: null };
const pictures = []; // {file, url}; history entries hold an index
const seen = new Map(); // items by collection and id, for the chip of "more like this"
let collections = [];
let listing = null; // the promise of them, until it fails
let running = new AbortController();
let work = Promise.resolve(); // of the latest run

// Address and history

function readAddress() {
  const parameters = new URLSearchParams(location.search);
  state.collection = parameters.get("c") ?? "";
  state.words = parameters.get("q") ?? "";
  state.like = parameters.get("like");
  state.picture = history.state?.picture in pictures ? history.state.picture : null;
}

function address() {
  const parameters = new URLSearchParams();
  if (state.words) parameters.set("q", state.words);
  if (state.like) parameters.set("like", state.like);
  if (state.collection && (collections.length !== 1 || parameters.size)) parameters.set("c", state.collection);
  return parameters.size ? `/?${parameters}` : "/";
}

function go(change) {
  Object.assign(state, change);
  const same = address() === location.pathname + location.search && history.state?.picture === state.picture;
  if (!same) history.pushState({ picture: state.picture }, "", address());
  scrollTo(0, 0);
  return run();
}

// Searching and browsing

function run(limit = RESULTS) {
  running.abort();
  running = new AbortController();
  const options = { signal: running.signal, onWait: sayWaiting };
  const asked = state.words || state.like || state.picture !== null;
  $("#words").value = state.words;
  $("#problem").replaceChildren();
  document.title = [state.words || (state.like && "More like this"), "momoseek"].filter(Boolean).join(" – ");
  return (work = attempt(async () => {
    await chooseCollection();
    showChip(options);
    await (asked ? search(limit, options) : browse(options));
  }));
}

async function attempt(task) {
  const mine = running;
  busy(true);
  try {
    await task();
  } catch (error) {
    if (mine === running) fail(error);
  } finally {
    if (mine === running) busy(false);
  }
}

// The list is asked for once; whatever the visitor does before it is there waits for it. A key that is limited to
// some collections may not read it: then the address names one.
async function chooseCollection() {
  listing ??= api.collections({ onWait: sayWaiting });
  collections = await listing.catch((error) => {
    listing = null;
    if (error.code !== "collection_forbidden") throw error;
    if (state.collection) return [];
    error.message += " Or name a collection in the address: /?c=NAME";
    throw error;
  });
  const preferred = collections.find((entry) => entry.count > 0) ?? collections[0];
  state.collection ||= preferred?.name ?? "";
  if (!state.collection) throw new api.Problem("There is nothing to search yet: momoseek index FOLDER");
  const names = collections.map(({ name }) => element("option", { value: name }, name));
  $("#collection select").replaceChildren(...names);
  $("#collection select").value = state.collection;
  $("#collection").hidden = collections.length < 2;
}

async function search(limit, options) {
  const picture = pictures[state.picture]?.file;
  const found = await api.search(state.collection, { ...state, picture }, limit, options);
  const spent = Object.values(found.timing_ms).reduce((sum, ms) => sum + ms, 0);
  $("#welcome").hidden = true;
  if (!found.results.length)
    throw new api.Problem("Nothing is near this. Try other words, or another picture.");
  say(`${count(found.results.length, "result")} in ${spent.toFixed(spent < 10 ? 1 : 0)} ms`);
  show(found.results);
  offerMore(found.results.length === limit && limit < MAX_RESULTS, () =>
    run(Math.min(limit * 2, MAX_RESULTS)),
  );
}

async function browse(options) {
  let page = await sample(null, options);
  if (!page.items.length) throw new api.Problem(`The collection ${state.collection} is empty.`);
  const total = collections.find((entry) => entry.name === state.collection)?.count;
  say(total === undefined ? "" : `A look into ${state.collection}: ${count(total, "item")}`);
  $("#examples").replaceChildren(...examples(page.items).map((words) => button(words, () => go({ words }))));
  $("#welcome").hidden = false;
  show([]);
  const showStep = async () => {
    show(page.items.splice(0, SAMPLE_STEP), true);
    if (!page.items.length && page.next_cursor) page = await sample(page.next_cursor, options);
    offerMore(page.items.length > 0, showStep);
  };
  await showStep();
}

async function sample(cursor, options) {
  const page = await api.scroll(state.collection, cursor, SAMPLE_POOL, options);
  for (let i = page.items.length - 1; i > 0; i--) {
    const j = Math.floor(Math.random() * (i + 1));
    [page.items[i], page.items[j]] = [page.items[j], page.items[i]];
  }
  return page;
}

const examples = (items) =>
  EXAMPLES[state.collection] ??
  items.slice(0, 3).map((item) => api.titleOf(item).split(/\s+/).slice(0, 6).join(" "));

// Showing

function show(items, keep = false) {
  const cards = items.map((item) => card(item, () => moreLike(item)));
  for (const item of items) seen.set(seenKey(item.id), item);
  if (keep) $("#results").append(...cards);
  else $("#results").replaceChildren(...cards);
}

const seenKey = (id) => `${state.collection}/${id}`;

async function moreLike(item) {
  await go({ like: item.id, words: "", picture: null });
  $("#status").focus({ preventScroll: true }); // the card that had the focus is gone
}

function offerMore(there, onMore) {
  $("#more").hidden = !there;
  $("#more button").onclick = () => attempt(onMore);
}

async function showChip(options) {
  const own = pictures[state.picture];
  if (own) return chip(own.file.name || "Pasted picture", own.url);
  if (!state.like) return chip(null);
  const fetched = () => api.item(state.collection, state.like, options).catch(() => null);
  const known = seen.get(seenKey(state.like)) ?? (await fetched());
  const url = known?.image && (await api.pictureUrl(known, 64, options).catch(() => null));
  if (!options.signal.aborted) chip(known ? api.titleOf(known) : state.like, url);
}

function chip(name, url) {
  $("#chip").hidden = !name;
  $("#chip").title = name ?? "";
  $("#chip span").textContent = name ?? "";
  $("#chip img").hidden = !url;
  if (url) $("#chip img").src = url;
}

function fail(error) {
  const known = error instanceof api.Problem;
  if (!known) console.error(error);
  const told = error.code === "key_missing" ? "This service asks for a key." : error.message;
  $("#problem").replaceChildren(element("p", {}, known ? told : "Something went wrong on this page."));
  if (error.wantsKey) $("#problem").append(keyForm((key) => (api.useKey(key), run())));
  else if (!known || error.mayPass) $("#problem").append(button("Try again", () => run()));
  $("#welcome").hidden = true;
  say("");
  show([]);
  offerMore(false);
}

function busy(yes) {
  $("#progress").hidden = !yes;
  $("#results").ariaBusy = String(yes);
}

const sayWaiting = (detail, s) => say(`${detail} Trying again in ${s} s …`);
const say = (text) => ($("#status").textContent = text);
const count = (n, noun) => `${n.toLocaleString("en")} ${noun}${n === 1 ? "" : "s"}`;

// A picture of the visitor's own: picked, dropped or pasted

function take(file) {
  if (!file) return;
  if (file.type && !file.type.startsWith("image/")) {
    scrollTo(0, 0);
    const mine = running;
    const tell = () => mine === running && say(`${file.name} is not a picture.`);
    tell();
    return work.then(tell); // not to be lost among the results that come yet
  }
  pictures.push({ file, url: URL.createObjectURL(file) });
  go({ picture: pictures.length - 1, like: null, words: $("#words").value.trim() });
}

const carriesFile = (event) => event.dataTransfer?.types.includes("Files");

function listen() {
  $("#form").addEventListener("submit", (event) => {
    event.preventDefault();
    go({ words: $("#words").value.trim() });
  });
  $("#chip button").addEventListener("click", () => {
    go({ picture: null, like: null, words: $("#words").value.trim() });
    $("#words").focus();
  });
  $("#home").addEventListener("click", (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    go({ words: "", like: null, picture: null });
  });
  $("#collection select").addEventListener("change", (event) =>
    go({ collection: event.target.value, like: null }),
  );
  $("#pick input").addEventListener("change", (event) => {
    take(event.target.files[0]);
    event.target.value = "";
  });
  addEventListener("popstate", () => (readAddress(), run()));
  addEventListener("paste", (event) => {
    const file = [...event.clipboardData.files].find((file) => file.type.startsWith("image/"));
    if (file) event.preventDefault();
    take(file);
  });
  addEventListener("dragover", (event) => {
    if (!carriesFile(event)) return;
    event.preventDefault();
    $("#drop").hidden = false;
  });
  addEventListener("dragleave", (event) => event.relatedTarget ?? ($("#drop").hidden = true));
  addEventListener("drop", (event) => {
    $("#drop").hidden = true;
    if (!carriesFile(event)) return;
    event.preventDefault();
    take(event.dataTransfer.files[0]);
  });
  addEventListener("keydown", (event) => {
    if (event.key !== "/" || event.target.matches("input, select, textarea")) return;
    event.preventDefault();
    $("#words").select();
  });
}

listen();
readAddress();
run();
