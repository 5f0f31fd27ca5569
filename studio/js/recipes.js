// Recipes: mixes that are kept by name, loaded again, and handed on as files.
const {mix} = window.pigment;
const name = make('input', {type: 'text', id: 'recipe-name', maxlength: '80', placeholder: 'Name of this mix', 'aria-label': 'Name of this mix'});
const file = make('input', {type: 'file', id: 'recipe-file', accept: '.json,application/json', class: 'pg-unseen',
  onchange: () => { if (file.files[0]) take(file.files[0]); file.value = ''; }});
const note = make('div', {role: 'status', 'aria-live': 'polite'});
const list = make('ul', {class: 'pg-recipes', 'aria-label': 'Recipes'});
const inside = make('div', {class: 'pg-flap-in'},
  make('form', {class: 'pg-row', onsubmit: (event) => { event.preventDefault(); save(); }}, name,
    make('button', {type: 'submit', class: 'pg-btn', id: 'recipe-save'}, 'Save this mix'),
    make('label', {class: 'pg-btn', for: 'recipe-file', title: 'A .json file that somebody shared; or drop it here'}, 'Open a file…'), file),
  note, list);
const details = make('details', {class: 'pg-flap', id: 'recipes'}, make('summary', {}, 'Recipes'), inside);
box.append(details);

const tell = (lines, bad = false) => note.replaceChildren(...[lines].flat().map((line) => (line instanceof Node ? line
  : make('div', {class: bad ? 'pg-note' : 'pg-note good', role: bad ? 'alert' : null}, line))));
async function trying(work) { try { await work(); } catch (error) { tell(error.message, true); } }

const save = () => trying(async () => {
  const kept = await mix.ask('mix/recipes', {name: name.value, request: mix.request()});
  name.value = '';
  tell(`“${kept.name}” is saved.`);
  await show();
});

const take = (chosen) => trying(async () => {
  const kept = await mix.ask('mix/recipes', chosen, 'PUT');
  await show();
  await open(kept);
});

const open = (recipe) => trying(async () => {
  const found = await mix.ask(`mix/recipes/${recipe.id}`);
  const generation = found.prompt ? {...mix.state.generation, prompt: found.prompt} : mix.state.generation;
  mix.set({mix: found.mix, generation}, {from: 'recipe'});
  if (found.notes.length) tell(found.notes, true); else tell(`“${recipe.name}” is in the rack.`);
});

const remove = (recipe) => trying(async () => {
  const {text} = await mix.ask(`mix/recipes/${recipe.id}`, undefined, 'DELETE');
  const undo = make('button', {type: 'button', class: 'pg-btn small',
    onclick: () => trying(async () => { await mix.ask('mix/recipes', new Blob([text]), 'PUT'); note.replaceChildren(); await show(); })}, 'Undo');
  tell(make('div', {class: 'pg-row'}, make('span', {class: 'pg-hint'}, `“${recipe.name}” was removed.`), undo));
  await show();
});

async function show() {
  const {recipes} = await mix.ask('mix/recipes');
  list.replaceChildren(...recipes.map((recipe) => make('li', {},
    make('div', {class: 'pg-recipe-what'}, make('b', {title: recipe.name}, recipe.name),
      make('span', {class: 'pg-sub'}, recipe.adapters.map((one) => `${one.name} ${one.weight}`).join(' + '))),
    make('button', {type: 'button', class: 'pg-btn small', 'aria-label': `Load ${recipe.name}`, onclick: () => open(recipe)}, 'Load'),
    make('a', {class: 'pg-btn small', href: `mix/recipes/${recipe.id}/file`, download: recipe.file, 'aria-label': `Share ${recipe.name} as a file`}, 'Share'),
    make('button', {type: 'button', class: 'pg-icon', title: 'Remove', 'aria-label': `Remove ${recipe.name}`, onclick: () => remove(recipe)}, '✕'))));
}

details.addEventListener('toggle', () => { if (details.open) trying(show); });
for (const name of ['dragover', 'drop']) inside.addEventListener(name, (event) => {
  event.preventDefault();
  event.stopPropagation();
  if (name === 'drop' && event.dataTransfer.files[0]) take(event.dataTransfer.files[0]);
});
