// The model card's button.
(() => {
  'use strict'
  const one = (selector) => document.querySelector(selector)

  function sayOpen(button, isOpen) {
    if (button) button.setAttribute('aria-expanded', String(!!isOpen))
  }

  document.addEventListener('reprise:card', () => requestAnimationFrame(() => {
    sayOpen(one('#model_card_button'), one('#model_card .rp-card'))
  }))
})()
