// Once per page, before all widgets: one connection for all parts that are in view (browsers have few of them).
window.pigment = (() => {
  const followers = new Set();
  let stop = null, running = false;
  const inView = (one) => one.element.isConnected && one.element.getClientRects().length > 0;
  const pause = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));
  const same = (a, b) => a.part === b.part && a.key === b.key;

  async function run() {
    running = true;
    let failures = 0;
    while (followers.size) {
      const now = document.visibilityState === 'visible' ? [...followers].filter(inView) : [];
      const asks = now.map((one) => {
        const wanted = one.wanted();
        if (!one.asked || !same(one.asked, wanted)) one.seen = '';
        one.asked = wanted;
        return {...wanted, seen: one.seen};
      });
      if (!asks.length) { await pause(200); continue; }
      stop = new AbortController();
      const leave = setInterval(() => {  // another tab of the page is open now: its parts are wanted as well
        const view = [...followers].filter(inView);
        if (view.length !== now.length || view.some((one) => !now.includes(one))) stop.abort();
      }, 150);
      try {
        const answer = await fetch('parts', {method: 'POST', signal: stop.signal,
          headers: {'content-type': 'application/json'}, body: JSON.stringify(asks)});
        if (answer.status === 401) { location.reload(); return; }
        if (!answer.ok) throw new Error(answer.status);
        const found = await answer.json();
        failures = 0;
        document.body.classList.remove('pg-lost');
        now.forEach((one, number) => {
          if (!same(one.asked, one.wanted()) || !found[number].pieces) return;
          const again = one.seen !== '';
          one.seen = found[number].seen;
          one.take(found[number].pieces, again);
        });
      } catch (error) {
        if (error.name === 'AbortError') continue;
        failures += 1;
        if (failures > 1) document.body.classList.add('pg-lost');  // the server rests: the page says so
        await pause(Math.min(4000, 500 * failures));
      } finally {
        clearInterval(leave);
      }
    }
    running = false;
  }

  return {
    // element: the part's; wanted(): {part, key}; take(pieces, again): show them, `again` unless it is the first time
    follow(one) {
      one.seen = '';
      followers.add(one);
      if (running) stop?.abort(); else run();
      return {anew: () => stop?.abort(), end: () => followers.delete(one)};
    },
  };
})();
