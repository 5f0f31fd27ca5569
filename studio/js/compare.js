// <pg-compare before="address" after="address">: one picture over the other with a divider between them, moved by
// pointer or by arrow keys. Optional: before-label, after-label, alt (what the pictures show), at (percent).
// It works in any HTML of the page, also in what a part shows later.
window.customElements.define('pg-compare', class extends HTMLElement {
  static observedAttributes = ['before', 'after', 'before-label', 'after-label', 'alt'];
  static places = new Map();  // where a pair's divider was left, as a part may show it anew

  static style = `
    :host { display: block; position: relative; overflow: hidden; border-radius: 10px; line-height: 0;
      background: var(--border-color-primary, #e8e4dd); touch-action: pan-y; cursor: ew-resize;
      user-select: none; -webkit-user-select: none; --at: 50%; }
    img { width: 100%; height: auto; display: block; pointer-events: none; }
    img.before { position: absolute; inset: 0; height: 100%; object-fit: contain;
      clip-path: inset(0 calc(100% - var(--at)) 0 0); background: inherit; }
    img:not([src]) { visibility: hidden; }
    .line { position: absolute; top: 0; bottom: 0; left: var(--at); width: 2px; margin-left: -1px; background: #fff;
      box-shadow: 0 0 0 1px rgb(20 18 17 / .35); pointer-events: none; }
    .knob { position: absolute; top: 50%; left: 50%; width: 34px; height: 34px; margin: -17px 0 0 -17px;
      border-radius: 50%; background: #fff; box-shadow: 0 1px 5px rgb(20 18 17 / .45); display: grid; place-items: center; }
    .knob svg { width: 20px; height: 20px; fill: none; stroke: #3f45bd; stroke-width: 2.2; stroke-linecap: round;
      stroke-linejoin: round; }
    input { position: absolute; inset: 0; width: 100%; height: 100%; margin: 0; opacity: 0; pointer-events: none; }
    :host(:focus-within) .knob { outline: 3px solid var(--accent, #3f45bd); outline-offset: 2px; }
    span { position: absolute; bottom: 8px; padding: 3px 8px; border-radius: 6px; font: 400 12px/1.3 var(--font, sans-serif);
      background: rgb(20 18 17 / .72); color: #fff; pointer-events: none; max-width: 42%; overflow: hidden;
      text-overflow: ellipsis; white-space: nowrap; }
    span.before { left: 8px; } span.after { right: 8px; }
    span:empty { display: none; }`;

  constructor() {
    super();
    const root = this.attachShadow({mode: 'open'});
    root.innerHTML = `<style>${this.constructor.style}</style>
      <img class="after" alt="" draggable="false"><img class="before" alt="" draggable="false">
      <span class="before"></span><span class="after"></span>
      <div class="line"><div class="knob"><svg viewBox="0 0 24 24" aria-hidden="true"><path d="M8 7l-5 5 5 5M16 7l5 5-5 5"/></svg></div></div>
      <input type="range" min="0" max="100" step="1">`;
    this.parts = Object.fromEntries(['img.after', 'img.before', 'span.before', 'span.after', 'input']
      .map((name) => [name, root.querySelector(name)]));
    this.parts.input.addEventListener('input', () => this.move(+this.parts.input.value));
    let held = null;
    const follow = (event) => {
      const frame = this.getBoundingClientRect();
      this.move(Math.min(100, Math.max(0, 100 * (event.clientX - frame.left) / frame.width)));
    };
    this.addEventListener('mousedown', (event) => event.preventDefault());  // it would take the focus away again
    this.addEventListener('pointerdown', (event) => {
      if (event.button) return;
      held = event.pointerId;
      this.setPointerCapture(held);
      this.parts.input.focus({preventScroll: true});
      follow(event);
    });
    this.addEventListener('pointermove', (event) => { if (event.pointerId === held) follow(event); });
    for (const name of ['pointerup', 'pointercancel']) this.addEventListener(name, () => { held = null; });
  }

  get pair() { return `${this.getAttribute('before')} ${this.getAttribute('after')}`; }

  connectedCallback() {
    this.show();
    this.move(this.constructor.places.get(this.pair) ?? +(this.getAttribute('at') ?? 50), false);
  }

  attributeChangedCallback() { if (this.isConnected) this.show(); }

  show() {
    for (const side of ['before', 'after']) {
      const address = this.getAttribute(side), image = this.parts[`img.${side}`];
      if (!address) image.removeAttribute('src');
      else if (image.getAttribute('src') !== address) image.src = address;
      this.parts[`span.${side}`].textContent = this.label(side);
    }
    this.parts['img.after'].alt = this.getAttribute('alt') || '';
    this.parts.input.setAttribute('aria-label', `How much of “${this.label('before')}” covers “${this.label('after')}”`);
  }

  label(side) { return this.getAttribute(`${side}-label`) ?? side; }

  move(percent, keep = true) {
    this.style.setProperty('--at', `${percent}%`);
    this.parts.input.value = percent;
    this.parts.input.setAttribute('aria-valuetext', `${Math.round(percent)} % ${this.label('before')}`);
    if (!keep || this.pair.includes('blob:')) return;
    const {places} = this.constructor;
    places.delete(this.pair);
    places.set(this.pair, percent);
    if (places.size > 50) places.delete(places.keys().next().value);
  }
});
