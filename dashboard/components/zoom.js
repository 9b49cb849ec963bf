// Zoom and pan several pictures together: wheel or pinch zooms, dragging pans, a double click zooms in and back out.
// `root` contains elements with the class "pane", each with its picture; returns a function that applies the view again.
function zoomTogether(root) {
  const view = { scale: 1, x: 0, y: 0 };  // x and y are fractions of a pane's size, so that panes of any size agree
  const pointers = new Map();
  let lastDistance = 0;

  const sharpen = (picture) => {  // the small picture stays where the full one cannot be loaded
    const address = picture.dataset.full, full = new Image();
    if (!address) return;
    delete picture.dataset.full;
    full.onload = () => { picture.src = address; };
    full.src = address;
  };
  const apply = () => {
    for (const pane of root.querySelectorAll(".pane")) {
      for (const picture of pane.querySelectorAll("img")) {  // in percent, because a picture that is not loaded yet has no height
        picture.style.transform = `translate(${100 * view.x}%, ${100 * view.y}%) scale(${view.scale})`;
        if (view.scale > 1) sharpen(picture);
      }
      pane.classList.toggle("zoomed", view.scale > 1);
    }
  };
  const clamp = () => {
    const limit = (view.scale - 1) / 2;
    view.x = Math.max(-limit, Math.min(limit, view.x));
    view.y = Math.max(-limit, Math.min(limit, view.y));
  };
  const zoom = (factor, pane, clientX, clientY) => {
    const box = pane.getBoundingClientRect();
    const px = (clientX - box.left) / box.width - 0.5, py = (clientY - box.top) / box.height - 0.5;
    const scale = Math.max(1, Math.min(12, view.scale * factor));
    view.x = px - (px - view.x) * (scale / view.scale);
    view.y = py - (py - view.y) * (scale / view.scale);
    view.scale = scale;
    clamp();
    apply();
  };
  const paneOf = (event) => event.target.closest && event.target.closest(".pane");

  root.addEventListener("wheel", (event) => {
    const pane = paneOf(event);
    if (!pane || !(event.ctrlKey || event.altKey || pane.matches(":focus-within") || view.scale > 1 || event.shiftKey)) return;
    event.preventDefault();
    zoom(Math.exp(-(event.deltaY || event.deltaX) / 300), pane, event.clientX, event.clientY);
  }, { passive: false });
  root.addEventListener("dblclick", (event) => {
    const pane = paneOf(event);
    if (!pane) return;
    if (view.scale > 1) apply.reset();
    else zoom(3, pane, event.clientX, event.clientY);
  });
  root.addEventListener("pointerdown", (event) => {
    if (!paneOf(event)) return;
    pointers.set(event.pointerId, event);
  });
  root.addEventListener("pointermove", (event) => {
    const before = pointers.get(event.pointerId), pane = paneOf(event);
    if (!before || !pane) return;
    pointers.set(event.pointerId, event);
    if (pointers.size === 2) {
      const [first, second] = [...pointers.values()];
      const distance = Math.hypot(first.clientX - second.clientX, first.clientY - second.clientY);
      if (lastDistance) zoom(distance / lastDistance, pane, (first.clientX + second.clientX) / 2, (first.clientY + second.clientY) / 2);
      lastDistance = distance;
    } else if (view.scale > 1) {
      const box = pane.getBoundingClientRect();
      view.x += (event.clientX - before.clientX) / box.width;
      view.y += (event.clientY - before.clientY) / box.height;
      clamp();
      apply();
    }
  });
  for (const end of ["pointerup", "pointercancel", "pointerleave"])
    root.addEventListener(end, (event) => { pointers.delete(event.pointerId); lastDistance = 0; });
  apply.reset = () => { view.scale = 1; view.x = view.y = 0; apply(); };
  apply.by = (factor) => {
    const pane = root.querySelector(".pane");
    if (!pane) return;
    const box = pane.getBoundingClientRect();
    zoom(factor, pane, box.left + box.width / 2, box.top + box.height / 2);
  };
  return apply;
}
