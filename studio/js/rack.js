// The adapter rack: a card per adapter of the mix. Its value brings what another tab wants (see `mix.wish`).
const {mix} = window.pigment;
const [LOW, HIGH, STEP] = [-2, 3, 0.05];
const say = make('p', {class: 'pg-hint', role: 'status'});
const list = make('ul', {class: 'pg-rack', 'aria-label': 'Adapters in the mix'});
const tools = make('div', {class: 'pg-row pg-rack-tools'});
const shown = new Map();  // cards by adapter id: {at, put}

const round = (number) => Math.round(number * 100) / 100;
const clamp = (number, low, high) => Math.min(high, Math.max(low, number));
const partOf = (id) => mix.state.mix.find((one) => one.id === id);

function change(id, fields, moving = false) {
  mix.set({mix: mix.state.mix.map((one) => (one.id === id ? {...one, ...fields} : one))}, {moving, from: 'rack'});
}

// A slider and a number for the same value. `zero` is where the track's fill begins.
function weightSlider({label, low = LOW, high = HIGH, step = STEP, zero = 0, home = 1, onput}) {
  const slider = make('input', {type: 'range', min: String(low), max: String(high), step: String(step), 'aria-label': label,
    class: 'pg-slide'});
  const number = make('input', {type: 'number', min: String(low), max: String(high), step: String(step),
    'aria-label': `${label}, as a number`, class: 'pg-number', inputmode: 'decimal'});
  const reset = make('button', {type: 'button', class: 'pg-icon', title: `Back to ${home}`,
    'aria-label': `${label}: back to ${home}`, onclick: () => { put(home); onput(home, false); }}, '↺');
  const percent = (value) => 100 * (clamp(value, low, high) - low) / (high - low);
  function put(value) {
    if (document.activeElement !== number || +number.value !== value) number.value = String(value);
    slider.value = String(value);
    const [from, to] = [percent(zero), percent(value)].sort((a, b) => a - b);
    slider.style.setProperty('--from', `${from}%`);
    slider.style.setProperty('--to', `${to}%`);
    reset.disabled = value === home;
  }
  slider.addEventListener('input', () => {
    let value = round(+slider.value);
    if (Math.abs(value - zero) < step && Math.abs(value) < 1e-9 + step / 2) value = zero;
    put(value); onput(value, true);
  });
  slider.addEventListener('change', () => onput(round(+slider.value), false));
  number.addEventListener('change', () => {
    const value = number.value.trim() === '' || !Number.isFinite(+number.value) ? home : round(clamp(+number.value, low, high));
    number.value = String(value); put(value); onput(value, false);
  });
  const marks = make('span', {class: 'pg-slide-marks', 'aria-hidden': 'true'});
  for (const at of new Set([zero, home])) marks.append(make('i', {style: `left: calc(9px + (100% - 18px) * ${percent(at) / 100})`}));
  return {at: make('div', {class: 'pg-weight'}, make('div', {class: 'pg-slide-box'}, marks, slider), number, reset), put};
}

function picture(card) {
  if (!card.cover) return make('span', {class: 'pg-thumb none', 'aria-hidden': 'true'}, (card.name || '?').slice(0, 1).toUpperCase());
  return make('img', {class: 'pg-thumb', src: card.cover, alt: '', loading: 'lazy'});
}

// What lies behind the fold of a card; filled when it is opened.
function fold(card) {
  const inside = make('div', {class: 'pg-flap-in'});
  const details = make('details', {class: 'pg-flap pg-rack-fold'}, make('summary', {}, 'Text, blocks, timing'), inside);
  let put = null;
  details.addEventListener('toggle', async () => {
    if (!details.open || put) { put?.(); return; }
    put = () => {};
    inside.replaceChildren(make('p', {class: 'pg-hint'}, 'Reading what it acts on …'));
    try {
      const found = await mix.ask(`mix/blocks/${encodeURIComponent(card.id)}`);
      put = fill(inside, card, found.blocks);
    } catch (error) {
      inside.replaceChildren(make('div', {class: 'pg-note'}, error.message));
      put = null;
    }
  });
  return {at: details, put: () => details.open && put?.()};
}

function fill(inside, card, blocks) {
  const rows = [];
  const row = (label, slider) => make('div', {class: 'pg-rack-row'}, make('span', {class: 'pg-rack-name'}, label), slider.at);
  inside.replaceChildren();
  const unet = blocks.filter((name) => !name.startsWith('text_encoder'));
  if (unet.length < blocks.length) {
    const slider = weightSlider({label: `Text weight of ${card.name}`,
      onput: (value, moving) => change(card.id, {text: value}, moving)});
    const own = make('input', {type: 'checkbox', onchange: () => change(card.id, {text: own.checked ? partOf(card.id).weight : null})});
    inside.append(make('label', {class: 'pg-check'}, own, 'A weight of its own on the words (text encoder)'), slider.at);
    rows.push((part) => { own.checked = part.text !== null; slider.at.hidden = part.text === null; slider.put(part.text ?? part.weight); });
  }
  if (unet.length) {
    inside.append(make('b', {class: 'pg-rack-head'}, 'Blocks'),
      make('p', {class: 'pg-hint'}, 'Each multiplies the weight; 0 leaves the block as the base has it.'));
    for (const name of unet) {
      const slider = weightSlider({label: `Block ${name} of ${card.name}`, low: 0, high: 2, onput: (value, moving) => {
        const now = {...partOf(card.id).blocks, [name]: value};
        if (value === 1) delete now[name];
        change(card.id, {blocks: now}, moving);
      }});
      inside.append(row(name, slider));
      rows.push((part) => slider.put(part.blocks[name] ?? 1));
    }
  }
  inside.append(make('b', {class: 'pg-rack-head'}, 'Timing'),
    make('p', {class: 'pg-hint'}, 'Shares of the way from noise to picture: later keeps the layout, changes the look.'));
  for (const [field, label] of [['begin', 'comes in at'], ['end', 'whole from']]) {
    const slider = weightSlider({label: `${card.name} ${label}`, low: 0, high: 1, home: 0, onput: (value, moving) => {
      const other = field === 'begin' ? {end: Math.max(value, partOf(card.id).end)} : {begin: Math.min(value, partOf(card.id).begin)};
      change(card.id, {[field]: value, ...other}, moving);
    }});
    inside.append(row(label, slider));
    rows.push((part) => slider.put(part[field]));
  }
  const put = () => { const part = partOf(card.id); if (part) rows.forEach((one) => one(part)); };
  put();
  return put;
}

function made(card) {
  const {id} = card;
  const slider = weightSlider({label: `Weight of ${card.name}`, onput: (weight, moving) => change(id, {weight}, moving)});
  const on = make('button', {type: 'button', class: 'pg-onoff', role: 'switch', 'aria-label': `${card.name} on`,
    onclick: () => change(id, {on: !partOf(id).on})}, make('i', {'aria-hidden': 'true'}));
  const away = make('button', {type: 'button', class: 'pg-icon', title: 'Take it out of the mix', 'aria-label': `Take ${card.name} out`,
    onclick: () => { mix.set({mix: mix.state.mix.filter((one) => one.id !== id)}); tools.querySelector('button')?.focus(); }}, '✕');
  const words = card.triggers.map((word) => make('button', {type: 'button', class: 'pg-chip pg-trigger', title: 'Put it into the prompt, or take it out',
    onclick: () => mix.say(word)}, word));
  const behind = fold(card);
  const at = make('li', {class: 'pg-rack-card', 'data-id': id}, picture(card),
    make('div', {class: 'pg-rack-what'},
      make('div', {class: 'pg-rack-top'}, make('b', {title: card.name}, card.name), on, away),
      words.length || card.gone ? make('div', {class: 'pg-rack-words'}, card.gone ? 'It was removed from the library; take it out.' : words) : null,
      slider.at, behind.at));
  return {at, put() {
    const part = partOf(id);
    at.classList.toggle('off', !part.on);
    on.setAttribute('aria-checked', String(part.on));
    slider.put(part.weight);
    const prompt = ` ${(mix.state.generation.prompt || '').toLowerCase()} `;
    words.forEach((one, number) => one.setAttribute('aria-pressed', String(prompt.includes(card.triggers[number].toLowerCase()))));
    behind.put();
  }};
}

let turn = 0;
async function show() {
  const mine = ++turn, ids = mix.state.mix.map((one) => one.id);
  if (ids.some((id) => !mix.cards.has(id))) {
    try { await mix.known(ids); say.textContent = ''; } catch (error) { say.textContent = error.message; return; }
    if (mine !== turn) return;
  }
  for (const [id, card] of shown) if (!ids.includes(id)) { card.at.remove(); shown.delete(id); }
  ids.forEach((id, place) => {
    if (!shown.has(id)) shown.set(id, made(mix.cards.get(id)));
    const card = shown.get(id);
    if (list.children[place] !== card.at) list.insertBefore(card.at, list.children[place] || null);
    card.put();
  });
  nothing.hidden = ids.length > 0;
  for (const tool of tools.querySelectorAll('[data-least]')) tool.hidden = ids.length < +tool.dataset.least;
}

const result = make('div', {class: 'pg-rack-result', 'aria-live': 'polite'});
async function asking(button, doing, work) {
  button.disabled = true;
  result.replaceChildren(make('p', {class: 'pg-hint pg-busy'}, doing));
  try { result.replaceChildren(...[await work()].flat()); } catch (error) {
    result.replaceChildren(make('div', {class: 'pg-note', role: 'alert'}, error.message));
  }
  button.disabled = false;
}

function balance(event) {
  return asking(event.currentTarget, 'Weighing what each adapter changes …', async () => {
    const before = new Map(mix.state.mix.map((one) => [one.id, one.weight]));
    const {weights} = await mix.ask('mix/balance', mix.request());
    mix.set({mix: mix.state.mix.map((one) => (one.id in weights ? {...one, weight: round(clamp(weights[one.id], LOW, HIGH))} : one))});
    const undo = make('button', {type: 'button', class: 'pg-btn small', onclick: () => {
      mix.set({mix: mix.state.mix.map((one) => (before.has(one.id) ? {...one, weight: before.get(one.id)} : one))});
      result.replaceChildren();
    }}, 'Undo');
    return make('div', {class: 'pg-row'}, make('span', {class: 'pg-hint'}, 'Now each changes the picture about as much as the others.'), undo);
  });
}

function overpowers(event) {
  return asking(event.currentTarget, 'Comparing the adapters block by block …', async () => {
    const found = await mix.ask('mix/interference', mix.request());
    const close = make('button', {type: 'button', class: 'pg-icon', 'aria-label': 'Close', onclick: () => result.replaceChildren()}, '✕');
    const lines = found.text.map((line) => make('p', {}, line));
    const head = make('div', {class: 'pg-rack-top'}, make('b', {}, 'Who overpowers whom'), close);
    const map = make('img', {src: found.picture, alt: `Heat map. ${found.text.join(' ')}`});
    return make('div', {class: 'pg-card pg-heat'}, head, lines, make('a', {href: found.picture, download: 'interference.png', title: 'Save the heat map'}, map));
  });
}

// The sentence that matters about the adapters, looked up when the mix has been still for a moment.
const meet = make('div', {class: 'pg-meet', role: 'status', hidden: true});
const met = {shown: '', asking: '', undo: null, again: 0};
const meeting = () => JSON.stringify(mix.request().mix.filter((one) => one.on));
const settle = quiet(look, 400);

async function look() {
  const now = meeting();
  if (JSON.parse(now).length < 2) { meet.hidden = true; met.shown = ''; return; }
  if (now === met.shown || met.asking || !element.getClientRects().length) return;
  met.asking = now;
  clearTimeout(met.again);
  try {
    const found = await mix.ask('mix/sentences', {generation: {prompt: 'any'}, mix: JSON.parse(now)});
    met.shown = now;
    tell(found.sentences);
  } catch {  // something else has the device, or the server is gone: no news
    meet.hidden = true;
    met.again = setTimeout(look, 8000);
  }
  met.asking = '';
  if (meeting() !== met.shown && met.shown === now) look();
}

function tell([first, ...others]) {
  meet.hidden = !first;
  if (!first) return;
  meet.className = `pg-meet ${first.kind}`;
  const more = others.length ? make('details', {}, make('summary', {}, `${others.length} more`), others.map((one) => make('p', {}, one.words))) : null;
  const apply = Object.keys(first.weights).length
    ? make('button', {type: 'button', class: 'pg-btn small', id: 'meet-balance', onclick: () => even(first)}, 'Balance') : null;
  const undo = met.undo && make('button', {type: 'button', class: 'pg-btn small', onclick: () => { mix.set({mix: met.undo}); met.undo = null; }}, 'Undo');
  meet.replaceChildren(make('div', {}, make('p', {}, first.words), more), ...[apply || undo].filter(Boolean));
}

// Take the weights that a sentence proposes; what differs in a block multiplies the block's own factor.
function even({weights, factors}) {
  met.undo = mix.state.mix;
  mix.set({mix: mix.state.mix.map((one) => {
    if (!(one.id in weights)) return one;
    const [weight, text] = weights[one.id].map((value) => clamp(value, LOW, HIGH)), blocks = {...one.blocks};
    for (const [name, factor] of Object.entries(factors[one.id] || {})) blocks[name] = round(clamp((blocks[name] ?? 1) * factor, 0, 2));
    return {...one, weight, text: one.text === null && text === weight ? null : text, blocks};
  })});
}

async function add() {
  const card = await mix.pick({title: 'Add an adapter', without: mix.state.mix.map((one) => one.id)});
  if (!card) return;
  mix.set({mix: [...mix.state.mix, mix.part(card.id)]});
  const {prompt = ''} = mix.state.generation;
  if (!prompt.trim() && card.prompt) mix.set({generation: {...mix.state.generation, prompt: card.prompt}});
}

const nothing = make('p', {class: 'pg-hint'}, 'Nothing in the mix yet: this is the base alone. Add an adapter and move its slider.');
tools.append(
  make('button', {type: 'button', class: 'pg-btn', id: 'rack-add', onclick: add}, '+ Add adapter'),
  make('button', {type: 'button', class: 'pg-btn small', 'data-least': 2, id: 'balance', title: 'Propose weights at which each changes the picture as much', onclick: balance}, 'Balance by effect'),
  make('button', {type: 'button', class: 'pg-btn small', 'data-least': 2, id: 'interference', title: 'A heat map of what the adapters do to each other', onclick: overpowers}, 'Who overpowers whom'));
box.append(nothing, list, meet, tools, say, result);

function take() {
  if (props.value?.start) mix.begin(props.value.start);
  if (props.value?.wish) mix.wish(props.value.wish);
}
take();
watch('value', take);
mix.follow((keys, how) => {
  if (keys.includes('mix') || keys.includes('generation')) show();
  if (!keys.includes('mix')) return;
  if (how.from === 'rack') met.undo = null;
  settle();
});
new IntersectionObserver(([one]) => { if (one.isIntersecting) settle(); }).observe(element);
show();
