// Prompts to begin with: a click writes one into the empty box. They belong to one model.
(() => {
  'use strict'
  document.addEventListener('click', (event) => {
    const chip = event.target.closest?.('.rp-first [data-prompt]')
    if (chip) window.reprise.set(chip.parentElement.dataset.tab, 'prompt', chip.dataset.prompt)
  })
  document.addEventListener('reprise:checkpoint', (event) => {
    for (const home of document.querySelectorAll('.rp-first')) home.hidden = home.dataset.model !== event.detail
  })
})()
