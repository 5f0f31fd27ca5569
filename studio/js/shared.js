// What every script of the page begins with. `element` is the widget's own.
const box = element.querySelector('.pg-widget');

// An element: make('button', {class: 'pg-btn', onclick: f, 'aria-label': 'x'}, 'text', child…)
function make(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith('on')) made.addEventListener(key.slice(2), value);
    else if (key in made && typeof value !== 'string') made[key] = value;
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(key, value === true ? '' : value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return made;
}

// Call `work` once things have been quiet for `wait` milliseconds.
function quiet(work, wait) {
  let timer;
  return (...values) => { clearTimeout(timer); timer = setTimeout(() => work(...values), wait); };
}

// Buttons in pieces of HTML say what they do by data-act; what else they carry goes with it.
function listenToButtons(within) {
  within.addEventListener('click', (event) => {
    const button = event.target.closest('[data-act]');
    if (button && within.contains(button)) trigger('click', {...button.dataset});
  });
}
