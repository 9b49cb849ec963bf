// Rows with the pictures of several models, zoomed and panned together; or two of them in one place, with slider or flip.
function picture(digest, alt, small) {
  return pictureElement(digest, alt, digest ? "This picture is missing or was changed. `naruto verify` lists such files." : "No picture", small ? "256" : "512");
}

function side(data, row) {
  return row.pictures.map((digest, i) => element("figure", {},
    element("div", { class: "pane", tabindex: "0" }, picture(digest, `${row.text} (${data.names[i]})`, data.size && data.size <= 256)),
    element("figcaption", {}, `${data.names[i]}${row.notes[i] ? ": " + row.notes[i] : ""}`)));
}

// Slider and flip are one state for all rows.
function paintAll(state) { for (const paint of state.paint) paint(); }
function flipAll(state) { state.flipped = !state.flipped; paintAll(state); }

function over(data, row, state, flip) {
  const pane = element("div", { class: "pane", tabindex: "0" }, picture(row.pictures[0], `${row.text} (${data.names[0]})`));
  const top = element("div", { class: "over" }, picture(row.pictures[1], `${row.text} (${data.names[1]})`));
  pane.append(top);
  const bar = element("input", { type: "range", min: 0, max: 100, value: state.share, "aria-label": "Where one picture ends and the other begins",
    oninput: (event) => { state.share = Number(event.target.value); paintAll(state); } });
  const button = element("button", { type: "button", onclick: () => flipAll(state) }, "Flip (key f)");
  const caption = element("figcaption", { "aria-live": "polite" });
  state.paint.push(() => {
    top.style.clipPath = `inset(0 0 0 ${flip ? (state.flipped ? 0 : 100) : state.share}%)`;
    bar.value = state.share;
    caption.textContent = flip ? data.names[state.flipped ? 1 : 0] : `${data.names[0]} | ${data.names[1]}`;
  });
  return element("figure", { class: "wide" }, pane, flip ? button : bar, caption);
}

function draw(host, data) {
  host.state = { share: 50, flipped: false, ...host.state, paint: [] };
  const heads = data.size && data.layout === "side" && data.names.length > 4;
  const columns = `grid-template-columns: repeat(${data.names.length}, ${data.size}px)`;
  const head = heads ? [element("div", { class: "heads", style: columns }, ...data.names.map((name) => element("span", { title: name }, name)))] : [];
  host.classList.toggle("grid", Boolean(heads));
  host.replaceChildren(...head, ...data.rows.map((row) => element("section", {},
    element("p", { class: "prompt", dir: "auto" }, row.text),
    element("p", { class: "seed" }, row.about),
    element("div", { class: `panes of-${data.layout === "side" ? row.pictures.length : 1}`, style: data.size && data.layout === "side" ? `grid-template-columns: repeat(${row.pictures.length}, ${data.size}px)` : "" },
      ...(data.layout === "side" ? side(data, row) : [over(data, row, host.state, data.layout === "flip")])))));
  paintAll(host.state);
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
      flipAll(host.state);
    };
    document.addEventListener("keydown", host.keys);
  }
  draw(host, data);
  return () => { document.removeEventListener("keydown", host.keys); host.zoom = null; };
}
