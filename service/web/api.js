// The REST calls that the page makes. Every failure becomes a Problem whose message can be shown.

const MAX_TRIES = 5;
const UNREACHABLE = 0;

export class Problem extends Error {
  constructor(detail, status) {
    super(detail);
    this.status = status;
  }

  get mayPass() {
    return [UNREACHABLE, 429].includes(this.status) || this.status >= 500;
  }
}

export const imageUrl = (item, size) => `${item.image.url}?size=${size}`;

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

// A service that is busy or starting says when to come back; onWait hears the seconds that are left.
async function call(url, request, { signal, onWait = () => {} } = {}) {
  for (let tries = 1; ; tries++) {
    const reply = await fetch(url, { ...request, signal }).catch((error) => {
      throw signal?.aborted
        ? error
        : new Problem("The service cannot be reached. Is it running?", UNREACHABLE);
    });
    if (reply.ok) return reply.json();
    const waitS = Number(reply.headers.get("Retry-After"));
    const problem = new Problem(await detailOf(reply), reply.status);
    if (![429, 503].includes(reply.status) || !(waitS > 0) || tries === MAX_TRIES) throw problem;
    for (let left = Math.ceil(waitS); left > 0; left--) {
      onWait(problem.message, left);
      await sleep(1000, signal);
    }
  }
}

async function detailOf(reply) {
  const problem = await reply.json().catch(() => ({}));
  return problem.detail || problem.title || `The service answered ${reply.status} ${reply.statusText}.`;
}

function sleep(ms, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, ms);
    signal?.addEventListener("abort", () => (clearTimeout(timer), reject(signal.reason)), { once: true });
  });
}
