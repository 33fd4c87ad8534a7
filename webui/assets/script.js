// Keys, the worker's state and the page's title. No address but this server's own is ever asked.
(() => {
  'use strict'
  const one = (selector) => document.querySelector(selector)
  const visible = (element) => element && element.offsetParent !== null

  // Ctrl+Enter generates on the tab in view, Esc interrupts. While a text is composed (IME), keys belong to it.
  function press(suffix) {
    for (const button of document.querySelectorAll(`button[id$="_${suffix}"]`)) {
      if (visible(button) && !button.disabled) {
        button.click()
        return true
      }
    }
    return false
  }

  document.addEventListener('keydown', (event) => {
    if (event.isComposing) return
    if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) {
      event.preventDefault()
      event.stopPropagation()
      // A text box tells Gradio its value on "input"; let that be handled first.
      setTimeout(() => press('generate'), 0)
    } else if (event.key === 'Escape' && !event.defaultPrevented && !one('[aria-expanded="true"][role="listbox"]')) {
      press('interrupt')
    }
  }, true)

  // What the worker does, from /healthz: often until it is ready, then now and then.
  const SAID = {
    starting: 'Starting the worker', loading: 'Loading the model', ready: 'Ready', busy: 'Working',
    dead: 'The worker stopped', gone: 'The server does not answer',
  }

  async function askWorker() {
    let state = 'gone', detail = ''
    try {
      const answer = await fetch('healthz', { cache: 'no-store' })
      if (answer.ok) ({ worker: state, detail } = await answer.json())
    } catch (error) { /* the server is away: that is what "gone" says */ }
    const place = one('.rp-worker')
    if (place) {
      place.dataset.state = state
      place.title = detail
      const text = place.querySelector('span')
      if (text.textContent !== SAID[state]) text.textContent = SAID[state] || state
    }
    setTimeout(askWorker, !place ? 200 : state === 'ready' ? 4000 : 1000)
  }

  // Progress in the title, for those who look at another window meanwhile.
  function watchProgress() {
    const home = one('#rp_tabs')
    if (!home) return setTimeout(watchProgress, 300)
    new MutationObserver(() => {
      const bar = home.querySelector('.rp-status[data-phase="running"] .rp-bar i')
      const percent = bar ? Math.round(parseFloat(bar.style.width) || 0) : null
      document.title = percent === null ? 'Reprise' : `${percent}% · Reprise`
    }).observe(home, { subtree: true, childList: true })
  }

  askWorker()
  watchProgress()
})()
