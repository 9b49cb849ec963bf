// Zoom and pan of several pictures in step: wheel or pinch zooms, dragging pans, a double click zooms in and back.
// `root` holds elements with the class "pane", each around one picture; returns a function that applies the view again.
function zoomTogether(root) {
  const view = { scale: 1, x: 0, y: 0 };  // x and y in shares of the pane, so that panes of any size agree
  const pointers = new Map();
  let apart = 0;

  const apply = () => {
    for (const pane of root.querySelectorAll(".pane")) {
      for (const picture of pane.querySelectorAll("img"))  // in percent: a picture that is not loaded yet has no height
        picture.style.transform = `translate(${100 * view.x}%, ${100 * view.y}%) scale(${view.scale})`;
      pane.classList.toggle("zoomed", view.scale > 1);
    }
  };
  const clamp = () => {
    const most = (view.scale - 1) / 2;
    view.x = Math.max(-most, Math.min(most, view.x));
    view.y = Math.max(-most, Math.min(most, view.y));
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
    if (view.scale > 1) { view.scale = 1; view.x = view.y = 0; apply(); }
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
      const [one, two] = [...pointers.values()];
      const now = Math.hypot(one.clientX - two.clientX, one.clientY - two.clientY);
      if (apart) zoom(now / apart, pane, (one.clientX + two.clientX) / 2, (one.clientY + two.clientY) / 2);
      apart = now;
    } else if (view.scale > 1) {
      const box = pane.getBoundingClientRect();
      view.x += (event.clientX - before.clientX) / box.width;
      view.y += (event.clientY - before.clientY) / box.height;
      clamp();
      apply();
    }
  });
  for (const end of ["pointerup", "pointercancel", "pointerleave"])
    root.addEventListener(end, (event) => { pointers.delete(event.pointerId); apart = 0; });
  apply.by = (factor) => {
    const pane = root.querySelector(".pane");
    if (!pane) return;
    const box = pane.getBoundingClientRect();
    zoom(factor, pane, box.left + box.width / 2, box.top + box.height / 2);
  };
  return apply;
}
