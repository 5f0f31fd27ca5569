// Every setting of a config, in folds, drawn from its metadata (studio/forms.py): found by search, marked where it
// was changed, reset one by one. `props.sections` are [{name, title, fields}], `props.defaults` what each shows by
// path, `props.presets` what each preset changes of that. The server's `value` is a patch of {preset, changes,
// error}; handlers get {preset, changes}: only what was set here.
const state = {preset: props.preset || '', changes: {}, error: ''};
const fields = new Map();  // path → {spec, at, control, reset, wrong, words}
const sections = new Map();
let numbered = 0;

const usual = (path) => {
  const own = props.presets?.[state.preset] || {};
  return path in own ? own[path] : props.defaults[path];
};
const same = (a, b) => String(a ?? '') === String(b ?? '');

function fold(title, within) {
  numbered += 1;
  const id = `${props.prefix}-fold-${numbered}`;
  const count = make('small', {});
  const inside = make('div', {id, hidden: true, class: 'pgt-fold-inside'}, within);
  const button = make('button', {type: 'button', class: 'pgt-fold', 'aria-expanded': 'false', 'aria-controls': id,
    onclick: () => turn(inside.hidden)}, make('span', {}, title), count);
  const turn = (open) => { inside.hidden = !open; button.setAttribute('aria-expanded', String(open)); };
  return {button, inside, count, turn};
}

// ── One control by kind: {at: element, read(): raw value, show(raw)}
const typed = (at) => ({at, read: () => at.value, show: (raw) => { at.value = raw ?? ''; }});
const CONTROLS = {
  flag: (spec, common) => {
    const at = make('input', {type: 'checkbox', ...common});
    return {at, read: () => at.checked, show: (raw) => { at.checked = Boolean(raw); }};
  },
  choice: (spec, common) => {
    const all = spec.optional ? [null, ...spec.choices] : spec.choices;
    const at = make('select', common, all.map((one, number) => make('option', {value: String(number)}, one === null ? 'automatic' : String(one))));
    return {at, read: () => all[Number(at.value)], show: (raw) => { at.value = String(Math.max(0, all.findIndex((one) => same(one, raw)))); }};
  },
  lines: (spec, common) => typed(make('textarea', {rows: '3', ...common})),
  text: (spec, common) => typed(make('input', {type: 'text', ...common})),
  number: (spec, common) => typed(spec.optional ? make('input', {type: 'text', inputmode: 'decimal', ...common})
    : make('input', {type: 'number', step: spec.kind === 'whole' ? '1' : 'any', ...common})),
};
Object.assign(CONTROLS, {path: CONTROLS.text, whole: CONTROLS.number});

function field(spec) {
  const id = `${spec.id}-input`, help = `${spec.id}-help`;
  const placeholder = spec.placeholder || (spec.optional ? 'automatic' : '');
  const control = CONTROLS[spec.kind](spec, {id, 'aria-describedby': help, placeholder, autocomplete: 'off'});
  const set = () => mark(spec.path, control.read());
  control.at.addEventListener('input', set);
  control.at.addEventListener('change', () => { set(); trigger('input', {}); });
  const reset = make('button', {type: 'button', class: 'pgt-reset', 'aria-label': `Reset ${spec.label}`, title: 'Reset', onclick: () => {
    delete state.changes[spec.path];
    control.show(usual(spec.path));
    count();
    give();
    control.at.focus();
    trigger('input', {});
  }}, '↺');
  const wrong = make('p', {class: 'pgt-wrong', role: 'alert'});
  const label = make('label', {for: id}, spec.label);
  const flag = spec.kind === 'flag';
  const at = make('div', {class: `pgt-field ${spec.kind}`, id: spec.id},
    make('div', {class: 'pgt-field-head'}, flag ? [control.at, label, reset] : [label, reset]),
    flag ? null : control.at, wrong, make('p', {class: 'pg-sub', id: help}, spec.help));
  fields.set(spec.path, {spec, at, control, reset, wrong, words: `${spec.label} ${spec.help} ${spec.path}`.toLowerCase()});
  return at;
}

function mark(path, raw) {
  if (same(raw, usual(path))) delete state.changes[path]; else state.changes[path] = raw;
  count();
  give();
}

const search = make('input', {type: 'search', 'aria-label': 'Search the settings', autocomplete: 'off', oninput: () => find()});
const found = make('span', {class: 'pg-sub', role: 'status'});
const resetAll = make('button', {type: 'button', class: 'pg-btn small', onclick: () => { state.changes = {}; draw(); give(); search.focus(); trigger('input', {}); }}, 'Reset all');
const general = make('p', {class: 'pgt-wrong', role: 'alert'});
const parts = props.sections.map((section) => {
  const one = fold(section.title, make('div', {class: 'pg-fields'}, section.fields.map(field)));
  one.at = make('section', {class: 'pgt-section', id: `${props.prefix}-${section.name}`}, one.button, one.inside);
  one.paths = section.fields.map((spec) => spec.path);
  sections.set(section.name, one);
  return one.at;
});
search.placeholder = `Search ${fields.size} settings`;
const outer = fold('Advanced', [make('div', {class: 'pgt-tools'}, search, found, resetAll), general, ...parts]);
outer.button.classList.add('outer');
box.append(outer.button, outer.inside);

function find() {
  const words = search.value.trim().toLowerCase().split(/\s+/).filter(Boolean);
  let hits = 0;
  for (const one of sections.values()) {
    let here = 0;
    for (const path of one.paths) {
      const fits = words.every((word) => fields.get(path).words.includes(word));
      fields.get(path).at.hidden = !fits;
      here += fits ? 1 : 0;
    }
    one.at.hidden = !here;
    one.turn(words.length > 0 && here > 0);
    hits += here;
  }
  found.textContent = !words.length ? '' : hits ? `${hits} found` : 'Nothing is called so';
}

function count() {
  let all = 0;
  for (const one of sections.values()) {
    let here = 0;
    for (const path of one.paths) {
      const changed = path in state.changes;
      fields.get(path).at.classList.toggle('changed', changed);
      fields.get(path).reset.hidden = !changed;
      here += changed ? 1 : 0;
    }
    one.count.textContent = here ? `${here} changed` : '';
    all += here;
  }
  outer.count.textContent = all ? `${all} changed` : '';
  resetAll.hidden = !all;
}

function draw() {
  for (const [path, one] of fields) {
    const raw = path in state.changes ? state.changes[path] : usual(path);
    if (!same(one.control.read(), raw)) one.control.show(raw);
  }
  count();
  complain();
}

// An error names its field by its path or title, or else stands above them all.
function complain() {
  let placed = false;
  for (const [path, one] of fields) {
    const mine = state.error.startsWith(`${path}: `) || state.error.startsWith(`${one.spec.title} is `);
    one.wrong.textContent = mine ? state.error.replace(`${path}: `, '') : '';
    one.at.classList.toggle('wrong', mine);
    if (mine) one.control.at.setAttribute('aria-invalid', 'true'); else one.control.at.removeAttribute('aria-invalid');
    placed = placed || mine;
    if (mine) sections.get(path.split('.')[0])?.turn(true);
  }
  general.textContent = placed ? '' : state.error;
}

function give() { props.value = {preset: state.preset, changes: state.changes}; }
function read() {
  const {preset, changes, error} = props.value || {};
  if (preset !== undefined && preset !== state.preset) {
    // What a preset says goes before what was set for another one.
    if (changes === undefined) for (const path of props.preset_paths || []) delete state.changes[path];
    state.preset = preset;
  }
  if (changes !== undefined) state.changes = {...changes};
  if (error !== undefined) state.error = error;
  draw();
  give();
}
watch('value', read);
draw();
read();
