// The review page in the browser: shows one assignment, holds the next one ready, and sends every deed until it is
// answered. Deeds wait in localStorage, so that a reload or a lost connection loses none; their nonces make sure that
// none counts twice.
const LABELS = {
  pair: [["left", "← Left is better", "ArrowLeft", "Upper is better"], ["tie", "↓ Equally good", "ArrowDown", "Equally good"],
         ["both-bad", "X Both bad", "x", "Both bad"], ["right", "Right is better →", "ArrowRight", "Lower is better"]],
};
const SOONEST = 250;  // milliseconds: nobody judges a picture faster, but a double click hits the next one
const DEFECTS = [["hands", "Hands"], ["face", "Face"], ["eyes", "Eyes"], ["line-art", "Line art"], ["text", "Text"]];

class Session {
  constructor(host, data) {
    this.host = host;
    this.data = data;
    this.drawer = `naruto-deeds-${data.campaign}-${data.me}`;
    this.current = this.ahead = null;
    this.judged = 0;
    this.sending = null;
    this.choice = {};
    this.stage = element("div", { class: "stage" });
    this.controls = element("div", { class: "controls" });
    this.status = element("p", { class: "status", role: "status", "aria-live": "polite" });
    this.trouble = element("p", { class: "trouble", role: "alert" });
    host.replaceChildren(this.stage, this.controls, this.status, this.trouble);
    this.zoom = zoomTogether(host);
    this.keys = (event) => this.key(event);
    this.resend = () => this.flush();
    document.addEventListener("keydown", this.keys);
    window.addEventListener("online", this.resend);
    this.start();
  }

  close() {
    document.removeEventListener("keydown", this.keys);
    window.removeEventListener("online", this.resend);
    this.closed = true;
  }

  // ---- talking to the server

  address(path) { return new URL(path, document.baseURI).href; }

  async ask(path, body) {
    const answer = await fetch(this.address(path), {
      method: body ? "POST" : "GET", body: body && JSON.stringify(body), cache: "no-store",
      headers: { Authorization: `Bearer ${this.data.pass}` },
    });
    let said = {};
    try { said = await answer.json(); } catch { /* a proxy's page: the status says enough */ }
    return { status: answer.status, said };
  }

  async patiently(path, body) {
    for (let wait = 500; !this.closed; wait = Math.min(wait * 2, 8000)) {
      try {
        const answer = await this.ask(path, body);
        if (answer.status < 500) { this.trouble.textContent = ""; return answer; }
      } catch { /* no connection */ }
      this.trouble.textContent = "No connection to the server. Your votes are kept here and are sent as soon as it is back.";
      await new Promise((done) => setTimeout(done, wait));
    }
    return { status: 0, said: {} };
  }

  waiting() { try { return JSON.parse(localStorage.getItem(this.drawer)) || []; } catch { return []; } }
  keep(deeds) { localStorage.setItem(this.drawer, JSON.stringify(deeds)); }

  flush() {
    this.sending = this.sending || this.sendAll().finally(() => { this.sending = null; });
    return this.sending;
  }

  async sendAll() {
    for (let deeds = this.waiting(); deeds.length && !this.closed; deeds = this.waiting()) {
      this.say("Saving …");
      const { status, said } = await this.patiently("judging/deeds", deeds[0]);
      if (status === 0) return;
      this.keep(this.waiting().filter((deed) => deed.nonce !== deeds[0].nonce));
      if (status === 200) this.say(deeds[0].act === "undo" ? "Taken back." : "Saved.");
      else this.warn(`Not counted: ${said.error || "the server refused it."}`);
    }
  }

  async load(besides) {
    const query = besides ? `?besides=${encodeURIComponent(besides.id)}` : "";
    const { status, said } = await this.patiently(`judging/${this.data.campaign}/next${query}`);
    if (status !== 200) { if (status) this.warn(said.error || "The server refused to answer."); return null; }
    this.judged = said.judged;
    const next = said.assignment;
    if (next) await this.preload(next);
    return next;
  }

  preload(assignment) {
    return Promise.all(assignment.pictures.map((digest) => {
      if (!digest) return null;
      const picture = new Image();
      picture.src = this.picture(digest);
      return picture.decode().catch(() => null);
    }));
  }

  picture(digest) { return this.address(`pictures/${digest}/${this.data.size}.webp`); }

  // ---- the session

  async start() {
    this.say("Looking for the next pictures …");
    await this.flush();
    const first = await this.load(null);
    this.say("");
    this.show(first);
    this.look();
  }

  look() {  // for what comes after what is shown; one look at a time, so that nothing is given twice
    if (!this.current || this.ahead) return Promise.resolve();
    this.looking = this.looking || this.lookAhead().finally(() => { this.looking = null; });
    return this.looking;
  }

  async lookAhead() {
    await this.flush();  // what was answered must be known, or it is given again
    const next = await this.load(this.current);
    if (next && this.current && next.id !== this.current.id) this.ahead = next;
    this.progress();
  }

  async do(act, answer) {
    if (!this.current || this.busy || performance.now() - this.since < SOONEST) return;
    this.busy = true;
    const deed = {
      assignment: this.current.id, act, nonce: crypto.randomUUID ? crypto.randomUUID() : String(Math.random()) + Date.now(),
      seconds: Math.min(86400, (performance.now() - this.since) / 1000),
      viewport: `${window.innerWidth}x${window.innerHeight}`, ...(answer === undefined ? {} : { answer }),
    };
    this.keep([...this.waiting(), deed]);
    const sent = this.flush();
    this.judged += 1;
    if (!this.ahead) { await this.looking; await sent; }
    const next = this.ahead || await this.load(null);
    this.ahead = null;
    this.show(next);
    this.busy = false;
    this.look();
  }

  async undo() {
    if (this.busy) return;
    this.busy = true;
    await this.looking;
    await this.flush();
    const { status, said } = await this.patiently(`judging/${this.data.campaign}/last`);
    const last = status === 200 && said.assignment;
    if (!last) this.warn("There is nothing to take back.");
    else {
      const nonce = crypto.randomUUID ? crypto.randomUUID() : String(Math.random()) + Date.now();
      this.keep([{ assignment: last.id, act: "undo", nonce, seconds: 0, viewport: "" }, ...this.waiting()]);
      await this.flush();
      await this.preload(last);
      this.ahead = this.current || this.ahead;
      this.judged = Math.max(0, this.judged - 1);
      this.show(last);
    }
    this.busy = false;
  }

  key(event) {
    const path = event.composedPath();
    if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
    if (path.some((node) => node.matches && node.matches("input:not([type=checkbox]), textarea, select, [contenteditable]"))) return;
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const deed = this.meaning(key);
    if (!deed) return;
    event.preventDefault();
    deed();
  }

  meaning(key) {
    if (key === "u") return () => this.undo();
    if (key === "+" || key === "=") return () => this.zoom.by(1.5);
    if (key === "-") return () => this.zoom.by(1 / 1.5);
    if (!this.current) return null;
    if (key === "s") return () => this.do("skip");
    if (this.data.mode === "pair") {
      const found = LABELS.pair.find(([, , name]) => name === key);
      return found && (() => this.do("vote", found[0]));
    }
    const number = "12345".indexOf(key);
    if (this.data.mode === "best-worst") return number >= 0 && number < 4 ? () => this.extreme(number) : null;
    if (number >= 0) return () => this.grade(this.choice.adherence ? "style" : "adherence", number + 1);
    return key === "Enter" ? () => this.submit() : null;
  }

  // ---- answers of the other two modes

  extreme(place) {
    if (this.choice.best === undefined) { this.choice.best = place; this.draw(); return; }
    if (this.choice.best === place) { this.choice.best = undefined; this.draw(); return; }
    this.do("vote", { best: this.choice.best, worst: place });
  }

  grade(question, value) { this.choice[question] = value; this.draw(); }

  submit() {
    if (!this.choice.adherence || !this.choice.style) { this.say("Answer both questions first."); return; }
    const { adherence, style, defects } = this.choice;
    this.do("vote", { adherence, style, defects: [...defects] });
  }

  // ---- drawing

  show(assignment) {
    this.current = assignment;
    this.choice = { defects: new Set() };
    this.since = performance.now();
    this.draw();
    this.progress();
  }

  draw() {
    if (!this.current) {
      this.stage.replaceChildren(element("p", { class: "done" }, "Thank you. There is nothing left for you to judge here."));
      this.controls.replaceChildren(this.button("U Take back my last answer", () => this.undo(), "quiet"));
      return;
    }
    const shown = this.current;
    const panes = shown.pictures.map((digest, place) => this.pane(digest, place, shown));
    if (this.stage.dataset.shown !== shown.id || this.data.mode === "best-worst") {
      this.stage.replaceChildren(element("p", { class: "prompt", dir: "auto" }, shown.text),
                                 element("div", { class: `panes of-${panes.length}` }, ...panes));
      this.stage.dataset.shown = shown.id;
    }
    this.controls.replaceChildren(...this.answers(),
      element("div", { class: "row" }, this.button("S Skip", () => this.do("skip"), "quiet"),
              this.button("U Take back", () => this.undo(), "quiet"),
              this.button("+ Zoom in", () => this.zoom.by(1.5), "quiet zoom"), this.button("− Zoom out", () => this.zoom.by(1 / 1.5), "quiet zoom")));
    this.zoom();
  }

  pane(digest, place, shown) {
    if (!digest) return element("div", { class: "pane missing" }, "This picture is missing. Skip this one, please.");
    const picture = element("img", { src: this.picture(digest), alt: shown.text, draggable: "false" });
    const pane = element("div", { class: "pane", tabindex: "-1" }, picture);
    if (this.data.mode === "best-worst") {
      const best = this.choice.best === place;
      pane.append(element("button", { class: `place ${best ? "best" : ""}`, type: "button", onclick: () => this.extreme(place) },
        `${place + 1}: ${best ? "the best (click to change)" : this.choice.best === undefined ? "is the best" : "is the worst"}`));
    }
    return pane;
  }

  answers() {
    if (this.data.mode === "pair")
      return [element("div", { class: "row" }, ...LABELS.pair.map(([answer, wide, , narrow]) =>
        this.button(element("span", {}, element("span", { class: "wide" }, wide), element("span", { class: "narrow" }, narrow)), () => this.do("vote", answer), answer === "left" || answer === "right" ? "main" : "")))];
    if (this.data.mode === "best-worst")
      return [element("p", { class: "ask" }, this.choice.best === undefined ? "Which is the best? (keys 1 to 4)" : "And which is the worst? (keys 1 to 4)")];
    const { anchors } = this.data;
    return [
      ...Object.entries(anchors).map(([question, { ask, words }]) => element("fieldset", {}, element("legend", {}, ask), ...(question === "style" ? this.references() : []),
        ...words.map((word, i) => element("button", { type: "button", class: "grade", "aria-pressed": String(this.choice[question] === i + 1),
          onclick: () => this.grade(question, i + 1) }, `${i + 1} ${word}`)))),
      element("fieldset", {}, element("legend", {}, "What is wrong with it? (as many as you see)"),
        ...DEFECTS.map(([name, label]) => element("button", { type: "button", class: "grade", "aria-pressed": String(this.choice.defects.has(name)),
          onclick: () => { if (!this.choice.defects.delete(name)) this.choice.defects.add(name); this.draw(); } }, label))),
      element("div", { class: "row" }, this.button("Enter: done with this one", () => this.submit(), "main")),
    ];
  }

  references() {
    return this.data.references.length ? [element("div", { class: "references" },
      ...this.data.references.map(({ text, picture }) => element("img", { src: picture, alt: `Example of the style: ${text}`, title: text })))] : [];
  }

  button(label, deed, kind) { return element("button", { type: "button", class: kind, onclick: deed }, label); }
  say(words) { this.status.dataset.words = words; this.progress(); }
  warn(words) { this.trouble.textContent = words; }
  progress() {
    const words = this.status.dataset.words || "";
    this.status.textContent = `${this.judged} judged by you. ${this.current ? words : words === "Saved." ? words : ""}`;
    this.host.dataset.ready = String(Boolean(this.ahead));
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
