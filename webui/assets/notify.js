// A word or a sound when the last job of a tab has ended, for those who look elsewhere. Off until it is asked for, here,
// in this browser; the sound is made, not fetched.
(() => {
  'use strict'
  const KEY = 'reprise.when_done'
  const ENDED = ['done', 'failed', 'cancelled']
  let wanted = {}
  try { wanted = JSON.parse(localStorage[KEY] || '{}') } catch (error) { /* neither, then */ }

  function sound() {
    const Context = window.AudioContext || window.webkitAudioContext
    if (!Context) return
    const context = new Context(), volume = context.createGain()
    volume.connect(context.destination)
    for (const [number, pitch] of [659.3, 880].entries()) {
      const at = context.currentTime + 0.16 * number, tone = context.createOscillator()
      tone.frequency.value = pitch
      tone.connect(volume)
      tone.start(at)
      tone.stop(at + 0.15)
    }
    volume.gain.setValueAtTime(0.12, context.currentTime)
    volume.gain.exponentialRampToValueAtTime(0.001, context.currentTime + 0.4)
    setTimeout(() => context.close(), 800)
  }

  function tell(text) {
    if (wanted.sound) sound()
    if (wanted.word && document.hidden && window.Notification?.permission === 'granted') {
      new Notification('Reprise', { body: text, tag: 'reprise' }).onclick = () => window.focus()
    }
  }

  function show() {
    for (const box of document.querySelectorAll('.rp-browser input')) box.checked = !!wanted[box.name]
  }

  document.addEventListener('change', async (event) => {
    const box = event.target
    if (!box.closest?.('.rp-browser')) return
    wanted[box.name] = box.checked
    if (box.checked && box.name === 'word') {
      wanted.word = !!window.Notification && await Notification.requestPermission() === 'granted'
      const refused = box.closest('.rp-browser').querySelector('.refused')
      if (refused) refused.hidden = wanted.word
    }
    if (box.checked && box.name === 'sound') sound()
    try { localStorage[KEY] = JSON.stringify(wanted) } catch (error) { /* until the page is left */ }
    show()
  })

  // Phases of all tabs' status lines: a job has ended where "running" became something else.
  const phases = {}
  function look() {
    for (const status of document.querySelectorAll('[id$="_status"] .rp-status')) {
      const tab = status.closest('[id$="_status"]').id, phase = status.dataset.phase
      if (phases[tab] === 'running' && ENDED.includes(phase)) tell(status.textContent.trim())
      phases[tab] = phase
    }
  }

  function begin() {
    const home = document.querySelector('#rp_tabs')
    if (!home) return setTimeout(begin, 300)
    new MutationObserver(() => { look(); if (document.querySelector('.rp-browser')) show() })
      .observe(home, { subtree: true, childList: true, attributes: true, attributeFilter: ['data-phase'] })
  }
  begin()
})()
