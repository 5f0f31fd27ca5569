// Draw over a picture: one that is chosen, and with a brush the part of it that is drawn anew.
const {mix} = window.pigment;
const LONGEST = 2048;  // pixels of the mask's longer side
const note = make('div', {class: 'pg-note', role: 'alert', hidden: true});
const file = make('input', {type: 'file', id: 'over-file', accept: 'image/*', class: 'pg-unseen', onchange: () => { if (file.files[0]) take(file.files[0]); file.value = ''; }});
const drop = make('label', {class: 'pg-over-drop', for: 'over-file'}, file, make('span', {class: 'pg-plus', 'aria-hidden': 'true'}, '+'),
  make('b', {}, 'Drop a picture here'), make('span', {class: 'pg-sub'}, 'or choose a file. “Draw over it” under a drawn picture takes that one.'));
const picture = make('img', {alt: 'The picture that is drawn over'});
const canvas = make('canvas', {tabIndex: 0, id: 'brush', role: 'img',
  'aria-label': 'What is painted here is drawn anew. Arrow keys move the brush, space paints, E erases.'});
const cursor = make('i', {class: 'pg-over-cursor', 'aria-hidden': 'true'});
const sheet = make('div', {class: 'pg-over-sheet'}, picture, canvas, cursor);
const size = make('input', {type: 'range', class: 'pg-slide', min: '2', max: '40', value: '12', step: '1', 'aria-label': 'Size of the brush'});
const tool = (label, title, onclick, more = {}) => make('button', {type: 'button', class: 'pg-btn small', title, onclick, ...more}, label);
const eraser = tool('Eraser', 'Take paint away', () => erase(!erasing), {'aria-pressed': 'false'});
const back = tool('Undo', 'Take the last stroke back', undo, {disabled: true});
const bar = make('div', {class: 'pg-over-bar'}, make('label', {class: 'pg-over-size'}, 'Brush', size), eraser, back,
  tool('Clear', 'Draw the whole picture anew', () => { stroke(); pen.clearRect(0, 0, canvas.width, canvas.height); given(); }),
  tool('Take it away', 'Draw from words alone', () => mix.set({image: '', mask: ''})));
const hint = make('p', {class: 'pg-hint'}, 'Paint what should be drawn anew; without paint the whole picture is. “Strength” says how far.');
const work = make('div', {class: 'pg-over-work', hidden: true}, sheet, bar, hint);
const inUse = make('small', {hidden: true}, 'in use');
const details = make('details', {class: 'pg-flap', id: 'over-fold'}, make('summary', {}, 'Draw over a picture', inUse),
  make('div', {class: 'pg-flap-in'}, drop, work, note));
box.append(details);

const pen = canvas.getContext('2d', {willReadFrequently: true});
const strokes = [];  // what the canvas was before each
let erasing = false, painting = null, spot = null, image = null, maskShown = '';

const address = (ref) => (ref.startsWith('picture/') ? `files/${ref}/0` : `files/${ref}`);
function say(text) { note.textContent = text; note.hidden = !text; }
function erase(on) { erasing = on; eraser.setAttribute('aria-pressed', String(on)); }

async function take(chosen) {
  say('');
  drop.classList.add('pg-busy');
  try {
    const found = await mix.ask(`mix/picture?name=${encodeURIComponent(chosen.name.slice(-200))}`, chosen);
    mix.set({image: found.ref, mask: ''});
  } catch (error) { say(error.message); }
  drop.classList.remove('pg-busy');
}

function stroke() {  // before a stroke: keep what is there
  strokes.push(pen.getImageData(0, 0, canvas.width, canvas.height));
  if (strokes.length > 12) strokes.shift();
  back.disabled = false;
}

function undo() {
  const before = strokes.pop();
  if (before) pen.putImageData(before, 0, 0);
  back.disabled = !strokes.length;
  given();
}

const width = () => +size.value / 100 * Math.max(canvas.width, canvas.height);
function place(event) {
  const frame = canvas.getBoundingClientRect();
  return [(event.clientX - frame.left) * canvas.width / frame.width, (event.clientY - frame.top) * canvas.height / frame.height];
}

function line(from, to) {
  pen.globalCompositeOperation = erasing ? 'destination-out' : 'source-over';
  pen.strokeStyle = '#e4572e';
  pen.lineWidth = width();
  pen.lineCap = pen.lineJoin = 'round';
  pen.beginPath();
  pen.moveTo(...from);
  pen.lineTo(to[0] + 0.01, to[1]);
  pen.stroke();
}

function point(at) {
  const shown = 100 * width();
  cursor.style.cssText = `left: ${100 * at[0] / canvas.width}%; top: ${100 * at[1] / canvas.height}%; width: ${shown / canvas.width}%; height: ${shown / canvas.height}%;`;
}

canvas.addEventListener('pointerdown', (event) => {
  if (event.button) return;
  canvas.setPointerCapture(event.pointerId);
  stroke();
  painting = spot = place(event);
  line(painting, painting);
});
canvas.addEventListener('pointermove', (event) => {
  const at = place(event);
  point(at);
  if (!painting) return;
  line(painting, at);
  painting = spot = at;
});
for (const name of ['pointerup', 'pointercancel']) canvas.addEventListener(name, () => { if (painting) { painting = null; given(); } });
canvas.addEventListener('keydown', (event) => {
  const step = Math.max(canvas.width, canvas.height) / (event.shiftKey ? 8 : 32);
  const ways = {ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step]};
  spot ||= [canvas.width / 2, canvas.height / 2];
  if (event.key in ways) {
    spot = [0, 1].map((side) => Math.min([canvas.width, canvas.height][side], Math.max(0, spot[side] + ways[event.key][side])));
    point(spot);
  } else if (event.key === ' ') { stroke(); line(spot, spot); given(); } else if (event.key.toLowerCase() === 'e') erase(!erasing);
  else return;
  event.preventDefault();
});

// The mask as the server has it: white where there is paint. Nothing painted is no mask.
const given = quiet(async () => {
  const {width: wide, height: high} = canvas, paint = pen.getImageData(0, 0, wide, high);
  let any = false;
  for (let at = 0; at < paint.data.length; at += 4) {
    const white = paint.data[at + 3] > 127;
    any ||= white;
    paint.data[at] = paint.data[at + 1] = paint.data[at + 2] = white ? 255 : 0;
    paint.data[at + 3] = 255;
  }
  if (!any) { maskShown = ''; mix.set({mask: ''}, {from: 'brush'}); return; }
  const sheet = make('canvas', {width: wide, height: high});
  sheet.getContext('2d').putImageData(paint, 0, 0);
  const drawn = image;
  sheet.toBlob(async (blob) => {
    try {
      const found = await mix.ask('mix/picture?name=mask.png', blob);
      if (image !== drawn || mix.state.image !== drawn) return;
      maskShown = found.ref;
      mix.set({mask: found.ref}, {from: 'brush'});
    } catch (error) { say(error.message); }
  }, 'image/png');
}, 350);

// Show the mask that is kept, after a reload.
function restore() {
  const ref = mix.state.mask;
  maskShown = ref;
  pen.clearRect(0, 0, canvas.width, canvas.height);
  if (!ref) return;
  const mask = new Image();
  mask.onload = () => {
    pen.globalCompositeOperation = 'source-over';
    pen.drawImage(mask, 0, 0, canvas.width, canvas.height);
    const paint = pen.getImageData(0, 0, canvas.width, canvas.height);
    for (let at = 0; at < paint.data.length; at += 4) {
      paint.data[at + 3] = paint.data[at] > 127 ? 255 : 0;
      [paint.data[at], paint.data[at + 1], paint.data[at + 2]] = [228, 87, 46];
    }
    pen.putImageData(paint, 0, 0);
  };
  mask.src = address(ref);
}

picture.addEventListener('load', () => {
  const shrink = Math.min(1, LONGEST / Math.max(picture.naturalWidth, picture.naturalHeight));
  canvas.width = Math.max(1, Math.round(picture.naturalWidth * shrink));
  canvas.height = Math.max(1, Math.round(picture.naturalHeight * shrink));
  sheet.style.setProperty('--wide', String(picture.naturalWidth / picture.naturalHeight));
  strokes.length = 0;
  back.disabled = true;
  restore();
});
picture.addEventListener('error', () => { say('This picture is gone; choose another.'); mix.set({image: '', mask: ''}); });

function show(how = {}) {
  const ref = mix.state.image;
  drop.hidden = Boolean(ref);
  work.hidden = inUse.hidden = !ref;
  if (ref !== image) {
    image = ref;
    if (ref) { say(''); picture.src = address(ref); details.open = true; if (how.from) details.scrollIntoView({behavior: 'smooth', block: 'nearest'}); }
  } else if (ref && mix.state.mask !== maskShown && how.from !== 'brush') restore();
}
mix.follow((keys, how) => { if (keys.includes('image') || keys.includes('mask')) show(how); });
for (const name of ['dragover', 'drop']) details.addEventListener(name, (event) => {
  event.preventDefault();
  event.stopPropagation();
  if (name === 'drop' && event.dataTransfer.files[0]) take(event.dataTransfer.files[0]);
});
show();
