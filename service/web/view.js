// How things look: cards, chips and messages. Text from the service only ever becomes text, never markup.

import { pictureUrl, titleOf } from "./api.js";

const BADGES = { image: "image", text: "text", mixed: "image + text" };

export function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

/** A result or a sample; `onPick(item)` asks for more like it. */
export function card(item, onPick) {
  const title = titleOf(item);
  const face = element("button", { type: "button", className: "face", title: "More like this" });
  face.ariaLabel = `More like: ${title}`;
  face.append(item.image ? picture(item) : element("q", {}, item.text ?? title));
  face.addEventListener("click", () => onPick(item));
  const facts = element("p", { className: "facts" });
  if (item.score !== undefined) facts.append(score(item.score));
  facts.append(element("span", { className: "badge" }, BADGES[item.modality] ?? item.modality));
  const made = element("li", { className: `card ${item.modality}`, title: credit(item.metadata) }, face);
  if (item.image || title !== item.text) made.append(element("p", { className: "title" }, title));
  made.append(facts);
  return made;
}

function picture(item) {
  const image = element("img", { alt: titleOf(item), decoding: "async", draggable: false });
  const fail = () => image.replaceWith("The picture cannot be shown.");
  image.addEventListener("error", fail, { once: true });
  image.addEventListener("load", () => URL.revokeObjectURL(image.src), { once: true });
  whenNear(image, () =>
    pictureUrl(item, devicePixelRatio > 1 ? 512 : 256).then((url) => (image.src = url), fail),
  );
  return image;
}

// As loading="lazy" does, which knows only of pictures that have an address of their own.
function whenNear(target, act) {
  const observer = new IntersectionObserver(
    (changes) => {
      if (!changes.some((change) => change.isIntersecting)) return;
      observer.disconnect();
      act();
    },
    { rootMargin: "800px" },
  );
  observer.observe(target);
}

function score(value) {
  const title = "Similarity (cosine): higher is nearer";
  return element("data", { className: "score", value: String(value), title }, value.toFixed(3));
}

const credit = (metadata = {}) =>
  [metadata.style, metadata.author, metadata.license].filter(Boolean).join(" · ");

export function button(words, onClick) {
  const made = element("button", { type: "button" }, words);
  made.addEventListener("click", onClick);
  return made;
}

/** Asks for a key; `onKey` gets what is typed. */
export function keyForm(onKey) {
  const input = element("input", { type: "password", autocomplete: "off", required: true });
  input.placeholder = input.ariaLabel = "API key";
  const made = element("form", {}, input, element("button", {}, "Use it in this tab"));
  made.addEventListener("submit", (event) => {
    event.preventDefault();
    onKey(input.value);
  });
  return made;
}
