// A click on a picture of the history, and the keys that go from one to the next.
(() => {
  'use strict'
  document.addEventListener('click', (event) => {
    const tile = event.target.closest?.('.rp-tile')
    if (!tile) return
    document.querySelectorAll('.rp-tile[aria-current]').forEach((other) => other.removeAttribute('aria-current'))
    tile.setAttribute('aria-current', 'true')
    document.documentElement.dataset.picture = tile.dataset.number
    document.querySelector('#history_choose')?.click()
  })
  document.addEventListener('keydown', (event) => {
    const tile = document.activeElement
    if (!tile?.classList?.contains('rp-tile') || event.ctrlKey || event.altKey || event.metaKey) return
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key]
    if (!step) return
    const tiles = [...document.querySelectorAll('.rp-tile')]
    tiles[tiles.indexOf(tile) + step]?.focus()
    event.preventDefault()
  })
})()
