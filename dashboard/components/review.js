// The review page in the browser: shows an assignment, prefetches the next one, and sends every rating event until the
// server answers. Unsent events are in localStorage, so that a reload or a lost connection loses none; the server counts
// events of the same nonce once.
const LABELS = {  // answer, label, key, label on an upright screen and the rest of it for screen readers
  pair: [["left", "← Left is better", "ArrowLeft", "Upper", " is better"], ["tie", "↓ Equally good", "ArrowDown", "Equal", "ly good"],
         ["both-bad", "X Both bad", "x", "Both bad", ""], ["right", "Right is better →", "ArrowRight", "Lower", " is better"]],
};
const LEAST_HEIGHT = 420;  // pixels; on a lower screen the page scrolls
const MOST_UNSENT = 3;  // answers on their way while the next pictures are asked for; then these wait for them
const NO_CONNECTION = "No connection to the server. Your votes are kept in this browser and sent when the connection is back.";
const MIN_VIEW_MS = 250;  // nobody rates a picture faster; a double click would hit the next one
const DEFECTS = [["hands", "Hands"], ["face", "Face"], ["eyes", "Eyes"], ["line-art", "Line art"], ["text", "Text"]];

function newNonce() { return crypto.randomUUID ? crypto.randomUUID() : String(Math.random()) + Date.now(); }

// Where a click hit a picture, 0 to 1 from its upper left; null beside it. The picture is fitted into its element.
function pointIn(picture, event) {
  const box = picture.getBoundingClientRect(), shape = picture.naturalWidth / picture.naturalHeight || 1;
  const width = Math.min(box.width, box.height * shape), height = width / shape;
  const x = (event.clientX - box.left - (box.width - width) / 2) / width, y = (event.clientY - box.top - (box.height - height) / 2) / height;
  return x >= 0 && x <= 1 && y >= 0 && y <= 1 ? { x, y } : null;
}

class Session {
  constructor(host, data) {
    this.host = host;
    this.data = data;
    this.storageKey = `naruto-events-${data.campaign}-${data.reviewer}`;
    this.current = this.next = null;
    this.rated = this.total = 0;
    this.sending = null;
    this.choice = {};
    this.marking = "";  // the defect that the next click on a picture marks
    this.stage = element("div", { class: "stage" });
    this.controls = element("div", { class: "controls" });
    this.status = element("p", { class: "status", role: "status", "aria-live": "polite" });
    this.warning = element("p", { class: "warning", role: "alert" });
    host.className = `review ${data.mode}`;
    this.dialog = element("dialog", { class: "panel", "aria-label": "Guidelines and notes" });
    host.replaceChildren(this.stage, this.controls, this.status, this.warning, this.dialog);
    this.zoom = zoomTogether(host);
    this.onKeyDown = (event) => this.handleKey(event);
    this.resend = () => this.flush();
    document.addEventListener("keydown", this.onKeyDown);
    window.addEventListener("online", this.resend);
    this.onResize = () => this.fit();
    window.addEventListener("resize", this.onResize);
    this.stage.addEventListener("click", (event) => this.mark(event));
    this.start();
    this.guidelines(true);
  }

  // ---- guidelines, notes and defects

  // At the first visit of each campaign, and whenever somebody asks.
  guidelines(first) {
    const key = `naruto-guidelines-${this.data.campaign}-${this.data.reviewer}`;
    try { if (first && localStorage.getItem(key)) return; localStorage.setItem(key, "read"); } catch { if (first) return; }
    this.open(element("h2", {}, "Guidelines"), ...(this.data.guidelines || []).map((line) => element("p", {}, line)),
      element("button", { type: "button", class: "main", onclick: () => this.dialog.close() }, "Start rating"));
  }

  note() {
    if (!this.current) return;
    const assignment = this.current.id;
    const text = element("textarea", { maxlength: "500", rows: "4", "aria-label": "Note on these pictures" });
    const save = async () => { this.dialog.close(); if (text.value.trim()) await this.sendNote({ assignment, text: text.value }); };
    const defects = DEFECTS.map(([name, label]) => element("button", { type: "button", onclick: () => { this.dialog.close(); this.marking = name; this.setStatus(`Click on the place in the picture: ${label}.`); } }, label));
    this.open(element("h2", {}, "Note"), text, element("div", { class: "row" }, element("button", { type: "button", class: "main", onclick: save }, "Save the note"),
      element("button", { type: "button", onclick: () => this.dialog.close() }, "Cancel")),
      element("p", {}, "Or mark a defect: choose it, then click on its place in the picture."), element("div", { class: "row" }, ...defects));
  }

  open(...content) {
    this.dialog.replaceChildren(...content);
    if (!this.dialog.open) this.dialog.showModal();
    this.dialog.onclose = () => { if (this.current) this.shownAt = performance.now(); };  // reading is not rating
  }

  mark(event) {
    const picture = this.marking && this.current && event.target.closest && event.target.closest(".pane img");
    if (!picture) return;
    const place = pointIn(picture, event);
    if (!place) return;
    const position = [...this.stage.querySelectorAll(".pane")].indexOf(picture.closest(".pane"));
    this.sendNote({ assignment: this.current.id, position, defect: this.marking, ...place });
    this.marking = "";
  }

  async sendNote(note) {
    const { status, reply } = await this.requestWithRetry("judging/notes", { nonce: newNonce(), ...note });
    if (status === 200) this.setStatus(note.defect ? "Marked." : "Note saved."); else if (status) this.warn(`Not kept: ${reply.error || "the server refused it."}`);
  }

  close() {
    document.removeEventListener("keydown", this.onKeyDown);
    window.removeEventListener("online", this.resend);
    window.removeEventListener("resize", this.onResize);
    this.closed = true;
  }

  // Fill the window below whatever stands above, so that nothing has to be scrolled to.
  fit() {
    const main = document.querySelector("[data-testid=stMain]");
    const top = this.host.getBoundingClientRect().top + (main ? main.scrollTop : 0);
    this.host.style.height = `${Math.max(LEAST_HEIGHT, window.innerHeight - top - 4)}px`;
  }

  // ---- requests to the server

  url(path) { return new URL(path, document.baseURI).href; }

  async request(path, body) {
    const response = await fetch(this.url(path), {
      method: body ? "POST" : "GET", body: body && JSON.stringify(body), cache: "no-store",
      headers: { Authorization: `Bearer ${this.data.token}` },
    });
    let reply = {};
    try { reply = await response.json(); } catch { /* the page of a proxy: the status is enough */ }
    return { status: response.status, reply };
  }

  async requestWithRetry(path, body) {
    for (let wait = 500; !this.closed; wait = Math.min(wait * 2, 8000)) {
      try {
        const answer = await this.request(path, body);
        if (answer.status < 500) { this.connected(); return answer; }
      } catch { /* no connection */ }
      this.warn(NO_CONNECTION);
      await new Promise((resolve) => setTimeout(resolve, wait));
    }
    return { status: 0, reply: {} };
  }

  unsent() { try { return JSON.parse(localStorage.getItem(this.storageKey)) || []; } catch { return []; } }
  saveUnsent(events) { localStorage.setItem(this.storageKey, JSON.stringify(events)); }

  flush() {
    this.sending = this.sending || this.sendAll().finally(() => { this.sending = null; });
    return this.sending;
  }

  async sendAll() {
    for (let events = this.unsent(); events.length && !this.closed; events = this.unsent()) {
      this.setStatus("Saving …");
      const { status, reply } = await this.requestWithRetry("judging/deeds", events[0]);
      if (status === 0) return;
      this.saveUnsent(this.unsent().filter((event) => event.nonce !== events[0].nonce));
      if (status === 200) this.setStatus(events[0].act === "undo" ? "Undone." : "Saved.");
      else this.warn(`Not counted: ${reply.error || "the server refused it."}`);
    }
  }

  async load(besides) {
    const query = besides.length ? `?${new URLSearchParams(besides.map((id) => ["besides", id]))}` : "";
    const { status, reply } = await this.requestWithRetry(`judging/${this.data.campaign}/next${query}`);
    if (status !== 200) { if (status) this.warn(reply.error || "The server refused the request."); return null; }
    if (!besides.length) this.rated = reply.judged;  // else the answers on their way may be in it or not
    if (reply.left !== undefined) this.total = reply.judged + reply.left;
    if (reply.assignment) await this.preload(reply.assignment);
    return reply.assignment;
  }

  preload(assignment) {
    return Promise.all(assignment.pictures.map((digest) => {
      if (!digest) return null;
      const picture = new Image();
      picture.src = pictureAddress(digest, "512");
      return picture.decode().catch(() => null);
    }));
  }

  // ---- the session

  async start() {
    this.setStatus("Loading pictures …");
    await this.flush();
    const first = await this.load([]);
    this.setStatus("");
    this.show(first);
    this.prefetch();
  }

  prefetch() {  // one request at a time, so that no assignment is loaded twice
    if (!this.current || this.next) return Promise.resolve();
    this.prefetching = this.prefetching || this.loadNext().finally(() => { this.prefetching = null; });
    return this.prefetching;
  }

  async loadNext() {
    if (this.unsent().length > MOST_UNSENT) await this.flush();
    // the server must know what is answered or shown here, or it sends the same assignments again
    const next = await this.load([this.current.id, ...this.unsent().map((event) => event.assignment)]);
    if (next && this.current && next.id !== this.current.id) this.next = next;
    this.showStatus();
  }

  async submit(act, answer) {
    if (!this.current || this.busy || performance.now() - this.shownAt < MIN_VIEW_MS) return;
    this.busy = true;
    this.forgetWarning();
    const event = {
      assignment: this.current.id, act, nonce: newNonce(),
      seconds: Math.min(86400, (performance.now() - this.shownAt) / 1000),
      viewport: `${window.innerWidth}x${window.innerHeight}`, ...(answer === undefined ? {} : { answer }),
    };
    this.saveUnsent([...this.unsent(), event]);
    const sending = this.flush();
    this.rated += 1;
    if (!this.next) await this.prefetching;
    if (!this.next) await sending;
    const next = this.next || await this.load([]);
    this.next = null;
    this.show(next);
    this.busy = false;
    this.prefetch();
  }

  async undo() {
    if (this.busy) return;
    this.busy = true;
    this.forgetWarning();
    await this.prefetching;
    await this.flush();
    const { status, reply } = await this.requestWithRetry(`judging/${this.data.campaign}/last`);
    const last = status === 200 && reply.assignment;
    if (!last) this.warn("There is nothing to undo.");
    else {
      this.saveUnsent([{ assignment: last.id, act: "undo", nonce: newNonce(), seconds: 0, viewport: "" }, ...this.unsent()]);
      await this.flush();
      await this.preload(last);
      this.next = this.current || this.next;
      this.rated = Math.max(0, this.rated - 1);
      this.show(last);
    }
    this.busy = false;
  }

  handleKey(event) {
    const path = event.composedPath();
    if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || event.defaultPrevented) return;
    if (this.dialog.open || document.querySelector("[role=dialog]")) return;  // whoever reads a message does not vote
    if (path.some((node) => node.matches && node.matches("input:not([type=checkbox]), textarea, select, [contenteditable]"))) return;
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const command = this.commandOf(key);
    if (!command) return;
    event.preventDefault();
    command();
  }

  commandOf(key) {
    if (key === "u") return () => this.undo();
    if (key === "+" || key === "=") return () => this.zoom.by(1.5);
    if (key === "-") return () => this.zoom.by(1 / 1.5);
    if (!this.current) return null;
    if (key === "s") return () => this.submit("skip");
    if (key === "n") return () => this.note();
    if (this.data.mode === "pair") {
      const label = LABELS.pair.find(([, , name]) => name === key);
      return label && (() => this.submit("vote", label[0]));
    }
    const number = "12345".indexOf(key);
    if (this.data.mode === "best-worst") return number >= 0 && number < 4 ? () => this.extreme(number) : null;
    if (number >= 0) return () => this.grade(this.choice.adherence ? "style" : "adherence", number + 1);
    return key === "Enter" ? () => this.submitGrades() : null;
  }

  // ---- answers of the other two modes

  extreme(position) {
    if (this.choice.best === undefined) { this.choice.best = position; this.draw(); return; }
    if (this.choice.best === position) { this.choice.best = undefined; this.draw(); return; }
    this.submit("vote", { best: this.choice.best, worst: position });
  }

  grade(question, value) { this.choice[question] = value; this.draw(); }

  submitGrades() {
    if (!this.choice.adherence || !this.choice.style) { this.setStatus("Answer both questions first."); return; }
    const { adherence, style, defects } = this.choice;
    this.submit("vote", { adherence, style, defects: [...defects] });
  }

  // ---- drawing

  show(assignment) {
    this.current = assignment;
    this.choice = { defects: new Set() };
    this.shownAt = performance.now();
    this.zoom.reset();  // the next pictures are seen whole first
    this.draw();
    this.showStatus();
    this.fit();
    setTimeout(() => this.closed || this.fit(), 300);  // when what stands above is drawn
  }

  draw() {
    if (!this.current) {
      this.stage.replaceChildren(element("p", { class: "done" }, "Thank you. There is nothing left for you to rate here."));
      this.controls.replaceChildren(this.button("U Undo my last answer", () => this.undo(), "quiet"));
      return;
    }
    const assignment = this.current;
    const panes = assignment.pictures.map((digest, position) => this.pane(digest, position, assignment));
    if (this.stage.dataset.shown !== assignment.id || this.data.mode === "best-worst") {
      this.stage.replaceChildren(element("p", { class: "question" }, this.data.question),
                                 element("p", { class: "prompt", dir: "auto", tabindex: "0" }, assignment.text),
                                 element("div", { class: `panes of-${panes.length}` }, ...panes));
      this.stage.dataset.shown = assignment.id;
    }
    this.controls.replaceChildren(...this.answers(),
      element("div", { class: "row more" }, this.button("S Skip", () => this.submit("skip"), "quiet"),
              this.button("U Undo", () => this.undo(), "quiet"), this.button("N Note", () => this.note(), "quiet"),
              this.button("? Guidelines", () => this.guidelines(false), "quiet zoom"),
              this.button("+ Zoom in", () => this.zoom.by(1.5), "quiet zoom"), this.button("− Zoom out", () => this.zoom.by(1 / 1.5), "quiet zoom")));
    this.zoom();
  }

  pane(digest, position, assignment) {
    const picture = pictureElement(digest, assignment.text, "This picture is missing. Please skip this comparison.");
    const pane = element("div", { class: "pane", tabindex: "-1" }, picture);
    if (!digest) return pane;
    if (this.data.mode === "best-worst") {
      const best = this.choice.best === position;
      pane.append(element("button", { class: `position ${best ? "best" : ""}`, type: "button", onclick: () => this.extreme(position) },
        `${position + 1}: ${best ? "the best (click to change)" : this.choice.best === undefined ? "is the best" : "is the worst"}`));
    }
    return pane;
  }

  answers() {
    if (this.data.mode === "pair")
      return [element("div", { class: "row" }, ...LABELS.pair.map(([answer, wide, , narrow, rest]) =>
        this.button(element("span", {}, element("span", { class: "wide" }, wide), element("span", { class: "narrow" }, narrow, element("span", { class: "unseen" }, rest))),
          () => this.submit("vote", answer), answer === "left" || answer === "right" ? "main" : "")))];
    if (this.data.mode === "best-worst")
      return [element("p", { class: "ask" }, this.choice.best === undefined ? "Which picture is the best? (keys 1 to 4)" : "Which picture is the worst? (keys 1 to 4)")];
    const { anchors } = this.data;
    return [
      ...Object.entries(anchors).map(([question, { ask, words }]) => element("fieldset", {}, element("legend", {}, ask, element("span", { class: "wide" }, " (keys 1 to 5)"), element("span", { class: "narrow" }, ` (5: ${words[4]})`)), ...(question === "style" ? this.references() : []),
        ...words.map((word, i) => element("button", { type: "button", class: "grade", "aria-pressed": String(this.choice[question] === i + 1),
          onclick: () => this.grade(question, i + 1) }, `${i + 1}`, element("span", { class: "word" }, ` ${word}`))))),
      element("fieldset", {}, element("legend", {}, "Which defects do you see? (choose all)"),
        ...DEFECTS.map(([name, label]) => element("button", { type: "button", class: "grade", "aria-pressed": String(this.choice.defects.has(name)),
          onclick: () => { if (!this.choice.defects.delete(name)) this.choice.defects.add(name); this.draw(); } }, label))),
      element("div", { class: "row" }, this.button("Enter: save", () => this.submitGrades(), "main")),
    ];
  }

  references() {
    return this.data.references.length ? [element("div", { class: "references" },
      ...this.data.references.map(({ text, picture }) => element("img", { src: picture, alt: `Example of the style: ${text}`, title: text })))] : [];
  }

  button(label, command, style) { return element("button", { type: "button", class: style, onclick: command }, label); }
  setStatus(text) { this.status.dataset.text = text; this.showStatus(); }
  warn(text) { this.warning.textContent = text; }
  connected() { if (this.warning.textContent === NO_CONNECTION) this.warn(""); }
  forgetWarning() { if (this.warning.textContent !== NO_CONNECTION) this.warn(""); }  // a person has seen it and goes on
  showStatus() {
    const text = this.status.dataset.text || "";
    this.status.textContent = `You rated ${this.rated} of ${Math.max(this.rated, this.total)}. ${this.current || text === "Saved." ? text : ""}`;
    this.host.dataset.ready = String(Boolean(this.next));
  }
}

export default function (component) {
  const { data, parentElement } = component;
  const host = parentElement.querySelector(".review");
  const same = host.session && host.session.data.campaign === data.campaign;
  if (same) { host.session.data = data; return; }
  if (host.session) host.session.close();
  host.session = new Session(host, data);
  return () => { host.session.close(); host.session = null; };
}
