// A dialog to choose an adapter in: pictures, and a search over the whole library, page by page.
const {mix} = window.pigment;
const PAGE = 48;
let answer = null, wanted = '', page = 0, without = [], loading = false, turn = 0;

const title = make('b', {id: 'picker-title'});
const search = make('input', {type: 'search', placeholder: 'Search names, triggers, tags', 'aria-label': 'Search the library', id: 'picker-search'});
const grid = make('div', {class: 'pg-picker-grid', id: 'picker-grid'});
const count = make('p', {class: 'pg-hint', role: 'status'});
const more = make('button', {type: 'button', class: 'pg-btn small', hidden: true, onclick: () => load()}, 'More');
const close = make('button', {type: 'button', class: 'pg-icon', 'aria-label': 'Close', onclick: () => dialog.close()}, '✕');
const dialog = make('dialog', {class: 'pg-picker', 'aria-labelledby': 'picker-title'},
  make('div', {class: 'pg-rack-top'}, title, close), search, count, make('div', {class: 'pg-picker-scroll'}, grid, more));
box.append(dialog);

function choice(card) {
  mix.cards.set(card.id, card);
  const cover = card.cover ? make('img', {src: card.cover, alt: '', loading: 'lazy'})
    : make('span', {class: 'pg-thumb none', 'aria-hidden': 'true'}, card.name.slice(0, 1).toUpperCase());
  const inside = without.includes(card.id);
  return make('button', {type: 'button', class: 'pg-choice', 'data-id': card.id, disabled: inside, title: card.name,
    onclick: () => { answer?.(card); answer = null; dialog.close(); }},
  cover, make('b', {}, card.name), make('small', {}, inside ? 'in the mix' : card.triggers.join(', ') || card.about));
}

async function load(anew = false) {
  if (loading && !anew) return;
  const mine = ++turn;
  loading = true;
  page = anew ? 0 : page + 1;
  try {
    const found = await mix.ask(`mix/adapters?search=${encodeURIComponent(wanted)}&page=${page}&size=${PAGE}`);
    if (mine !== turn) return;
    if (anew) grid.replaceChildren();
    grid.append(...found.adapters.map(choice));
    const {total} = found;
    count.textContent = total ? `${total} adapter${total === 1 ? '' : 's'}` : wanted ? 'Nothing is called so.' : 'No adapters yet: teach one, or import a file in the Library.';
    more.hidden = page + 1 >= found.pages;
  } catch (error) { count.textContent = error.message; }
  loading = false;
}

const again = quiet(() => { wanted = search.value.trim(); load(true); }, 180);
search.addEventListener('input', again);
search.addEventListener('keydown', (event) => {
  if (event.key === 'Enter') { event.preventDefault(); grid.querySelector('button:not(:disabled)')?.click(); }
});
dialog.addEventListener('close', () => { answer?.(null); answer = null; });
dialog.addEventListener('click', (event) => { if (event.target === dialog) dialog.close(); });
new IntersectionObserver(([one]) => { if (one.isIntersecting && dialog.open && !more.hidden) load(); }, {root: dialog}).observe(more);

// Choose an adapter; null where the dialog was closed without.
mix.pick = (options) => new Promise((done) => {
  answer?.(null);
  answer = done;
  without = options.without || [];
  title.textContent = options.title;
  search.value = wanted = '';
  dialog.showModal();
  search.focus();
  load(true);
});
