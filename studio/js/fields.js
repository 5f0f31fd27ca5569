// Settings of a picture, drawn from the config's own metadata (studio/tabs/mix.py gives it as `specs`).
const {mix} = window.pigment;
const {specs, fold, check} = props.value;
const fields = new Map();  // by name: show the state's value
const own = (spec) => (spec.name in mix.state.generation ? mix.state.generation[spec.name] : spec.value);

function put(spec, value, how = {}) {
  mix.set({generation: {...mix.state.generation, [spec.name]: value}}, {from: element.id, ...how});
}

// What a number field holds: null where it is empty and may be; undefined where it isn't understood.
function number(spec, text) {
  if (!text.trim()) return spec.optional ? null : spec.value;
  let value = +text;
  if (!Number.isFinite(value)) return undefined;
  if (spec.kind === 'whole') value = Math.round(value);
  return Math.min(spec.maximum ?? Infinity, Math.max(spec.minimum ?? -Infinity, value));
}

const KINDS = {
  text(spec, id) {
    const at = make('textarea', {id, rows: String(spec.rows || 2), placeholder: spec.placeholder || '', maxlength: String(spec.maximum || 10000)});
    const grow = () => { at.style.height = 'auto'; at.style.height = `${Math.min(220, at.scrollHeight + 2)}px`; };
    at.addEventListener('input', () => { grow(); put(spec, at.value, {typing: true}); });
    at.addEventListener('keydown', (event) => {
      if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) { event.preventDefault(); mix.tell('generate'); }
    });
    return {at, show(value) { if (at.value !== value) at.value = value ?? ''; requestAnimationFrame(grow); }};
  },
  number(spec, id) {
    const at = make('input', {id, type: 'number', step: spec.kind === 'whole' ? '1' : 'any', placeholder: spec.placeholder || '',
      min: spec.minimum === null ? null : String(spec.minimum), max: spec.maximum === null ? null : String(spec.maximum)});
    const slider = spec.kind === 'number' && spec.maximum !== null && spec.maximum <= 64 ? make('input', {type: 'range', class: 'pg-slide',
      'aria-label': `${spec.label}, as a slider`, min: String(spec.minimum), max: String(spec.maximum), step: spec.maximum > 8 ? '0.5' : '0.05'}) : null;
    const fill = (value) => {
      slider.value = String(value);
      slider.style.setProperty('--from', '0%');
      slider.style.setProperty('--to', `${100 * (value - spec.minimum) / (spec.maximum - spec.minimum)}%`);
    };
    at.addEventListener('change', () => {
      const value = number(spec, at.value);
      if (value === undefined) { at.value = own(spec) ?? ''; return; }
      at.value = value ?? '';
      put(spec, value);
    });
    slider?.addEventListener('input', () => { at.value = slider.value; fill(+slider.value); put(spec, +slider.value, {moving: true}); });
    slider?.addEventListener('change', () => put(spec, +slider.value));
    const show = (value) => { at.value = value ?? ''; if (slider) fill(value ?? spec.minimum); };
    return {at: slider ? make('div', {class: 'pg-field-slide'}, slider, at) : at, show};
  },
  choice(spec, id) {
    const at = make('select', {id, onchange: () => put(spec, spec.choices[at.selectedIndex][0])},
      ...spec.choices.map(([, label]) => make('option', {}, label)));
    return {at, show(value) { at.selectedIndex = Math.max(0, spec.choices.findIndex(([one]) => one === value)); }};
  },
  flag(spec, id) {
    const at = make('input', {id, type: 'checkbox', onchange: () => put(spec, at.checked)});
    return {at, show(value) { at.checked = Boolean(value); }};
  },
};
KINDS.whole = KINDS.number;

// Drawn by hand, since emoji look different everywhere.
function icon(button, paths) { button.innerHTML = `<svg viewBox="0 0 24 24" aria-hidden="true">${paths}</svg>`; return button; }
const LOCK = (open) => `<rect x="5" y="11" width="14" height="9" rx="2"/><path d="${open ? 'M8 11V7a4 4 0 0 1 7.6-1.7' : 'M8 11V7a4 4 0 0 1 8 0v4'}"/>`;
const DICE = '<rect x="4" y="4" width="16" height="16" rx="3.5"/><path d="M8.5 8.5h.01M15.5 8.5h.01M12 12h.01M8.5 15.5h.01M15.5 15.5h.01"/>';

// The seed can be kept from picture to picture, or thrown anew.
const EXTRAS = {
  seed(spec) {
    mix.dice = () => put(spec, crypto.getRandomValues(new Uint32Array(1))[0] >>> 1, {from: 'dice'});
    const dice = icon(make('button', {type: 'button', class: 'pg-icon', id: 'dice', title: 'Another seed', 'aria-label': 'Another seed', onclick: () => mix.dice()}), DICE);
    const lock = make('button', {type: 'button', class: 'pg-icon pg-lock', id: 'seed-lock', 'aria-label': 'Keep the seed after “Generate”', onclick: () => mix.set({locked: !mix.state.locked})});
    const show = () => {
      const {locked} = mix.state;
      icon(lock, LOCK(!locked));
      lock.setAttribute('aria-pressed', String(locked));
      lock.title = locked ? 'The seed is kept after “Generate”' : 'Each “Generate” takes another seed';
    };
    mix.follow((keys) => { if (keys.includes('locked')) show(); });
    show();
    return [lock, dice];
  },
};

function field(spec) {
  const id = `mix-${spec.name.replaceAll('_', '-')}`;
  const {at, show} = KINDS[spec.kind](spec, id);
  fields.set(spec, show);
  const extras = EXTRAS[spec.name]?.(spec) || [];
  const label = make('label', {for: id, title: spec.help}, spec.label);
  const inside = extras.length ? make('div', {class: 'pg-field-row'}, at, ...extras) : at;
  return make('div', {class: `pg-field ${spec.kind}`, 'data-field': spec.name, 'data-needs': spec.needs || null}, ...(spec.kind === 'flag' ? [inside, label] : [label, inside]),
    fold && spec.help ? make('small', {}, spec.help) : null);
}

const grid = make('div', {class: `pg-field-grid ${props.value.layout || ''}`}, ...specs.map(field));
for (const [name, label] of check || []) {
  const at = make('input', {type: 'checkbox', id: `mix-${name}`, checked: mix.state[name], onchange: () => mix.set({[name]: at.checked})});
  grid.append(make('div', {class: 'pg-field flag wide'}, at, make('label', {for: at.id}, label)));
}
box.append(fold ? make('details', {class: 'pg-flap'}, make('summary', {}, fold), grid) : grid);
// Some act only where something is drawn over; elsewhere they aren't there, and aren't asked for.
function lacking() {
  for (const at of box.querySelectorAll('[data-needs]')) at.hidden = !mix.state[at.dataset.needs];
  (element.closest('.block') || element).classList.toggle('pg-none', ![...fields.keys()].some((spec) => !spec.needs || mix.state[spec.needs]));
}
const show = () => { for (const [spec, put] of fields) put(own(spec)); };
for (const spec of specs) if (spec.needs) mix.needs[spec.name] = spec.needs;
mix.follow((keys, how) => {
  if (keys.includes('generation') && how.from !== element.id) show();
  if (keys.includes('image') || keys.includes('mask')) lacking();
});
show();
lacking();
