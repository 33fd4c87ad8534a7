// The left column is widened by its right edge, with the pointer or the arrow keys; the browser keeps how far.
(() => {
  'use strict'
  const KEY = 'reprise.left', LEAST = 360, STEP = 24
  const most = () => Math.max(LEAST, Math.round(innerWidth * 0.6))

  function widen(width) {
    const set = width ? Math.min(Math.max(Math.round(width), LEAST), most()) : 0
    if (set) document.documentElement.style.setProperty('--rp-left', `${set}px`)
    else document.documentElement.style.removeProperty('--rp-left')
    for (const made of document.querySelectorAll('.rp-grip')) tell(made)
    try { localStorage.setItem(KEY, String(set)) } catch { /* the browser keeps nothing */ }
  }

  // What screen readers say of a grip.
  function tell(made) {
    const now = { valuemin: LEAST, valuemax: most(), valuenow: Math.round(made.parentElement.getBoundingClientRect().width) }
    for (const [name, number] of Object.entries(now)) made.setAttribute(`aria-${name}`, String(number))
  }

  function grip(column) {
    const made = document.createElement('div')
    Object.assign(made, { className: 'rp-grip', tabIndex: 0, title: 'Drag to widen; a double click gives the usual width' })
    made.setAttribute('role', 'separator')
    made.setAttribute('aria-orientation', 'vertical')
    made.setAttribute('aria-label', 'Width of the left column')
    made.addEventListener('pointerdown', (event) => {
      made.setPointerCapture(event.pointerId)
      made.onpointermove = (moved) => widen(moved.clientX)
      event.preventDefault()
    })
    made.addEventListener('pointerup', () => { made.onpointermove = null })
    made.addEventListener('dblclick', () => widen(0))
    made.addEventListener('keydown', (event) => {
      const step = { ArrowRight: STEP, ArrowLeft: -STEP }[event.key]
      if (!step) return
      widen(column.getBoundingClientRect().width + step)
      event.preventDefault()
    })
    column.append(made)
    tell(made)
  }

  try { widen(Number(localStorage.getItem(KEY)) || 0) } catch { /* the browser keeps nothing */ }
  let planned = false
  new MutationObserver(() => {
    if (planned) return
    planned = true
    requestAnimationFrame(() => {
      planned = false
      for (const column of document.querySelectorAll('.rp-left')) if (!column.querySelector(':scope > .rp-grip')) grip(column)
    })
  }).observe(document.documentElement, { subtree: true, childList: true })
})()
