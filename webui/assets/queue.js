// The jobs of this browser's tab: their ids are kept, and one that waits can be taken out of the line.
(() => {
  'use strict'
  const NAME = 'reprise.', LEFT = 'reprise:left', HERE = 'reprise:here'

  // All that this tab keeps, as one text.
  function kept() {
    const names = Object.keys(sessionStorage).filter((name) => name.startsWith(NAME) && sessionStorage[name]).sort()
    return JSON.stringify(Object.fromEntries(names.map((name) => [name, sessionStorage[name]])))
  }

  // A tab that is closed leaves its jobs to the next one that is opened, so that coming back later finds them.
  try {
    if (!sessionStorage[HERE] && localStorage[LEFT]) Object.assign(sessionStorage, JSON.parse(localStorage[LEFT]))
    if (localStorage[LEFT] === kept()) localStorage.removeItem(LEFT)
    sessionStorage[HERE] = 'yes'
    window.addEventListener('pagehide', () => { if (kept() !== '{}') localStorage[LEFT] = kept() })
  } catch (error) { /* without storage a page begins empty */ }

  window.reprise = {
    ...window.reprise,
    kept: (tab) => { try { return sessionStorage[NAME + tab] || '' } catch (error) { return '' } },
  }

  document.addEventListener('click', (event) => {
    const button = event.target.closest?.('.rp-unqueue')
    if (!button) return
    document.documentElement.dataset.unqueue = button.dataset.job
    const tab = button.closest('[id$="_line"]')?.id.replace(/_line$/, '')
    document.querySelector(`#${tab}_unqueue`)?.click()
  })
})()
