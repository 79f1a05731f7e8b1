// The REST calls that the page makes. Every failure becomes a Problem whose message can be shown.
// A key is kept for this tab alone, until it is closed.

const KEY = "momoseek.key";
const MAX_TRIES = 5;
const UNREACHABLE = 0;

export class Problem extends Error {
  constructor(detail, status, code) {
    super(detail);
    this.status = status;
    this.code = code;
  }

  get wantsKey() {
    return this.status === 401 || this.code === "collection_forbidden";
  }

  get mayPass() {
    return [UNREACHABLE, 429].includes(this.status) || this.status >= 500;
  }
}

// What no key holds is cut off, such as the line break of a pasted one: a header must not have it.
export const useKey = (key) => sessionStorage.setItem(KEY, key.replace(/[^\x21-\x7e]/g, ""));

/** An address that an <img> can show. An <img> cannot send a key, so with one the picture is fetched here. */
export async function pictureUrl(item, size, options) {
  const url = `${item.image.url}?size=${size}`;
  if (!sessionStorage.getItem(KEY)) return url;
  return URL.createObjectURL(await (await ask(url, {}, options)).blob());
}

export const titleOf = (item) =>
  String(item.metadata?.title ?? item.metadata?.caption ?? item.text ?? item.id);

export async function collections(options) {
  const found = [];
  let cursor = "";
  do {
    const page = await call(`/v1/collections?cursor=${encodeURIComponent(cursor)}`, {}, options);
    found.push(...page.collections);
    cursor = page.next_cursor;
  } while (cursor);
  return found;
}

export const item = (collection, id, options) =>
  call(`${path(collection)}/items/${encodeURIComponent(id)}`, {}, options);

export const scroll = (collection, cursor, limit, options) =>
  call(`${path(collection)}/items/scroll`, json({ limit, cursor }), options);

/** `like` is an item's id, `picture` a File; words may come with either. */
export function search(collection, { words, like, picture }, limit, options) {
  const request = picture ? form(words, picture, limit) : json({ query: terms(words, like), limit });
  return call(`${path(collection)}/search`, request, options);
}

function terms(words, like) {
  if (!like) return words;
  return words ? [{ text: words }, { id: like }] : { id: like };
}

function form(words, picture, limit) {
  const body = new FormData();
  if (words) body.append("text", words);
  body.append("limit", limit);
  body.append("image", picture);
  return { method: "POST", body };
}

const json = (value) => ({
  method: "POST",
  headers: { "Content-Type": "application/json" },
  body: JSON.stringify(value),
});

const path = (collection) => `/v1/collections/${encodeURIComponent(collection)}`;

const call = async (url, request, options) => (await ask(url, request, options)).json();

// A service that is busy or starting says when to come back; onWait hears the seconds that are left.
async function ask(url, request, { signal, onWait = () => {} } = {}) {
  for (let tries = 1; ; tries++) {
    const key = sessionStorage.getItem(KEY);
    const headers = { ...request.headers, ...(key && { Authorization: `Bearer ${key}` }) };
    const reply = await fetch(url, { ...request, headers, signal }).catch((error) => {
      throw signal?.aborted
        ? error
        : new Problem("The service cannot be reached. Is it running?", UNREACHABLE);
    });
    if (reply.ok) return reply;
    const waitS = Number(reply.headers.get("Retry-After"));
    const problem = await problemOf(reply);
    if (problem.status === 401 && sessionStorage.getItem(KEY) === key) sessionStorage.removeItem(KEY);
    if (![429, 503].includes(reply.status) || !(waitS > 0) || tries === MAX_TRIES) throw problem;
    for (let left = Math.ceil(waitS); left > 0; left--) {
      onWait(problem.message, left);
      await sleep(1000, signal);
    }
  }
}

async function problemOf(reply) {
  const { detail, title, code } = await reply.json().catch(() => ({}));
  const told = detail || title || `The service answered ${reply.status} ${reply.statusText}.`;
  return new Problem(told, reply.status, code);
}

function sleep(ms, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, ms);
    signal?.addEventListener("abort", () => (clearTimeout(timer), reject(signal.reason)), { once: true });
  });
}
