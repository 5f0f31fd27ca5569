// A dialog made of fields that the server describes, so that each thing to be asked is described in one place.
// `id`s begin with "library-dialog".
// The server's `value`: {form, about, title, intro, fields, submit, danger} opens it, {error} shows a line in it,
// {done: true} closes it. A field: {name, label, kind, value, hint, choices, min, max, step, when, by}:
//   when: [{name: [values]}, …] shows it where one of these holds; by: {name, choices: {value: choices}}.
const dialog = make('dialog', {class: 'lib-dialog', 'aria-labelledby': `library-dialog-title`});
box.append(dialog);
let shown = null, values = {}, rows = new Map(), error = null, go = null;

const EMPTY = {check: false, number: null};
const KINDS = {
  text: (field) => make('input', {type: 'text', maxlength: field.max || 200, placeholder: field.placeholder || ''}),
  area: (field) => make('textarea', {rows: field.rows || 3, maxlength: field.max || 4000}),
  number: (field) => make('input', {type: 'number', min: field.min, max: field.max, step: field.step || 'any', inputmode: 'decimal', placeholder: field.placeholder || ''}),
  check: () => make('input', {type: 'checkbox'}),
  select: () => make('select', {}),
  pictures: pictures,
  note: () => null,
};

function pictures(field) {
  const group = make('div', {class: 'lib-pictures', role: 'radiogroup', 'aria-label': field.label});
  for (const one of field.choices) {
    const radio = make('input', {type: 'radio', name: `library-dialog-${field.name}`, value: one.value, onchange: () => { values[field.name] = one.value; refresh(); }});
    group.append(make('label', {title: one.label}, radio, make('img', {src: one.src, alt: one.label, loading: 'lazy', decoding: 'async'})));
  }
  const own = make('input', {type: 'file', accept: 'image/png,image/jpeg,image/webp', class: 'lib-unseen', 'aria-label': 'A picture of your own', onchange: async () => {
    if (!own.files.length) return;
    const picture = own.files[0];
    label.classList.add('busy');
    try {
      values[field.name] = `upload:${(await upload(picture)).path}`;
      label.querySelector('span').textContent = picture.name;
      group.querySelectorAll('input[type=radio]').forEach((radio) => { radio.checked = false; });
    } catch (lost) { say(`${picture.name} didn't arrive: ${lost.message || lost}`); }
    label.classList.remove('busy');
    label.classList.add('given');
  }});
  const label = make('label', {class: 'own'}, own, make('span', {}, '+ a picture of yours'));
  group.prepend(label);
  return group;
}

function options(field) {
  if (!field.by) return field.choices || [];
  return field.by.choices[values[field.by.name]] || [];
}
function fits(field) {
  return !field.when || field.when.some((one) => Object.entries(one).every(([name, good]) => good.includes(values[name])));
}
function fill(field, input) {
  const choices = options(field);
  const key = JSON.stringify(choices);
  if (input.dataset.choices !== key) {
    input.dataset.choices = key;
    input.replaceChildren(...choices.map(([label, value]) => make('option', {value}, label)));
    if (!choices.some(([, value]) => value === values[field.name])) values[field.name] = choices[0]?.[1] ?? '';
  }
  input.value = values[field.name];
}
function refresh() {
  for (const {field, row, input} of rows.values()) {
    if (field.kind === 'select') fill(field, input);
    row.hidden = !fits(field);
  }
}
function read(field, input) {
  if (field.kind === 'check') return input.checked;
  if (field.kind === 'number') return input.value === '' ? null : Number(input.value);
  return input.value;
}
function rowOf(field, number) {
  const id = `library-dialog-${shown.form}-${field.name}`;
  const input = KINDS[field.kind](field);
  const hint = field.hint ? make('small', {id: `${id}-hint`}, field.hint) : null;
  if (field.kind === 'note') return {field, input, row: make('p', {class: 'pg-sub wide'}, field.label)};
  if (field.kind === 'pictures') return {field, input, row: make('div', {class: 'wide'}, make('b', {class: 'label'}, field.label), input, hint)};
  input.id = id;
  input.name = field.name;
  if (hint) input.setAttribute('aria-describedby', hint.id);
  if (number === 0) input.autofocus = true;
  const label = make('label', {for: id}, field.label);
  input.addEventListener(field.kind === 'select' || field.kind === 'check' ? 'change' : 'input', () => { values[field.name] = read(field, input); refresh(); });
  const row = make('div', {class: `lib-field ${field.kind} ${field.wide ? 'wide' : ''}`}, ...(field.kind === 'check' ? [input, label, hint] : [label, input, hint]));
  return {field, input, row};
}
function say(line) { error.textContent = line; error.hidden = !line; if (line) { error.scrollIntoView({block: 'nearest'}); } busy(false); }
function busy(is) { go.disabled = is; go.textContent = is ? 'One moment…' : shown.submit; dialog.setAttribute('aria-busy', String(is)); }

function open(form) {
  shown = form;
  values = Object.fromEntries(form.fields.map((field) => [field.name, field.value ?? (field.kind in EMPTY ? EMPTY[field.kind] : '')]));
  rows = new Map(form.fields.map((field, number) => [field.name, rowOf(field, number)]));
  for (const {field, input} of rows.values()) {
    if (field.kind === 'check') input.checked = Boolean(field.value);
    else if (input && field.kind !== 'select' && field.kind !== 'pictures') input.value = field.value ?? '';
  }
  error = make('p', {class: 'pg-note', role: 'alert', hidden: true});
  go = make('button', {type: 'submit', class: `pg-btn main ${form.danger ? 'danger' : ''}`, id: `library-dialog-go`}, form.submit);
  const body = make('form', {method: 'dialog', novalidate: true, onsubmit: (event) => {
    event.preventDefault();
    const said = {};
    for (const {field, row, input} of rows.values()) {
      if (field.kind === 'note' || row.hidden) continue;
      if (input.validity && !input.validity.valid) { input.focus(); say(`${field.label}: ${input.validationMessage}`); return; }
      said[field.name] = values[field.name];
    }
    error.hidden = true;
    busy(true);
    trigger('submit', {form: shown.form, about: shown.about, values: said});
  }},
  make('header', {}, make('h3', {id: `library-dialog-title`}, form.title),
    make('button', {type: 'button', class: 'lib-x', 'aria-label': 'Close', onclick: () => dialog.close()}, '✕')),
  form.intro && make('p', {class: 'pg-sub'}, form.intro),
  make('div', {class: 'lib-fields'}, [...rows.values()].map((one) => one.row)), error,
  make('footer', {}, make('button', {type: 'button', class: 'pg-btn', onclick: () => dialog.close()}, 'Cancel'), go));
  dialog.replaceChildren(body);
  dialog.dataset.form = form.form;
  refresh();
  if (!dialog.open) dialog.showModal();
}
dialog.addEventListener('mousedown', (event) => { if (event.target === dialog) dialog.close(); });
watch('value', () => {
  const value = props.value || {};
  if (value.done) dialog.close();
  else if (value.error && shown) say(value.error);
  else if (value.fields) open(value);
});
