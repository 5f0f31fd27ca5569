// A grid over one or two settings. Which can vary comes from the table of axes (`kinds`).
const {mix} = window.pigment;
const {kinds} = props.value;
const STARTS = {weight: '0, 0.5, 1', num_inference_steps: '5, 10, 20', guidance_scale: '1, 3, 6'};
const rows = [0, 1].map((place) => row(place));
const note = make('div', {class: 'pg-note', role: 'alert', hidden: true});
const count = make('span', {class: 'pg-hint', role: 'status'});
const go = make('button', {type: 'button', class: 'pg-btn', id: 'draw-grid', onclick: draw}, 'Draw the grid');
const details = make('details', {class: 'pg-flap', id: 'grid'}, make('summary', {}, 'Grid over two settings'),
  make('div', {class: 'pg-flap-in'}, ...rows.map((one) => one.at), make('div', {class: 'pg-row'}, go, count), note));
box.append(details);

const axis = (place) => mix.state.axes[place] || {kind: '', target: '', values: '', swaps: []};
function put(place, change) {
  const axes = [0, 1].map(axis);
  axes[place] = {...axes[place], ...change};
  mix.set({axes}, {from: 'grid'});
}
const quoted = (text) => (/[",]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);

function row(place) {
  const name = place ? 'Down' : 'Across';
  const kind = make('select', {'aria-label': `${name}: what varies`, id: `axis-${place}`, onchange: () => chosen()},
    make('option', {value: ''}, place ? 'nothing' : 'choose what varies'), ...kinds.map((one) => make('option', {value: one.id}, one.label)));
  const target = make('select', {'aria-label': `${name}: which adapter`, onchange: () => { put(place, {target: target.value, swaps: []}); others(); }});
  const values = make('input', {type: 'text', 'aria-label': `${name}: values`, id: `axis-${place}-values`,
    oninput: () => put(place, {values: values.value})});
  const swaps = make('div', {class: 'pg-rack-words'});
  const at = make('div', {class: 'pg-axis'}, make('b', {}, name), kind, target, values, swaps);

  function chosen() {
    const {seed = 0} = mix.state.generation;
    const start = kind.value === 'seed' ? `${seed}-${seed + 3}` : STARTS[kind.value] || '';
    put(place, {kind: kind.value, target: kind.value === 'adapter' ? mix.state.mix[0]?.id || '' : '', values: start, swaps: []});
    others();
  }
  // Beside an adapter that was taught here stand the others of its run: its checkpoints.
  async function others() {
    const {kind: now, target: id, swaps: had} = axis(place);
    if (now !== 'adapter' || !id || had.length) return;
    try {
      const found = await mix.ask(`mix/siblings/${encodeURIComponent(id)}`);
      for (const card of found.adapters) mix.cards.set(card.id, card);
      if (axis(place).target === id && !axis(place).swaps.length) put(place, {swaps: found.adapters.map((card) => card.id).slice(0, 8)});
    } catch { /* none are offered then */ }
  }
  async function another() {
    const {target: id, swaps: had} = axis(place);
    const card = await mix.pick({title: 'Another adapter for the grid', without: [id, ...had]});
    if (card) put(place, {swaps: [...had, card.id]});
  }
  return {at, others, async show() {
    const one = axis(place), row = kinds.find((found) => found.id === one.kind);
    const swapped = one.kind === 'adapter';
    at.hidden = place === 1 && !axis(0).kind;
    kind.value = one.kind;
    target.hidden = !row?.target && !swapped;
    const known = mix.state.mix.map((part) => mix.cards.get(part.id)).filter(Boolean);
    target.replaceChildren(...(swapped ? [] : [make('option', {value: ''}, 'all adapters')]),
      ...known.map((card) => make('option', {value: card.id}, card.name)));
    target.value = one.target;
    values.hidden = !one.kind || swapped;
    values.placeholder = row?.hint || '';
    values.title = row?.about || '';
    if (document.activeElement !== values) values.value = one.values;
    swaps.hidden = !swapped;
    if (!swapped) return;
    await mix.known(one.swaps);
    swaps.replaceChildren(...one.swaps.map((id) => make('button', {type: 'button', class: 'pg-chip pg-trigger', title: 'Leave it out',
      onclick: () => put(place, {swaps: axis(place).swaps.filter((other) => other !== id)})}, `${mix.cards.get(id).name} ✕`)),
    make('button', {type: 'button', class: 'pg-btn small', onclick: another}, '+ Another'));
  }};
}

function texts() {  // the axes as the server reads them
  const found = [];
  for (const one of [0, 1].map(axis)) {
    if (!one.kind) continue;
    if (one.kind === 'adapter') found.push(`adapter=${[one.target, ...one.swaps].map((id) => quoted(mix.cards.get(id)?.name || id)).join(', ')}`);
    else found.push(`${one.kind}${one.target ? `:${one.target}` : ''}=${one.values}`);
  }
  return found;
}

function show() {
  rows.forEach((one) => one.show());
  go.disabled = !axis(0).kind;
}

async function draw() {
  go.disabled = true;
  note.hidden = true;
  try {
    const request = mix.request({num_images: 1});
    const swaps = [0, 1].map(axis).flatMap((one) => (one.kind === 'adapter' ? one.swaps : []));
    const there = new Set(request.mix.map((part) => part.id));
    for (const id of swaps) if (!there.has(id)) request.mix.push(mix.part(id, 0));
    await mix.ask('mix/generate', {...request, axes: texts()});
    count.textContent = 'It is being drawn.';
    setTimeout(() => { count.textContent = ''; }, 6000);
    document.getElementById('drawn')?.scrollIntoView({behavior: 'smooth', block: 'nearest'});
  } catch (error) { note.textContent = error.message; note.hidden = false; }
  go.disabled = false;
}

mix.follow((keys) => { if (keys.some((key) => ['axes', 'mix'].includes(key))) { count.textContent = ''; note.hidden = true; show(); } });
details.addEventListener('toggle', async () => {
  if (!details.open) return;
  try { await mix.known(mix.state.mix.map((part) => part.id)); } catch { /* the rack says it */ }
  show();
});
show();
