// A part of the page that shows itself anew whenever something about it changes (studio/parts.py, js/page.js).
listenToButtons(element);
const pieces = new Map();

function place(name, html) {
  let piece = pieces.get(name);
  if (!piece) {
    piece = {html: null, at: make('div', {class: 'pg-piece', 'data-piece': name})};
    pieces.set(name, piece);
    box.append(piece.at);
  }
  if (piece.html === html) return;
  piece.html = html;
  piece.at.hidden = !html;
  const held = piece.at.contains(document.activeElement) ? {...document.activeElement.dataset} : {};
  const strips = [...piece.at.querySelectorAll('.pg-strip')].map(
    (strip) => [strip.scrollLeft, strip.scrollLeft + strip.clientWidth >= strip.scrollWidth - 8]);
  piece.at.innerHTML = html;
  piece.at.querySelectorAll('.pg-strip').forEach((strip, number) => {
    const [left, atEnd] = strips[number] || [0, true];
    strip.scrollLeft = atEnd ? strip.scrollWidth : left;
  });
  if (held.act) {  // the keyboard stays where it was
    [...piece.at.querySelectorAll('[data-act]')]
      .find((one) => one.dataset.act === held.act && one.dataset.id === held.id)?.focus();
  }
}

const follower = window.pigment.follow({
  element,
  wanted: () => ({part: props.value?.part, key: props.value?.key || ''}),
  take(found, again) {
    for (const name of pieces.keys()) if (!(name in found)) place(name, '');
    for (const [name, html] of Object.entries(found)) place(name, html);
    element.dataset.shown = props.value?.key || '-';
    if (again) trigger('change', {part: props.value.part, key: props.value.key || ''});
  },
});
watch('value', () => follower.anew());
