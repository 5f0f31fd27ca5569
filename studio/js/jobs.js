// The queue: sections of cards that stay where they are while what is in them changes (studio/tabs/jobs_pieces.py).
const SECTIONS = [['running', 'Running'], ['waiting', 'Waiting'], ['paused', 'Paused'], ['ended', 'Ended']];
let page = 0;
const cards = new Map();

const fill = (at, html) => {
  if (at.shown === html) return;
  const held = at.contains(document.activeElement) ? {...document.activeElement.dataset} : {};
  at.shown = html;
  at.innerHTML = html;
  at.hidden = !html;
  if (held.act) {  // the keyboard stays where it was
    const all = [...at.querySelectorAll('[data-act]:not([disabled])')];
    (all.find((one) => one.dataset.act === held.act) || all[0])?.focus();
  }
};

function card(id) {
  if (cards.has(id)) return cards.get(id);
  const main = make('div', {class: 'top'}), progress = make('div', {class: 'going', hidden: true});
  const text = make('pre', {class: 'pg-log', tabindex: '0', 'aria-label': 'Log'});
  let following = null;
  const log = make('details', {class: 'pg-fold', ontoggle: () => {
    if (log.open && !following) {
      following = window.pigment.follow({element: text, wanted: () => ({part: 'job-log', key: id}), take(pieces) {
        const atEnd = text.scrollTop + text.clientHeight >= text.scrollHeight - 24;
        text.innerHTML = pieces.log || pieces.error || '';
        if (atEnd || !text.dataset.read) text.scrollTop = text.scrollHeight;
        text.dataset.read = '1';
      }});
    }
    if (!log.open && following) { following.end(); following = null; }
  }}, make('summary', {}, 'Log'), text);
  const made = {at: make('article', {class: 'pg-card pg-job', 'data-job': id}, main, progress, log), main, progress, log,
    end() { following?.end(); made.at.remove(); cards.delete(id); }};
  cards.set(id, made);
  return made;
}

// Runs that are put beside each other: chosen on their cards, also over several pages of the list.
const MOST = 6;  // as many as have a colour of their own (trainers/evidence/comparing.py)
const chosen = new Set();
const told = make('span', {role: 'status', 'aria-live': 'polite'}), opening = make('a', {class: 'pg-btn small main', target: '_blank'}, 'Compare');
const beside = make('div', {class: 'pg-beside', hidden: true}, told, opening, make('button', {type: 'button', class: 'pg-btn small',
  onclick: () => { chosen.clear(); compared(); }}, 'Clear'));
function compared() {
  for (const input of box.querySelectorAll('[data-compare]')) {
    input.checked = chosen.has(input.dataset.compare);
    input.disabled = !input.checked && chosen.size >= MOST;
  }
  beside.hidden = !chosen.size;
  opening.hidden = chosen.size < 2;
  opening.href = `files/compare/${[...chosen].map(encodeURIComponent).join(',')}`;
  told.textContent = chosen.size < 2 ? 'Choose another run to put beside it' : `${chosen.size} runs${chosen.size >= MOST ? ', as many as fit' : ''}`;
}
box.addEventListener('change', ({target}) => {
  if (!target.dataset.compare) return;
  if (target.checked) chosen.add(target.dataset.compare); else chosen.delete(target.dataset.compare);
  compared();
});

const said = make('div', {class: 'pg-said', role: 'status', 'aria-live': 'polite'});
const error = make('div', {hidden: true});
const empty = make('div', {class: 'pg-nothing', hidden: true});
const nav = make('div', {class: 'pg-nav'});
const places = Object.fromEntries(SECTIONS.map(([name, title]) => {
  const list = make('div', {class: 'pg-jobs'}), heading = make('h2', {}, title);
  const section = make('section', {hidden: true, 'aria-label': `${title} jobs`, 'data-section': name}, heading, list);
  return [name, {list, heading, section, title}];
}));
box.classList.add('pg-queue');
box.append(error, empty, ...Object.values(places).map((one) => one.section), nav, make('div', {class: 'pg-float'}, beside, said));
fill(empty, '<div class="pg-empty"><div class="pg-dots" aria-hidden="true"><i></i><i></i><i></i></div><b>Nothing to do</b>'
  + '<p>Trainings, pictures and exports stand here while they wait, run and after.</p></div>');
empty.hidden = true;

const view = window.pigment.follow({element: box, wanted: () => ({part: 'jobs', key: JSON.stringify({page})}), take(pieces) {
  fill(error, pieces.error || '');
  if (!pieces.order) return;
  const order = JSON.parse(pieces.order);
  const shown = new Set(Object.values(order).flat().map(([id]) => id));
  for (const [id, one] of [...cards]) if (!shown.has(id)) one.end();
  for (const [name, ids] of Object.entries(order)) {
    const {list, section, heading, title} = places[name];
    section.hidden = !ids.length;
    heading.textContent = name === 'waiting' && ids.length > 1 ? `${title} (${ids.length})` : title;
    ids.forEach(([id, logs], number) => {
      const {at, main, progress, log} = card(id);
      if (list.children[number] !== at) list.insertBefore(at, list.children[number] || null);
      at.dataset.state = name;
      log.hidden = !logs;
      fill(main, pieces[id] || '');
      fill(progress, pieces[`${id}/progress`] || '');
    });
  }
  compared();
  empty.hidden = shown.size > 0;
  fill(nav, pieces.pages || '');
}});

function say(line, undo) {
  said.replaceChildren(...line ? [make('span', {}, line), undo ? make('button', {type: 'button', class: 'pg-btn small',
    onclick: () => { say('', ''); trigger('act', {act: 'restore', id: undo}); }}, 'Undo') : ''] : []);
  if (line) hush();
}
const hush = quiet(() => { if (said.contains(document.activeElement) || said.matches(':hover')) hush(); else say('', ''); }, 9000);

box.addEventListener('click', (event) => {
  const button = event.target.closest('[data-act]');
  if (!button) return;
  if (button.dataset.act === 'page') {
    page = Number(button.dataset.id);
    view.anew();
    places.ended.section.scrollIntoView({block: 'start'});
    return;
  }
  if (button.dataset.act === 'remove' && chosen.delete(button.dataset.id)) compared();
  button.setAttribute('aria-busy', 'true');  // until the queue says otherwise
  setTimeout(() => button.removeAttribute('aria-busy'), 3000);
  trigger('act', {act: button.dataset.act, id: button.dataset.id});
});
watch('value', () => { if (props.value?.said) say(props.value.said, props.value.undo); });
