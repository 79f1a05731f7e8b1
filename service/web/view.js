// How things look: cards, chips and messages. Text from the service only ever becomes text, never markup.

import { imageUrl, titleOf } from "./api.js";

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
  const image = element("img", { alt: titleOf(item), loading: "lazy", decoding: "async", draggable: false });
  image.addEventListener("error", () => image.replaceWith("The picture cannot be shown."), { once: true });
  image.srcset = `${imageUrl(item, 256)} 1x, ${imageUrl(item, 512)} 2x`;
  image.src = imageUrl(item, 256);
  return image;
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
