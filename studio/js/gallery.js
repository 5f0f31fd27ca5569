// The gallery: a wall of pictures with search and pages, one of them large, two compared, a dropped file's settings.
// What it shows comes as parts (studio/tabs/gallery_pieces.py); what it does goes to studio/tabs/gallery.py as 'act'.
const wanted = {text: '', kind: '', page: 0, trash: false};
const chosen = new Set();
let opened = '', file = null, before = null;

// A part of the page inside of this widget: its pieces by name.
function follow(into, ask, took = () => {}) {
  const shown = {};
  return window.pigment.follow({element: into, wanted: ask, take(pieces) {
    for (const name of new Set([...Object.keys(shown), ...Object.keys(pieces)])) {
      if (shown[name] === (pieces[name] || '')) continue;
      shown[name] = pieces[name] || '';
      const at = into.querySelector(`[data-piece="${name}"]`);
      if (at) { at.innerHTML = shown[name]; at.hidden = !shown[name]; }
    }
    took(pieces);
  }});
}
const piece = (name, attributes = {}) => make('div', {'data-piece': name, hidden: true, ...attributes});
const act = (what, more = {}) => trigger('act', {act: what, ...more});

// ── The wall
const search = make('input', {type: 'search', id: 'gallery-search', placeholder: 'Search prompts, adapters, seeds',
  'aria-label': 'Search the gallery', maxlength: '200', oninput: quiet(() => turn({text: search.value.trim()}), 200)});
const kind = make('select', {'aria-label': 'Show', onchange: () => turn({kind: kind.value})},
  ...[['', 'Everything'], ['picture', 'Single pictures'], ['grid', 'Grids']].map(([value, label]) => make('option', {value}, label)));
const picker = make('input', {type: 'file', id: 'gallery-file', accept: 'image/png,image/jpeg,image/webp', class: 'pg-unseen',
  onchange: () => { if (picker.files[0]) read(picker.files[0]); picker.value = ''; }});
const trashButton = make('button', {type: 'button', class: 'pg-btn', 'aria-pressed': 'false', hidden: true,
  onclick: () => turn({trash: !wanted.trash})}, 'Trash');
const empty = make('button', {type: 'button', class: 'pg-btn', hidden: true, onclick: sure}, 'Empty the trash');
const wall = make('div', {class: 'pg-gallery'}, make('p', {class: 'pg-sub', 'data-piece': 'count', role: 'status'}),
  piece('grid'), piece('pages'), piece('error'));
const bar = make('div', {class: 'pg-chosen', hidden: true, role: 'toolbar', 'aria-label': 'Chosen pictures'});
const said = make('div', {class: 'pg-said', role: 'status', 'aria-live': 'polite'});
const float = make('div', {class: 'pg-float'}, bar, said);
box.append(make('div', {class: 'pg-tools'}, search, kind,
  make('label', {class: 'pg-btn', for: 'gallery-file', title: 'Shows the settings that a PNG holds, ours or another tool’s; or drop it anywhere on this tab'}, 'Restore from a file…'), picker,
  trashButton, empty), wall, float);

const view = follow(wall, () => ({part: 'gallery', key: JSON.stringify(wanted)}), (pieces) => {
  const number = Number(pieces.trashed || 0);
  trashButton.hidden = !number && !wanted.trash;
  trashButton.textContent = wanted.trash ? 'Back to the gallery' : `Trash (${number})`;
  empty.hidden = !wanted.trash || !number;
  mark();
});

function turn(change) {
  Object.assign(wanted, {page: 0}, change);
  if ('trash' in change) { clear(); calm(); }
  trashButton.setAttribute('aria-pressed', String(wanted.trash));
  view.anew();
}

function calm() { empty.textContent = 'Empty the trash'; empty.classList.remove('main'); delete empty.dataset.asked; }

function sure() {  // what can't be undone asks once more
  if (!empty.dataset.asked) {
    empty.dataset.asked = '1';
    empty.textContent = 'Remove them for good?';
    empty.classList.add('main');
    setTimeout(calm, 6000);
    return;
  }
  calm();
  act('empty');
}

// ── Choosing some
function mark() {
  for (const tile of wall.querySelectorAll('.pg-tile')) {
    const on = chosen.has(tile.dataset.picture);
    tile.classList.toggle('chosen', on);
    tile.querySelector('.pick').setAttribute('aria-pressed', String(on));
  }
  wall.classList.toggle('choosing', chosen.size > 0);
  const button = (label, style, work) => make('button', {type: 'button', class: `pg-btn small ${style}`, onclick: work}, label);
  const ids = [...chosen];
  bar.hidden = !ids.length;
  if (bar.dataset.shown === `${wanted.trash} ${ids}`) return;
  bar.dataset.shown = `${wanted.trash} ${ids}`;
  bar.replaceChildren(make('span', {}, ids.length === 1 && !wanted.trash ? '1 chosen; choose another to compare' : `${ids.length} chosen`),
    ids.length === 2 && !wanted.trash && button('Compare', 'main', () => compare(ids)) || '',
    wanted.trash ? button('Bring back', 'main', () => { act('restore', {ids}); clear(); }) : button('Delete', '', () => remove(ids)),
    button('Clear', '', clear));
}

function pick(id) {
  if (chosen.has(id)) chosen.delete(id); else chosen.add(id);
  mark();
}

function clear() { chosen.clear(); mark(); }

function remove(ids) {
  for (const id of ids) wall.querySelector(`[data-picture="${CSS.escape(id)}"]`)?.classList.add('gone');
  ids.forEach((id) => chosen.delete(id));
  mark();
  act('trash', {ids});
}

let hushing;
function say(line, undo, wait = 9000) {
  said.replaceChildren(...line ? [make('span', {}, line),
    undo.length ? make('button', {type: 'button', class: 'pg-btn small', onclick: () => { say('', []); act('restore', {ids: undo}); }}, 'Undo') : ''] : []);
  (dialog.open ? dialog : float).append(said);  // what is modal lies above all else
  clearTimeout(hushing);
  const hush = () => { if (said.contains(document.activeElement) || said.matches(':hover')) hushing = setTimeout(hush, 2000); else said.replaceChildren(); };
  if (line) hushing = setTimeout(hush, wait);
}

// ── One picture large, two compared, a file's settings: in the same dialog
const side = (label, to) => make('button', {type: 'button', class: `pg-side-way ${to}`, 'aria-label': label, onclick: () => step(to)}, to === 'newer' ? '‹' : '›');
const ways = [side('Newer picture', 'newer'), side('Older picture', 'older')];
const stage = make('div', {class: 'pg-stage'}, piece('picture'), ...ways);
const coverSearch = make('input', {type: 'search', placeholder: 'Search adapters', 'aria-label': 'Search adapters', maxlength: '200',
  oninput: quiet(() => coverView.anew(), 200)});
const coverList = make('div', {}, piece('covers'), piece('error'));
const coverFold = make('details', {class: 'pg-fold', ontoggle: () => coverView.anew()}, make('summary', {}, 'Use as the cover of…'), coverSearch, coverList);
const beside = piece('beside');
const known = make('div', {class: 'pg-split'}, stage, make('div', {class: 'pg-about'}, piece('about'), piece('error'), coverFold, beside));
const fileStage = make('div', {class: 'pg-stage'}), fileAbout = make('div', {class: 'pg-about', role: 'status'});
const ofFile = make('div', {class: 'pg-split', hidden: true}, fileStage, fileAbout);
const dialog = make('dialog', {class: 'pg-large', 'aria-label': 'Picture'},
  make('button', {type: 'button', class: 'pg-close', 'aria-label': 'Close', onclick: () => dialog.close()}, '×'), known, ofFile);
box.append(dialog);

const asks = {  // what the dialog is about → the part that shows it
  picture: () => ({part: 'gallery-picture', key: JSON.stringify({id: opened, text: wanted.text, kind: wanted.kind})}),
  pair: () => ({part: 'gallery-pair', key: JSON.stringify({ids: opened})}),
};
let about = 'picture';
const large = follow(known, () => (asks[about] || asks.picture)(), () => {
  known.classList.remove('pg-coming');
  const found = beside.firstElementChild?.dataset || {};
  for (const way of ways) way.hidden = about !== 'picture' || !found[way.classList[1]];
});
const coverView = follow(coverList, () => ({part: 'gallery-cover', key: JSON.stringify({id: opened, text: coverSearch.value.trim()})}));

function show(what) {
  about = what;
  known.hidden = what === 'file';
  ofFile.hidden = !known.hidden;
  coverFold.hidden = what !== 'picture' || wanted.trash;
  dialog.setAttribute('aria-label', {picture: 'Picture', pair: 'Two pictures compared', file: 'Settings of a file'}[what]);
  for (const way of ways) way.hidden = true;
  if (!dialog.open) {
    before = document.activeElement;
    dialog.showModal();
  }
  large.anew();
}
function open(id) { known.classList.toggle('pg-coming', opened !== id); opened = id; show('picture'); }
function compare(ids) { known.classList.add('pg-coming'); opened = ids; show('pair'); }
function step(to) {
  const next = beside.firstElementChild?.dataset[to];
  if (about === 'picture' && next) open(next);
}

dialog.addEventListener('close', () => {
  float.append(said);
  if (file) URL.revokeObjectURL(file.shown);
  file = null;
  coverFold.open = false;
  const tile = typeof opened === 'string' && wall.querySelector(`[data-picture="${CSS.escape(opened)}"] .open`);
  (tile || before)?.focus?.();
});
dialog.addEventListener('click', (event) => { if (event.target === dialog) dialog.close(); });
dialog.addEventListener('keydown', (event) => {
  if (event.target.closest('input, pg-compare')) return;
  const works = {ArrowLeft: () => step('newer'), ArrowRight: () => step('older'), Delete: () => { if (!wanted.trash) press('trash', {id: opened}); }};
  if (about === 'picture' && works[event.key]) { event.preventDefault(); works[event.key](); }
});

// ── A dropped file
async function read(dropped) {
  const mine = file = {shown: URL.createObjectURL(dropped), name: dropped.name, path: ''};
  fileStage.replaceChildren(make('img', {src: mine.shown, alt: dropped.name}));
  fileAbout.replaceChildren(make('p', {class: 'pg-sub'}, `Reading ${dropped.name} …`));
  show('file');
  try {
    mine.path = (await upload(dropped)).path;
    if (mine === file) act('read', {path: mine.path, name: dropped.name});
  } catch (error) {
    fileAbout.replaceChildren(make('p', {class: 'pg-note'}, `${dropped.name} couldn’t be sent; is the studio still running? Drop it again.`));
  }
}

// ── What is pressed
function press(what, data) {
  const works = {
    open: () => open(data.id),
    pick: () => { dialog.close(); pick(data.id); },
    page: () => { turn({page: Number(data.id)}); box.scrollIntoView({block: 'start'}); },
    trash: () => { const next = beside.firstElementChild?.dataset || {}; remove([data.id]); if (next.older || next.newer) open(next.older || next.newer); else dialog.close(); },
    restore: () => { act('restore', {ids: [data.id]}); dialog.close(); },
    mix: () => { dialog.close(); act('mix', {id: data.id}); say('Taking its settings into Mix …', [], 2500); },
    over: () => { dialog.close(); act('over', {id: data.id}); say('Taking it into Mix …', [], 2500); },
    cover: () => act('cover', {id: data.id, adapter: data.adapter}),
    'mix-file': () => { act('mix-file', {path: file.path}); dialog.close(); say('Taking its settings into Mix …', [], 2500); },
  };
  works[what]?.();
}
box.addEventListener('click', (event) => {
  const button = event.target.closest('[data-act]');
  if (button) press(button.dataset.act, button.dataset);
});
wall.addEventListener('keydown', (event) => {
  const move = {ArrowRight: 1, ArrowLeft: -1}[event.key];
  const all = [...wall.querySelectorAll('.pg-tile .open')], here = all.indexOf(document.activeElement);
  if (move && here >= 0) { event.preventDefault(); all[here + move]?.focus(); }
});
for (const name of ['dragover', 'drop', 'dragleave']) {
  box.addEventListener(name, (event) => {
    if (![...event.dataTransfer.types].includes('Files')) return;
    event.preventDefault();
    box.classList.toggle('pg-dropping', name === 'dragover');
    if (name === 'drop' && event.dataTransfer.files[0]) read(event.dataTransfer.files[0]);
  });
}

watch('value', () => {
  const told = props.value || {};
  if ('said' in told) say(told.said, told.undo);
  if ('file' in told && about === 'file' && file) {
    fileAbout.innerHTML = told.file;
    if (told.error) fileAbout.replaceChildren(make('p', {class: 'pg-note'}, told.error));
  }
});
