// Pictures of several models in rows, zoomed and panned together; two of them over each other with a slider, or flipped.
const address = (digest) => new URL(`pictures/${digest}/full.webp`, document.baseURI).href;

function picture(digest, alt) {
  return digest ? element("img", { src: address(digest), alt, loading: "lazy", draggable: "false" })
    : element("p", { class: "missing" }, "No picture");
}

function side(data, row) {
  return row.pictures.map((digest, i) => element("figure", {},
    element("div", { class: "pane", tabindex: "0" }, picture(digest, `${row.text} (${data.names[i]})`)),
    element("figcaption", {}, `${data.names[i]}${row.notes[i] ? ": " + row.notes[i] : ""}`)));
}

// Slider and flip are one state for all rows: what is seen in one is seen in the others.
function paintAll(at) { for (const paint of at.paint) paint(); }
function turn(at) { at.flipped = !at.flipped; paintAll(at); }

function over(data, row, at, flip) {
  const pane = element("div", { class: "pane", tabindex: "0" }, picture(row.pictures[0], `${row.text} (${data.names[0]})`));
  const top = element("div", { class: "over" }, picture(row.pictures[1], `${row.text} (${data.names[1]})`));
  pane.append(top);
  const bar = element("input", { type: "range", min: 0, max: 100, value: at.share, "aria-label": "Where one picture ends and the other begins",
    oninput: (event) => { at.share = Number(event.target.value); paintAll(at); } });
  const button = element("button", { type: "button", onclick: () => turn(at) }, "Flip (key f)");
  const caption = element("figcaption", { "aria-live": "polite" });
  at.paint.push(() => {
    top.style.clipPath = `inset(0 0 0 ${flip ? (at.flipped ? 0 : 100) : at.share}%)`;
    bar.value = at.share;
    caption.textContent = flip ? data.names[at.flipped ? 1 : 0] : `${data.names[0]} | ${data.names[1]}`;
  });
  return element("figure", { class: "wide" }, pane, flip ? button : bar, caption);
}

function draw(host, data) {
  host.at = { share: 50, flipped: false, ...host.at, paint: [] };
  host.replaceChildren(...data.rows.map((row) => element("section", {},
    element("p", { class: "prompt", dir: "auto" }, row.text),
    element("p", { class: "seed" }, row.about),
    element("div", { class: `panes of-${data.layout === "side" ? row.pictures.length : 1}` },
      ...(data.layout === "side" ? side(data, row) : [over(data, row, host.at, data.layout === "flip")])))));
  paintAll(host.at);
  host.zoom();
}

export default function (component) {
  const { data, parentElement } = component;
  const host = parentElement.querySelector(".compare");
  if (!host.zoom) {
    host.zoom = zoomTogether(host);
    host.keys = (event) => {
      const field = event.composedPath().some((node) => node.matches && node.matches("input:not([type=range]), textarea, select"));
      if (event.key !== "f" || field || event.ctrlKey || event.metaKey || event.repeat) return;
      turn(host.at);
    };
    document.addEventListener("keydown", host.keys);
  }
  draw(host, data);
  return () => { document.removeEventListener("keydown", host.keys); host.zoom = null; };
}
