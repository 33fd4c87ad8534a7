// The strip of what was made last, by any tab: a click shows the picture in the History.
(() => {
  'use strict'
  const SHOWN = 24, KEY = 'reprise.strip'
  const list = () => document.querySelector('#rp_strip .rp-strip-list')

  function fold(folded) {
    document.documentElement.dataset.strip = folded ? 'folded' : 'open'
    document.querySelector('.rp-strip-fold')?.setAttribute('aria-expanded', String(!folded))
    try { localStorage.setItem(KEY, folded ? 'folded' : 'open') } catch { /* the browser keeps nothing */ }
  }

  function item(picture) {
    const button = document.createElement('button'), image = document.createElement('img'), time = document.createElement('time')
    const made = new Date(picture.created * 1000)
    Object.assign(button, { type: 'button', className: 'rp-strip-picture', title: `${picture.kind}, ${made.toLocaleString()}` })
    button.setAttribute('aria-label', button.title)
    button.setAttribute('translate', 'no')
    button.dataset.number = picture.number
    Object.assign(image, { alt: '', loading: 'lazy', decoding: 'async', src: picture.small.slice(1) })
    image.addEventListener('error', () => button.remove())
    time.textContent = made.toLocaleTimeString([], { hour: '2-digit', minute: '2-digit' })
    button.append(image, time)
    return button
  }

  async function load() {
    const place = list()
    if (!place || getComputedStyle(place).display === 'none') return
    const answer = await fetch(`api/v1/history?limit=${SHOWN}`).catch(() => null)
    if (!answer?.ok) return
    const { pictures } = await answer.json()
    const shown = [...place.children].map((one) => one.dataset.number).join()
    if (shown !== pictures.map((one) => one.number).join()) place.replaceChildren(...pictures.map(item))
  }

  async function show(number) {
    document.documentElement.dataset.picture = number
    document.getElementById('tab_history-button')?.click()
    const choose = await window.reprise.until(() => document.getElementById('history_choose'), 5000)
    choose?.click()
  }

  document.addEventListener('click', (event) => {
    const picture = event.target.closest?.('.rp-strip-picture')
    if (picture) show(picture.dataset.number)
    if (event.target.closest?.('.rp-strip-fold')) {
      fold(document.documentElement.dataset.strip !== 'folded')
      load()
    }
    if (event.target.closest?.('#rp_tabs > .tab-wrapper button')) setTimeout(load, 50)
  })

  let kept = null
  try { kept = localStorage.getItem(KEY) } catch { /* the browser keeps nothing */ }
  const found = new MutationObserver(() => {
    if (!list() || !window.reprise?.on) return
    found.disconnect()
    fold(kept === 'folded')
    window.reprise.on('result', load)
    load()
  })
  found.observe(document.documentElement, { subtree: true, childList: true })
})()
