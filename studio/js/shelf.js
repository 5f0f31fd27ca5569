// The library's adapters: words, filters, an order, a page at a time; several can be chosen. What is shown comes
// from the part "adapters"; what is looked for lives here, so that typing waits for nobody.
// The server's `value` is a patch of {open, unpick}; handlers get {open, picked, query}.
const state = {open: props.value?.open || '', picked: new Map(), query: {sort: 'newest', page: 0}};
const ENDINGS = '.safetensors,.zip,.json,.png,.jpg,.jpeg,.webp';
const AT_ONCE = 3;

const search = make('input', {
  type: 'search', placeholder: 'Search names, triggers, tags, notes', 'aria-label': 'Search the library', maxlength: 200,
  autocomplete: 'off', spellcheck: 'false', oninput: () => typed(search.value),
});
const facets = make('div', {class: 'lib-filters', role: 'group', 'aria-label': 'Filters'});
const picks = make('div', {class: 'lib-picks', role: 'group', 'aria-label': 'What to do with the chosen ones', hidden: true});
const work = make('div', {class: 'lib-work', 'aria-live': 'polite'});
const count = make('p', {class: 'pg-sub lib-count', role: 'status'});
const cards = make('div', {class: 'lib-cards', 'aria-busy': 'true'});
const pages = make('nav', {class: 'lib-pages', 'aria-label': 'Pages'});
const file = make('input', {
  type: 'file', multiple: true, accept: ENDINGS, class: 'lib-unseen', 'aria-label': 'Import adapters',
  onchange: () => { const files = [...file.files]; file.value = ''; bring(files); },
});
const ABOUT = '.safetensors of any tool, or a zip';
const told = make('span', {class: 'pg-sub', role: 'status'}, ABOUT);
const drop = make('label', {class: 'lib-drop', id: 'import'}, file, make('span', {class: 'lib-plus', 'aria-hidden': 'true'}, '+'),
  make('span', {}, make('b', {}, 'Import adapters'), told));
box.append(
  make('div', {class: 'lib-top'}, make('div', {class: 'lib-search', id: 'library-search'}, search), drop), work, make('div', {class: 'lib-bar'}, count, facets), picks, cards, pages);
listenToButtons(work);

function ask(change) {
  state.query = {...state.query, page: 0, ...change};
  cards.setAttribute('aria-busy', 'true');
  give();
  follower.anew();
}
function give() { props.value = {open: state.open, picked: [...state.picked.keys()], query: state.query}; }
const typed = quiet((words) => ask({words}), 120);

function put(at, html) {
  if (at.dataset.html === html) return;
  at.dataset.html = html;
  const held = at.contains(document.activeElement) ? {...document.activeElement.dataset} : null;
  at.innerHTML = html;
  at.hidden = !html;
  if (held?.filter) at.querySelector(`[data-filter="${CSS.escape(held.filter)}"]`)?.focus();
  else if (held?.act) [...at.querySelectorAll('[data-act]')].find((one) => one.dataset.act === held.act && one.dataset.id === held.id)?.focus();
}
function mark() {
  cards.querySelectorAll('.pg-adapter').forEach((card) => {
    const open = card.dataset.id === state.open, picked = state.picked.has(card.dataset.id);
    card.classList.toggle('chosen', open);
    card.classList.toggle('picked', picked);
    card.querySelector('.lib-open')?.setAttribute('aria-pressed', String(open));
    const tick = card.querySelector('[data-pick]');
    if (tick) tick.checked = picked;
  });
}
function showPicks() {
  const number = state.picked.size;
  picks.hidden = !number;
  if (!number) { picks.replaceChildren(); return; }
  const button = (act, label, shown = true) => shown && make('button', {
    type: 'button', class: 'pg-btn small', onclick: () => trigger('several', {act, ids: [...state.picked.keys()]}),
  }, label);
  picks.replaceChildren(
    make('b', {}, `${number} chosen`),
    ...[button('mix', 'Mix'), button('merge', 'Merge…', number > 1), button('tag', 'Tag…'), button('trash', 'Move to trash')].filter(Boolean),
    make('button', {type: 'button', class: 'pg-btn small', onclick: () => { state.picked.clear(); give(); mark(); showPicks(); }}, 'Choose none'));
}

facets.addEventListener('change', (event) => {
  const one = event.target.closest('[data-filter]');
  if (one) ask({[one.dataset.filter]: one.value});
});
facets.addEventListener('click', (event) => {
  const one = event.target.closest('[data-set]');
  if (!one) return;
  const change = JSON.parse(one.dataset.set);
  if (change.words === '') search.value = '';
  ask(change);
});
cards.addEventListener('change', (event) => {
  const {pick, name} = event.target.dataset;
  if (!pick) return;
  if (event.target.checked) state.picked.set(pick, name); else state.picked.delete(pick);
  give(); mark(); showPicks();
});
cards.addEventListener('click', (event) => {
  if (event.target.closest('.lib-pick')) return;
  const act = event.target.closest('[data-act]');
  if (act && act.dataset.act !== 'open') { trigger('click', {...act.dataset}); return; }
  const card = event.target.closest('.pg-adapter');
  if (!card || state.query.trashed) return;
  state.open = card.dataset.id;
  give(); mark();
  trigger('open', {id: state.open});
});
pages.addEventListener('click', (event) => {
  const one = event.target.closest('[data-page]');
  if (!one) return;
  ask({page: Number(one.dataset.page)});
  box.scrollIntoView({block: 'start', behavior: matchMedia('(prefers-reduced-motion: reduce)').matches ? 'auto' : 'smooth'});
});

async function bring(files) {
  if (!files.length) return;
  let done = 0;
  const found = new Array(files.length), wait = [...files.entries()];
  const say = () => { told.textContent = `Sending ${done} of ${files.length}…`; };
  drop.classList.add('busy'); say();
  const one = async () => {
    while (wait.length) {
      const [place, own] = wait.shift();
      try { found[place] = {path: (await upload(own)).path, name: own.name}; }
      catch (error) { found[place] = {name: own.name, lost: String(error.message || error)}; }
      done += 1; say();
    }
  };
  await Promise.all(Array.from({length: Math.min(AT_ONCE, files.length)}, one));
  drop.classList.remove('busy');
  const lost = found.filter((own) => own.lost);
  told.textContent = lost.length ? `${lost[0].name} didn't arrive: ${lost[0].lost}` : 'Handed over; they appear here once they were read.';
  if (!lost.length) setTimeout(() => { if (told.textContent.startsWith('Handed')) told.textContent = ABOUT; }, 6000);
  const good = found.filter((own) => !own.lost);
  if (good.length) trigger('dropped', {files: good});
}
for (const name of ['dragenter', 'dragover']) box.addEventListener(name, (event) => {
  if (![...(event.dataTransfer?.types || [])].includes('Files')) return;
  event.preventDefault(); drop.classList.add('over');
});
for (const name of ['dragleave', 'drop']) box.addEventListener(name, (event) => {
  if (name === 'drop' && event.dataTransfer?.files.length) { event.preventDefault(); bring([...event.dataTransfer.files]); }
  if (name === 'drop' || !box.contains(event.relatedTarget)) drop.classList.remove('over');
});

const follower = window.pigment.follow({
  element,
  wanted: () => ({part: 'adapters', key: JSON.stringify(state.query)}),
  take(found) {
    put(facets, found.facets || found.error || '');
    put(work, found.work || '');
    put(cards, found.cards || '');
    put(pages, found.pages || '');
    if (count.textContent !== (found.count || '')) count.textContent = found.count || '';
    cards.setAttribute('aria-busy', 'false');
    mark(); showPicks();
  },
});
watch('value', () => {
  const value = props.value || {};
  if (value.unpick) state.picked.clear();
  if (value.query) state.query = value.query;
  if (value.open !== undefined) state.open = value.open;
  give(); mark(); showPicks(); follower.anew();
});
give();
