// The stage: a picture that follows every move, fed by POST live; the newest wish wins. And “Generate”.
const {mix} = window.pigment;
const client = [...crypto.getRandomValues(new Uint8Array(12))].map((byte) => byte.toString(16).padStart(2, '0')).join('');
const LEAST = 120;  // milliseconds between two wishes of a drag; while one is being drawn, the next waits for it

const picture = make('img', {alt: '', hidden: true});
const pair = make('pg-compare', {'before-label': 'without adapters', 'after-label': 'your mix', hidden: true});
const empty = make('div', {class: 'pg-easel-empty'}, make('div', {class: 'pg-dots', 'aria-hidden': 'true'}, ...[1, 2, 3].map(() => make('i'))),
  make('span', {}, 'Your picture appears here'));
const busy = make('i', {class: 'pg-easel-busy', 'aria-hidden': 'true'});
const frame = make('div', {class: 'pg-easel-frame'}, empty, picture, pair, busy);
const note = make('div', {class: 'pg-easel-note', role: 'status', 'aria-live': 'polite'});
const time = make('span', {class: 'pg-easel-time'});
const toggle = (label, field, title) => {
  const at = make('button', {type: 'button', class: 'pg-btn small pg-toggle', title, 'data-toggle': field, onclick: () => mix.set({[field]: !mix.state[field]})}, label);
  return {at, field};
};
const toggles = [toggle('Before / after', 'beside', 'Compare with the base alone by a divider'),
  toggle('Final on release', 'final', 'Draw with all steps when a slider is let go')];
const generate = make('button', {type: 'button', class: 'pg-btn main pg-generate', id: 'generate', onclick: draw}, 'Generate');
const easel = make('div', {class: 'pg-easel'});
const bar = make('div', {class: 'pg-easel-bar'}, time, ...toggles.map((one) => one.at), generate);
easel.append(frame, note, bar);
box.append(easel);

let flying = 0, pending = false;  // wishes that are under way; whether something has moved since
let begun = 0, last = -1e9;  // number of the newest wish, and when it was sent
let shownNumber = 0, asked = '', timer = null, retry = null, held = false, written = false;
const addresses = {now: '', base: ''};
let baseKey = '';

const inView = () => document.visibilityState === 'visible' && element.getClientRects().length > 0;
// What a preview needs of the settings: one picture, at the size it is generated first.
function wishOf(exact, mixed = true) {
  const wish = mix.request({num_images: 1, batch_size: 1, hires_scale: 1});
  return {...wish, mix: mixed ? wish.mix : [], exact};
}

async function fetched(wish, who) {
  let answer;
  try {
    answer = await fetch('live', {method: 'POST', headers: {'content-type': 'application/json'},
      body: JSON.stringify({client: who, request: wish})});
  } catch { throw Object.assign(new Error('The server doesn’t answer; is it still running?'), {again: 4}); }
  if (answer.status === 401) location.reload();
  if (answer.status === 204) return null;
  if (answer.status !== 200) {
    const text = (await answer.text()).slice(0, 400), again = +answer.headers.get('retry-after') || 0;
    throw Object.assign(new Error(answer.status >= 500 ? 'The preview failed; the server’s output says why.' : text), {again});
  }
  return {blob: await answer.blob(), seconds: +answer.headers.get('x-seconds') || 0};
}

async function decoded(blob) {
  const address = URL.createObjectURL(blob), image = new Image();
  image.src = address;
  try { await image.decode(); } catch { /* shown as it is */ }
  return {address, width: image.naturalWidth, height: image.naturalHeight};
}

function put(which, found) {
  const old = addresses[which];
  addresses[which] = found.address;
  if (which === 'now') {  // small pictures aren't blown up without end
    easel.style.setProperty('--ratio', `${found.width} / ${found.height}`);
    easel.style.setProperty('--wide', String(found.width / found.height));
    easel.style.setProperty('--most', `${Math.max(320, 8 * found.width)}px`);
  }
  arrange();
  if (old) setTimeout(() => URL.revokeObjectURL(old), 2000);
}

function arrange() {
  const {now, base} = addresses, beside = mix.state.beside && now && base;
  empty.hidden = Boolean(now);
  picture.hidden = !now || beside;
  pair.hidden = !beside;
  if (now) picture.src = now;
  if (beside) { pair.setAttribute('before', base); pair.setAttribute('after', now); }
  const about = mix.state.generation.prompt || 'no words';
  picture.alt = `Preview: ${about}`;
  pair.setAttribute('alt', picture.alt);
  element.dataset.shown = String(shownNumber);
}

// Without words there is nothing to draw, and no need to ask.
function wordless() {
  const none = !(mix.state.generation.prompt || '').trim();
  if (none) note.textContent = 'Say in the prompt what the picture should show.';
  return none;
}

async function send(exact = false) {
  clearTimeout(timer); clearTimeout(retry); timer = retry = null;
  pending = written = false;
  if (!inView()) { asked = ''; sign(); return; }
  if (wordless()) { asked = ''; sign(); return; }
  const wish = wishOf(exact), key = JSON.stringify(wish);
  if (key === asked) { sign(); return; }
  asked = key;
  const number = ++begun;
  last = performance.now();
  flying += 1;
  sign();
  try {
    const found = await fetched(wish, client);
    if (found && number > shownNumber) {
      const image = await decoded(found.blob);
      if (number > shownNumber) {
        shownNumber = number;
        put('now', image);
        note.textContent = '';
        time.textContent = `${found.seconds.toFixed(found.seconds < 1 ? 2 : 1)} s`;
        time.title = exact ? 'Drawn with all steps' : 'Drawn with few steps';
      }
    }
  } catch (error) {
    if (number === begun) refused(error);
  }
  flying -= 1;
  sign();
  if (pending && held) wishSoon();
  else if (number === begun && asked === key && mix.state.beside) base(exact);
}

// The base's own picture, for the divider: drawn once per settings, when nothing else is.
async function base(exact) {
  const wish = wishOf(exact, false), key = JSON.stringify({...wish, exact: false});
  if (key === baseKey || flying || held) return;
  flying += 1; sign();
  try {
    const found = await fetched(wish, `${client}b`);
    if (found) { put('base', await decoded(found.blob)); baseKey = key; }
  } catch (error) { refused(error); }
  flying -= 1; sign();
}

function refused(error) {
  asked = '';
  note.textContent = error.message;
  if (error.again) retry = setTimeout(() => send(), 1000 * error.again);
}

function sign() {
  const busy = flying > 0 || timer !== null || written;
  frame.classList.toggle('busy', busy);
  frame.setAttribute('aria-busy', String(busy));
}

// While something moves: a drawing at a time, so that pictures keep coming. What is let go is drawn at once.
function wishSoon() {
  if (flying) { pending = true; return; }
  const wait = LEAST - (performance.now() - last);
  if (wait <= 0) send();
  else timer ||= setTimeout(() => { timer = null; send(); }, wait);
}
// Let go, or moved by a key, which may repeat: the newest at once, whatever is being drawn.
function wishNow() {
  clearTimeout(timer);
  timer = setTimeout(() => { timer = null; send(mix.state.final); }, Math.max(0, LEAST - (performance.now() - last)));
}
const typed = quiet(() => send(mix.state.final), 300);

mix.follow((keys, how) => {
  if (keys.includes('generate')) draw();
  if (keys.includes('beside') || keys.includes('final')) { marks(); arrange(); if (keys.includes('beside')) { baseKey = ''; base(false); } }
  if (!keys.some((key) => ['mix', 'generation', 'image', 'mask'].includes(key))) return;
  held = Boolean(how.moving);
  if (held && keys.includes('mix')) rise();
  if (held) wishSoon(); else if (how.typing) { written = true; typed(); } else wishNow();
  sign();
});

function marks() { for (const {at, field} of toggles) at.setAttribute('aria-pressed', String(mix.state[field])); }

async function draw() {
  if (wordless()) return;
  generate.disabled = true;
  note.textContent = '';
  try {
    await mix.ask('mix/generate', {...mix.request(), compare: mix.state.compare, axes: mix.gridAxes?.() || []});
    if (!mix.state.locked) mix.dice?.();
    setTimeout(reveal, 500);
  } catch (error) { note.textContent = error.message; }
  setTimeout(() => { generate.disabled = false; }, 400);
}

// What is drawn comes into view: in its own column, or on narrow pages below everything.
function reveal() {
  const drawn = document.getElementById('drawn'), column = element.closest('.column');
  const behavior = matchMedia('(prefers-reduced-motion: reduce)').matches ? 'auto' : 'smooth';
  if (!drawn || !column) return;
  if (getComputedStyle(column).display === 'contents') drawn.scrollIntoView({behavior, block: 'start'});
  else column.scrollTo({behavior, top: Math.max(column.scrollTop, drawn.offsetTop - column.clientHeight + 320)});
}

// What a slider moves is seen while it is moved, also where the column shows what was drawn.
function rise() {
  const column = element.closest('.column');
  if (column && column.scrollTop > 40 && getComputedStyle(column).display !== 'contents') column.scrollTo({top: 0});
}

new IntersectionObserver(([one]) => { if (one.isIntersecting) send(); }).observe(element);
document.addEventListener('visibilitychange', () => { if (inView()) send(); });
marks();
