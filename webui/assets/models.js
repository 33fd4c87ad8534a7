// The model card's button.
(() => {
  'use strict'
  const one = (selector) => document.querySelector(selector)

  function sayOpen(button, isOpen) {
    if (button) button.setAttribute('aria-expanded', String(!!isOpen))
  }

  document.addEventListener('reprise:card', () => requestAnimationFrame(() => {
    const card = one('#model_card .rp-card')
    sayOpen(one('#model_card_button'), card)
    if (card) document.documentElement.dataset.card = 'open'
    else delete document.documentElement.dataset.card
  }))
})()
