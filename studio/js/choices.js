// One of a few, as cards: a title, a hint, and figures that may come later. The server's `value` is a patch of
// {chosen, figures: text by choice, note, again: seconds after which it asks anew}; handlers get {chosen}.
const state = {chosen: props.chosen, figures: {}, note: ''};
const group = `pg-${element.id || Math.random().toString(36).slice(2)}`;
const cards = new Map();
let later;
const note = make('p', {class: 'pg-hint', role: 'status', hidden: true});

const list = make('div', {class: 'pgt-choices', role: 'radiogroup', 'aria-label': props.about}, props.choices.map((one) => {
  const radio = make('input', {type: 'radio', name: group, value: one.value, onchange: () => { state.chosen = one.value; draw(); give(); trigger('input', {}); }});
  const figures = make('span', {class: 'pgt-figure'});
  cards.set(one.value, {radio, figures});
  return make('label', {class: 'pgt-choice', 'data-value': one.value}, radio,
    make('span', {class: 'pgt-choice-text'}, make('b', {}, one.title), make('span', {class: 'pg-sub'}, one.hint), figures));
}));
box.append(list, note);

function draw() {
  for (const [value, card] of cards) {
    card.radio.checked = value === state.chosen;
    card.figures.textContent = state.figures[value] || '';
    card.radio.closest('label').classList.toggle('chosen', value === state.chosen);
  }
  note.textContent = state.note;
  note.hidden = !state.note;
}
function give() { props.value = {chosen: state.chosen}; }
function read() {
  for (const name of Object.keys(state)) if (props.value?.[name] !== undefined) state[name] = props.value[name];
  clearTimeout(later);
  if (props.value?.again) later = setTimeout(() => trigger('input', {}), 1000 * props.value.again);
  draw();
  give();
}
watch('value', read);
read();
