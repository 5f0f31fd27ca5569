// Once per page, in the head: what the Mix tab holds, shared by its widgets and kept over a reload.
// A widget reads `pigment.mix.state`, changes it by `set`, and hears of changes by `follow`.
window.pigment.mix = (() => {
  const KEPT = 'pigment-mix';
  const state = {generation: {}, mix: [], axes: ['', ''], image: '', mask: '', locked: true, compare: false, final: false,
    beside: false, wished: 0};
  const followers = new Set();
  const needs = {};  // settings that act only where another part of the state is there
  const cards = new Map();  // adapters by id, as the server describes them
  let fresh = true, saving;

  try {
    const kept = JSON.parse(localStorage.getItem(KEPT) || 'null');
    if (kept) { fresh = false; for (const name of Object.keys(state)) if (name in kept) state[name] = kept[name]; }
  } catch { /* nothing is kept: begin anew */ }

  function save() {
    clearTimeout(saving);
    saving = setTimeout(() => {
      try { localStorage.setItem(KEPT, JSON.stringify(state)); } catch { /* a private window keeps nothing */ }
    }, 250);
  }

  // change: fields of the state. how: {moving: a slider is being dragged, from: who changed it}
  function set(change, how = {}) {
    Object.assign(state, change);
    fresh = false;
    save();
    for (const follower of [...followers]) follower(Object.keys(change), how);
  }

  const part = (id, weight = 1) => ({id, weight, text: null, blocks: {}, begin: 0, end: 0, on: true});

  function say(word) {  // put a word into the prompt, or take it out again
    const {prompt = ''} = state.generation;
    const said = new RegExp(`(^|[\\s,])${word.replace(/[.*+?^${}()|[\]\\]/g, '\\$&')}(?=$|[\\s,.])`, 'i');
    const next = said.test(prompt) ? prompt.replace(said, '$1') : `${prompt.trim()}${prompt.trim() ? ' ' : ''}${word}`;
    set({generation: {...state.generation, prompt: next.replace(/ {2,}/g, ' ').trim()}});
  }

  // What is asked of the server. over: changes to the settings.
  function request(over = {}) {
    const {mask, image} = state, generation = {...state.generation, ...over};
    for (const [name, need] of Object.entries(needs)) if (!state[need]) delete generation[name];
    return {generation, image, mask: image ? mask : '',
      mix: state.mix.map(({id, weight, text, blocks, begin, end, on}) => ({id, weight, text, blocks, begin, end, on}))};
  }

  // The server's answer to JSON as JSON; what is wrong comes as an Error of one line.
  async function ask(address, body, method = body === undefined ? 'GET' : 'POST') {
    const asJson = body !== undefined && !(body instanceof Blob);
    let answer;
    try {
      answer = await fetch(address, {method, body: asJson ? JSON.stringify(body) : body,
        headers: asJson ? {'content-type': 'application/json'} : {}});
    } catch { throw new Error('The server doesn’t answer; is it still running?'); }
    if (answer.status === 401) location.reload();
    const json = (answer.headers.get('content-type') || '').includes('json');
    if (answer.ok && answer.status !== 202) return json ? answer.json() : null;  // 202: not now
    const said = json ? (await answer.json()).detail : await answer.text();
    throw new Error(typeof said === 'string' && said ? said : `The server answered ${answer.status}; try again`);
  }

  // The cards of adapters by id; one that is gone has `gone`.
  async function known(ids) {
    const lacking = ids.filter((id) => !cards.has(id));
    if (lacking.length) {
      const found = await ask(`mix/adapters?ids=${encodeURIComponent(lacking.join(','))}`);
      for (const id of lacking) cards.set(id, {id, name: 'an adapter that is gone', triggers: [], gone: true});
      for (const card of found.adapters) cards.set(card.id, card);
    }
    return ids.map((id) => cards.get(id));
  }

  return {
    state, needs, set, part, say, request, ask, known, cards,
    follow(follower) { followers.add(follower); return () => followers.delete(follower); },
    tell(topic, how = {}) { for (const follower of [...followers]) follower([topic], how); },
    begin(start) { if (fresh) set(start); },
    // What another tab wants: adapters, a prompt, settings, a picture to draw over.
    wish({adapters, prompt, generation, image, at = 0}) {
      if (at && at <= state.wished) return;  // the widget that brought it is only shown anew
      const change = {generation: {...(generation || state.generation)}, wished: at};
      if (typeof prompt === 'string' && prompt) change.generation.prompt = prompt;
      if (adapters) change.mix = adapters.map((one) => ({...part(one.id), ...one}));
      if (image !== undefined) Object.assign(change, {image, mask: ''});
      for (const name of ['adapters', 'image', 'mask', 'controls', 'image_prompt']) delete change.generation[name];
      set(change, {from: 'wish'});
    },
  };
})();

// A button anywhere with data-mix-image takes that picture to be drawn over.
document.addEventListener('click', (event) => {
  const image = event.target.closest?.('[data-mix-image]')?.dataset.mixImage;
  if (image) window.pigment.mix.set({image, mask: ''}, {from: 'picture'});
});
