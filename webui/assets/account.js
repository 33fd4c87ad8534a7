// The account's name and the ways out, in the header; nothing is shown as long as there are no accounts.
(() => {
  'use strict'
  function showAccount() {
    const place = document.querySelector('.rp-account')
    if (!place || !window.gradio_config) return setTimeout(showAccount, 200)
    const name = window.gradio_config.username
    if (!name || name === 'local') return
    place.querySelector('.rp-account-name').textContent = name
    place.hidden = false
    document.addEventListener('click', (event) => { if (!place.contains(event.target)) place.open = false })
    place.addEventListener('keydown', (event) => {
      if (event.key !== 'Escape' || !place.open) return
      place.open = false
      place.querySelector('summary').focus()
    })
  }
  showAccount()
})()
