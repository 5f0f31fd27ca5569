// The pictures of a dataset: dropped or chosen, seen at once, captioned, cropped, taken out.
// The server's `value` is a patch of {dataset, items, refused, crops, findings, auto}; handlers get
// {dataset, captions: what was written here by SHA-256, count}.
const TOGETHER = 16;  // files that the server takes in one go; of very many, a PART-th
const PART = 40;
const AT_ONCE = 3;  // uploads
const BUNDLE = 64;  // files of one upload at most, of some WEIGHT bytes: of very many each alone would take minutes
const WEIGHT = 8 << 20;
const MANY = 200;  // tiles, from where on those out of sight aren't laid out
const SHOWN = 40;  // pictures that are shown from this machine while they travel
const VIEWS = [['pictures', 'Pictures'], ['captions', 'Captions'], ['crops', 'Crops']];

const state = {
  dataset: '', items: [], refused: [], crops: {}, findings: {}, auto: '', captions: {}, view: 'pictures', notes: [],
  waiting: [],  // {name, url}: on their way
};
const input = make('input', {
  type: 'file', multiple: true, accept: 'image/*,.zip,.txt,.heic,.heif,.avif,.jxl', class: 'pgt-unseen',
  'aria-label': 'Add pictures or a zip', onchange: () => { const files = [...input.files]; input.value = ''; add(files); },
});
const invitation = make('b', {}, 'Drop pictures here');
const drop = make('label', {class: 'pgt-drop'}, input,
  make('span', {class: 'pgt-plus', 'aria-hidden': 'true'}, '+'),
  invitation, make('span', {class: 'pg-sub'}, 'or choose files; 5 to 30 of them, or a zip'));
const told = make('div', {class: 'pg-sub', role: 'status'});
const views = make('div', {class: 'pgt-switch', role: 'group', 'aria-label': 'What is shown of each picture'},
  VIEWS.map(([view, label]) => make('button', {type: 'button', 'data-view': view, onclick: () => turn(view)}, label)));
const auto = make('button', {type: 'button', class: 'pg-btn small', onclick: () => trigger('auto', {dataset: state.dataset})}, 'Write captions');
const afresh = make('button', {type: 'button', class: 'pg-btn small', onclick: () => trigger('afresh', {})}, 'Start afresh');
const bar = make('div', {class: 'pgt-tools'}, told, views, auto, afresh);
const tiles = make('ul', {class: 'pgt-tiles'});
const adding = make('li', {class: 'pgt-tile adding'}, drop);
const shapes = make('p', {class: 'pg-sub pgt-shapes'});
const noted = make('p', {class: 'pg-sub pgt-shapes', role: 'status'});
const remarks = make('button', {type: 'button', class: 'pg-btn small pgt-remarks', onclick: () => { turn('captions'); tiles.querySelector('.noted')?.scrollIntoView({block: 'nearest'}); }});
const refused = make('div', {class: 'pgt-refused', role: 'status'});
box.append(bar, tiles, shapes, noted, remarks, refused);
const drawn = new Map();  // SHA-256 → its tile

const counted = (count, noun) => `${count} ${noun}${count === 1 ? '' : 's'}`;
const thumb = (sha, size) => `files/picture/${encodeURIComponent(sha)}/${size}`;

function tile(item) {
  const words = make('textarea', {
    rows: 3, maxlength: 1000, 'aria-label': `Caption of ${item.name}`, placeholder: 'What it shows (optional)',
    oninput: () => { written(item.sha, words.value); save(item.sha); },
    onblur: () => save.now?.(item.sha),
  });
  const made = {
    at: make('li', {class: 'pgt-tile', 'data-sha': item.sha}), words,
    image: make('img', {src: thumb(item.sha, 320), alt: item.name, loading: 'lazy', decoding: 'async', draggable: 'false'}),
    crops: make('div', {class: 'pgt-cuts'}), shape: make('span', {class: 'pgt-shape'}),
    why: make('div', {class: 'pgt-why'}), said: '',
  };
  made.at.append(
    make('div', {class: 'pgt-thumb'}, made.image, made.crops, made.shape,
      make('button', {type: 'button', class: 'pgt-x', 'aria-label': `Remove ${item.name}`, title: 'Remove', onclick: () => takeOut(item)}, '×')),
    make('div', {class: 'pgt-words'}, make('span', {class: 'pgt-file', title: item.name}, item.name), words, made.why));
  return made;
}

function draw() {
  const kept = new Set(state.items.map((item) => item.sha));
  for (const [sha, one] of drawn) if (!kept.has(sha)) { one.at.remove(); drawn.delete(sha); }
  tiles.querySelectorAll('.waiting').forEach((one) => one.remove());
  let before = null;
  for (const item of state.items) {
    if (!drawn.has(item.sha)) drawn.set(item.sha, tile(item));
    const one = drawn.get(item.sha);
    if (before ? before.nextSibling !== one.at : tiles.firstChild !== one.at) {
      if (before) before.after(one.at); else tiles.prepend(one.at);
    }
    before = one.at;
    const caption = state.captions[item.sha] ?? item.caption;
    if (document.activeElement !== one.words && one.words.value !== caption) one.words.value = caption;
    const lines = [...(item.notes || []), ...(state.findings[item.sha] || [])], crops = state.crops[item.sha] || [];
    const said = lines.length || crops.length ? JSON.stringify([lines, crops]) : '';
    if (one.said === said) continue;  // drawn so already; there may be thousands
    one.said = said;
    one.why.replaceChildren(...lines.map((line) => make('p', {}, line)));
    one.at.classList.toggle('noted', lines.length > 0);
    placeCrops(one, item, crops);
  }
  const empty = !state.items.length && !state.waiting.length;
  adding.remove();
  tiles.append(...state.waiting.slice(0, SHOWN).map(onItsWay), adding);
  tiles.classList.toggle('many', state.items.length > MANY);
  bar.hidden = empty;
  invitation.textContent = empty ? 'Drop pictures here' : 'Add more';
  box.classList.toggle('empty', empty);
  element.closest('.tabitem, [role=tabpanel]')?.classList.toggle('pg-has-pictures', !empty);
  views.querySelectorAll('button').forEach((one) => one.setAttribute('aria-pressed', String(one.dataset.view === state.view)));
  tiles.dataset.view = state.view;
  auto.hidden = !state.auto || !state.items.length;
  auto.title = state.auto ? `Let ${state.auto} describe the pictures that have no caption` : '';
  tell();
  drawShapes();
  noted.textContent = state.notes.join('; ');
  noted.hidden = !state.notes.length;
  const marked = tiles.querySelectorAll('.noted').length;
  remarks.hidden = !marked || state.view === 'captions';
  remarks.textContent = `${counted(marked, 'picture')} to look at`;
  drawRefused();
}

function onItsWay(one) {
  const name = make('span', {class: 'pg-sub pgt-file'}, one.name);
  const image = one.url ? make('img', {src: one.url, alt: '', onerror: () => image.replaceWith(name)}) : name;
  return make('li', {class: 'pgt-tile waiting'}, make('div', {class: 'pgt-thumb'}, image, make('i', {class: 'pgt-going'})),
    make('div', {class: 'pgt-words'}, make('span', {class: 'pgt-file'}, one.name)));
}

function tell() {
  const words = state.items.filter((item) => (state.captions[item.sha] ?? item.caption).trim()).length;
  told.textContent = state.waiting.length
    ? `Adding ${counted(state.waiting.length, 'file')} …`
    : `${counted(state.items.length, 'picture')}${words ? `, ${counted(words, 'caption')}` : ''}`;
}

const shapeOf = (crop) => `${crop.width} × ${crop.height}`;

function placeCrops(one, item, crops) {
  one.shape.textContent = [...new Set(crops.map(shapeOf))].join(', ');
  // The picture is shown whole in the square: its longer side fills it.
  const wide = item.width >= item.height, ratio = wide ? item.height / item.width : item.width / item.height;
  const [sx, sy, ox, oy] = wide ? [1, ratio, 0, (1 - ratio) / 2] : [ratio, 1, (1 - ratio) / 2, 0];
  one.crops.replaceChildren(...crops.map(({box: [left, top, right, bottom]}) => make('i', {class: 'pgt-cut', style:
    `left:${100 * (ox + left * sx)}%;top:${100 * (oy + top * sy)}%;width:${100 * (right - left) * sx}%;height:${100 * (bottom - top) * sy}%`})));
  one.crops.classList.toggle('one', crops.length === 1);
}

function drawShapes() {
  const counts = new Map();
  for (const item of state.items) {
    for (const crop of state.crops[item.sha] || []) counts.set(shapeOf(crop), (counts.get(shapeOf(crop)) || 0) + 1);
  }
  shapes.hidden = state.view !== 'crops' || !counts.size;
  shapes.textContent = `Learned in pixels: ${[...counts].map(([shape, count]) => `${shape} (${count})`).join(', ')}`;
}

function drawRefused() {
  refused.hidden = !state.refused.length;
  refused.replaceChildren();
  if (!state.refused.length) return;
  refused.append(
    make('div', {class: 'pgt-tools'}, make('b', {}, `${counted(state.refused.length, 'file')} left out`),
      make('button', {type: 'button', class: 'pg-btn small', onclick: () => { state.refused = []; drawRefused(); }}, 'Dismiss')),
    make('ul', {}, state.refused.map((one) => make('li', {}, make('span', {class: 'pgt-file'}, one.name), make('span', {}, one.reason)))));
}

function turn(view) {
  state.view = view;
  draw();
  if (view === 'crops') changed();
}

// ── What travels

function give() { props.value = {dataset: state.dataset, captions: state.captions, count: state.items.length}; }
function changed() { give(); trigger('input', {}); }

function written(sha, words) { state.captions[sha] = words; give(); tell(); }
const timers = new Map();
function save(sha) {
  clearTimeout(timers.get(sha));
  timers.set(sha, setTimeout(() => save.now(sha), 600));
}
save.now = async (sha) => {
  if (!timers.has(sha)) return;
  clearTimeout(timers.get(sha));
  timers.delete(sha);
  await ask('caption', {dataset: state.dataset, sha, text: state.captions[sha]});
  trigger('input', {});
};

async function ask(verb, what) {
  let found;
  try { found = await server[verb](what); } catch { found = {error: 'the studio didn’t answer; is it still running?'}; }
  if (found.error) {
    state.refused = [...state.refused, {name: what.name || '', reason: found.error}];
    drawRefused();
    return null;
  }
  return found;
}

async function takeOut(item) {
  const number = state.items.findIndex((one) => one.sha === item.sha);
  state.items = state.items.filter((one) => one.sha !== item.sha);
  delete state.captions[item.sha];
  draw();
  const next = state.items[Math.min(number, state.items.length - 1)];
  (next ? drawn.get(next.sha).at.querySelector('.pgt-x') : input).focus();
  const found = await ask('remove', {dataset: state.dataset, sha: item.sha, name: item.name});
  if (found) state.items = found.items;
  draw();
  changed();
}

// Captions and masks lie beside their picture: they go to the server together.
const stem = (name) => name.replace(/\.[^.]*$/, '').replace(/\.mask$/, '');

let chain = Promise.resolve();
function add(files) {
  if (!files.length) return;
  state.refused = [];
  state.notes = [];
  const batch = files.map((file, number) => ({
    file, name: file.webkitRelativePath || file.name,
    url: number < SHOWN && /^image\/(png|jpe?g|webp|gif|avif|bmp)$/.test(file.type) ? URL.createObjectURL(file) : '',
  })).sort((a, b) => (stem(a.name) < stem(b.name) ? -1 : 1));
  state.waiting.push(...batch);
  draw();
  chain = chain.then(() => carry(batch)).then(changed);
}

function bundles(group) {
  const most = Math.min(BUNDLE, Math.ceil(group.length / AT_ONCE)), found = [];
  let weight = 0;
  for (const one of group) {
    const last = found.at(-1);
    weight += one.file.size;
    if (last && last.length < most && weight <= WEIGHT) last.push(one);
    else { found.push([one]); weight = one.file.size; }
  }
  return found;
}

// What was uploaded of a bundle, as {path, name}. Where the whole isn't taken, each goes alone, and says why.
async function sent(bundle) {
  if (bundle.length > 1) {
    const form = new FormData();
    bundle.forEach((one) => form.append('files', one.file, one.file.name));
    try {
      const answer = await fetch('gradio_api/upload', {method: 'POST', body: form});
      const paths = answer.ok ? await answer.json() : [];
      if (paths.length === bundle.length) return bundle.map((one, number) => ({path: paths[number], name: one.name}));
    } catch { /* the connection broke off: once more */ }
  }
  const found = [];
  for (const one of bundle) {
    try { found.push({path: (await upload(one.file)).path, name: one.name}); }
    catch (error) { state.refused.push({name: one.name, reason: `couldn’t be sent (${error?.message || 'the studio didn’t answer'}); is it too large?`}); }
  }
  return found;
}

async function carry(batch) {
  const together = Math.max(TOGETHER, Math.ceil(batch.length / PART));
  while (batch.length) {
    let count = Math.min(together, batch.length);
    while (count < batch.length && stem(batch[count].name) === stem(batch[count - 1].name)) count += 1;
    const group = batch.splice(0, count);
    const here = [], queue = bundles(group);
    await Promise.all(Array.from({length: AT_ONCE}, async () => {
      for (let bundle = queue.shift(); bundle; bundle = queue.shift()) here.push(...await sent(bundle));
    }));
    const order = new Map(group.map((one, number) => [one.name, number]));
    here.sort((a, b) => order.get(a.name) - order.get(b.name));
    const found = here.length ? await ask('take', {dataset: state.dataset, files: here}) : null;
    state.waiting = state.waiting.filter((one) => !group.includes(one));
    if (found) {
      Object.assign(state, {dataset: found.dataset, items: found.items});
      state.refused = [...state.refused, ...found.refused];
      state.notes = [...state.notes, ...found.notes];
    }
    give();
    draw();
    group.forEach((one) => one.url && URL.revokeObjectURL(one.url));
  }
}

// ── Dropping

let over = 0;
const dragged = (event) => [...(event.dataTransfer?.types || [])].includes('Files');
box.addEventListener('dragenter', (event) => { if (dragged(event)) { over += 1; box.classList.add('over'); } });
box.addEventListener('dragleave', (event) => { if (dragged(event) && (over -= 1) <= 0) { over = 0; box.classList.remove('over'); } });
box.addEventListener('dragover', (event) => { if (dragged(event)) event.preventDefault(); });
box.addEventListener('drop', (event) => {
  if (!dragged(event)) return;
  event.preventDefault();
  over = 0;
  box.classList.remove('over');
  add([...event.dataTransfer.files]);
});

// ── What the server says

function read() {
  const {dataset, items, refused: left, crops, findings, auto: captioner} = props.value || {};
  if (dataset !== undefined && dataset !== state.dataset) Object.assign(state, {dataset, captions: {}, crops: {}, findings: {}, notes: [], view: 'pictures'});
  if (items !== undefined) state.items = items;
  if (left !== undefined) state.refused = left;
  if (crops !== undefined) state.crops = crops;
  if (findings !== undefined) state.findings = findings;
  if (captioner !== undefined) state.auto = captioner;
  give();
  draw();
}
watch('value', read);
read();
