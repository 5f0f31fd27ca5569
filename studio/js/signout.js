// Where there are accounts: a button beside the page's name that ends the session.
(() => {
  const add = () => {
    const brand = document.querySelector('.pg-brand');
    if (!brand || brand.querySelector('.pg-out')) return;
    const form = document.createElement('form');
    form.className = 'pg-out';
    form.method = 'post';
    form.action = 'logout';
    form.style.cssText = 'margin-left: auto';
    const button = document.createElement('button');
    button.className = 'pg-btn small';
    button.textContent = 'Sign out';
    // What the Mix tab keeps in this browser isn't for whoever signs in next.
    form.addEventListener('submit', () => localStorage.clear());
    form.append(button);
    brand.append(form);
  };
  new MutationObserver(add).observe(document.documentElement, {childList: true, subtree: true});
})();
