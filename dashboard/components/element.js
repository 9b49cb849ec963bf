// Create an HTML element with attributes, listeners (on...) and children; text is never parsed as HTML.
function element(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (value !== false && value !== undefined) node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children);
  return node;
}

// The address of a picture by its sha256; size is 256, 512 or full.
function pictureAddress(digest, size) { return new URL(`pictures/${digest}/${size}.webp`, document.baseURI).href; }

// A picture of `size` pixels, which zoomTogether replaces by the full one; the text `missing` where it cannot be shown.
function pictureElement(digest, alt, missing, size = "512") {
  const text = () => element("p", { class: "missing" }, missing);
  if (!digest) return text();
  const picture = element("img", { src: pictureAddress(digest, size), "data-full": pictureAddress(digest, "full"), alt, loading: "lazy",
    draggable: "false", onerror: () => picture.replaceWith(text()) });
  return picture;
}
